"""Filters as Lambda's documentation has them: operators, and data that is not what a pattern is for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from local.mappings.filters import UnsupportedFilter, passing


def lets_through(pattern: object, data: Any) -> bool:
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    return passing([json.dumps({"data": pattern})])(payload)


ORDER: dict[str, Any] = {
    "kind": "buy",
    "n": 100,
    "note": "",
    "none": None,
    "flag": True,
    "who": {"name": "Ann"},
    "l": [1, 2],
}


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        ({"kind": ["buy"]}, True),
        ({"kind": ["sell", "buy"]}, True),
        ({"kind": ["sell"]}, False),
        ({"kind": ["buy"], "n": [100]}, True),
        ({"kind": ["buy"], "n": [101]}, False),
        ({"$or": [{"kind": ["sell"]}, {"n": [100]}]}, True),
        ({"$or": [{"kind": ["sell"]}, {"n": [101]}]}, False),
        ({"note": [""]}, True),
        ({"kind": [""]}, False),
        ({"none": [None]}, True),
        ({"missing": [None]}, False),
        ({"flag": [True]}, True),
        ({"flag": [1]}, False),
        ({"n": [True]}, False),
        ({"who": {"name": ["Ann"]}}, True),
        ({"who": {"name": ["Bob"]}}, False),
        ({"kind": {"name": ["Ann"]}}, False),
        ({"n": [{"numeric": ["=", 100]}]}, True),
        ({"n": [{"numeric": [">", 10, "<=", 100]}]}, True),
        ({"n": [{"numeric": [">", 10, "<", 100]}]}, False),
        ({"kind": [{"numeric": [">", 10]}]}, False),
        ({"kind": [{"exists": True}]}, True),
        ({"missing": [{"exists": True}]}, False),
        ({"missing": [{"exists": False}]}, True),
        ({"kind": [{"exists": False}]}, False),
        ({"who": [{"exists": True}]}, False),  # of leaves only
        ({"kind": [{"prefix": "b"}]}, True),
        ({"kind": [{"prefix": "u"}]}, False),
        ({"kind": [{"suffix": "uy"}]}, True),
        ({"kind": [{"equals-ignore-case": "BUY"}]}, True),
        ({"kind": [{"anything-but": "sell"}]}, True),
        ({"kind": [{"anything-but": ["sell", "buy"]}]}, False),
        ({"kind": [{"anything-but": {"prefix": "b"}}]}, False),
        ({"missing": [{"anything-but": "sell"}]}, False),
        ({"l": [2]}, True),
        ({"l": [3]}, False),
    ],
)
def test_a_pattern_for_json_data(pattern: object, passes: bool) -> None:
    assert lets_through(pattern, ORDER) is passes


def test_data_that_is_not_what_the_pattern_is_for_is_dropped() -> None:
    assert not lets_through({"kind": ["buy"]}, b"some text")
    assert not lets_through({"kind": ["buy"]}, b"[1]")
    assert not lets_through(["some text"], {"kind": "buy"})
    assert not lets_through(["some text"], b"\xff\xfe")
    assert not lets_through({"kind": ["buy"]}, b"\xff\xfe")
    assert lets_through(["other", "some text"], b"some text")
    assert not lets_through([{"prefix": "other"}], b"some text")


def test_one_of_several_filters_is_enough_and_no_filter_lets_everything_through() -> None:
    several = passing(['{"data": {"kind": ["sell"]}}', '{"data": {"n": [{"numeric": [">", 1]}]}}'])
    assert several(b'{"kind": "sell"}')
    assert several(b'{"n": 2}')
    assert not several(b'{"n": 1}')
    assert passing([])(b"\xff")
    assert passing(["{}"])(b"text")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no object"),
        ('{"partitionKey": ["k"]}', "data only, not for partitionKey"),
        ('{"data": {"kind": "buy"}}', "must be a list"),
        ('{"data": {"kind": []}}', "not empty"),
        ('{"data": {"kind": [["buy"]]}}', "must not be a list"),
        ('{"data": {"ip": [{"cidr": "10.0.0.0/8"}]}}', "cidr.*is none of"),
        ('{"data": {"n": [{"numeric": [">"]}]}}', "numeric"),
        ('{"data": {"n": [{"numeric": ["~", 1]}]}}', "numeric"),
        ('{"data": {"$or": [{"kind": "buy"}]}}', "must be a list"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(pattern: str, said: str) -> None:
    with pytest.raises(UnsupportedFilter, match=said):
        passing([pattern])
