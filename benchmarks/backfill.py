"""Features over a whole history: ours, DuckDB's and Polars' windows, the scalar path, and how large a state becomes.

    python -m benchmarks.backfill [--json]

Goals on one core: the handbook's windows over its 1.3 million rows at 1,000,000 rows/s or more; the scalar path with
`core` at 50,000 events/s or more. Everybody has one thread, and its CPU time counts: on a quiet machine that is the
time on the clock, on a busy one the others' turns are left out.

Needs the handbook file in FRAUDSTREAM_DATA. The other libraries live in `.venv-bench`, which is made from
requirements/bench.lock at the first run; where that fails they are left out with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.figures import percentile
from console.history_file import read_history
from producers.files import read_transactions
from producers.labels import DEFAULT_LABEL_DELAY_MS, label_of
from stream_features.codec import pack
from stream_features.feature_sets import CORE, FEATURE_SETS, HANDBOOK
from stream_features.history import HistoryStates, observe_history
from stream_features.merchant_codec import pack_merchant
from stream_features.vectorised.backfill import backfill
from stream_features.vectorised.columns import HistoryColumns

CHECKOUT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FRAUDSTREAM_DATA", CHECKOUT.parent / "shared" / "data"))
FILE = DATA / "handbook_dev_to_2018-08-14.parquet"
RIVALS = ("duckdb", "polars")
RIVALS_LOCK = CHECKOUT / "requirements" / "bench.lock"
RIVALS_FOLDER = CHECKOUT / ".venv-bench"
REPEATS = 5
RIVAL_REPEATS = 3
STATE_FROM_MS = 1_530_662_400_000  # 2018-07-04: 42 days before the file's end, more than any state keeps
WARM_SHARE = 0.6  # of the scalar path's events, before the clock starts


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows (or events) a second; `low` and `high` are the slowest and the fastest repeat."""

    way: str
    per_s: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """Packed bytes of a state."""

    state: str
    entities: int
    p50: float
    p99: float
    largest: int


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured, and what could not be."""

    rows: int
    rates: tuple[Rate, ...]
    sizes: tuple[Sizes, ...]
    left_out: tuple[str, ...]


def measure() -> Findings:
    """Each way in turn on this machine, on the first core that this process may use."""
    with one_core():
        columns = read_history(FILE, "handbook")
        rows = len(columns)
        sums: dict[str, float] = {}
        rates = [
            _rate("ours: 15 handbook features", rows, _seconds(lambda: sums.update(_sums(columns)), REPEATS)),
            _rate("ours: reading, checking and features", rows, _seconds(_from_the_file, 2)),
            _rate("ours: core features", rows, _seconds(lambda: _backfill_core(columns), 3)),
        ]
        left_out = []
        for library in RIVALS:
            try:
                rates.append(_rival(library, rows, sums))
            except RivalAbsent as reason:
                left_out.append(f"{library}: {reason}")
        scalar, sizes = _scalar()
    return Findings(rows, (*rates, scalar), sizes, tuple(left_out))


@contextmanager
def one_core() -> Iterator[None]:
    """This process and its children stay on one core."""
    process = psutil.Process()
    before = process.cpu_affinity()
    process.cpu_affinity(before[:1])
    try:
        yield
    finally:
        process.cpu_affinity(before)


def _seconds(work: Callable[[], object], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return taken


def _rate(way: str, rows: int, seconds: list[float]) -> Rate:
    return Rate(way, rows / statistics.median(seconds), rows / max(seconds), rows / min(seconds))


def _sums(columns: HistoryColumns) -> dict[str, float]:
    values = backfill(columns, HANDBOOK, label_delay_ms=DEFAULT_LABEL_DELAY_MS)
    return dict(zip(HANDBOOK.names, values.sum(axis=0).tolist(), strict=True))


def _from_the_file() -> None:
    backfill(read_history(FILE, "handbook"), HANDBOOK, label_delay_ms=DEFAULT_LABEL_DELAY_MS)


def _backfill_core(columns: HistoryColumns) -> None:
    backfill(columns, CORE, label_delay_ms=DEFAULT_LABEL_DELAY_MS)


class RivalAbsent(Exception):
    """Another library cannot be measured here; says why."""


def _rival(library: str, rows: int, ours: dict[str, float]) -> Rate:
    """Measure another library in its own environment and hold its sums against ours."""
    python = _rivals_python()
    command = [str(python), "-m", "benchmarks.backfill_rivals", library, str(FILE), str(RIVAL_REPEATS)]
    finished = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RivalAbsent((finished.stderr.strip().splitlines() or ["it failed without a word"])[-1])
    answer = json.loads(finished.stdout)
    for (name, our_sum), their_sum in zip(ours.items(), answer["sums"].values(), strict=True):
        # a few dozen of 1.3 million rows differ: purchases of one card in one second
        if not np.isclose(our_sum, their_sum, rtol=1e-4):
            raise ValueError(
                f"{answer['library']} does not compute the same: {name} sums to {their_sum}, not {our_sum}"
            )
    return _rate(f"{answer['library']}: the same windows", rows, answer["seconds"])


def _rivals_python() -> Path:
    python = RIVALS_FOLDER / "bin" / "python"
    ready = RIVALS_FOLDER / ".ready"
    if not ready.is_file() or ready.stat().st_mtime < RIVALS_LOCK.stat().st_mtime:
        uv = CHECKOUT / ".venv" / "bin" / "uv"
        base = ["--quiet", "--python"]
        for command in (
            [
                str(uv),
                "venv",
                "--allow-existing",
                *base,
                str(CHECKOUT / ".venv" / "bin" / "python"),
                str(RIVALS_FOLDER),
            ],
            [str(uv), "pip", "install", "--require-hashes", "--no-deps", *base, str(python), "-r", str(RIVALS_LOCK)],
        ):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                raise RivalAbsent(f"{RIVALS_FOLDER.name} cannot be made: {made.stderr.strip().splitlines()[-1:]}")
        ready.touch()
    return python


def _scalar() -> tuple[Rate, tuple[Sizes, ...]]:
    """Events a second of the scalar path with `core`, and what it leaves of either set."""
    rows = list(read_transactions(FILE, "handbook", from_ms=STATE_FROM_MS))
    transactions = [row.transaction for row in rows]
    labels = [
        label_of(row.transaction, row.is_fraud, label_delay_ms=DEFAULT_LABEL_DELAY_MS)
        for row in rows
        if row.is_fraud is not None
    ]
    warm = int(len(rows) * WARM_SHARE)
    sizes: list[Sizes] = []
    rates: list[Rate] = []
    for features in FEATURE_SETS.values():
        states = HistoryStates()
        observed = observe_history(transactions, features, labels, states=states)
        for _ in zip(range(warm), observed, strict=False):
            pass
        seconds = []
        while chunk := _timed(observed, 20_000):
            seconds.append(chunk)
        if features is CORE:
            rates.append(_rate("scalar path: core, events", 20_000, seconds))
        sizes.append(_sizes(f"card, {features.name}", [len(pack(card)) for card in states.cards.values()]))
        merchants = [len(pack_merchant(merchant)) for merchant in states.merchants.values()]
        sizes.append(_sizes(f"merchant, {features.name}", merchants))
    return rates[0], tuple(sizes)


def _timed(observed: Iterator[object], count: int) -> float | None:
    """Seconds that the next `count` observations take; None when there are not so many left."""
    started = time.process_time()
    taken = sum(1 for _ in zip(range(count), observed, strict=False))
    return time.process_time() - started if taken == count else None


def _sizes(state: str, sizes: list[int]) -> Sizes:
    return Sizes(state, len(sizes), percentile(sizes, 0.5), percentile(sizes, 0.99), max(sizes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if not FILE.is_file():
        print(f"skipped: {FILE.name} is not in FRAUDSTREAM_DATA ({DATA})")
        return 0
    findings = measure()
    if arguments.json:
        print(json.dumps(asdict(findings)))
        return 0
    print(f"{findings.rows} rows, one core; load average {os.getloadavg()[0]:.2f}")
    for rate in findings.rates:
        print(f"{rate.way:40} {rate.per_s:11,.0f} /s   ({rate.low:,.0f} to {rate.high:,.0f})")
    for size in findings.sizes:
        print(
            f"state bytes, {size.state:27} {size.p50:11,.0f} p50   {size.p99:,.0f} p99, {size.largest:,} largest of "
            f"{size.entities:,}"
        )
    for reason in findings.left_out:
        print(f"left out: {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
