"""Bytes that are none of our documents are refused with the declared error, whatever is wrong with them.

Anything else would end a whole batch: its shard would be delivered again and again for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from stream_features.aggregation import user_payloads
from stream_features.decision import decode_decision
from stream_features.entity_event import MAX_AMOUNT_BASE, EntityEvent, decode_entity_event, encode_entity_event
from stream_features.errors import ContractMismatch, MalformedRecord
from stream_features.feature_record import decode_feature_record
from stream_features.label import parse_label
from stream_features.label_history import FraudEntry
from stream_features.rejected import decode_rejected

READERS: list[tuple[Callable[[bytes], object], type[Exception]]] = [
    (decode_entity_event, MalformedRecord),
    (parse_label, MalformedRecord),
    (decode_feature_record, ContractMismatch),
    (decode_decision, ContractMismatch),
    (decode_rejected, ContractMismatch),
]
EVENT: dict[str, Any] = {"kind": "decided", "merchant_id": "m", "transaction_id": "t", "event_time_ms": 5}


@pytest.mark.parametrize(("read", "refusal"), READERS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"x":' + b"[" * 100_000,
        b'{"kind":"\xff"}',
        b'{"merchant_id":"\xed\xa0\x80","payload_base64":"\xff"}',
        b"[]",
        b"\0",
    ],
    ids=["empty", "deep", "deep and open", "not UTF-8", "a surrogate", "no object", "NUL"],
)
def test_a_document_that_cannot_be_read_is_refused_as_declared(
    read: Callable[[bytes], object], refusal: type[Exception], raw: bytes
) -> None:
    with pytest.raises(refusal):
        read(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"event_time_ms": 10**30},
        {"event_time_ms": -1},
        {"amount_base": 2**64},
        {"amount_base": MAX_AMOUNT_BASE + 1},
        {"revision": 2**64},
        {"frauds": [[1, 2, 1]]},
        {"frauds": [{"event_time_ms": 2**63, "effective_ms": 2, "delta": 1}]},
        {"frauds": [{"event_time_ms": 1, "effective_ms": 10**30, "delta": 1}]},
        {"frauds": [{"event_time_ms": 1, "effective_ms": 2, "delta": 2**62}]},
    ],
    ids=str,
)
def test_an_entity_event_with_numbers_that_no_state_holds_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedRecord, match="entity_event"):
        decode_entity_event(msgspec.json.encode({**EVENT, **changes}))


def test_the_largest_numbers_of_the_contracts_are_entity_events() -> None:
    latest = 253_402_300_799_999
    event = EntityEvent(
        kind="label",
        merchant_id="m",
        transaction_id="t",
        event_time_ms=latest,
        amount_base=MAX_AMOUNT_BASE,
        revision=2**53,
        frauds=[FraudEntry(latest, latest + 120_000, 1), FraudEntry(0, 120_000, -1)],
    )
    assert decode_entity_event(encode_entity_event(event)) == event


@pytest.mark.parametrize("message", [b"", b"\x10\x01", b"\x0a\x01a"], ids=["empty", "an unknown field", "keys alone"])
def test_an_aggregate_without_a_record_is_a_record_itself(message: bytes) -> None:
    """It came apart into nothing, so its bytes were neither decided nor quarantined nor counted."""
    aggregate = b"\xf3\x89\x9a\xc2" + message + hashlib.md5(message, usedforsecurity=False).digest()
    assert user_payloads(aggregate) == [aggregate]
