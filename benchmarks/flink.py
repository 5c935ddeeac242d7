"""Both engines in one run: put to feature record, put to stored decision, what they drain, what they cost.

Each engine gets a pipeline of its own, one after the other, with the same history and the same transactions. The keyed
part of the Flink job is also run alone, over a file (`flink_files.py`): what it costs without Kinesis and functions.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
import psutil

from benchmarks.figures import Cell, Figure, Findings, Table, percentile
from benchmarks.observation import (
    Identified,
    StreamTail,
    first_arrivals,
    publish_at,
    waits_ms,
)
from console.bootstrap import bootstrap
from console.running import Pipeline
from console.wait import wait_until_settled
from local.flink.install import PYTHON, missing, python_path
from local.flink.layout import FlinkFolder
from local.flink.status import read_status_file
from local.processes import processes_of_run
from local.run import CHECKOUT, load_run
from local.up import down, up
from producers.file_writer import write_transactions
from producers.publisher import TransactionPublisher
from producers.simulator import simulate
from stream_features.errors import PipelineError, UsageError
from stream_features.feature_record import FeaturesRecord, decode_feature_record
from stream_features.transaction import Transaction, encode_transaction

ENGINES: Final = ("lambda", "flink")
HISTORY: Final = 40_000
HISTORY_DAYS: Final = 36.0
WARM_UP: Final = 300
RATES: Final = (100.0, 500.0)
DRAINED: Final = 10_000
SEED: Final = 700
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
FILE_COUNTS: Final = (20_000, 80_000)
SETTLED_S: Final = 300.0
MIB: Final = 2**20


@dataclass
class Measured:
    """One engine.

    Attributes:
        start_s: of `up`, from the command to ready.
        feature_waits: by rate, ms from due to the record on `features`; empty for the Lambda engine.
        decision_waits: by rate, ms from due to the decision on `decisions`, which comes after it is stored.
        drained_per_s: decisions a second, from the first put at full speed to the last decision.
        memory_mib: resident memory of all processes of the run at the end; of the job's alone.
        checkpoint: size in bytes and duration in ms of the last one; None for the Lambda engine.
    """

    start_s: float
    feature_waits: dict[float, list[float]]
    decision_waits: dict[float, list[float]]
    drained_per_s: float
    memory_mib: tuple[float, float]
    checkpoint: tuple[int, int] | None


def measure(seconds: float = 20.0, *, state_dir: Path, progress: Callable[[str], None] = print) -> Findings:
    """Measure both engines on fresh pipelines in `state_dir`, which are stopped afterwards, whatever happens.

    Raises:
        UsageError: the Flink engine is not installed, or a benchmark runs in `state_dir` already.
        Unfinished: a transaction has no decision, or no feature record.
        PipelineError: a pipeline did not start.
    """
    if lacks := missing():
        raise UsageError(lacks)
    live = WARM_UP + sum(round(seconds * rate) for rate in RATES) + DRAINED
    found: dict[str, Measured] = {}
    for engine in ENGINES:
        rows = list(
            simulate(
                HISTORY + live,
                seed=SEED,
                end_ms=time.time_ns() // 1_000_000,
                days=HISTORY_DAYS * (HISTORY + live) / HISTORY,
            )
        )
        began = time.monotonic()
        with _fresh_pipeline(state_dir, engine, progress) as pipeline:
            start_s = time.monotonic() - began
            file = pipeline.state_dir / "history.parquet"
            write_transactions(file, rows[:HISTORY])
            first_live_ms = rows[HISTORY].transaction.event_time_ms
            progress(bootstrap(pipeline, file, None, until_ms=first_live_ms, progress=progress).summary())
            found[engine] = _measured(
                pipeline, engine, start_s, [row.transaction for row in rows[HISTORY:]], seconds, progress
            )
    progress("the keyed part of the job, over files")
    return _findings(found, files())


@contextmanager
def _fresh_pipeline(state_dir: Path, engine: str, progress: Callable[[str], None]) -> Iterator[Pipeline]:
    if load_run(state_dir) is not None:
        raise UsageError(f"a benchmark runs in {state_dir} already; end it, or give another --state-dir")
    try:
        yield Pipeline(up(engine=engine, progress=progress, state_dir=state_dir))
    finally:
        progress("stopping the pipeline")
        down(state_dir=state_dir)


def _measured(
    pipeline: Pipeline,
    engine: str,
    start_s: float,
    live: Sequence[Transaction],
    seconds: float,
    progress: Callable[[str], None],
) -> Measured:
    kinesis = pipeline.client("kinesis")
    decisions = StreamTail(kinesis, pipeline.output("DecisionsStreamName"))
    features = StreamTail(kinesis, pipeline.output("FeaturesStreamName"))
    feature_waits: dict[float, list[float]] = {}
    decision_waits: dict[float, list[float]] = {}
    sent, at = 0, 0

    def published(transactions: Sequence[Transaction], rate: float) -> dict[str, float]:
        nonlocal sent
        publisher = TransactionPublisher(kinesis, pipeline.output("TransactionsStreamName"))
        due_ms = publish_at(publisher, transactions, rate).due_ms
        sent += len(transactions)
        wait_until_settled(pipeline.run, SETTLED_S, expect_published=sent)
        return due_ms

    def taken(count: int) -> Sequence[Transaction]:
        nonlocal at
        at += count
        return live[at - count : at]

    published(taken(WARM_UP), RATES[0])
    _read(decisions), _read_features(features)
    for rate in RATES:
        progress(f"{engine}: {rate:g}/s for {seconds:g} s")
        due_ms = published(taken(round(seconds * rate)), rate)
        decision_waits[rate] = waits_ms(due_ms, _read(decisions))
        if engine == "flink":
            feature_waits[rate] = waits_ms(due_ms, _read_features(features))
    progress(f"{engine}: draining {DRAINED:,}")
    due_ms = published(taken(DRAINED), 1e6)
    drained_ms = max(waits_ms(dict.fromkeys(due_ms, min(due_ms.values())), _read(decisions)))
    return Measured(
        start_s,
        feature_waits,
        decision_waits,
        DRAINED * 1_000 / drained_ms,
        _memory_mib(pipeline),
        _checkpoint(pipeline) if engine == "flink" else None,
    )


def _read(tail: StreamTail) -> dict[str, int]:
    decode = msgspec.json.Decoder(Identified).decode
    return first_arrivals((decode(record.payload).transaction_id, record.arrival_ms) for record in tail.read())


def _read_features(tail: StreamTail) -> dict[str, int]:
    decode = msgspec.json.Decoder(Identified).decode
    records = [(decode_feature_record(record.payload), record.arrival_ms) for record in tail.read()]
    return first_arrivals(
        (decode(record.payload).transaction_id, arrival_ms)
        for record, arrival_ms in records
        if isinstance(record, FeaturesRecord)
    )


def _memory_mib(pipeline: Pipeline) -> tuple[float, float]:
    run = pipeline.run
    whole = [psutil.Process(pid) for pid in processes_of_run(run.run_id, run.supervisor_pid)]
    status = read_status_file(FlinkFolder(run.state_dir / "flink"))
    job: list[psutil.Process] = []
    if status is not None and status.job_pid is not None:
        process = psutil.Process(status.job_pid)
        job = [process, *process.children(recursive=True)]
    return (
        sum(process.memory_info().rss for process in whole) / MIB,
        sum(process.memory_info().rss for process in job) / MIB,
    )


def _checkpoint(pipeline: Pipeline) -> tuple[int, int]:
    status = read_status_file(FlinkFolder(pipeline.run.state_dir / "flink"))
    if status is None or status.checkpoints.latest_size_bytes is None:
        raise PipelineError("the job has completed no checkpoint")
    return status.checkpoints.latest_size_bytes, status.checkpoints.latest_duration_ms or 0


def files() -> tuple[float, float]:
    """Events a second of wall time, and events a CPU second, of the keyed part over the larger file beyond the smaller.

    Starting the JVM and the first, slow events are in both and cancel out.

    Raises:
        PipelineError: the job failed.
    """
    spent = [_over_file(count) for count in FILE_COUNTS]
    events = FILE_COUNTS[1] - FILE_COUNTS[0]
    return events / (spent[1][0] - spent[0][0]), events / (spent[1][1] - spent[0][1])


def _over_file(count: int) -> tuple[float, float]:
    """Wall and CPU seconds (JVM and Python) of one run."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with open(folder / "transactions.jsonl", "wb") as file:
            for row in simulate(count, seed=SEED, end_ms=1_760_000_000_000, days=30.0):
                file.write(encode_transaction(row.transaction) + b"\n")
        environment = {
            **os.environ,
            "PYTHONPATH": python_path(),
            "FLINK_LOG_DIR": str(folder / "log"),
            "JVM_ARGS": "-Xmx1g",
        }
        job = psutil.Popen(
            [PYTHON, "-m", "benchmarks.flink_files", folder / "transactions.jsonl", folder / "flink"],
            cwd=CHECKOUT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        cpu_s = 0.0
        while job.poll() is None:
            cpu_s = max(cpu_s, _cpu_s(job))
            time.sleep(0.05)
        out, errors = job.communicate()
        if job.returncode != 0:
            raise PipelineError(f"the job over a file failed: {errors[-2_000:]}")
        return float(out.split()[-1]), cpu_s


def _cpu_s(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue  # it ended while we looked
        total += times.user + times.system
    return total


def _findings(found: dict[str, Measured], keyed: tuple[float, float]) -> Findings:
    one, other = (found[engine] for engine in ENGINES)
    figures: list[Figure] = []
    for rate in RATES:
        for name, share in SHARES.items():
            figures.append(
                Figure(
                    name=f"flink: put to feature record at {rate:g}/s, {name}",
                    unit="ms",
                    value=percentile(other.feature_waits[rate], share),
                )
            )
        for name, share in SHARES.items():
            waits = {engine: percentile(found[engine].decision_waits[rate], share) for engine in ENGINES}
            figures += [
                Figure(name=f"{engine}: put to decision at {rate:g}/s, {name}", unit="ms", value=waits[engine])
                for engine in ENGINES
            ]
            figures.append(
                Figure(
                    name=f"flink / lambda: put to decision at {rate:g}/s, {name}",
                    unit="ratio",
                    value=waits["flink"] / waits["lambda"],
                )
            )
    figures.append(Figure(name="flink / lambda: drained", unit="ratio", value=other.drained_per_s / one.drained_per_s))
    figures.append(Figure(name="keyed job over a file on RocksDB, wall", unit="events/s", value=keyed[0]))
    figures.append(Figure(name="keyed job over a file on RocksDB, CPU", unit="events/s/core", value=keyed[1]))
    size, duration_ms = other.checkpoint or (0, 0)
    rows: list[tuple[Cell, ...]] = [
        ("up to ready, s", one.start_s, other.start_s),
        (f"drained, decisions/s ({DRAINED:,} put at full speed)", one.drained_per_s, other.drained_per_s),
        ("memory of the whole run, MiB", one.memory_mib[0], other.memory_mib[0]),
        ("of that the job (JVM and Python), MiB", 0, other.memory_mib[1]),
        ("last checkpoint, KiB", "-", size / 1024),
        ("last checkpoint, ms", "-", duration_ms),
    ]
    return Findings(
        figures=tuple(figures),
        tables=(Table(title="The engines beside each other", columns=("what", *ENGINES), rows=tuple(rows)),),
        remarks=(
            f"A fresh pipeline each, {HISTORY:,} transactions of history by bootstrap, "
            "all transactions are in the figures.",
        ),
    )
