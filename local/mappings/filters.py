"""Which records a mapping's FilterCriteria let through, by Lambda's rules for Kinesis: patterns are for `data` only.

    data of the record    pattern for data    the record
    JSON object           JSON object         is compared with it
    text                  list of texts       is compared with it
    JSON object           list of texts       is dropped
    text                  JSON object         is dropped
    no UTF-8              any                 is dropped

A record passes that matches one of the filters. Inside a pattern all fields must match, of a field one of the values.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPERATORS: Final = ("anything-but", "equals-ignore-case", "exists", "numeric", "prefix", "suffix")
_ABSENT: Final = object()


class UnsupportedFilter(ValueError):
    """A pattern that Lambda would refuse, or an operator that is not done here; the message names it."""


def passing(filters: Sequence[str]) -> Callable[[bytes], bool]:
    """A predicate over a record's data for these patterns (JSON text); without any, everything passes.

    Raises:
        UnsupportedFilter: a pattern cannot be honoured.
    """
    patterns = [_pattern(text) for text in filters]
    if not patterns:
        return lambda _data: True

    def passes(data: bytes) -> bool:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return False
        try:
            found = json.loads(text)
        except ValueError:
            found = text
        return any(_passes(pattern, found, text) for pattern in patterns)

    return passes


def _passes(pattern: Any, found: Any, text: str) -> bool:
    if pattern is None:
        return True  # it says nothing of the data
    if isinstance(pattern, list):
        return not isinstance(found, dict) and _one_of(pattern, text)
    return isinstance(found, dict) and _matches(pattern, found)


def _pattern(text: str) -> Any:
    """The part of a pattern that is for the data; None if there is none."""
    try:
        pattern = json.loads(text)
    except ValueError as error:
        raise UnsupportedFilter(f"the filter pattern {text!r} is no JSON") from error
    if not isinstance(pattern, dict):
        raise UnsupportedFilter(f"the filter pattern {text!r} is no object")
    if others := sorted(pattern.keys() - {"data"}):
        raise UnsupportedFilter(f"filters of Kinesis mappings are for the key data only, not for {', '.join(others)}")
    if "data" not in pattern:
        return None
    _check(pattern["data"])
    return pattern["data"]


def _check(pattern: Any) -> None:
    if isinstance(pattern, dict):
        for name, part in pattern.items():
            if name == "$or":
                for one in part:
                    _check(one)
            else:
                _check(part)
        return
    if not isinstance(pattern, list) or not pattern:
        raise UnsupportedFilter(f"a filter's values must be a list that is not empty: {json.dumps(pattern)}")
    for condition in pattern:
        if isinstance(condition, list):
            raise UnsupportedFilter(f"a filter's value must not be a list: {json.dumps(condition)}")
        if isinstance(condition, dict):
            _check_operator(condition)


def _check_operator(condition: Mapping[str, Any]) -> None:
    if len(condition) != 1 or next(iter(condition)) not in _OPERATORS:
        raise UnsupportedFilter(f"the filter operator {json.dumps(condition)} is none of {', '.join(_OPERATORS)}")
    ((name, argument),) = condition.items()
    if name == "numeric" and (
        not isinstance(argument, list)
        or len(argument) not in (2, 4)
        or any(one not in _COMPARISONS for one in argument[::2])
    ):
        raise UnsupportedFilter(f"a numeric filter is a list of comparison and number, once or twice: {argument}")


def _matches(pattern: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    for name, part in pattern.items():
        if name == "$or":
            if not any(_matches(one, value) for one in part):
                return False
        elif isinstance(part, dict):
            inner = value.get(name)
            inside = inner if isinstance(inner, list) else [inner]
            if not any(isinstance(one, dict) and _matches(part, one) for one in inside):
                return False
        elif not _leaf(part, value.get(name, _ABSENT)):
            return False
    return True


def _leaf(conditions: Sequence[Any], value: Any) -> bool:
    """Whether a field has one of the values; of a list, whether an element has."""
    if isinstance(value, list) and value:
        return any(_one_of(conditions, one) for one in value)
    return _one_of(conditions, value)


def _one_of(conditions: Sequence[Any], value: Any) -> bool:
    return any(_holds(condition, value) for condition in conditions)


def _holds(condition: Any, value: Any) -> bool:
    if not isinstance(condition, dict):
        return value is not _ABSENT and _equal(condition, value)
    ((name, argument),) = condition.items()
    if name == "exists":
        return bool((value is not _ABSENT and not isinstance(value, dict)) == argument)
    if value is _ABSENT:
        return False
    if name == "anything-but":
        if isinstance(argument, dict):
            return not _holds(argument, value)
        return not any(_equal(one, value) for one in (argument if isinstance(argument, list) else [argument]))
    if name == "numeric":
        return _is_number(value) and all(
            _COMPARISONS[comparison](value, number)
            for comparison, number in zip(argument[::2], argument[1::2], strict=True)
        )
    if not isinstance(value, str):
        return False
    if name == "equals-ignore-case":
        return value.lower() == str(argument).lower()
    return value.startswith(argument) if name == "prefix" else value.endswith(argument)


def _equal(one: Any, other: Any) -> bool:
    """JSON's equality: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
