"""Each part of the report: runs one benchmark, repeatedly where it is short, and sets its goals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import backfill, commit, end_to_end, endpoint, flink, kernel, write_units
from benchmarks.figures import Figure, Findings, repeated
from stream_features.errors import PipelineError

GOALS = {"parse_transaction_us": 3.0, "batch_decode_observe_encode_ms": 5.0}
_KERNEL_NAMES = {
    "parse_transaction_us": "contract parse, a transaction",
    "card_event_us": "card event, a transaction",
    "batch_decode_observe_encode_ms": "500 transactions, 450 cards, 100 entries each: decode, observe, encode",
    "unpack_us": "decode, a card",
    "pack_us": "encode, a card",
    "observe_us": "observe, a transaction",
    "state_bytes_100_entries": "state of 100 entries",
}
_REPEATS = 3


def kernel_figures() -> Findings:
    """Contract parse and the kernel's batch."""
    return Findings(
        figures=tuple(
            repeated(_KERNEL_NAMES[name], unit, values, at_most=GOALS.get(name))
            for name, unit, values in kernel.samples()
        )
    )


def endpoint_figures(calls: int = 150) -> Findings:
    """A score of 1 and of 500 rows: p50 and p99 of each repeat."""
    repeats = [endpoint.measure(calls) for _ in range(_REPEATS)]
    figures: list[Figure] = []
    for same in zip(*repeats, strict=True):
        one = same[0]
        explained = f", {one.explained} explained" if one.explained else ""
        name = f"{one.way}: {one.rows} row{'s' if one.rows > 1 else ''}{explained}"
        figures.append(repeated(f"{name}, p50", "ms", [latency.p50_ms for latency in same]))
        figures.append(repeated(f"{name}, p99", "ms", [latency.p99_ms for latency in same]))
    return Findings(figures=tuple(figures), remarks=(f"{_REPEATS} repeats of {calls} calls each.",))


def commit_figures(seconds: float = 3.0) -> Findings:
    """Cards a second by the way of committing, and their ratios within a repeat."""
    repeats = [commit.measure(seconds) for _ in range(_REPEATS)]
    figures = [
        repeated(f"{same[0].way}", "cards/s", [rate.cards_per_s for rate in same])
        for same in zip(*repeats, strict=True)
    ]
    for other in range(1, len(repeats[0])):
        ratios = [rates[0].cards_per_s / rates[other].cards_per_s for rates in repeats]
        figures.append(repeated(f"{repeats[0][0].way} / {repeats[0][other].way}", "ratio", ratios))
    return Findings(
        figures=tuple(figures), remarks=(f"{_REPEATS} repeats, each {seconds:g} s a way on a fresh server.",)
    )


def end_to_end_figures(seconds: float, rate: float, state_dir: Path, progress: Callable[[str], None]) -> Findings:
    """Put to stored, with the no-op beside it."""
    return end_to_end.measure(seconds, rate, state_dir=state_dir, progress=progress)


def flink_figures(seconds: float, state_dir: Path, progress: Callable[[str], None]) -> Findings:
    """The Flink engine beside the Lambda engine."""
    return flink.measure(seconds, state_dir=state_dir, progress=progress)


def state_figures() -> Findings:
    """State size and DynamoDB write units of a median card and of one with 50,000 purchases in 30 days."""
    figures: list[Figure] = []
    for card, (state_bytes, write_units_each) in write_units.measure().items():
        figures.append(repeated(f"{card} card: packed state", "bytes", [state_bytes]))
        figures.append(repeated(f"{card} card: write units of a decision", "WCU", [write_units_each]))
    return Findings(figures=tuple(figures), remarks=("An approved decision, alone in its transaction.",))


def backfill_figures() -> Findings:
    """Features over a whole history beside other libraries, and the scalar path."""
    if not backfill.FILE.exists():
        raise PipelineError(f"{backfill.FILE.name} is not in {backfill.DATA} (set FRAUDSTREAM_DATA)")
    found = backfill.measure()
    goals = {"ours: 15 handbook features": 1_000_000.0}
    figures = [
        Figure(name=rate.way, unit="rows/s", value=rate.per_s, lowest=rate.low, highest=rate.high)
        for rate in found.rates
    ]
    sizes = tuple(
        f"{size.state}: p50 {size.p50:,.0f}, p99 {size.p99:,.0f}, largest {size.largest:,} bytes over {size.entities:,}"
        for size in found.sizes
    )
    met = [
        f"goal {goals[rate.way]:,.0f} rows/s: {'met' if rate.per_s >= goals[rate.way] else 'NO'}"
        for rate in found.rates
        if rate.way in goals
    ]
    scalar = found.rates[-1]
    met.append(f"goal 50,000 events/s of the scalar path: {'met' if scalar.per_s >= 50_000 else 'NO'} ({scalar.way})")
    return Findings(figures=tuple(figures), remarks=(*met, *sizes, *found.left_out, "CPU time on one core."))
