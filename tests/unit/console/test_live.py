"""The live view: a table on a terminal, lines elsewhere, and an end that is no error."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from console import live
from console.cli import main
from console.live import counts_line, follow, lag_by_consumer, picture, top_reasons
from console.status import Status
from stream_features.decision import Decision, Reason
from stream_features.errors import PortFailure
from tests.unit.console.test_meter import a_decision
from tests.unit.console.test_status import a_status

LAG = {"score-transactions/shard-0": 40, "score-transactions/shard-1": 900, "flink/transactions/shard-0": 7}
LATENCY = {"arrival_to_decided": {"p50": 70, "p90": 300, "p99": 580}}


def an_alert(number: int) -> Decision:
    reasons = [Reason("card_count_1h", 1.921), Reason("is_night", -0.5), Reason("amount", 0.84)]
    return a_decision(number, decision="review", score=0.61, reasons=reasons)


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the next looks find: statuses, or errors to raise. The clock moves a second with every sleep."""
    upcoming: list[Any] = []
    alerts: list[Decision] = []
    now_s = [0.0]

    def look(run: object, *, tail: object) -> Status:
        found = upcoming.pop(0)
        if isinstance(found, BaseException):
            raise found
        alerts[:] = [an_alert(number) for number in range(found.alerts)]
        status: Status = found
        return status

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(live, "read_status", look)
    monkeypatch.setattr(live, "LiveTail", lambda run: SimpleNamespace(newest_alerts=lambda: list(alerts)))
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep))
    return upcoming


PIPELINE: Any = SimpleNamespace(run=None, state_dir=Path("/nonexistent"))


def printed(statuses: list[Any], *, terminal: bool, interval_s: float | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200)
    left = len(statuses)
    looks = iter(range(left))
    follow(PIPELINE, lambda _: next(looks) == left - 1, console=console, interval_s=interval_s)
    return out.getvalue()


def test_lag_is_that_of_each_consumer_s_slowest_shard() -> None:
    assert lag_by_consumer(LAG) == {"flink/transactions": 7, "score-transactions": 900}


def test_a_line_has_every_count_lag_and_latency() -> None:
    line = counts_line(a_status(published=9, decided=5, degraded=2, late=1, lag=LAG, latency=LATENCY))
    for part in ("published 9", "decided 5", "in_flight 0", "quarantined 0", "duplicates 0", "late 1", "degraded 2"):
        assert part in line
    assert "alerts 0" in line
    assert "lag score-transactions 900 ms" in line
    assert "arrival_to_decided p50 70 ms p99 580 ms" in line


def test_reasons_are_those_that_raise_the_score_and_the_rules() -> None:
    assert top_reasons(an_alert(1)) == "card_count_1h +1.92, amount +0.84"
    assert top_reasons(a_decision(1, rules=["velocity"], reasons=[])) == "rule velocity"


def test_a_terminal_gets_one_picture_with_everything(statuses: list[Any]) -> None:
    statuses += [a_status(), a_status(published=12_345, alerts=8, degraded=3, lag=LAG, latency=LATENCY)]
    shown = printed(statuses, terminal=True)
    for part in ("12,345", "degraded", "score-transactions", "900", "arrival_to_decided", "580", "t-7", "amount +0.84"):
        assert part in shown
    assert "t-0" not in shown.partition("12,345")[2]  # the six newest


def test_elsewhere_lines_come_at_their_interval_and_each_alert_once(statuses: list[Any]) -> None:
    statuses += [a_status(published=n, alerts=min(n, 2)) for n in range(25)]
    lines = printed(statuses, terminal=False, interval_s=4).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("published")] == ["0", "8", "16", "24"]
    assert [line.split()[2] for line in lines if line.startswith("  review")] == ["t-0:", "t-1:"]
    assert "\x1b" not in "".join(lines)


def test_a_picture_of_nothing_is_a_picture() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(picture(a_status(), []))
    assert "newest alerts" in out.getvalue()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.running.running_pipeline", lambda: PIPELINE)


@pytest.mark.usefixtures("running")
def test_ctrl_c_ends_it_as_done(statuses: list[Any]) -> None:
    statuses += [a_status(published=3), KeyboardInterrupt()]
    result = CliRunner().invoke(main, ["watch", "--interval", "0.5"])
    assert result.exit_code == 0
    assert "published 3" in result.stdout
    assert "Aborted" not in result.output


@pytest.mark.usefixtures("running")
def test_it_ends_after_the_seconds_asked_for(statuses: list[Any]) -> None:
    statuses += [a_status()] * 5
    assert CliRunner().invoke(main, ["watch", "--seconds", "2"]).exit_code == 0
    assert not statuses


@pytest.mark.usefixtures("running")
def test_a_stopped_pipeline_is_no_failure_but_a_silent_one_is(
    statuses: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses.append(PortFailure("stream transactions: no answer"))
    monkeypatch.setattr(live, "load_run", lambda folder: None)
    result = CliRunner().invoke(main, ["watch"])
    assert (result.exit_code, "was stopped" in result.stderr) == (0, True)
    statuses.append(PortFailure("stream transactions: no answer"))
    monkeypatch.setattr(live, "load_run", lambda folder: object())
    result = CliRunner().invoke(main, ["watch"])
    assert (result.exit_code, "fraudstream doctor" in result.stderr) == (1, True)
