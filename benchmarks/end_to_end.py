"""Put to stored, over every transaction, beside a no-op function on the same emulator in the same run.

The run is a pipeline of its own, in a state folder of its own. Order: a warm-up of both functions, half of the
transactions to the no-op, all of them to the real pipeline without a break, the other half to the no-op. A machine that
becomes slower or faster meanwhile does so for both.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.figures import Cell, Figure, Findings, Table, percentile, repeated
from benchmarks.machine import CpuUse, cpu_used, read_cpu
from benchmarks.no_op import RESULT_STREAM, SOURCE_STREAM, MappingCounts, deploy_no_op, mapping_counts
from benchmarks.observation import (
    DecidedAt,
    Identified,
    Published,
    StreamTail,
    first_arrivals,
    publish_at,
    wait_until,
    waits_ms,
)
from console.bootstrap import bootstrap
from console.running import Pipeline
from local.run import load_run
from local.up import down, up
from producers.file_writer import write_transactions
from producers.publisher import TransactionPublisher
from producers.simulator import simulate
from stream_features.errors import UsageError
from stream_features.transaction import Transaction

HISTORY = 120_000
HISTORY_DAYS = 36.0  # more than the longest window, so that every state is as full as it gets
WARM_UP_S = 3.0
SEED = 500
WINDOWS = 6
GOAL_P99_MS = 1_000.0

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True)
class Slice:
    """One stretch of publishing at the rate.

    Attributes:
        name: of the stretch.
        published: due times and duration.
        seen_ms: transaction id to the epoch ms at which its outcome arrived in the stream of results.
        calls: of the function.
        failed_calls: of these.
        cpu: what was used from the first record to the last outcome.
    """

    name: str
    published: Published
    seen_ms: dict[str, int]
    calls: int
    failed_calls: int
    cpu: CpuUse

    def waits_ms(self) -> list[float]:
        """Of every transaction, in the order they were due. Raises Unfinished when one has no outcome."""
        return waits_ms(self.published.due_ms, self.seen_ms)


def measure(
    seconds: float = 60.0, rate: float = 500.0, *, state_dir: Path, progress: Callable[[str], None] = print
) -> Findings:
    """Measure on a fresh pipeline in `state_dir`, which is stopped afterwards, whatever happens.

    Raises:
        UsageError: a benchmark runs in `state_dir` already.
        Unfinished: a transaction has no decision, or no marker of the no-op.
        PipelineError: the pipeline did not start.
    """
    count = round(seconds * rate)
    warm_up = round(WARM_UP_S * rate)
    if count < 2:
        raise UsageError("that is not one transaction for each half of the no-op")
    with _fresh_pipeline(state_dir, progress) as pipeline:
        progress(f"simulating {HISTORY:,} transactions of history and {warm_up + count:,} to publish")
        live = _prepare(pipeline, warm_up + count, progress)
        deploy_no_op(pipeline)
        bench = _Bench(pipeline, rate, progress)
        cold = live[:warm_up], live[warm_up:]
        first_calls = [bench.no_op("warm-up no-op", cold[0]), bench.real("warm-up", cold[0])[0]]
        half = count // 2
        # Our own garbage collector would stop the publisher, and that would be counted as the pipeline's delay.
        gc.collect()
        gc.freeze()
        before = bench.no_op("no-op, first half", cold[1][:half])
        real, times = bench.real("pipeline", cold[1])
        after = bench.no_op("no-op, second half", cold[1][half:])
        gc.unfreeze()
    return _findings(real, times, [before, after], first_calls, rate)


@contextmanager
def _fresh_pipeline(state_dir: Path, progress: Callable[[str], None]) -> Iterator[Pipeline]:
    if load_run(state_dir) is not None:
        raise UsageError(f"a benchmark runs in {state_dir} already; end it, or give another --state-dir")
    try:
        yield Pipeline(up(progress=progress, state_dir=state_dir))
    finally:
        progress("stopping the pipeline")
        down(state_dir=state_dir)


def _prepare(pipeline: Pipeline, live: int, progress: Callable[[str], None]) -> list[Transaction]:
    """Load a history into the state of every card; what follows it is returned."""
    rows = list(
        simulate(
            HISTORY + live,
            seed=SEED,
            end_ms=time.time_ns() // 1_000_000,
            days=HISTORY_DAYS * (HISTORY + live) / HISTORY,
        )
    )
    file = pipeline.state_dir / "history.parquet"
    write_transactions(file, rows[:HISTORY])
    first_live_ms = rows[HISTORY].transaction.event_time_ms
    progress(bootstrap(pipeline, file, None, until_ms=first_live_ms, progress=progress).summary())
    return [row.transaction for row in rows[HISTORY:]]


class _Bench:
    """Publishes a slice, waits for its outcomes, and only then reads when they came."""

    def __init__(self, pipeline: Pipeline, rate: float, progress: Callable[[str], None]) -> None:
        kinesis = pipeline.client("kinesis")
        self._pipeline = pipeline
        self._rate = rate
        self._progress = progress
        self._transactions = pipeline.output("TransactionsStreamName")
        self._decisions = StreamTail(kinesis, pipeline.output("DecisionsStreamName"))
        self._no_op_source = StreamTail(kinesis, SOURCE_STREAM)
        self._no_op_result = StreamTail(kinesis, RESULT_STREAM)

    def real(self, name: str, transactions: Sequence[Transaction]) -> tuple[Slice, dict[str, DecidedAt]]:
        """Through the pipeline. Also answers the times that the decisions themselves carry."""
        published, counts, cpu = self._publish(name, transactions, self._transactions)
        decode = msgspec.json.Decoder(DecidedAt).decode
        decided = [(decode(record.payload), record.arrival_ms) for record in self._decisions.read()]
        seen_ms = first_arrivals((times.transaction_id, at_ms) for times, at_ms in decided)
        times_of = {times.transaction_id: times for times, _ in decided}
        return Slice(name, published, seen_ms, counts.calls, counts.failed_calls, cpu), times_of

    def no_op(self, name: str, transactions: Sequence[Transaction]) -> Slice:
        """Through the no-op, whose markers are the event ids of their records."""
        published, counts, cpu = self._publish(name, transactions, SOURCE_STREAM)
        decode = msgspec.json.Decoder(Identified).decode
        id_of = {
            f"{record.shard_id}:{record.sequence_number}".encode(): decode(record.payload).transaction_id
            for record in self._no_op_source.read()
        }
        seen_ms = first_arrivals((id_of[record.payload], record.arrival_ms) for record in self._no_op_result.read())
        return Slice(name, published, seen_ms, counts.calls, counts.failed_calls, cpu)

    def _publish(
        self, name: str, transactions: Sequence[Transaction], stream: str
    ) -> tuple[Published, MappingCounts, CpuUse]:
        self._progress(f"{name}: {len(transactions):,} transactions at {self._rate:g}/s")
        counts_before = mapping_counts(self._pipeline, stream)
        cpu_before = read_cpu(self._pipeline.run)
        publisher = TransactionPublisher(self._pipeline.client("kinesis"), stream)
        published = publish_at(publisher, transactions, self._rate)
        wait_until(
            lambda: mapping_counts(self._pipeline, stream).delivered, counts_before.delivered + len(transactions)
        )
        cpu = cpu_used(cpu_before, read_cpu(self._pipeline.run))
        counts = mapping_counts(self._pipeline, stream)
        counts.calls -= counts_before.calls
        counts.failed_calls -= counts_before.failed_calls
        return published, counts, cpu


def _findings(
    real: Slice, times: dict[str, DecidedAt], no_ops: list[Slice], first_calls: list[Slice], rate: float
) -> Findings:
    waits = real.waits_ms()
    no_op_waits = [wait for one in no_ops for wait in one.waits_ms()]
    ratios = {name: percentile(waits, share) / percentile(no_op_waits, share) for name, share in SHARES.items()}
    figures = (
        *(
            _latency(f"put to stored, {name}", waits, share, GOAL_P99_MS if name == "p99" else None)
            for name, share in SHARES.items()
        ),
        *(_latency(f"the same of the no-op, {name}", no_op_waits, share) for name, share in SHARES.items()),
        *(Figure(name=f"pipeline / no-op, {name}", unit="ratio", value=ratios[name]) for name in ("p50", "p99")),
        Figure(name="achieved publishing rate, pipeline", unit="1/s", value=real.published.per_second),
        repeated("achieved publishing rate, no-op", "1/s", [no_op.published.per_second for no_op in no_ops]),
    )
    slices = [no_ops[0], real, no_ops[1]]
    return Findings(
        figures=figures,
        tables=(_stages(real, times), _slices(slices), _cpu_table(slices)),
        remarks=(
            f"All {len(waits):,} transactions have a decision and all are in the figures; asked for: {rate:g}/s. "
            "First batches after deploying (warm-up, not in the figures): "
            f"no-op up to {max(first_calls[0].waits_ms()):,.0f} ms, "
            f"pipeline up to {max(first_calls[1].waits_ms()):,.0f} ms.",
        ),
    )


def _latency(name: str, waits: Sequence[float], share: float, at_most: float | None = None) -> Figure:
    """The percentile over all, between its lowest and highest value over equal stretches in the order of publishing."""
    size = max(1, len(waits) // WINDOWS)
    stretches = [waits[start : start + size] for start in range(0, len(waits) - size + 1, size)]
    each = [percentile(stretch, share) for stretch in stretches]
    return Figure(
        name=name,
        unit="ms",
        value=percentile(waits, share),
        lowest=min(each),
        highest=max(each),
        at_most=at_most,
    )


def _stages(real: Slice, times: dict[str, DecidedAt]) -> Table:
    due_ms, seen_ms = real.published.due_ms, real.seen_ms
    stages: dict[str, list[float]] = {
        "due to in the stream (publisher)": [times[i].arrival_ms - due for i, due in due_ms.items()],
        "in the stream to scored": [times[i].scored_at_ms - times[i].arrival_ms for i in due_ms],
        "scored to decision in its stream": [seen_ms[i] - times[i].scored_at_ms for i in due_ms],
    }
    rows: list[tuple[Cell, ...]] = [
        (name, *(percentile(waits, share) for share in SHARES.values())) for name, waits in stages.items()
    ]
    return Table(title="Where the time goes, ms", columns=("stage", *SHARES), rows=tuple(rows))


def _slices(slices: Sequence[Slice]) -> Table:
    rows = tuple(
        (
            one.name,
            len(one.published.due_ms),
            one.published.per_second,
            one.calls,
            len(one.published.due_ms) / max(1, one.calls),
            one.failed_calls,
            100 * one.cpu.busy_share,
            100 * one.cpu.stolen_share,
        )
        for one in slices
    )
    columns = (
        "slice",
        "transactions",
        "rate, 1/s",
        "calls",
        "records a call",
        "failed calls",
        "machine busy, %",
        "stolen, %",
    )
    return Table(title="The slices in their order", columns=columns, rows=rows)


def _cpu_table(slices: Sequence[Slice]) -> Table:
    names = sorted(
        {name for one in slices for name in one.cpu.seconds},
        key=lambda name: -sum(one.cpu.seconds.get(name, 0.0) for one in slices),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            *(one.cpu.seconds.get(name, 0.0) for one in slices),
            1e6 * slices[1].cpu.seconds.get(name, 0.0) / len(slices[1].published.due_ms),
        )
        for name in names
        if any(one.cpu.seconds.get(name, 0.0) >= 0.005 for one in slices)
    ]
    rows.append(
        (
            "everything else on the machine",
            *(one.cpu.unaccounted_s for one in slices),
            1e6 * slices[1].cpu.unaccounted_s / len(slices[1].published.due_ms),
        )
    )
    return Table(
        title="CPU seconds by process",
        columns=("process", *(one.name for one in slices), "pipeline, µs a transaction"),
        rows=tuple(rows),
    )
