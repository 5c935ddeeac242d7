"""What is wrong with a rejected record, and what a correction makes of it. Pure: bytes in, bytes out."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec

from stream_features import contract, label, transaction
from stream_features.contract import FieldRule
from stream_features.errors import MalformedRecord, UsageError
from stream_features.label import Label, parse_label
from stream_features.transaction import Transaction, parse_transaction

Kind = Literal["transaction", "label"]
_RULES: Final[dict[Kind, tuple[FieldRule, ...]]] = {
    "transaction": transaction.FIELD_RULES,
    "label": label.FIELD_RULES,
}
_STRUCTS: Final[dict[Kind, type[Transaction] | type[Label]]] = {"transaction": Transaction, "label": Label}


def parsed(kind: Kind, payload: bytes, *, arrival_ms: int) -> Transaction | Label:
    """The record in `payload`, every rule of its contract held as of `arrival_ms`. Raises MalformedRecord."""
    return parse_transaction(payload, arrival_ms=arrival_ms) if kind == "transaction" else parse_label(payload)


def problems(kind: Kind, payload: bytes, *, arrival_ms: int) -> list[MalformedRecord]:
    """Every field that breaks a rule, in contract order; rules about several fields once all fields hold alone."""
    try:
        values = contract.json_object(payload, _names(kind))
    except MalformedRecord as error:
        return [error]
    found: list[MalformedRecord] = []
    for rule in _RULES[kind]:
        try:
            contract.checked_fields((rule,), values)
        except MalformedRecord as error:
            found.append(error)
    if not found:
        try:
            parsed(kind, payload, arrival_ms=arrival_ms)
        except MalformedRecord as error:
            found.append(error)
    return found


def corrected(kind: Kind, payload: bytes, sets: Mapping[str, str], unset: Sequence[str], *, arrival_ms: int) -> bytes:
    """The record with some fields changed.

    Args:
        kind: of the record.
        payload: as it was rejected. What is no JSON object counts as an empty one: every field has to be given.
        sets: field to its new value as text.
        unset: fields to leave out.
        arrival_ms: now.

    Raises:
        UsageError: a field that the contract does not have, or a value that is not of its type.
        MalformedRecord: what comes out still breaks the contract.
    """
    for field in (*sets, *unset):
        if field not in _names(kind):
            raise UsageError(f"{field!r} is no field of a {kind}; it has {', '.join(_names(kind))}")
    if both := sorted(set(sets) & set(unset)):
        raise UsageError(f"{', '.join(both)}: given with --set and --unset")
    try:
        values = contract.json_object(payload, _names(kind))
    except MalformedRecord:
        values = {}
    types_of = {field.name: _type_of(field.type) for field in msgspec.structs.fields(_STRUCTS[kind])}
    values |= {field: _value(field, text, types_of[field]) for field, text in sets.items()}
    for field in unset:
        values.pop(field, None)
    corrected_payload = json.dumps(values, separators=(",", ":")).encode()
    parsed(kind, corrected_payload, arrival_ms=arrival_ms)
    return corrected_payload


def parse_sets(pairs: Sequence[str]) -> dict[str, str]:
    """`field=value` options as a dictionary; the last one of a field holds. Raises UsageError."""
    sets: dict[str, str] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not equals or not field:
            raise UsageError(f"--set {pair!r}: expected FIELD=VALUE, such as --set currency=EUR")
        sets[field] = value
    return sets


def _names(kind: Kind) -> tuple[str, ...]:
    return tuple(rule.name for rule in _RULES[kind])


def _type_of(annotation: Any) -> type:
    """The scalar behind an annotation of a contract's field."""
    while get_origin(annotation) is not None:
        if get_origin(annotation) is Literal:
            return str
        choices = [choice for choice in get_args(annotation) if choice is not types.NoneType]
        if get_origin(annotation) not in (Union, types.UnionType):
            choices = choices[:1]  # Annotated
        (annotation,) = choices
    assert isinstance(annotation, type)  # noqa: S101  contracts hold nothing else
    return annotation


def _value(field: str, text: str, wanted: type) -> Any:
    if wanted is str:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if wanted is float and type(value) is int:
        return value
    if type(value) is not wanted:
        names = {int: "an integer", float: "a number", bool: "true or false"}
        raise UsageError(f"--set {field}={text}: must be {names[wanted]}")
    return value
