"""Single values of a file → values of a transaction, or the rule they break.

A value is missing when it is None, an empty text or a NaN in a column of numbers (what CSV and pandas make of nothing).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from functools import partial
from typing import Any, Final

from producers.mappings import LABEL_FIELD, Column
from producers.tokens import token_key, tokeniser
from stream_features.errors import MalformedRecord
from stream_features.transaction import FIELD_RULES

Read = Callable[[Any], Any]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_TRUE: Final = frozenset({"1", "true"})
_FALSE: Final = frozenset({"0", "false"})
_DEFAULTS: Final = {rule.name: rule.default for rule in FIELD_RULES if not rule.required}


def reader_of(field: str, column: Column) -> Read:
    """How the values of `column` are read into `field`. The reader raises MalformedRecord(field, rule, message)."""
    if field == "event_time_ms":
        return _time_reader(column.time)
    if field == "amount_minor":
        return _major_reader(column.digits) if column.digits is not None else _minor
    if field in ("latitude", "longitude"):
        return _number_reader(field)
    if field == LABEL_FIELD:
        return _truth
    text = _text_reader(field)
    if not column.tokenise:
        return text
    token = tokeniser(token_key())
    return lambda value: token(text(value))


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _required(field: str) -> MalformedRecord:
    return MalformedRecord(field, "missing", "the field is required")


def _text_reader(field: str) -> Read:
    optional, default = field in _DEFAULTS, _DEFAULTS.get(field)

    def read(value: Any) -> Any:
        if type(value) is str and value:
            return value
        if type(value) is int:
            return str(value)
        if is_missing(value):
            if optional:
                return default
            raise _required(field)
        raise MalformedRecord(field, "wrong_type", "must be text or a whole number")

    return read


def _time_reader(time: str) -> Read:
    field = "event_time_ms"
    if time in ("epoch_s", "epoch_ms"):
        whole = _whole_reader(field)
        scale = 1_000 if time == "epoch_s" else 1
        return lambda value: whole(value) * scale
    parse = dt.datetime.fromisoformat if time == "timestamp" else partial(_parse_pattern, time)

    def read(value: Any) -> int:
        if is_missing(value):
            raise _required(field)
        if type(value) is not str:
            raise MalformedRecord(field, "wrong_type", "must be a time; numbers need time = epoch_s or epoch_ms")
        try:
            moment = parse(value)
        except ValueError as error:
            wanted = "ISO 8601" if time == "timestamp" else time
            raise MalformedRecord(field, "unparsable_time", f"{value!r} is not of the form {wanted}") from error
        return epoch_ms(moment)

    return read


def _parse_pattern(pattern: str, text: str) -> dt.datetime:
    return dt.datetime.strptime(text, pattern)  # noqa: DTZ007 - `epoch_ms` reads a time without an offset as UTC


def epoch_ms(moment: dt.datetime) -> int:
    """Epoch milliseconds, rounded down; a time without an offset is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    return (aware - _EPOCH) // _MILLISECOND


def _whole_reader(field: str) -> Read:
    def read(value: Any) -> int:
        if type(value) is int:
            return int(value)
        if is_missing(value):
            raise _required(field)
        try:
            if type(value) is str:
                return int(value)
            if type(value) in (float, Decimal) and value == int(value):
                return int(value)  # pandas turns whole numbers into floats where some are missing
        except (ValueError, OverflowError) as error:
            raise MalformedRecord(field, "wrong_type", "must be a whole number") from error
        raise MalformedRecord(field, "wrong_type", "must be a whole number")

    return read


_minor: Final = _whole_reader("amount_minor")


def _major_reader(digits: int) -> Read:
    """Major units → minor units: the float64 product, rounded half-even; decimals are exact."""
    field = "amount_minor"
    scale: int = 10**digits
    number = _number_reader(field)

    def read(value: Any) -> int:
        if isinstance(value, Decimal) and value.is_finite():
            return int((value * scale).to_integral_value(ROUND_HALF_EVEN))
        major = number(value)
        if major is None:
            raise _required(field)
        return round(major * scale)

    return read


def _number_reader(field: str) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if type(value) is float and math.isfinite(value):
            return value
        if is_missing(value):
            return None
        try:
            if type(value) not in (float, int, str, Decimal):
                raise MalformedRecord(field, "wrong_type", "must be a number")
            number = float(value)
        except (ValueError, OverflowError) as error:
            raise MalformedRecord(field, "wrong_type", "must be a number") from error
        if not math.isfinite(number):
            raise MalformedRecord(field, "not_finite", "must be a finite number")
        return number

    return read


def _truth(value: Any) -> bool | None:
    if type(value) is bool:
        return value
    if is_missing(value):
        return None
    if value in (0, 1):
        return bool(value)
    if type(value) is str and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise MalformedRecord(LABEL_FIELD, "wrong_type", "must be true or false, 1 or 0")
