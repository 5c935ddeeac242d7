"""Everything a consumer would quarantine is refused by the publisher, with the same field and rule."""

from __future__ import annotations

import datetime as dt
import math
import time
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.injection import GARBAGE
from producers.publisher import TransactionPublisher
from producers.validation import validated
from stream_features.errors import MalformedRecord
from stream_features.transaction import Transaction, check_transaction, parse_transaction
from tests.unit.producers.fake_kinesis import FakeKinesis

NOW_MS = 1_750_000_000_000
GOOD: Mapping[str, Any] = MappingProxyType(
    {
        "transaction_id": "t1",
        "event_time_ms": 1_700_000_000_000,
        "card_id": "card",
        "merchant_id": "shop",
        "amount_minor": 1250,
        "currency": "USD",
    }
)
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no id": ({"transaction_id": ""}, "transaction_id", "empty"),
    "long id": ({"transaction_id": "t" * 65}, "transaction_id", "too_long"),
    "id with a space": ({"transaction_id": "t 1"}, "transaction_id", "bad_characters"),
    "id as a number": ({"transaction_id": 1}, "transaction_id", "wrong_type"),
    "id as a UUID": ({"transaction_id": uuid.UUID(int=1)}, "transaction_id", "wrong_type"),
    "id as bytes": ({"transaction_id": b"abcd"}, "transaction_id", "wrong_type"),
    "time as text": ({"event_time_ms": "yesterday"}, "event_time_ms", "wrong_type"),
    "time as a datetime": ({"event_time_ms": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}, "event_time_ms", "wrong_type"),
    "time as a float": ({"event_time_ms": 1.7e12}, "event_time_ms", "wrong_type"),
    "negative time": ({"event_time_ms": -1}, "event_time_ms", "out_of_range"),
    "six minutes ahead": ({"event_time_ms": NOW_MS + 360_000}, "event_time_ms", "future_time"),
    "card number": ({"card_id": "4111111111111111"}, "card_id", "card_number"),
    "no merchant": ({"merchant_id": ""}, "merchant_id", "empty"),
    "long merchant": ({"merchant_id": "m" * 129}, "merchant_id", "too_long"),
    "NUL in the merchant": ({"merchant_id": "m\0"}, "merchant_id", "bad_characters"),
    "half a surrogate pair": ({"merchant_id": "m\ud800"}, "merchant_id", "bad_characters"),
    "an object": ({"merchant_id": object()}, "merchant_id", "wrong_type"),
    "negative amount": ({"amount_minor": -1}, "amount_minor", "out_of_range"),
    "huge amount": ({"amount_minor": 10**30}, "amount_minor", "out_of_range"),
    "fractional amount": ({"amount_minor": 10.5}, "amount_minor", "wrong_type"),
    "whole amount as a float": ({"amount_minor": 10.0}, "amount_minor", "wrong_type"),
    "decimal amount": ({"amount_minor": Decimal(10)}, "amount_minor", "wrong_type"),
    "true as an amount": ({"amount_minor": True}, "amount_minor", "wrong_type"),
    "NaN as an amount": ({"amount_minor": math.nan}, "amount_minor", "not_finite"),
    "unknown currency": ({"currency": "???"}, "currency", "unknown_currency"),
    "currency in small letters": ({"currency": "usd"}, "currency", "unknown_currency"),
    "currency without a rate": ({"currency": "XTS"}, "currency", "no_rate"),
    "before the first rate": ({"event_time_ms": 0, "currency": "EUR"}, "currency", "no_rate"),
    "unknown type": ({"type": "gift"}, "type", "not_in_set"),
    "null type": ({"type": None}, "type", "wrong_type"),
    "unknown authorisation": ({"auth_result": "maybe"}, "auth_result", "not_in_set"),
    "unknown channel": ({"channel": "fax"}, "channel", "not_in_set"),
    "unknown country": ({"country": "UK"}, "country", "not_in_set"),
    "latitude alone": ({"latitude": 1.0}, "longitude", "missing"),
    "longitude alone": ({"longitude": 1.0}, "latitude", "missing"),
    "latitude off the globe": ({"latitude": 91.0, "longitude": 0.0}, "latitude", "out_of_range"),
    "NaN as a latitude": ({"latitude": math.nan, "longitude": 0.0}, "latitude", "not_finite"),
    "latitude as text": ({"latitude": "48.1", "longitude": 0.0}, "latitude", "wrong_type"),
    "long device": ({"device_id": "d" * 129}, "device_id", "too_long"),
    "no address": ({"ip": "1.2.3"}, "ip", "bad_address"),
}


@pytest.mark.parametrize(("change", "field", "rule"), BAD.values(), ids=BAD.keys())
def test_a_bad_value_is_refused_by_field_and_rule(change: dict[str, Any], field: str, rule: str) -> None:
    values = {**GOOD, **change}
    for given_as in (values, Transaction(**values)):
        with pytest.raises(MalformedRecord) as raised:
            validated(given_as, arrival_ms=NOW_MS)
        assert (raised.value.field, raised.value.rule) == (field, rule)


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(MalformedRecord) as raised:
        validated({key: value for key, value in GOOD.items() if key != name}, arrival_ms=NOW_MS)
    assert (raised.value.field, raised.value.rule) == (name, "missing")


@pytest.mark.parametrize("value", [None, "{}", b"{}", [("card_id", "c")], 7], ids=repr)
def test_what_is_no_transaction_at_all_is_refused(value: Any) -> None:
    with pytest.raises(MalformedRecord) as raised:
        validated(value, arrival_ms=NOW_MS)
    assert (raised.value.field, raised.value.rule) == ("$", "not_object")


def test_a_record_that_grew_too_large_is_refused() -> None:
    with pytest.raises(MalformedRecord) as raised:
        validated({**GOOD, "note": "n" * 300_000}, arrival_ms=NOW_MS)
    assert (raised.value.field, raised.value.rule) == ("$", "too_large")


def test_a_further_field_that_is_no_json_is_refused() -> None:
    recursive: list[Any] = []
    recursive.append(recursive)
    for note in (object(), recursive, "\ud800"):
        with pytest.raises(MalformedRecord) as raised:
            validated({**GOOD, "note": note}, arrival_ms=NOW_MS)
        assert (raised.value.field, raised.value.rule) == ("$", "not_json")


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_that_python_can_read_is_refused_as_a_consumer_would(kind: str) -> None:
    raw = GARBAGE[kind](1)
    with pytest.raises(MalformedRecord) as read:
        parse_transaction(raw, arrival_ms=NOW_MS)
    try:
        values = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # no application can hold it as a value
    with pytest.raises(MalformedRecord) as raised:
        validated(values, arrival_ms=NOW_MS)
    assert (raised.value.field, raised.value.rule) == (read.value.field, read.value.rule) or kind == "large_record"


def test_messages_never_repeat_a_card_number() -> None:
    with pytest.raises(MalformedRecord) as raised:
        validated({**GOOD, "card_id": "4111111111111111"}, arrival_ms=NOW_MS)
    assert "4111" not in str(raised.value)


def test_a_mapping_may_carry_more_and_a_struct_leaves_absent_fields_out() -> None:
    more = validated({**GOOD, "basket": [1, 2], "channel": None}, arrival_ms=NOW_MS)
    assert msgspec.json.decode(more.payload) == {**GOOD, "basket": [1, 2], "channel": None}
    struct = validated(Transaction(**GOOD), arrival_ms=NOW_MS)
    assert more.transaction == struct.transaction == Transaction(**GOOD)
    assert msgspec.json.decode(struct.payload) == {**GOOD, "type": "purchase", "auth_result": "unknown"}


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), st.uuids(),
    st.just("purchase"), st.just("pos"), st.just("DE"), st.just("1.2.3.4"), st.decimals(), st.lists(st.integers()),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(Transaction.__struct_fields__), odd, max_size=4))
def test_the_fast_way_accepts_exactly_what_the_exact_checks_accept(change: dict[str, Any]) -> None:
    transaction = Transaction(**{**GOOD, **change})
    assert verdict(validated, transaction) == verdict(check_transaction, transaction)
    if verdict(validated, transaction) is None:
        valid = validated(transaction, arrival_ms=NOW_MS)
        assert parse_transaction(valid.payload, arrival_ms=NOW_MS) == transaction == valid.transaction


def verdict(check: Callable[..., Any], transaction: Transaction) -> tuple[str, str] | None:
    try:
        check(transaction, arrival_ms=NOW_MS)
    except MalformedRecord as error:
        return error.field, error.rule
    return None


def test_what_the_publisher_refuses_is_counted_and_not_queued() -> None:
    kinesis = FakeKinesis()
    with TransactionPublisher(kinesis, "s") as publisher:
        for bad in ({**GOOD, "amount_minor": -1}, {**GOOD, "event_time_ms": int(time.time() * 1000) + 10**7}):
            with pytest.raises(MalformedRecord):
                publisher.publish(bad)
        with pytest.raises(MalformedRecord):
            publisher.publish_raw("", b"1")
        publisher.publish(GOOD)
    assert (publisher.counters.invalid, publisher.counters.published) == (3, 1)
