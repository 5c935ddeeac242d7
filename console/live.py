"""The live view: counts, latency and the newest alerts, on a terminal or as plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from console.meter import LiveTail
from console.running import Pipeline
from console.status import Status, read_status
from local.run import load_run
from stream_features.decision import Decision
from stream_features.errors import PortFailure

COUNTS: Final = ("published", "decided", "in_flight", "quarantined", "duplicates", "late", "degraded", "alerts")
_REASONS_SHOWN: Final = 3
_ALERTS_SHOWN: Final = 6
_REDRAWN_EVERY_S: Final = 0.5
_PRINTED_EVERY_S: Final = 5.0
_LOOK_S: Final = 0.5  # between two looks at whether it is over, where lines are printed less often


def top_reasons(decision: Decision) -> str:
    """`card_count_1h +1.92, amount +0.84`: the features that push the score up most."""
    raising = [reason for reason in decision.reasons if reason.contribution > 0][:_REASONS_SHOWN]
    shown = ", ".join(f"{reason.feature} {reason.contribution:+.2f}" for reason in raising)
    rules = ", ".join(f"rule {rule}" for rule in decision.rules)
    return "; ".join(part for part in (rules, shown) if part)


def lag_by_consumer(lag: Mapping[str, int]) -> dict[str, int]:
    """Consumer to the lag (ms) of its slowest shard; keys of `lag` end in `/<shard>`."""
    slowest: dict[str, int] = {}
    for where, ms in lag.items():
        consumer = where.rpartition("/")[0] or where
        slowest[consumer] = max(ms, slowest.get(consumer, 0))
    return dict(sorted(slowest.items()))


def _score(decision: Decision) -> str:
    return "degraded" if decision.score is None else f"{decision.score:.3f}"


def counts_line(status: Status) -> str:
    """One line for places without a terminal."""
    parts = [f"{name} {getattr(status, name)}" for name in COUNTS]
    parts += [f"lag {consumer} {ms} ms" for consumer, ms in lag_by_consumer(status.lag).items()]
    parts += [f"{stage} p50 {it['p50']:.0f} ms p99 {it['p99']:.0f} ms" for stage, it in sorted(status.latency.items())]
    return "  ".join(parts)


def alert_line(alert: Decision) -> str:
    """One alert for places without a terminal."""
    return f"  {alert.decision} {_score(alert)} {alert.transaction_id}: {top_reasons(alert)}"


def picture(status: Status, alerts: list[Decision]) -> Group:
    """Counts, lag, latency by stage and the newest alerts as rich renderables."""
    counts = Table(*COUNTS, expand=True, box=box.SIMPLE_HEAD)
    counts.add_row(*(f"{getattr(status, name):,}" for name in COUNTS))
    lag = Table("consumer", "behind by ms", expand=True, box=box.SIMPLE_HEAD)
    for consumer, ms in lag_by_consumer(status.lag).items():
        lag.add_row(consumer, f"{ms:,}")
    latency = Table("stage", "p50 ms", "p90 ms", "p99 ms", expand=True, box=box.SIMPLE_HEAD)
    for stage, figures in sorted(status.latency.items()):
        latency.add_row(stage, *(f"{figures[p]:,.0f}" for p in ("p50", "p90", "p99")))
    newest = Table("transaction", "decision", "score", "why (log-odds)", expand=True, box=box.SIMPLE_HEAD)
    for alert in alerts[-_ALERTS_SHOWN:][::-1]:
        newest.add_row(alert.transaction_id, alert.decision, _score(alert), top_reasons(alert))
    return Group(
        Panel(counts, title="counts since up"),
        Panel(lag, title="lag: how long the oldest record not yet worked on has waited"),
        Panel(latency, title="latency of the latest decisions"),
        Panel(newest, title="newest alerts; more about one: fraudstream explain TRANSACTION"),
    )


def follow(
    pipeline: Pipeline,
    finished: Callable[[Status], bool],
    *,
    console: Console | None = None,
    interval_s: float | None = None,
) -> Status:
    """Show the pipeline until `finished` says so of a status; returns that status.

    On a terminal the view is redrawn every `interval_s` (half a second); elsewhere a line is printed every
    `interval_s` (five seconds), followed by the alerts that are new.

    Raises:
        PortFailure: an AWS service did not answer.
    """
    console = console or Console()
    tail = LiveTail(pipeline.run)
    if not console.is_terminal:
        return _print_lines(pipeline, finished, console, tail, interval_s or _PRINTED_EVERY_S)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            status = read_status(pipeline.run, tail=tail)
            live.update(picture(status, tail.newest_alerts()), refresh=True)
            if finished(status):
                return status
            time.sleep(interval_s or _REDRAWN_EVERY_S)


def _print_lines(
    pipeline: Pipeline, finished: Callable[[Status], bool], console: Console, tail: LiveTail, interval_s: float
) -> Status:
    printed_at = float("-inf")
    shown: set[str] = set()
    while True:
        status = read_status(pipeline.run, tail=tail)
        done = finished(status)
        if done or time.monotonic() - printed_at >= interval_s:
            printed_at = time.monotonic()
            lines = [counts_line(status)]
            new = [alert for alert in tail.newest_alerts() if alert.transaction_id not in shown]
            lines += map(alert_line, new[-_ALERTS_SHOWN:])
            shown |= {alert.transaction_id for alert in new}
            console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
        if done:
            return status
        time.sleep(min(interval_s, _LOOK_S))


def watch(pipeline: Pipeline, seconds: float | None, interval_s: float | None) -> None:
    """Follow until Ctrl-C, or for `seconds`, or until the pipeline is stopped."""
    ends_at = None if seconds is None else time.monotonic() + seconds
    try:
        follow(pipeline, lambda _status: ends_at is not None and time.monotonic() >= ends_at, interval_s=interval_s)
    except PortFailure:
        if load_run(pipeline.state_dir) is not None:
            raise
        Console(stderr=True).print("the pipeline was stopped", highlight=False)
