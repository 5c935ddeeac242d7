"""Hive types: parsed, turned into Arrow types, and into checks of JSON values."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.firehose.hive_types import Array, HiveType, Map, Primitive, Struct, arrow_type, json_type, parse_hive_type
from stream_features.errors import UsageError

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
PRIMITIVES = st.sampled_from(["string", "boolean", "tinyint", "smallint", "int", "bigint", "float", "double"])
TYPES: st.SearchStrategy[HiveType] = st.recursive(
    PRIMITIVES.map(Primitive),
    lambda inner: (
        inner.map(Array)
        | inner.map(lambda value: Map(Primitive("string"), value))
        | st.lists(st.tuples(NAMES, inner), min_size=1, max_size=4, unique_by=lambda field: field[0]).map(
            lambda fields: Struct(tuple(fields))
        )
    ),
    max_leaves=8,
)


def spelled(hive: HiveType) -> str:
    """A type as Glue spells it."""
    match hive:
        case Primitive(name):
            return name
        case Array(item):
            return f"array<{spelled(item)}>"
        case Map(key, value):
            return f"map<{spelled(key)},{spelled(value)}>"
        case Struct(fields):
            return "struct<" + ",".join(f"{name}:{spelled(field)}" for name, field in fields) + ">"


@given(TYPES)
@settings(max_examples=150)
def test_every_type_reads_back_and_has_an_arrow_and_a_json_form(hive: HiveType) -> None:
    assert parse_hive_type(spelled(hive)) == hive
    assert parse_hive_type(spelled(hive).replace("<", " < ").replace(",", " , ")) == hive
    assert isinstance(arrow_type(hive), pa.DataType)
    msgspec.json.Decoder(json_type(hive))


def test_reasons_of_a_decision_have_the_expected_arrow_type() -> None:
    reasons = parse_hive_type("array<struct<feature:string,contribution:double>>")
    assert arrow_type(reasons) == pa.list_(pa.struct([("feature", pa.string()), ("contribution", pa.float64())]))


def test_case_matters_only_in_field_names() -> None:
    assert parse_hive_type("STRUCT<CardId:BigInt>") == Struct((("CardId", Primitive("bigint")),))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "array",
        "array<",
        "array<string",
        "array<string>>",
        "map<string>",
        "map<int,string>",
        "struct<>",
        "struct<a string>",
        "struct<a:string,a:int>",
        "decimal(10,2)",
        "timestamp",
        "string string",
    ],
)
def test_what_is_no_type_or_is_not_written_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(UsageError, match="Hive type"):
        parse_hive_type(text)


@pytest.mark.parametrize(
    ("hive", "fits", "does_not"),
    [
        ("int", [b"2147483647", b"-2147483648"], [b"2147483648", b"1.0", b'"1"', b"true"]),
        ("bigint", [b"9223372036854775807"], [b"9223372036854775808", b"1e3"]),
        ("double", [b"1", b"0.1", b"-1e300"], [b'"0.1"', b"1e999", b"true"]),
        ("boolean", [b"true"], [b"1", b'"true"']),
        ("string", [b'"x"'], [b"1", b"{}"]),
        ("array<bigint>", [b"[]", b"[1,null]"], [b'["1"]', b"{}"]),
        ("map<string,double>", [b"{}", b'{"a":1,"b":null}'], [b'{"a":"1"}', b"[]"]),
        ("struct<a:int>", [b"{}", b'{"a":1,"unknown":[]}'], [b'{"a":"1"}', b"[1]"]),
    ],
)
def test_a_value_fits_its_type_exactly_or_not_at_all(hive: str, fits: list[bytes], does_not: list[bytes]) -> None:
    decoder: Any = msgspec.json.Decoder(json_type(parse_hive_type(hive)))
    column = arrow_type(parse_hive_type(hive))
    for value in fits:
        assert len(pa.array([decoder.decode(value)], column)) == 1
    for value in does_not:
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(value)
