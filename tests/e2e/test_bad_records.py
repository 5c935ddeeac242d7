"""A record that breaks the contract is quarantined with field and rule; its neighbours are decided."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from stream_features.rejected import Rejected
from stream_features.transaction import Transaction, encode_transaction
from tests.e2e.driver import Installation, settled, stored_decisions
from tests.e2e.driver import quarantined as quarantined_records

pytestmark = pytest.mark.e2e

NOW_MS = int(time.time() * 1_000)


def good(number: int) -> Transaction:
    return Transaction(
        transaction_id=f"neighbour-{number}",
        event_time_ms=NOW_MS - 60_000 + number,
        card_id="one-card",
        merchant_id="shop",
        amount_minor=1_250,
        currency="USD",
    )


def record(**changed: Any) -> bytes:
    """A valid record but for `changed`; None as a value leaves the field out."""
    fields = {
        "transaction_id": "bad-1",
        "event_time_ms": NOW_MS - 60_000,
        "card_id": "one-card",
        "merchant_id": "shop",
        "amount_minor": 1_250,
        "currency": "USD",
        **changed,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def amount(digits: bytes) -> bytes:
    """A valid record but for its amount, spelled `digits`; found by its field, for a clock may hold any digits."""
    spelled, field = record(), b'"amount_minor": '
    assert spelled.count(field + b"1250,") == 1
    return spelled.replace(field + b"1250,", field + digits + b",")


GARBAGE: dict[str, tuple[bytes, str, str]] = {
    "invalid UTF-8": (record().replace(b"shop", b"\xff\xfe"), "$", "not_utf8"),
    "NUL byte": (record().replace(b"shop", b"sh\0p"), "$", "not_json"),
    "escaped NUL": (record(merchant_id="sh\0p"), "merchant_id", "bad_characters"),
    "not JSON": (b"hello", "$", "not_json"),
    "not an object": (b"[1, 2]", "$", "not_object"),
    "deep JSON": (b"[" * 100_000 + b"]" * 100_000, "$", "too_deep"),
    "huge integer": (amount(b"1" * 5_000), "amount_minor", "out_of_range"),
    "integer beyond 64 bits": (record(amount_minor=2**70), "amount_minor", "out_of_range"),
    "huge exponent": (amount(b"1e400"), "amount_minor", "not_finite"),
    "NaN amount": (amount(b"NaN"), "amount_minor", "not_finite"),
    "negative amount": (record(amount_minor=-1), "amount_minor", "out_of_range"),
    "fractional amount": (record(amount_minor=12.5), "amount_minor", "wrong_type"),
    "boolean amount": (record(amount_minor=True), "amount_minor", "wrong_type"),
    "text amount": (record(amount_minor="1250"), "amount_minor", "wrong_type"),
    "missing field": (record(merchant_id=None), "merchant_id", "missing"),
    "card number": (record(card_id="4111111111111111"), "card_id", "card_number"),
    "unknown currency": (record(currency="XXQ"), "currency", "unknown_currency"),
    "no rate": (record(event_time_ms=0, currency="EUR"), "currency", "no_rate"),
    "future": (record(event_time_ms=NOW_MS + 86_400_000), "event_time_ms", "future_time"),
    "1 MB": (record(merchant_id="m" * 1_000_000), "$", "too_large"),
    "empty": (b"", "$", "empty"),
    "half a place": (record(latitude=1.5), "longitude", "missing"),
    "bad id": (record(transaction_id="no spaces allowed"), "transaction_id", "bad_characters"),
}


@pytest.fixture(scope="module")
def quarantined(installation: Installation) -> dict[bytes, Rejected]:
    """Every garbage record sent between good ones of the same card; what quarantine holds, by payload."""
    pipeline = installation.pipeline()
    kinesis, stream = pipeline.client("kinesis"), pipeline.output("TransactionsStreamName")
    for number, (payload, _, _) in enumerate(GARBAGE.values()):
        for data in (encode_transaction(good(number)), payload):
            kinesis.put_record(StreamName=stream, PartitionKey="one-card", Data=data)
    settled(installation, 2 * len(GARBAGE))
    rejected = [rejected for _, rejected in quarantined_records(pipeline)]
    assert len(rejected) == len(GARBAGE)
    return {base64.b64decode(one.payload_base64): one for one in rejected}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_quarantined_with_field_and_rule(quarantined: dict[bytes, Rejected], kind: str) -> None:
    payload, field, rule = GARBAGE[kind]
    rejected = quarantined[payload]
    assert (rejected.field, rejected.rule) == (field, rule)
    assert rejected.stream == "transactions"


def test_the_neighbours_are_decided(quarantined: dict[bytes, Rejected], installation: Installation) -> None:
    assert quarantined
    decisions = stored_decisions(installation.pipeline())
    assert set(decisions) == {f"neighbour-{number}" for number in range(len(GARBAGE))}
    counts = sorted(decision.features["card_count_1h"] or 0 for decision in decisions.values())
    assert counts == [float(number + 1) for number in range(len(GARBAGE))]


def test_each_has_a_pointer_in_the_queue(quarantined: dict[bytes, Rejected], installation: Installation) -> None:
    pipeline = installation.pipeline()
    sqs, queue = pipeline.client("sqs"), pipeline.output("QuarantineQueueUrl")
    seen: set[tuple[str, str, str]] = set()
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        seen |= {(body["key"], body["field"], body["rule"]) for body in (json.loads(m["Body"]) for m in messages)}
    keys = {key: (rejected.field, rejected.rule) for key, rejected in quarantined_records(pipeline)}
    assert {(key, *what) for key, what in keys.items()} <= seen
    assert {pointer for pointer in seen if pointer[0] in keys} == {(key, *what) for key, what in keys.items()}
    assert len(seen) >= len(quarantined)


def test_the_same_id_with_another_payload_is_a_conflict(installation: Installation, quarantined: object) -> None:
    """The first decision stays; the second record is quarantined, not decided."""
    assert quarantined
    pipeline = installation.pipeline()
    before = installation.status()
    kinesis, stream = pipeline.client("kinesis"), pipeline.output("TransactionsStreamName")
    again = record(transaction_id="neighbour-0", amount_minor=999_999)
    kinesis.put_record(StreamName=stream, PartitionKey="one-card", Data=again)
    after = settled(installation, before["published"] + 1)
    assert after["quarantined"] == before["quarantined"] + 1
    assert after["decided"] == before["decided"]
    conflict = [r for _, r in quarantined_records(pipeline) if r.rule == "conflicting_duplicate"]
    assert [base64.b64decode(r.payload_base64) for r in conflict] == [again]
    assert stored_decisions(pipeline)["neighbour-0"].amount_minor == 1_250
