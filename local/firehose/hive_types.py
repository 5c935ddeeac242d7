"""Hive column types, as the Glue catalogue spells them: `array<struct<feature:string,contribution:double>>`.

A type has two uses here: the Arrow type a column is written with, and the msgspec type a JSON value is checked against
while it is parsed. The check is strict where Hive's JSON readers are lax (a number is not a string, 1.0 is not a
bigint): a value that would be changed on its way to the lake is reported instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Optional, TypedDict

import pyarrow as pa
from msgspec import Meta

from stream_features.errors import UsageError


@dataclass(frozen=True, slots=True)
class Primitive:
    name: str


@dataclass(frozen=True, slots=True)
class Array:
    item: HiveType


@dataclass(frozen=True, slots=True)
class Map:
    key: HiveType
    value: HiveType


@dataclass(frozen=True, slots=True)
class Struct:
    fields: tuple[tuple[str, HiveType], ...]


HiveType = Primitive | Array | Map | Struct


def _integer(bits: int) -> Any:
    return Annotated[int, Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]


_PRIMITIVES: Final[dict[str, tuple[Any, Any]]] = {
    "string": (pa.string(), str),
    "boolean": (pa.bool_(), bool),
    "tinyint": (pa.int8(), _integer(8)),
    "smallint": (pa.int16(), _integer(16)),
    "int": (pa.int32(), _integer(32)),
    "bigint": (pa.int64(), _integer(64)),
    "float": (pa.float32(), float),
    "double": (pa.float64(), float),
}
_ALIASES: Final = {"integer": "int"}
_TOKEN: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|[<>,:])")


def parse_hive_type(text: str) -> HiveType:
    """`text` as a type. Case and white space do not matter, except in the names of struct fields.

    Raises:
        UsageError: not a type, or one that this worker does not write (decimal, timestamp, date, binary, union).
    """
    parser = _Parser(text)
    parsed = parser.type()
    parser.end()
    return parsed


def arrow_type(hive: HiveType) -> Any:
    """The Arrow type of a column of type `hive`; everything may be null."""
    match hive:
        case Primitive(name):
            return _PRIMITIVES[name][0]
        case Array(item):
            return pa.list_(arrow_type(item))
        case Map(key, value):
            return pa.map_(arrow_type(key), arrow_type(value))
        case Struct(fields):
            return pa.struct([(name, arrow_type(field)) for name, field in fields])


def json_type(hive: HiveType) -> Any:
    """The msgspec type a JSON value must have to fit; null and a missing struct field fit everywhere."""
    match hive:
        case Primitive(name):
            return _PRIMITIVES[name][1]
        case Array(item):
            return list[_nullable(item)]  # type: ignore[misc]
        case Map(_, value):
            return dict[str, _nullable(value)]  # type: ignore[misc]
        case Struct(fields):
            return row_type(fields)


def row_type(columns: tuple[tuple[str, HiveType], ...]) -> Any:
    """A TypedDict of nullable, optional keys: what a JSON object must be to make a row of `columns`."""
    return TypedDict("Row", {name: _nullable(hive) for name, hive in columns}, total=False)  # type: ignore[operator]


def _nullable(hive: HiveType) -> Any:
    return Optional[json_type(hive)]  # noqa: UP045 - built at run time from a value


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(f"unexpected {text[at:].strip()[:12]!r}")
            self._tokens.append(match.group(1))
            at = match.end()
        self._next = 0

    def type(self) -> HiveType:
        name = self._take().lower()
        name = _ALIASES.get(name, name)
        if name in _PRIMITIVES:
            return Primitive(name)
        if name == "array":
            self._expect("<")
            item = self.type()
            self._expect(">")
            return Array(item)
        if name == "map":
            self._expect("<")
            key = self.type()
            self._expect(",")
            value = self.type()
            self._expect(">")
            if key != Primitive("string"):
                raise self._error("the key of a map must be string: JSON has no other")
            return Map(key, value)
        if name == "struct":
            return self._struct()
        raise self._error(f"unknown or unsupported type {name!r}")

    def end(self) -> None:
        if self._next < len(self._tokens):
            raise self._error(f"unexpected {self._tokens[self._next]!r}")

    def _struct(self) -> Struct:
        self._expect("<")
        fields: list[tuple[str, HiveType]] = []
        while True:
            name = self._take()
            self._expect(":")
            if any(name == known for known, _ in fields):
                raise self._error(f"field {name!r} twice")
            fields.append((name, self.type()))
            separator = self._take()
            if separator == ">":
                return Struct(tuple(fields))
            if separator != ",":
                raise self._error(f"unexpected {separator!r}")

    def _take(self) -> str:
        if self._next == len(self._tokens):
            raise self._error("it ends too early")
        self._next += 1
        return self._tokens[self._next - 1]

    def _expect(self, token: str) -> None:
        found = self._take()
        if found != token:
            raise self._error(f"expected {token!r}, found {found!r}")

    def _error(self, message: str) -> UsageError:
        return UsageError(f"Hive type {self._text!r}: {message}")
