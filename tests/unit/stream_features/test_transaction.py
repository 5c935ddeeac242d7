"""The Transaction contract: what is accepted, and that every refusal names field and rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_features.errors import MalformedRecord
from stream_features.transaction import (
    FIELD_RULES,
    MAX_CLOCK_AHEAD_MS,
    Transaction,
    _parse_exactly,
    canonical_json,
    check_transaction,
    encode_transaction,
    parse_transaction,
    payload_sha256,
)
from tests.unit.stream_features.cards import ARRIVAL_MS, a_full_transaction, a_transaction

VALID: dict[str, Any] = {
    "transaction_id": "t-1",
    "event_time_ms": ARRIVAL_MS,
    "card_id": "card-1",
    "merchant_id": "Café 24/7",
    "amount_minor": 1234,
    "currency": "USD",
}


def raw(**changes: Any) -> bytes:
    fields = {name: value for name, value in {**VALID, **changes}.items() if value is not ...}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")


def raw_with(field: str, literal: str) -> bytes:
    """A record whose `field` holds `literal`, as it stands."""
    fields = {**VALID, field: "@"}
    return json.dumps(fields).replace('"@"', literal).encode()


def refusal(payload: bytes, arrival_ms: int = ARRIVAL_MS) -> tuple[str, str]:
    with pytest.raises(MalformedRecord) as caught:
        parse_transaction(payload, arrival_ms=arrival_ms)
    return caught.value.field, caught.value.rule


def test_a_minimal_transaction_gets_the_defaults() -> None:
    assert parse_transaction(raw(), arrival_ms=ARRIVAL_MS) == a_transaction()
    assert a_transaction().type == "purchase"
    assert a_transaction().auth_result == "unknown"


def test_a_full_transaction_is_read_back_as_it_was_written() -> None:
    transaction = a_full_transaction()
    assert parse_transaction(encode_transaction(transaction), arrival_ms=ARRIVAL_MS) == transaction


REFUSED = {
    "no bytes": (b"", "$", "empty"),
    "white space": (b"  \n", "$", "not_json"),
    "invalid UTF-8": (b'{"transaction_id": "\xff\xfe"}', "$", "not_utf8"),
    "invalid UTF-8 in an unknown field": (raw()[:-1] + b', "x": "\xff"}', "$", "not_utf8"),
    "UTF-8 with a byte order mark": (b"\xef\xbb\xbf" + raw(), "$", "not_json"),
    "UTF-16": (raw().decode().encode("utf-16"), "$", "not_utf8"),
    "a NUL after the record": (raw() + b"\0", "$", "not_json"),
    "a NUL inside a string": (raw_with("merchant_id", '"a\0b"'), "$", "not_json"),
    "an escaped NUL": (raw_with("merchant_id", '"a\\u0000b"'), "merchant_id", "bad_characters"),
    "not JSON": (b"hello", "$", "not_json"),
    "half a record": (raw()[:-20], "$", "not_json"),
    "two records": (raw() + raw(), "$", "not_json"),
    "an array": (b"[" + raw() + b"]", "$", "not_object"),
    "a number": (b"1", "$", "not_object"),
    "null": (b"null", "$", "not_object"),
    "100,000 open brackets": (b"[" * 100_000, "$", "too_deep"),
    "100,000 brackets": (b"[" * 100_000 + b"]" * 100_000, "$", "too_deep"),
    "deep JSON in an unknown field": (raw()[:-1] + b', "x": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", "$", "too_deep"),
    "1 MB": (raw()[:-1] + b', "x": "' + b"y" * 1_000_000 + b'"}', "$", "too_large"),
    "NaN in an unknown field": (raw()[:-1] + b', "x": NaN}', "$", "not_json"),
    "a required field missing": (raw(card_id=...), "card_id", "missing"),
    "the first of several missing": (b"{}", "transaction_id", "missing"),
    "null for a required field": (raw(merchant_id=None), "merchant_id", "wrong_type"),
    "null for a field whose absence means a value": (raw(type=None), "type", "wrong_type"),
    "a number for a string": (raw(transaction_id=5), "transaction_id", "wrong_type"),
    "an empty id": (raw(transaction_id=""), "transaction_id", "empty"),
    "a long id": (raw(transaction_id="x" * 65), "transaction_id", "too_long"),
    "a blank in an id": (raw(transaction_id="a b"), "transaction_id", "bad_characters"),
    "a line end in an id": (raw(transaction_id="ab\n"), "transaction_id", "bad_characters"),
    "a letter outside ASCII in an id": (raw(card_id="cärd"), "card_id", "bad_characters"),
    "a card number of 12 digits": (raw(card_id="4" * 12), "card_id", "card_number"),
    "a card number of 19 digits": (raw(card_id="4" * 19), "card_id", "card_number"),
    "a true id": (raw(event_time_ms=True), "event_time_ms", "wrong_type"),
    "a float time": (raw_with("event_time_ms", "1.7e12"), "event_time_ms", "wrong_type"),
    "a whole float time": (raw_with("event_time_ms", "1700000000000.0"), "event_time_ms", "wrong_type"),
    "a negative time": (raw(event_time_ms=-1), "event_time_ms", "out_of_range"),
    "a time too far ahead": (raw(event_time_ms=ARRIVAL_MS + 300_001), "event_time_ms", "future_time"),
    "a time in the year 10000": (raw(event_time_ms=253_402_300_800_000), "event_time_ms", "out_of_range"),
    "no merchant": (raw(merchant_id=""), "merchant_id", "empty"),
    "a long merchant": (raw(merchant_id="é" * 129), "merchant_id", "too_long"),
    "a merchant with a line end": (raw(merchant_id="a\nb"), "merchant_id", "bad_characters"),
    "a merchant with a right-to-left mark": (raw(merchant_id="a\u202eb"), "merchant_id", "bad_characters"),
    "a lone surrogate, escaped": (raw_with("merchant_id", '"\\ud800"'), "merchant_id", "bad_characters"),
    "a lone surrogate, encoded": (raw(merchant_id="\ud800"), "$", "not_utf8"),
    "a negative amount": (raw(amount_minor=-1), "amount_minor", "out_of_range"),
    "an amount too large": (raw(amount_minor=10**12 + 1), "amount_minor", "out_of_range"),
    "an amount of 31 digits": (raw(amount_minor=10**30), "amount_minor", "out_of_range"),
    "an amount of 5,000 digits": (raw_with("amount_minor", "9" * 5_000), "amount_minor", "out_of_range"),
    "a negative amount of 5,000 digits": (raw_with("amount_minor", "-" + "9" * 5_000), "amount_minor", "out_of_range"),
    "an amount of 1e400": (raw_with("amount_minor", "1e400"), "amount_minor", "not_finite"),
    "a NaN amount": (raw_with("amount_minor", "NaN"), "amount_minor", "not_finite"),
    "an infinite amount": (raw_with("amount_minor", "-Infinity"), "amount_minor", "not_finite"),
    "a whole float amount": (raw_with("amount_minor", "1.0"), "amount_minor", "wrong_type"),
    "a true amount": (raw(amount_minor=True), "amount_minor", "wrong_type"),
    "an amount as text": (raw(amount_minor="12"), "amount_minor", "wrong_type"),
    "an unknown currency": (raw(currency="ABC"), "currency", "unknown_currency"),
    "a currency in small letters": (raw(currency="usd"), "currency", "unknown_currency"),
    "a currency without a rate": (raw(currency="ZWL"), "currency", "no_rate"),
    "a currency before its first rate": (raw(currency="EUR", event_time_ms=10**12), "currency", "no_rate"),
    "an unknown type": (raw(type="gift"), "type", "not_in_set"),
    "an unknown auth_result": (raw(auth_result="maybe"), "auth_result", "not_in_set"),
    "an unknown channel": (raw(channel="POS"), "channel", "not_in_set"),
    "a list for a channel": (raw(channel=["pos"]), "channel", "wrong_type"),
    "a long category": (raw(merchant_category="x" * 65), "merchant_category", "too_long"),
    "a category with a tab": (raw(merchant_category="a\tb"), "merchant_category", "bad_characters"),
    "an unknown country": (raw(country="XX"), "country", "not_in_set"),
    "a country of three letters": (raw(country="DEU"), "country", "not_in_set"),
    "a latitude too far north": (raw(latitude=90.000001, longitude=0), "latitude", "out_of_range"),
    "a NaN latitude": (raw_with("latitude", "NaN"), "latitude", "not_finite"),
    "a latitude of 1e400": (raw_with("latitude", "1e400"), "latitude", "out_of_range"),
    "a latitude of 400 digits": (raw_with("latitude", "9" * 400), "latitude", "out_of_range"),
    "a true latitude": (raw(latitude=True, longitude=0), "latitude", "wrong_type"),
    "a longitude too far west": (raw(latitude=0, longitude=-180.1), "longitude", "out_of_range"),
    "a latitude alone": (raw(latitude=1.5), "longitude", "missing"),
    "a longitude alone": (raw(longitude=1.5), "latitude", "missing"),
    "a long device": (raw(device_id="x" * 129), "device_id", "too_long"),
    "a device with an escape": (raw(device_id="a\x1bb"), "device_id", "bad_characters"),
    "no address": (raw(ip="localhost"), "ip", "bad_address"),
    "an address with a large part": (raw(ip="1.2.3.256"), "ip", "bad_address"),
    "an address with a leading zero": (raw(ip="1.2.3.04"), "ip", "bad_address"),
    "an address with five parts": (raw(ip="1.2.3.4.5"), "ip", "bad_address"),
    "an address with a final point": (raw(ip="1.2.3.4."), "ip", "bad_address"),
    "an address with a zone": (raw(ip="fe80::1%eth0"), "ip", "bad_address"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_field_and_rule(case: str) -> None:
    payload, field, rule = REFUSED[case]
    assert refusal(payload) == (field, rule)


ACCEPTED = {
    "an id of 64": raw(transaction_id="aZ09_.:-" * 8),
    "11 digits as card": raw(card_id="4" * 11),
    "20 digits as card": raw(card_id="4" * 20),
    "digits and a letter as card": raw(card_id="4" * 15 + "x"),
    "a merchant of 128 letters outside ASCII": raw(merchant_id="é" * 128),
    "a merchant beyond the first plane": raw(merchant_id="🛒"),
    "nothing to pay": raw(amount_minor=0),
    "the largest amount": raw(amount_minor=10**12),
    "the latest time": raw(event_time_ms=ARRIVAL_MS + MAX_CLOCK_AHEAD_MS),
    "the beginning of time": raw(event_time_ms=0),
    "nulls for optional fields": raw(merchant_category=None, channel=None, country=None, latitude=None, ip=None),
    "whole degrees": raw(latitude=-90, longitude=180),
    "an IPv6 address": raw(ip="2001:db8::1"),
    "an IPv4 address inside IPv6": raw(ip="::ffff:192.0.2.1"),
    "unknown fields": raw(note={"a": [1, 2, {"b": None}]}),
    "white space around": b"\n " + raw() + b"\t\n",
    "64 brackets": raw()[:-1] + b', "x": ' + b"[" * 63 + b"]" * 63 + b"}",
    "many brackets side by side": raw()[:-1] + b', "x": [' + b"[]," * 500 + b"0]}",
    "brackets inside a string": raw(note="[{" * 500 + '"\\'),
    "a euro on the first day of its rates": raw(currency="EUR", event_time_ms=1_514_764_800_000),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_at_the_edge_of_the_contract(case: str) -> None:
    parse_transaction(ACCEPTED[case], arrival_ms=ARRIVAL_MS)


def test_of_duplicate_keys_the_last_one_holds() -> None:
    assert parse_transaction(b'{"amount_minor": 5, ' + raw()[1:], arrival_ms=ARRIVAL_MS).amount_minor == 1234
    # also when an earlier one breaks a rule
    assert parse_transaction(b'{"amount_minor": -5, ' + raw()[1:], arrival_ms=ARRIVAL_MS).amount_minor == 1234
    assert refusal(raw()[:-1] + b', "amount_minor": -5}') == ("amount_minor", "out_of_range")


def test_of_several_broken_rules_the_first_field_of_the_contract_is_named() -> None:
    assert refusal(raw(currency="ABC", card_id="4" * 16, amount_minor=-1)) == ("card_id", "card_number")


def test_messages_do_not_repeat_what_may_be_a_card_number() -> None:
    with pytest.raises(MalformedRecord) as caught:
        parse_transaction(raw(card_id="4111111111111111"), arrival_ms=ARRIVAL_MS)
    assert "4111" not in str(caught.value)


def test_every_field_of_the_contract_has_a_rule() -> None:
    assert tuple(rule.name for rule in FIELD_RULES) == Transaction.__struct_fields__
    required = tuple(rule.name for rule in FIELD_RULES if rule.required)
    assert required == tuple(VALID)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (payload, field, _) in REFUSED.items()
        if field != "$" and "missing" not in case and "5,000" not in case
    ],
)
def test_a_constructed_transaction_is_held_to_the_same_rules(case: str) -> None:
    payload, field, rule = REFUSED[case]
    fields = json.loads(payload)
    with pytest.raises(MalformedRecord) as caught:
        check_transaction(Transaction(**fields), arrival_ms=ARRIVAL_MS)
    assert (caught.value.field, caught.value.rule) == (field, rule)


def test_without_an_arrival_time_the_clock_is_not_checked() -> None:
    ahead = a_transaction(event_time_ms=ARRIVAL_MS + 10**9)
    check_transaction(ahead, arrival_ms=None)
    with pytest.raises(MalformedRecord, match="future_time"):
        check_transaction(ahead, arrival_ms=ARRIVAL_MS)


def test_absent_fields_are_not_published() -> None:
    assert json.loads(encode_transaction(a_transaction())) == {**VALID, "type": "purchase", "auth_result": "unknown"}


def test_the_canonical_form_is_sorted_filled_and_compact() -> None:
    canonical = canonical_json(a_transaction())
    expected = {name: getattr(a_transaction(), name) for name in sorted(Transaction.__struct_fields__)}
    assert canonical == json.dumps(expected, separators=(",", ":"), ensure_ascii=False).encode()


def test_the_payload_hash_sees_values_and_nothing_else() -> None:
    spelled_out = parse_transaction(
        raw(type="purchase", channel=None, note="x", auth_result="unknown"), arrival_ms=ARRIVAL_MS
    )
    assert payload_sha256(spelled_out) == payload_sha256(a_transaction())
    assert payload_sha256(a_transaction(amount_minor=1235)) != payload_sha256(a_transaction())
    whole = parse_transaction(raw(latitude=1, longitude=2), arrival_ms=ARRIVAL_MS)
    assert payload_sha256(whole) == payload_sha256(a_transaction(latitude=1.0, longitude=2.0))


odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, 10**12, 10**12 + 1, ARRIVAL_MS, 90, 180, 4111111111111111]),
    st.floats(allow_nan=True),
    st.floats(-200, 200),
    st.text(max_size=12),
    st.sampled_from(
        [
            "EUR",
            "JPY",
            "ZWL",
            "DE",
            "pos",
            "refund",
            "approved",
            "4111111111111111",
            "1.2.3.4",
            "::1",
            "\ud800",
            "a\x7f",
        ]
    ),
    st.lists(st.integers(), max_size=2),
)
field_names = st.sampled_from([*Transaction.__struct_fields__, "unknown"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(field_names, odd_values, max_size=5), st.sets(field_names, max_size=1), st.booleans())
def test_the_fast_way_in_never_differs_from_the_exact_one(
    changes: dict[str, Any], absent: set[str], ascii_only: bool
) -> None:
    fields = {name: value for name, value in {**VALID, **changes}.items() if name not in absent}
    payload = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    _assert_both_ways_agree(payload)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12), st.integers(0, 200), st.integers(0, 3))
@example(b'"', 10, 0)
def test_the_fast_way_in_agrees_on_garbage_too(garbage: bytes, at: int, removed: int) -> None:
    valid = encode_transaction(a_full_transaction())
    _assert_both_ways_agree(valid[:at] + garbage + valid[at + removed :])


def _assert_both_ways_agree(payload: bytes) -> None:
    def outcome(parse: Any) -> Any:
        try:
            return parse()
        except MalformedRecord as error:
            return error.field, error.rule

    exact = outcome(lambda: _parse_exactly(payload, ARRIVAL_MS))
    assert outcome(lambda: parse_transaction(payload, arrival_ms=ARRIVAL_MS)) == exact
