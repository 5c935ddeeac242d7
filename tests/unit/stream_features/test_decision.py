"""Decisions and rejected records survive their encoding bit by bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.decision import Decision, Reason, StreamPosition, decode_decision, encode_decision
from stream_features.errors import ContractMismatch, MalformedRecord
from stream_features.rejected import decode_rejected, encode_rejected, rejected
from stream_features.transaction import FIELDS
from tests.oracle import bits
from tests.unit.stream_features.cards import a_full_transaction


def a_decision(**changes: Any) -> Decision:
    transaction = a_full_transaction()
    fields: dict[str, Any] = {
        **{name: getattr(transaction, name) for name in FIELDS},
        "score": 0.875,
        "decision": "review",
        "reasons": [Reason("amount", 0.25), Reason("is_night", -0.125)],
        "rules": ["score_from_0.5"],
        "features": {"amount": 12.0, "speed_from_last_m_s": None},
        "feature_set_id": "core-1-0123456789ab",
        "model_version": "core-0123456789ab",
        "variant": "main",
        "policy_version": "p1",
        "engine": "lambda",
        "stream_position": StreamPosition("shardId-000000000000", "49" * 28),
        "arrival_ms": 1,
        "scored_at_ms": 2,
        "late": False,
        "degraded": False,
        "payload_sha256": "0" * 64,
    }
    return Decision(**{**fields, **changes})


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_with_the_same_bits(value: float) -> None:
    decision = decode_decision(encode_decision(a_decision(score=value, features={"amount": value})))
    assert bits(decision.score) == bits(value)
    assert bits(decision.features["amount"]) == bits(value)


def test_a_decision_comes_back_whole_from_bytes_and_text() -> None:
    decision = a_decision()
    assert decode_decision(encode_decision(decision)) == decision
    assert decode_decision(encode_decision(decision).decode()) == decision
    assert list(decision.features) == list(decode_decision(encode_decision(decision)).features)


def test_a_decision_begins_with_the_fields_of_the_transaction() -> None:
    assert tuple(name for name in Decision.__struct_fields__ if name in FIELDS) == FIELDS


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", encode_decision(a_decision(schema_version=2))])
def test_what_is_no_decision_of_this_version_is_refused(document: bytes) -> None:
    with pytest.raises(ContractMismatch):
        decode_decision(document)


def test_positions_compare_as_numbers() -> None:
    """Sequence numbers grow in length; as text 10 would come before 9."""
    positions = [StreamPosition("s", "9"), StreamPosition("s", "10"), StreamPosition("s", "10", 1)]
    assert sorted({*positions}) == positions
    assert positions[0] < positions[1] <= positions[2]
    assert positions[2] > positions[1] >= positions[0]
    assert len({*positions, StreamPosition("s", "9")}) == 3


def test_a_rejected_record_keeps_its_bytes_and_says_what_broke() -> None:
    payload = bytes(range(256))
    record = rejected(
        payload,
        MalformedRecord("amount_minor", "out_of_range", "too much"),
        stream="transactions",
        stream_position=StreamPosition("s", "1", 2),
        arrival_ms=3,
        rejected_at_ms=4,
    )
    again = decode_rejected(encode_rejected(record))
    assert again == record
    assert again.payload == payload
    assert json.loads(encode_rejected(record))["rule"] == "out_of_range"
    with pytest.raises(ContractMismatch):
        decode_rejected(b"{}")
