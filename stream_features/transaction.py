"""The Transaction contract: what a producer may put on the `transactions` stream.

`parse_transaction` is the only way in. A compiled decoder and a few cheap tests accept the valid record in
microseconds; whatever they do not accept is read again by the exact checks of `contract.py`, whose verdict counts.

Unknown fields are ignored (they reach the raw archive). Of duplicate keys the last one holds. An explicit null stands
for an absent optional field, except for `type` and `auth_result`, whose absence means a value.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from stream_features import contract
from stream_features.contract import FieldRule
from stream_features.currency import RATES
from stream_features.errors import MalformedRecord
from stream_features.iso_codes import COUNTRIES, CURRENCIES

MAX_CLOCK_AHEAD_MS: Final = 5 * 60_000  # an event may be dated this far after its record's arrival
MAX_AMOUNT_MINOR: Final = 10**12
MAX_MERCHANT_ID: Final = 128
MAX_DEVICE_ID: Final = 128
MAX_MERCHANT_CATEGORY: Final = 64

TransactionType = Literal["purchase", "refund", "reversal"]
AuthResult = Literal["approved", "declined", "unknown"]
Channel = Literal["pos", "ecom", "atm", "moto"]

_ID_SCHEMA: Final[dict[str, object]] = {"pattern": f"^{contract.IDENTIFIER}$"}
_CARD_SCHEMA: Final[dict[str, object]] = {**_ID_SCHEMA, "not": {"pattern": "^[0-9]{12,19}$"}}


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction as its producer saw it: amount in minor units of `currency`, epoch ms UTC, degrees.

    The constructor checks nothing; `parse_transaction` and `check_transaction` do.
    """

    transaction_id: Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema=_ID_SCHEMA)]
    event_time_ms: Annotated[int, Meta(ge=0, le=contract.MAX_TIME_MS)]
    card_id: Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema=_CARD_SCHEMA)]
    merchant_id: Annotated[str, Meta(min_length=1, max_length=MAX_MERCHANT_ID)]
    amount_minor: Annotated[int, Meta(ge=0, le=MAX_AMOUNT_MINOR)]
    currency: Annotated[str, Meta(extra_json_schema={"enum": sorted(CURRENCIES)})]
    type: TransactionType = "purchase"
    auth_result: AuthResult = "unknown"
    merchant_category: Annotated[str, Meta(min_length=1, max_length=MAX_MERCHANT_CATEGORY)] | None = None
    channel: Channel | None = None
    country: Annotated[str, Meta(extra_json_schema={"enum": sorted(COUNTRIES)})] | None = None
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None
    device_id: Annotated[str, Meta(min_length=1, max_length=MAX_DEVICE_ID)] | None = None
    ip: Annotated[str, Meta(max_length=45)] | None = None


FIELD_RULES: Final = (
    FieldRule("transaction_id", contract.identifier, required=True),
    FieldRule("event_time_ms", contract.integer(0, contract.MAX_TIME_MS), required=True),
    FieldRule("card_id", contract.card_token, required=True),
    FieldRule("merchant_id", contract.printable(MAX_MERCHANT_ID), required=True),
    FieldRule("amount_minor", contract.integer(0, MAX_AMOUNT_MINOR), required=True),
    FieldRule("currency", contract.currency, required=True),
    FieldRule("type", contract.one_of("purchase", "refund", "reversal"), default="purchase"),
    FieldRule("auth_result", contract.one_of("approved", "declined", "unknown"), default="unknown"),
    FieldRule("merchant_category", contract.printable(MAX_MERCHANT_CATEGORY)),
    FieldRule("channel", contract.one_of("pos", "ecom", "atm", "moto")),
    FieldRule("country", contract.country),
    FieldRule("latitude", contract.number(-90, 90)),
    FieldRule("longitude", contract.number(-180, 180)),
    FieldRule("device_id", contract.printable(MAX_DEVICE_ID)),
    FieldRule("ip", contract.ip_address),
)
FIELDS: Final = tuple(rule.name for rule in FIELD_RULES)

# both identifiers in one match: "/" is not in their alphabet; the look-ahead refuses a card number
_IDENTIFIERS: Final = re.compile(rf"{contract.IDENTIFIER}/(?![0-9]{{12,19}}\Z){contract.IDENTIFIER}")
_IPV4: Final = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!\Z)|\Z)){4}")

_decode: Final = msgspec.json.Decoder(Transaction).decode
_encode: Final = msgspec.json.Encoder().encode
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_first_rate_ms: Final = RATES.first_ms


def parse_transaction(raw: bytes, *, arrival_ms: int) -> Transaction:
    """The transaction in `raw`, every rule of the contract held.

    Args:
        raw: one user record, UTF-8 JSON.
        arrival_ms: when Kinesis took the record; an event dated more than 5 minutes later is refused.

    Raises:
        MalformedRecord: with the first field, in contract order, that breaks a rule, and the rule.
    """
    try:
        if len(raw) > contract.MAX_RECORD_BYTES or raw.count(b"[") + raw.count(b"{") > contract.MAX_OPEN_BRACKETS:
            return _parse_exactly(raw, arrival_ms)
        if not raw.isascii():
            raw.decode()  # the decoder does not look at bytes of unknown fields
        transaction = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _parse_exactly(raw, arrival_ms)
    if _obeys(transaction, arrival_ms):
        return transaction
    return _parse_exactly(raw, arrival_ms)


def check_transaction(transaction: Transaction, *, arrival_ms: int | None) -> None:
    """Hold a constructed transaction to the contract.

    Args:
        transaction: any instance, also one built by hand with values of the wrong type.
        arrival_ms: as for `parse_transaction`; None skips the rule `future_time`.

    Raises:
        MalformedRecord: as `parse_transaction` would.
    """
    _checked({name: getattr(transaction, name) for name in FIELDS}, arrival_ms)


def encode_transaction(transaction: Transaction) -> bytes:
    """Compact JSON as it is published: absent fields left out."""
    return _encode({name: value for name in FIELDS if (value := getattr(transaction, name)) is not None})


def canonical_json(transaction: Transaction) -> bytes:
    """The known fields with defaults (and nulls) filled in, keys sorted, no white space."""
    return _encode_sorted(transaction)


def payload_sha256(transaction: Transaction) -> str:
    """What tells a repeated transaction from another one under the same id: 64 hex digits."""
    return hashlib.sha256(canonical_json(transaction)).hexdigest()


def _obeys(transaction: Transaction, arrival_ms: int) -> bool:
    """The rules that the compiled decoder does not know; cheap, and never laxer than `contract.py`."""
    event_time_ms = transaction.event_time_ms
    first_rate_ms = _first_rate_ms.get(transaction.currency)
    if (
        event_time_ms > arrival_ms + MAX_CLOCK_AHEAD_MS
        or first_rate_ms is None
        or event_time_ms < first_rate_ms
        or not transaction.merchant_id.isprintable()
        or (transaction.latitude is None) is not (transaction.longitude is None)
        or _IDENTIFIERS.fullmatch(f"{transaction.transaction_id}/{transaction.card_id}") is None
    ):
        return False
    country = transaction.country
    if country is not None and country not in COUNTRIES:
        return False
    category = transaction.merchant_category
    if category is not None and not category.isprintable():
        return False
    device_id = transaction.device_id
    if device_id is not None and not device_id.isprintable():
        return False
    ip = transaction.ip
    return ip is None or _IPV4.fullmatch(ip) is not None or contract.is_ip_address(ip)


def _parse_exactly(raw: bytes, arrival_ms: int) -> Transaction:
    return Transaction(**_checked(contract.json_object(raw, FIELDS), arrival_ms))


def _checked(values: dict[str, Any], arrival_ms: int | None) -> dict[str, Any]:
    fields = contract.checked_fields(FIELD_RULES, values)
    if fields["event_time_ms"] < RATES.first_ms.get(fields["currency"], contract.MAX_TIME_MS + 1):
        raise MalformedRecord("currency", "no_rate", "no exchange rate on or before the event's date")
    if arrival_ms is not None and fields["event_time_ms"] > arrival_ms + MAX_CLOCK_AHEAD_MS:
        raise MalformedRecord("event_time_ms", "future_time", "dated more than 5 minutes after its arrival")
    for name, other in (("latitude", "longitude"), ("longitude", "latitude")):
        if fields[name] is None and fields[other] is not None:
            raise MalformedRecord(name, "missing", f"{other} is given")
    return fields
