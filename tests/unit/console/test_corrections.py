"""What is wrong with a rejected record, and what a correction makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.corrections import corrected, parse_sets, parsed, problems
from stream_features.errors import MalformedRecord, UsageError
from stream_features.label import Label, encode_label
from stream_features.transaction import FIELD_RULES, Transaction, encode_transaction
from tests.unit.lambdas.deliveries import a_transaction
from tests.unit.lambdas.fakes import NOW_MS

GOOD = a_transaction(latitude=1.5, longitude=2.5, channel="pos", country="DE")
REQUIRED = {
    "transaction_id": "t1",
    "event_time_ms": str(NOW_MS),
    "card_id": "card-a",
    "merchant_id": "merchant-a",
    "amount_minor": "5",
    "currency": "USD",
}


def record(**changes: Any) -> bytes:
    return json.dumps(json.loads(encode_transaction(GOOD)) | changes).encode()


def fix(payload: bytes, *unset: str, **sets: str) -> Transaction:
    found = parsed("transaction", corrected("transaction", payload, sets, unset, arrival_ms=NOW_MS), arrival_ms=NOW_MS)
    assert isinstance(found, Transaction)
    return found


@pytest.mark.parametrize(
    ("broken", "sets"),
    [
        (record(amount_minor=-1), {"amount_minor": "1250"}),
        (record(amount_minor=float("nan")), {"amount_minor": "1250"}),
        (record(amount_minor="1250"), {"amount_minor": "1250"}),
        (record(currency="XXQ"), {"currency": "USD"}),
        (record(card_id="4111111111111111"), {"card_id": "card-a"}),
        (record(transaction_id="no spaces"), {"transaction_id": "t1"}),
        (record(latitude="north"), {"latitude": "1.5"}),
        (record(channel=5, country="de"), {"channel": "pos", "country": "DE"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_field_is_set_to_its_right_value(broken: bytes, sets: dict[str, str]) -> None:
    assert fix(broken, **sets) == GOOD


def test_a_field_is_left_out() -> None:
    half = record()
    assert fix(half, "latitude", "longitude", "channel").latitude is None
    with pytest.raises(MalformedRecord, match="longitude is given"):
        fix(half, "latitude")


@pytest.mark.parametrize("garbage", [b"", b"hello", b"\xff\xfe", b"[1]", b"[" * 100 + b"]" * 100, b"1" * 300_000])
def test_garbage_needs_every_required_field(garbage: bytes) -> None:
    assert fix(garbage, **REQUIRED).transaction_id == "t1"
    for missing in REQUIRED:
        with pytest.raises(MalformedRecord) as refused:
            fix(garbage, **{name: value for name, value in REQUIRED.items() if name != missing})
        assert (refused.value.field, refused.value.rule) == (missing, "missing")


def test_unknown_fields_of_the_original_go_back_too() -> None:
    payload = corrected("transaction", record(amount_minor=-1, till=[1]), {"amount_minor": "1"}, [], arrival_ms=NOW_MS)
    assert json.loads(payload)["till"] == [1]


@pytest.mark.parametrize(
    ("sets", "unset", "message"),
    [
        ({"amount": "5"}, [], "'amount' is no field of a transaction"),
        ({}, ["amount"], "'amount' is no field of a transaction"),
        ({"amount_minor": "12.5"}, [], "amount_minor=12.5: must be an integer"),
        ({"amount_minor": "true"}, [], "must be an integer"),
        ({"latitude": "north"}, [], "must be a number"),
        ({"amount_minor": "5"}, ["amount_minor"], "--set and --unset"),
    ],
)
def test_what_cannot_be_set_is_named(sets: dict[str, str], unset: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        corrected("transaction", record(), sets, unset, arrival_ms=NOW_MS)


def test_a_correction_obeys_the_contract_as_of_now() -> None:
    with pytest.raises(MalformedRecord, match="future_time"):
        fix(record(), event_time_ms=str(NOW_MS + 400_000))
    with pytest.raises(MalformedRecord, match="no_rate"):
        fix(record(), currency="EUR", event_time_ms="0")


def test_labels_are_corrected_too() -> None:
    label = Label(transaction_id="t1", is_fraud=True, reported_at_ms=5, source="analyst")
    payload = encode_label(label).replace(b"true", b'"yes"').replace(b"analyst", b"me")
    assert [(one.field, one.rule) for one in problems("label", payload, arrival_ms=NOW_MS)] == [
        ("is_fraud", "wrong_type"),
        ("source", "not_in_set"),
    ]
    sets = {"is_fraud": "true", "source": "analyst"}
    assert parsed("label", corrected("label", payload, sets, [], arrival_ms=NOW_MS), arrival_ms=NOW_MS) == label
    with pytest.raises(UsageError, match="must be true or false"):
        corrected("label", payload, {"is_fraud": "yes"}, [], arrival_ms=NOW_MS)


def test_every_broken_field_is_told_at_once() -> None:
    found = problems("transaction", record(amount_minor=-1, currency=5, country="Germany"), arrival_ms=NOW_MS)
    assert [(one.field, one.rule) for one in found] == [
        ("amount_minor", "out_of_range"),
        ("currency", "wrong_type"),
        ("country", "not_in_set"),
    ]
    assert [one.rule for one in problems("transaction", b"hello", arrival_ms=NOW_MS)] == ["not_json"]
    ahead = record(event_time_ms=NOW_MS + 400_000)
    assert [one.rule for one in problems("transaction", ahead, arrival_ms=NOW_MS)] == ["future_time"]
    assert problems("transaction", ahead, arrival_ms=NOW_MS + 400_000) == []
    assert [one.rule for one in problems("transaction", b"{}", arrival_ms=NOW_MS)] == ["missing"] * 6


@given(st.dictionaries(st.sampled_from([rule.name for rule in FIELD_RULES]), st.none() | st.integers() | st.text()))
def test_no_problem_is_told_exactly_where_the_contract_accepts(values: dict[str, Any]) -> None:
    payload = record(**values)
    found = problems("transaction", payload, arrival_ms=NOW_MS)
    if not found:
        parsed("transaction", payload, arrival_ms=NOW_MS)
        return
    with pytest.raises(MalformedRecord) as refused:
        parsed("transaction", payload, arrival_ms=NOW_MS)
    assert (found[0].field, found[0].rule) == (refused.value.field, refused.value.rule)


def test_sets_are_fields_with_values() -> None:
    assert parse_sets(["a=1", "b=x=y", "a=2", "c="]) == {"a": "2", "b": "x=y", "c": ""}
    for bad in ("a", "=1"):
        with pytest.raises(UsageError, match="FIELD=VALUE"):
            parse_sets([bad])
