"""The language of rules: what it refuses and why, and what it computes, judged by cel-python."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import celpy
import pytest
from celpy import celtypes
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lambdas.rules import MAX_DEPTH, Kind, RuleError, Value, compile_condition

NAMES: dict[str, Kind] = {
    "n": "int",
    "m": "int",
    "x": "double",
    "y": "double",
    "s": "string",
    "t": "string",
    "a": "bool",
    "b": "bool",
    "block.card": "bool",
}
NOTHING: dict[str, Value] = dict.fromkeys(NAMES)


def holds(expression: str, **values: Value) -> bool | None:
    return compile_condition(expression, NAMES)(NOTHING | values)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "the expression is empty"),
        ("  ", "the expression is empty"),
        ("x >", "ends too early"),
        ("x >> 1", "syntax error at character 4"),
        ("x > 1; y", "syntax error at character 6"),
        ("n % 2 == 0", "syntax error at character 3"),
        ("'open", "syntax error at character 1"),
        ("z > 1", "unknown name 'z'"),
        ("scor > 1", "unknown name 'scor'"),
        ("block.crad", "did you mean 'block.card'"),
        ("allow.card", "unknown name 'allow.card'"),
        ("(a || b).card", "nothing has a part named card"),
        ("x", "of type double, a rule needs bool"),
        ("s + t == s", "arithmetic needs two int or two double"),
        ("n + x > 1.0", "write 2.0 or double(x)"),
        ("n / 2 > 1", "int / int would be cut off"),
        ("s < 1", "string < int: these cannot be compared"),
        ("a < b", "bool < bool: these cannot be compared"),
        ("s == 1", "string == int: these cannot be compared"),
        ("x < null", "null can only be asked for with == or !="),
        ("null == null", "null can only be asked for"),
        ("1 < n < 3", "bool < int"),
        ("a && n", "&& needs bool, not int"),
        ("a || s", "|| needs bool, not string"),
        ("!n", "! needs bool, not int"),
        ("-s == s", "- needs a number, not string"),
        ("s in [1]", "string in a list that holds int"),
        ("s in t", "syntax error"),
        ("a ? 1 : 's'", "the two sides of : are int and string"),
        ("n ? a : b", "the condition before ? needs bool"),
        ("matches(s, 'x')", "unknown function matches"),
        ("s.matches('x')", "unknown function matches"),
        ("s.all(c, a)", "unknown function all"),
        ("size(n) > 1", "size needs string, not int"),
        ("size(s, t) > 1", "size takes one argument, not 2"),
        ("double(s) > 1", "double needs a number, not string"),
        ("n.startsWith(s)", "needs string, not int"),
        ("s.startsWith(1)", "needs string, not int"),
        ("s.startsWith()", "startsWith takes one argument, not 0"),
        (r"s == 'a\d'", "unknown escape"),
        ("n > 9223372036854775808", "no 64-bit integer"),
        ("a || " * 250 + "a", "more than 1000"),
        ("!" * (MAX_DEPTH + 1) + "a", "nested more than 40 deep"),
    ],
)
def test_what_is_not_in_the_language_is_refused_by_name(expression: str, problem: str) -> None:
    with pytest.raises(RuleError) as refused:
        compile_condition(expression, NAMES)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x > 1.0", None),
        ("!(x > 1.0)", None),
        ("x != 1.0", None),
        ("x == null", True),
        ("x != null", False),
        ("null == s", True),
        ("x > 1.0 || true", True),
        ("true || x > 1.0", True),
        ("x > 1.0 || false", None),
        ("x > 1.0 && false", False),
        ("false && x > 1.0", False),
        ("x > 1.0 && true", None),
        ("x != null && x > 1.0", False),
        ("s in ['DE']", None),
        ("s.startsWith('a')", None),
        ("a ? true : true", None),
        ("x + 1.0 > 0.0", None),
        ("size(s) > 0", None),
    ],
)
def test_what_is_computed_from_a_missing_value_is_missing_unless_it_cannot_matter(
    expression: str, expected: bool | None
) -> None:
    assert holds(expression) is expected


def test_what_has_no_result_is_missing() -> None:
    assert holds("x / y > 1.0", x=1.0, y=0.0) is None
    assert holds("n * n > 0", n=2**62) is None


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("n > 1.5", True),
        ("x >= 2", True),
        ("x in [1, 2]", True),
        ("n in [2.0, -3]", True),
        ("n in []", False),
        ("n-1 == 1", True),
        ("-n == -2", True),
        ("n - 1 * 2 == 0", True),
        ("double(n) / 4.0 == 0.5", True),
        ("size(s) == 4 && s.endsWith('y\"') && s.contains('x')", True),
        (r"s == 'ax' || s == " + '"axy\\""', True),
        ("a ? s == 't' : n == 2", True),
        ("block.card == false", True),
    ],
)
def test_values(expression: str, expected: bool) -> None:
    values: dict[str, Value] = {"n": 2, "x": 2.0, "s": 'axy"', "a": False, "block.card": False}
    assert holds(expression, **values) is expected


def test_a_long_row_of_alternatives_is_not_deep() -> None:
    assert holds("||".join(["a"] * 330), a=False) is False


# --- the same as CEL wherever CEL has an answer

_INTS = st.integers(-5, 5)
_DOUBLES = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.0, 3.25])
_TEXTS = st.sampled_from(["", "a", "ab", "b", "ü"])


def _literal(value: int | float) -> str:
    return f"({value})" if value < 0 else str(value)


@st.composite
def expressions(draw: st.DrawFn, kind: Kind = "bool", depth: int = 3) -> str:
    """A well-typed expression, without what is wider than CEL in ours: numbers of two kinds compared."""
    leaf = depth == 0 or draw(st.integers(0, 3)) == 0
    below = depth - 1

    def sub(of: Kind) -> str:
        return f"({draw(expressions(of, below))})"

    if kind == "int":
        if leaf:
            return draw(st.sampled_from(["n", "m", *map(_literal, range(-2, 3))]))
        return f"{sub('int')} {draw(st.sampled_from('+-*'))} {sub('int')}"
    if kind == "double":
        if leaf:
            return draw(st.sampled_from(["x", "y", *map(_literal, (-1.5, 0.0, 2.0))]))
        return f"{sub('double')} {draw(st.sampled_from('+-*'))} {sub('double')}"
    if kind == "string":
        return draw(st.sampled_from(["s", "t", "'a'", '"ab"']))
    if leaf:
        return draw(st.sampled_from(["a", "b", "true", "false"]))
    form = draw(st.sampled_from(["&&", "||", "!", "?", "compare", "in", "method", "size"]))
    if form in ("&&", "||"):
        return f"{sub('bool')} {form} {sub('bool')}"
    if form == "!":
        return f"!{sub('bool')}"
    if form == "?":
        return f"{sub('bool')} ? {sub('bool')} : {sub('bool')}"
    if form == "in":
        return f"{sub('string')} in ['a', 'b']"
    if form == "method":
        return f"s.{draw(st.sampled_from(['startsWith', 'endsWith', 'contains']))}({draw(expressions('string', 0))})"
    if form == "size":
        return f"size({sub('string')}) > {sub('int')}"
    of: Kind = draw(st.sampled_from(["int", "double", "string"]))
    return f"{sub(of)} {draw(st.sampled_from(['==', '!=', '<', '<=', '>', '>=']))} {sub(of)}"


_CEL = celpy.Environment()
_TYPES: dict[str, Any] = {
    "int": celtypes.IntType,
    "double": celtypes.DoubleType,
    "string": celtypes.StringType,
    "bool": celtypes.BoolType,
}


@settings(max_examples=200, deadline=None)
@given(
    expressions(),
    st.fixed_dictionaries(
        {"n": _INTS, "m": _INTS, "x": _DOUBLES, "y": _DOUBLES, "s": _TEXTS, "t": _TEXTS}
        | {"a": st.booleans(), "b": st.booleans()}
    ),
)
def test_without_missing_values_it_says_what_cel_says(expression: str, values: dict[str, Value]) -> None:
    assume(len(expression) <= 1000)
    logging.disable(logging.CRITICAL)
    try:
        program = _CEL.program(_CEL.compile(expression))
        judged = program.evaluate({name: _TYPES[NAMES[name]](value) for name, value in values.items()})
    finally:
        logging.disable(logging.NOTSET)
    assert holds(expression, **values) is bool(judged)


def test_policies_without_rules_load_no_parser() -> None:
    program = "import sys; import lambdas.judging; assert 'lark' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[3], check=True)
