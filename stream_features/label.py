"""The Label contract: what became known about a transaction, and when.

A label that carries `merchant_id` and `event_time_ms` applies at once; one that lacks either waits for the decision.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from stream_features import contract
from stream_features.contract import FieldRule
from stream_features.transaction import MAX_MERCHANT_ID

LabelSource = Literal["chargeback", "analyst", "customer"]


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One report about one transaction; the report with the later `reported_at_ms` (then arrival) holds."""

    transaction_id: Annotated[
        str, Meta(min_length=1, max_length=64, extra_json_schema={"pattern": f"^{contract.IDENTIFIER}$"})
    ]
    is_fraud: bool
    reported_at_ms: Annotated[int, Meta(ge=0, le=contract.MAX_TIME_MS)]
    source: LabelSource
    card_id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=64,
                extra_json_schema={"pattern": f"^{contract.IDENTIFIER}$", "not": {"pattern": "^[0-9]{12,19}$"}},
            ),
        ]
        | None
    ) = None
    merchant_id: Annotated[str, Meta(min_length=1, max_length=MAX_MERCHANT_ID)] | None = None
    event_time_ms: Annotated[int, Meta(ge=0, le=contract.MAX_TIME_MS)] | None = None


FIELD_RULES: Final = (
    FieldRule("transaction_id", contract.identifier, required=True),
    FieldRule("is_fraud", contract.boolean, required=True),
    FieldRule("reported_at_ms", contract.integer(0, contract.MAX_TIME_MS), required=True),
    FieldRule("source", contract.one_of("chargeback", "analyst", "customer"), required=True),
    FieldRule("card_id", contract.card_token),
    FieldRule("merchant_id", contract.printable(MAX_MERCHANT_ID)),
    FieldRule("event_time_ms", contract.integer(0, contract.MAX_TIME_MS)),
)
FIELDS: Final = tuple(rule.name for rule in FIELD_RULES)

_encode: Final = msgspec.json.Encoder().encode


def parse_label(raw: bytes) -> Label:
    """The label in `raw`; labels are rare enough for the exact checks alone.

    Raises:
        MalformedRecord: with the first field, in contract order, that breaks a rule, and the rule.
    """
    return Label(**contract.checked_fields(FIELD_RULES, contract.json_object(raw, FIELDS)))


def check_label(label: Label) -> None:
    """Hold a constructed label to the contract; raises MalformedRecord as `parse_label` would."""
    contract.checked_fields(FIELD_RULES, {name: getattr(label, name) for name in FIELDS})


def encode_label(label: Label) -> bytes:
    """Compact JSON as it is published: absent fields left out."""
    return _encode({name: value for name in FIELDS if (value := getattr(label, name)) is not None})
