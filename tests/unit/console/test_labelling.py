"""An analyst's label: it names all that applying it takes, and says whether it holds."""

from __future__ import annotations

import msgspec
import pytest

from console.labelling import Reported, await_report, label_of_decision
from lambdas.writes import StoredLabel
from stream_features.decision import Decision
from stream_features.label import Label, check_label
from stream_features.label_history import LabelReport
from tests.unit.console.test_meter import a_decision


def recorded(*reports: tuple[int, bool, str]) -> StoredLabel:
    """An item with these (reported at, is fraud, source), the last of which holds."""
    history = [
        LabelReport(reported_at_ms=at, arrival_ms=at, sequence_number="1", is_fraud=fraud, source=source)
        for at, fraud, source in reports
    ]
    at, fraud, source = reports[-1]
    return StoredLabel(
        revision=1,
        is_fraud=fraud,
        reported_at_ms=at,
        source=source,
        history=msgspec.json.encode(history),
        merchant_id="m-1",
        event_time_ms=1,
        waiting=False,
    )


@pytest.fixture
def decision() -> Decision:
    return a_decision(1)


@pytest.fixture
def label(decision: Decision) -> Label:
    return label_of_decision(decision, is_fraud=True, source="analyst", reported_at_ms=5_000)


def test_it_carries_card_merchant_and_event_time_of_the_decision(decision: Decision, label: Label) -> None:
    check_label(label)
    assert (label.card_id, label.merchant_id) == (decision.card_id, decision.merchant_id)
    assert label.event_time_ms == decision.event_time_ms
    assert (label.is_fraud, label.source, label.reported_at_ms) == (True, "analyst", 5_000)


def test_it_waits_until_the_report_is_among_those_recorded(label: Label) -> None:
    answers = [
        None,
        recorded((4_000, False, "customer")),
        recorded((4_000, False, "customer"), (5_000, True, "analyst")),
    ]
    slept: list[float] = []
    item = await_report(label, lambda: answers.pop(0), clock=lambda: 0.0, sleep=slept.append)
    assert item is not None
    assert Reported(label, item).holds
    assert len(slept) == 2
    assert Reported(label, item).lines()[-1] == "  recorded; this report holds"


def test_time_runs_out_without_an_error(label: Label) -> None:
    times = iter((0.0, 10.0, 31.0))
    item = await_report(label, lambda: None, clock=lambda: next(times), sleep=lambda s: None)
    reported = Reported(label, item)
    assert (reported.recorded, reported.holds) == (None, False)
    assert "fraudstream status" in reported.lines()[-1]
    assert reported.document()["recorded"] is False


def test_a_report_of_a_later_time_is_said_to_hold(label: Label) -> None:
    item = recorded((5_000, True, "analyst"), (9_000, False, "customer"))
    reported = Reported(label, item)
    assert not reported.holds
    assert "legitimate by customer, reported later (1970-01-01T00:00:09.000Z), holds" in reported.lines()[-1]
    assert reported.document()["current"] == {"is_fraud": False, "reported_at_ms": 9_000, "source": "customer"}
