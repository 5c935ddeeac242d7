"""What a transaction's reports mean: the later report holds, and only changes reach its merchant."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.entity_event import EntityEvent, decode_entity_event, encode_entity_event
from stream_features.errors import MalformedRecord
from stream_features.label_history import FraudEntry, LabelReport, current_label, fraud_entries

EVENT_MS = 1_700_000_000_000


def a_report(reported: int, fraud: bool, arrival: int = 0, sequence: str = "1") -> LabelReport:
    return LabelReport(
        reported_at_ms=reported, arrival_ms=arrival, sequence_number=sequence, is_fraud=fraud, source="analyst"
    )


reports = st.lists(
    st.builds(
        a_report, st.integers(0, 4), st.booleans(), st.integers(0, 2), st.sampled_from(["9", "10", "49" * 20, "1"])
    ),
    max_size=7,
)


@settings(deadline=None)
@given(reports)
def test_entries_turn_into_the_label_that_holds(history: list[LabelReport]) -> None:
    entries = fraud_entries(history, EVENT_MS)
    held = current_label(history)
    assert sum(entry.delta for entry in entries) == (held is not None and held.is_fraud)
    assert [entry.delta for entry in entries] == [1, -1, 1, -1, 1, -1, 1][: len(entries)]
    assert [entry.effective_ms for entry in entries] == sorted(entry.effective_ms for entry in entries)
    assert {entry.event_time_ms for entry in entries} <= {EVENT_MS}
    assert (held is None) == (not history)


@settings(max_examples=50, deadline=None)
@given(reports, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(history: list[LabelReport], shuffler: object) -> None:
    shuffled = list(history)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fraud_entries(shuffled + history, EVENT_MS) == fraud_entries(history, EVENT_MS)
    assert current_label(shuffled) == current_label(history)


@settings(deadline=None)
@given(reports, reports)
def test_more_reports_never_move_the_first_entry_back(history: list[LabelReport], more: list[LabelReport]) -> None:
    """What merchants rely on: `first_effective_ms` survives a replaced revision."""
    entries, grown = fraud_entries(history, EVENT_MS), fraud_entries(history + more, EVENT_MS)
    if entries:
        assert grown[0].effective_ms <= entries[0].effective_ms


def test_by_hand() -> None:
    fraud, withdrawn, again = a_report(1_000, True), a_report(3_000, False), a_report(2_000, True)
    assert fraud_entries([a_report(5, False)], EVENT_MS) == []
    for history in itertools.permutations([fraud, withdrawn, again]):
        assert fraud_entries(history, EVENT_MS) == [
            FraudEntry(EVENT_MS, 121_000, 1),
            FraudEntry(EVENT_MS, 123_000, -1),
        ]
        assert current_label(history) is withdrawn


def test_of_two_reports_of_one_instant_the_later_arrival_holds() -> None:
    first, second = a_report(1, True, arrival=5), a_report(1, False, arrival=6)
    assert current_label([second, first]) is second
    nine, ten = a_report(1, True, sequence="9"), a_report(1, False, sequence="10")
    assert current_label([ten, nine]) is ten


def test_an_entity_event_comes_back() -> None:
    decided = EntityEvent(
        kind="decided", merchant_id="Café", transaction_id="t", event_time_ms=EVENT_MS, amount_base=10**12
    )
    label = EntityEvent(
        kind="label",
        merchant_id="m",
        transaction_id="t",
        event_time_ms=EVENT_MS,
        revision=3,
        frauds=[FraudEntry(EVENT_MS, EVENT_MS + 1, 1)],
    )
    for event in (decided, label):
        assert decode_entity_event(encode_entity_event(event)) == event
    assert decided.frauds == []


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"kind":"other","merchant_id":"m","transaction_id":"t","event_time_ms":1}', b"\xff"]
)
def test_what_is_no_entity_event_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedRecord, match="entity_event"):
        decode_entity_event(raw)
