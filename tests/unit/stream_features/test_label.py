"""The Label contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream_features.errors import MalformedRecord
from stream_features.label import FIELD_RULES, Label, check_label, encode_label, parse_label

VALID: dict[str, Any] = {"transaction_id": "t-1", "is_fraud": True, "reported_at_ms": 5, "source": "chargeback"}


def test_a_label_is_read_back_as_it_was_written() -> None:
    label = Label(**VALID, card_id="c-1", merchant_id="Café", event_time_ms=4)
    assert parse_label(encode_label(label)) == label
    assert json.loads(encode_label(Label(**VALID))) == VALID


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"transaction_id": "a b"}, "transaction_id", "bad_characters"),
        ({"is_fraud": 1}, "is_fraud", "wrong_type"),
        ({"is_fraud": None}, "is_fraud", "wrong_type"),
        ({"reported_at_ms": -1}, "reported_at_ms", "out_of_range"),
        ({"reported_at_ms": 1.0}, "reported_at_ms", "wrong_type"),
        ({"source": "rumour"}, "source", "not_in_set"),
        ({"card_id": "4111111111111111"}, "card_id", "card_number"),
        ({"merchant_id": "a\nb"}, "merchant_id", "bad_characters"),
        ({"event_time_ms": True}, "event_time_ms", "wrong_type"),
    ],
)
def test_a_refusal_names_field_and_rule(changes: dict[str, Any], field: str, rule: str) -> None:
    fields = {**VALID, **changes}
    with pytest.raises(MalformedRecord) as caught:
        parse_label(json.dumps(fields).encode())
    assert (caught.value.field, caught.value.rule) == (field, rule)
    with pytest.raises(MalformedRecord) as caught:
        check_label(Label(**fields))
    assert (caught.value.field, caught.value.rule) == (field, rule)


@pytest.mark.parametrize("name", VALID)
def test_a_required_field_must_be_there(name: str) -> None:
    fields = {key: value for key, value in VALID.items() if key != name}
    with pytest.raises(MalformedRecord) as caught:
        parse_label(json.dumps(fields).encode())
    assert (caught.value.field, caught.value.rule) == (name, "missing")


def test_every_field_has_a_rule() -> None:
    assert tuple(rule.name for rule in FIELD_RULES) == Label.__struct_fields__
