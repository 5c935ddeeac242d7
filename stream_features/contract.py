"""What contracts are made of: JSON read strictly, and one check per kind of field.

This is the slow, exact side. `transaction.py` and `label.py` first try a compiled decoder; a record that fails there is
read here, so every rejection names the first offending field (in contract order) and the rule it breaks. Messages never
repeat the offending value: it may be a card number.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from stream_features.errors import MalformedRecord
from stream_features.iso_codes import COUNTRIES, CURRENCIES

MAX_RECORD_BYTES: Final = 262_144
MAX_OPEN_BRACKETS: Final = 64  # nesting deeper than this is refused; no contract nests at all
MAX_TIME_MS: Final = 253_402_300_799_999  # the end of the year 9999
WHOLE_RECORD: Final = "$"

IDENTIFIER: Final = r"[A-Za-z0-9_.:-]{1,64}"
_IDENTIFIER: Final = re.compile(IDENTIFIER)
_CARD_NUMBER: Final = re.compile(r"[0-9]{12,19}")
_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)', re.DOTALL)
_NOT_BRACKETS: Final = re.compile(r"[^\[\]{}]+")

_TYPE_NAMES: Final = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}

Check = Callable[[str, Any], Any]  # (field, value) -> the value to keep; raises MalformedRecord


class FieldRule(NamedTuple):
    """One field of a contract. `default` is only read when the field is optional and absent."""

    name: str
    check: Check
    required: bool = False
    default: Any = None


def checked_fields(rules: Iterable[FieldRule], values: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's fields of `values`, defaults filled; unknown fields are left out.

    Raises:
        MalformedRecord: for the first rule, in the order of `rules`, that does not hold.
    """
    checked: dict[str, Any] = {}
    for rule in rules:
        if rule.name not in values:
            if rule.required:
                raise MalformedRecord(rule.name, "missing", "the field is required")
            checked[rule.name] = rule.default
        elif values[rule.name] is None and not rule.required and rule.default is None:
            checked[rule.name] = None  # null stands for "absent" only where absent means null
        else:
            checked[rule.name] = rule.check(rule.name, values[rule.name])
    return checked


def json_object(raw: bytes, known: Collection[str]) -> dict[str, Any]:
    """`raw` as a JSON object; of duplicate keys the last one holds.

    Args:
        raw: one user record.
        known: the contract's fields. NaN and infinities, which are no JSON, are let through in these alone, so that the
            field's own check can name the field.

    Raises:
        MalformedRecord: field `$`, rule `empty`, `too_large`, `not_utf8`, `too_deep`, `not_json` or `not_object`.
    """
    if not raw:
        raise MalformedRecord(WHOLE_RECORD, "empty", "the record has no bytes")
    if len(raw) > MAX_RECORD_BYTES:
        raise MalformedRecord(WHOLE_RECORD, "too_large", f"the record has more than {MAX_RECORD_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRecord(WHOLE_RECORD, "not_utf8", f"byte {error.start} is not UTF-8") from error
    if _depth(text) > MAX_OPEN_BRACKETS:
        raise MalformedRecord(WHOLE_RECORD, "too_deep", f"nested deeper than {MAX_OPEN_BRACKETS}")
    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return math.nan

    try:
        parsed = json.loads(text, parse_constant=constant, parse_int=_bounded_int)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        raise MalformedRecord(WHOLE_RECORD, "not_json", f"not JSON from character {position} on") from error
    if not isinstance(parsed, dict):
        raise MalformedRecord(WHOLE_RECORD, "not_object", "the record is JSON but not an object")
    if len(constants) > sum(1 for name in known if parsed.get(name) != parsed.get(name)):
        raise MalformedRecord(WHOLE_RECORD, "not_json", "NaN and Infinity are not JSON")
    return parsed


def _bounded_int(digits: str) -> int:
    # Python refuses to read integers of more than 4300 digits; every such number is out of every range anyway
    return int(digits) if len(digits) <= 40 else (-(10**40) if digits[0] == "-" else 10**40)


def _depth(text: str) -> int:
    if text.count("[") + text.count("{") <= MAX_OPEN_BRACKETS:
        return 0
    depth = deepest = 0
    for bracket in _NOT_BRACKETS.sub("", _STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _typed(field: str, value: Any, wanted: type) -> None:
    if type(value) is not wanted:
        raise MalformedRecord(field, "wrong_type", f"must be {_TYPE_NAMES[wanted]}")


def integer(least: int, most: int) -> Check:
    """An integer in `least`..`most`. Neither a boolean nor a float (1.0 included) is one."""

    def check(field: str, value: Any) -> int:
        if isinstance(value, float) and not math.isfinite(value):
            raise MalformedRecord(field, "not_finite", "must be a finite number")
        _typed(field, value, int)
        if not least <= value <= most:
            raise MalformedRecord(field, "out_of_range", f"must lie in {least}..{most}")
        return int(value)

    return check


def number(least: float, most: float) -> Check:
    """A finite number in `least`..`most`, kept as float64."""

    def check(field: str, value: Any) -> float:
        if type(value) is not int:
            _typed(field, value, float)
            if math.isnan(value):
                raise MalformedRecord(field, "not_finite", "must be a finite number")
        if not least <= value <= most:
            raise MalformedRecord(field, "out_of_range", f"must lie in {least:g}..{most:g}")
        return float(value)

    return check


def boolean(field: str, value: Any) -> bool:
    _typed(field, value, bool)
    return bool(value)


def identifier(field: str, value: Any) -> str:
    """1 to 64 characters of `A-Za-z0-9_.:-`."""
    text: str = printable(64)(field, value)
    if not _IDENTIFIER.fullmatch(text):
        raise MalformedRecord(field, "bad_characters", "only A-Z a-z 0-9 _ . : - are allowed")
    return text


def card_token(field: str, value: Any) -> str:
    """An identifier that cannot be a card number."""
    text = identifier(field, value)
    if _CARD_NUMBER.fullmatch(text):
        raise MalformedRecord(
            field, "card_number", "12 to 19 digits and nothing else look like a card number; tokenise"
        )
    return text


def printable(most: int) -> Check:
    """1 to `most` printable Unicode characters."""

    def check(field: str, value: Any) -> str:
        _typed(field, value, str)
        if not value:
            raise MalformedRecord(field, "empty", "must not be empty")
        if len(value) > most:
            raise MalformedRecord(field, "too_long", f"has more than {most} characters")
        if not value.isprintable():
            raise MalformedRecord(field, "bad_characters", "has characters that cannot be printed")
        return str(value)

    return check


def one_of(*allowed: str) -> Check:
    def check(field: str, value: Any) -> str:
        _typed(field, value, str)
        if value not in allowed:
            raise MalformedRecord(field, "not_in_set", f"must be one of {', '.join(allowed)}")
        return str(value)

    return check


def currency(field: str, value: Any) -> str:
    """An ISO 4217 code. Whether a rate exists depends on the event's date and is checked apart."""
    _typed(field, value, str)
    if value not in CURRENCIES:
        raise MalformedRecord(field, "unknown_currency", "must be an ISO 4217 code in capitals")
    return str(value)


def country(field: str, value: Any) -> str:
    """An ISO 3166-1 alpha-2 code."""
    _typed(field, value, str)
    if value not in COUNTRIES:
        raise MalformedRecord(field, "not_in_set", "must be an ISO 3166-1 alpha-2 code in capitals")
    return str(value)


def ip_address(field: str, value: Any) -> str:
    """An IPv4 or IPv6 address without a zone."""
    _typed(field, value, str)
    if not is_ip_address(value):
        raise MalformedRecord(field, "bad_address", "must be an IPv4 or IPv6 address")
    return str(value)


def is_ip_address(text: str) -> bool:
    if len(text) > 45 or "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
