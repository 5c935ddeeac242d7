"""A transaction as an application has it, held to the contract before it is queued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from stream_features import contract
from stream_features.errors import MalformedRecord
from stream_features.transaction import FIELD_RULES, FIELDS, Transaction, encode_transaction, parse_transaction

_FIELDS: Final = frozenset(FIELDS)
_encode: Final = msgspec.json.Encoder().encode


class Valid(NamedTuple):
    """A transaction that keeps the contract, and its bytes as they are published."""

    transaction: Transaction
    payload: bytes


def validated(transaction: Transaction | Mapping[str, Any], *, arrival_ms: int) -> Valid:
    """The transaction's payload, which a consumer will read as exactly the values given here.

    Args:
        transaction: an instance, or a mapping with the contract's field names. Further fields of a mapping are
            published too: they reach the raw archive and are ignored elsewhere.
        arrival_ms: now, UTC epoch ms; what is dated more than 5 minutes later is refused.

    Raises:
        MalformedRecord: names the first field, in contract order, that breaks a rule, and the rule.
    """
    try:
        if isinstance(transaction, Transaction):
            payload = encode_transaction(transaction)
            parsed = parse_transaction(payload, arrival_ms=arrival_ms)
            is_same = parsed == transaction
        elif isinstance(transaction, Mapping):
            payload = _encode(dict(transaction))
            parsed = parse_transaction(payload, arrival_ms=arrival_ms)
            is_same = all(getattr(parsed, name) == value for name, value in transaction.items() if name in _FIELDS)
        else:
            raise MalformedRecord("$", "not_object", "neither a Transaction nor a mapping of its fields")
    except MalformedRecord:
        _check_values(transaction)
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        _check_values(transaction)
        raise MalformedRecord("$", "not_json", "cannot be written as JSON") from error
    if not is_same:
        # JSON has no NaN, and a text may stand for a time or a number: what arrives must be what was given.
        _check_values(transaction)
        raise MalformedRecord("$", "wrong_type", "would arrive with other values")
    return Valid(parsed, payload)


def _check_values(transaction: object) -> None:
    """The exact checks on the values themselves, whose verdict says more than one on their JSON."""
    if isinstance(transaction, Transaction):
        contract.checked_fields(FIELD_RULES, {name: getattr(transaction, name) for name in FIELDS})
    elif isinstance(transaction, Mapping):
        contract.checked_fields(FIELD_RULES, transaction)
