"""The language of rules: a typed part of CEL without loops, checked once and compiled to closures.

What is left of the Common Expression Language is what a rule needs: `|| && ! == != < <= > >= in + - * / ? :`, numbers,
strings, `true`, `false`, `null`, lists of literals behind `in`, `double(x)`, `size(s)`, `s.startsWith(t)`,
`s.endsWith(t)`, `s.contains(t)`. No macros, no regular expressions, no functions that loop: the time of an evaluation
is bounded by the length of the expression.

Two things are ours. A value may be missing (None): whatever is computed from it is missing too, except that `x == null`
and `x != null` ask for it, that `false && missing` is false and `true || missing` is true; a rule whose expression is
missing does not fire. And int and double may be compared with each other, as later versions of CEL allow.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from stream_features.errors import ContractMismatch

Kind = Literal["int", "double", "string", "bool", "null"]
Value = int | float | str | bool | None
Values = Mapping[str, Value]
Run = Callable[[Values], Value]

MAX_EXPRESSION: Final = 1_000  # characters
MAX_DEPTH: Final = 40
_INT64: Final = 2**63

_GRAMMAR: Final = r"""
?expr: either
     | either "?" either ":" expr -> choice
?either: both
       | either "||" both -> any_of
?both: relation
     | both "&&" relation -> all_of
?relation: sum
         | relation COMPARE sum -> compare
         | relation "in" "[" [item ("," item)*] "]" -> within
?sum: product
    | sum ADD product -> arithmetic
?product: unary
        | product MULTIPLY unary -> arithmetic
?unary: member
      | "!" unary -> negation
      | "-" unary -> minus
?member: primary
       | member "." NAME -> select
       | member "." NAME "(" [expr ("," expr)*] ")" -> method
?primary: literal
        | NAME -> reference
        | NAME "(" [expr ("," expr)*] ")" -> call
        | "(" expr ")"
?literal: DOUBLE -> double
        | INT -> int
        | STRING -> string
        | "true" -> true
        | "false" -> false
        | "null" -> null
?item: literal
     | "-" DOUBLE -> minus_double
     | "-" INT -> minus_int
COMPARE: "==" | "!=" | "<=" | ">=" | "<" | ">"
ADD: "+" | "-"
MULTIPLY: "*" | "/"
DOUBLE.2: /[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?/ | /[0-9]+[eE][+-]?[0-9]+/
INT: /[0-9]+/
STRING: /"(\\.|[^"\\\n])*"/ | /'(\\.|[^'\\\n])*'/
NAME: /[A-Za-z_][A-Za-z0-9_]*/
%ignore /[ \t\r\n]+/
"""

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_METHODS: Final[dict[str, Callable[[str, str], bool]]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
}
_ESCAPES: Final = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t"}


class RuleError(ContractMismatch):
    """An expression is not one of the language, or does not fit the names and types it is checked against."""


class Typed(NamedTuple):
    """A checked expression: the kind of its value, and how to compute it."""

    kind: Kind
    run: Run


def compile_condition(expression: str, names: Mapping[str, Kind]) -> Callable[[Values], bool | None]:
    """Check an expression that says whether a rule fires, and compile it.

    Args:
        expression: at most `MAX_EXPRESSION` characters.
        names: every name it may use, with its kind; a name of two parts is written `block.card`.

    Returns:
        A function of the values by name (None: missing; every name it uses must be there). Never raises.

    Raises:
        RuleError: says what is wrong and where.
    """
    if not expression.strip():
        raise RuleError("the expression is empty")
    if len(expression) > MAX_EXPRESSION:
        raise RuleError(f"the expression has {len(expression)} characters, more than {MAX_EXPRESSION}")
    checked = _Checker(names).check(_tree(expression), 0)
    if checked.kind != "bool":
        raise RuleError(f"the expression is of type {checked.kind}, a rule needs bool")
    return checked.run  # type: ignore[return-value]  # its kind is bool


@cache
def _parser() -> Any:
    from lark import Lark  # a quarter of a second, and most policies have no rules

    return Lark(_GRAMMAR, parser="lalr", start="expr", propagate_positions=True, maybe_placeholders=False)


def _tree(expression: str) -> Any:
    from lark.exceptions import UnexpectedInput

    try:
        return _parser().parse(expression)
    except UnexpectedInput as error:
        column = error.pos_in_stream
        if column is None or getattr(getattr(error, "token", None), "type", "") == "$END":
            raise RuleError("syntax error: the expression ends too early") from error
        raise RuleError(f"syntax error at character {column + 1}: {expression[column : column + 20]!r}") from error


class _Checker:
    """Gives every node its kind, or refuses it."""

    def __init__(self, names: Mapping[str, Kind]) -> None:
        self._names = names

    def check(self, node: Any, depth: int) -> Typed:
        if depth > MAX_DEPTH:
            raise RuleError(f"the expression is nested more than {MAX_DEPTH} deep; split the rule")
        checked: Typed = getattr(self, f"_{node.data}")(node, depth + 1)
        return checked

    # --- values

    def _reference(self, node: Any, depth: int) -> Typed:
        return self._named(str(node.children[0]))

    def _select(self, node: Any, depth: int) -> Typed:
        of, part = node.children
        if of.data != "reference":
            raise RuleError(f"nothing has a part named {part}")
        return self._named(f"{of.children[0]}.{part}")

    def _named(self, name: str) -> Typed:
        kind = self._names.get(name)
        if kind is None:
            near = get_close_matches(name, self._names, n=1)
            raise RuleError(f"unknown name {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return Typed(kind, operator.itemgetter(name))

    def _constant(self, node: Any, depth: int) -> Typed:
        kind, value = _literal(node)
        return Typed(kind, lambda values: value)

    _true = _false = _null = _string = _double = _int = _constant

    # --- logic

    def _any_of(self, node: Any, depth: int) -> Typed:
        return Typed("bool", _first_of(self._chain(node, "any_of", "||", depth), True))

    def _all_of(self, node: Any, depth: int) -> Typed:
        return Typed("bool", _first_of(self._chain(node, "all_of", "&&", depth), False))

    def _chain(self, node: Any, data: str, sign: str, depth: int) -> list[Run]:
        """The operands of a row of the same operator, which may be long without being deep."""
        operands: list[Any] = []
        while node.data == data:
            node, last = node.children
            operands.append(last)
        operands.append(node)
        return [self._of_kind(operand, "bool", sign, depth).run for operand in reversed(operands)]

    def _of_kind(self, node: Any, kind: Kind, what: str, depth: int) -> Typed:
        checked = self.check(node, depth)
        if checked.kind != kind:
            raise RuleError(f"{what} needs {kind}, not {checked.kind}")
        return checked

    def _negation(self, node: Any, depth: int) -> Typed:
        run = self._of_kind(node.children[0], "bool", "!", depth).run
        return Typed("bool", _lifted(operator.not_, run))

    def _choice(self, node: Any, depth: int) -> Typed:
        condition = self._of_kind(node.children[0], "bool", "the condition before ?", depth).run
        one, other = (self.check(child, depth) for child in node.children[1:])
        if one.kind != other.kind:
            raise RuleError(f"the two sides of : are {one.kind} and {other.kind}")
        then, otherwise = one.run, other.run

        def run(values: Values) -> Value:
            holds = condition(values)
            return None if holds is None else then(values) if holds else otherwise(values)

        return Typed(one.kind, run)

    # --- comparison

    def _compare(self, node: Any, depth: int) -> Typed:
        left_node, sign, right_node = node.children
        left, right = self.check(left_node, depth), self.check(right_node, depth)
        if "null" in (left.kind, right.kind):
            if sign not in ("==", "!=") or left.kind == right.kind:
                raise RuleError(f"null can only be asked for with == or !=, as in x == null, not with {sign}")
            asked, wanted = (right if left.kind == "null" else left).run, sign == "=="
            return Typed("bool", lambda values: (asked(values) is None) is wanted)
        numbers = _is_number(left.kind) and _is_number(right.kind)
        same = left.kind == right.kind
        if not (numbers or (same and (left.kind == "string" or sign in ("==", "!=")))):
            raise RuleError(f"{left.kind} {sign} {right.kind}: these cannot be compared")
        return Typed("bool", _lifted(_COMPARISONS[str(sign)], left.run, right.run))

    def _within(self, node: Any, depth: int) -> Typed:
        asked = self.check(node.children[0], depth)
        choices: set[Value] = set()
        for child in node.children[1:]:
            kind, value = _literal(child)
            if kind != asked.kind and not (_is_number(kind) and _is_number(asked.kind)):
                raise RuleError(f"{asked.kind} in a list that holds {kind}")
            choices.add(value)
        return Typed("bool", _lifted(choices.__contains__, asked.run))

    # --- arithmetic and functions

    def _arithmetic(self, node: Any, depth: int) -> Typed:
        left_node, sign, right_node = node.children
        left, right = self.check(left_node, depth), self.check(right_node, depth)
        if left.kind != right.kind or not _is_number(left.kind):
            hint = "; write 2.0 or double(x)" if _is_number(left.kind) and _is_number(right.kind) else ""
            raise RuleError(f"{left.kind} {sign} {right.kind}: arithmetic needs two int or two double{hint}")
        if left.kind == "int" and sign == "/":
            raise RuleError("int / int would be cut off; write double(x) / 2.0")
        return Typed(left.kind, _lifted(_ARITHMETIC[str(sign)], left.run, right.run))

    def _minus(self, node: Any, depth: int) -> Typed:
        of = self.check(node.children[0], depth)
        if not _is_number(of.kind):
            raise RuleError(f"- needs a number, not {of.kind}")
        return Typed(of.kind, _lifted(operator.neg, of.run))

    def _call(self, node: Any, depth: int) -> Typed:
        name, *arguments = node.children
        if name not in ("double", "size"):
            raise RuleError(f"unknown function {name}; there are: double, size")
        if len(arguments) != 1:
            raise RuleError(f"{name} takes one argument, not {len(arguments)}")
        of = self.check(arguments[0], depth)
        if name == "size":
            if of.kind != "string":
                raise RuleError(f"size needs string, not {of.kind}")
            return Typed("int", _lifted(len, of.run))
        if not _is_number(of.kind):
            raise RuleError(f"double needs a number, not {of.kind}")
        return Typed("double", _lifted(float, of.run))

    def _method(self, node: Any, depth: int) -> Typed:
        of_node, name, *arguments = node.children
        if name not in _METHODS:
            raise RuleError(f"unknown function {name}; there are: {', '.join(_METHODS)}")
        if len(arguments) != 1:
            raise RuleError(f"{name} takes one argument, not {len(arguments)}")
        of = self._of_kind(of_node, "string", f".{name}()", depth)
        argument = self._of_kind(arguments[0], "string", f"{name}()", depth)
        return Typed("bool", _lifted(_METHODS[str(name)], of.run, argument.run))


def _literal(node: Any) -> tuple[Kind, Value]:
    kind = str(node.data)
    if kind in ("true", "false"):
        return "bool", kind == "true"
    if kind == "null":
        return "null", None
    text = str(node.children[0])
    if kind == "string":
        return "string", _unescaped(text[1:-1])
    sign = -1 if kind.startswith("minus_") else 1
    if kind.endswith("double"):
        return "double", sign * float(text)
    if int(text) >= _INT64:
        raise RuleError(f"{text} is no 64-bit integer")
    return "int", sign * int(text)


def _is_number(kind: Kind) -> bool:
    return kind in ("int", "double")


def _lifted(function: Callable[..., Value], one: Run, other: Run | None = None) -> Run:
    """`function` of values that may be missing."""
    if other is None:

        def run_one(values: Values) -> Value:
            value = one(values)
            return None if value is None else function(value)

        return run_one

    def run_both(values: Values) -> Value:
        left = one(values)
        if left is None:
            return None
        right = other(values)
        return None if right is None else function(left, right)

    return run_both


def _first_of(operands: list[Run], wanted: bool) -> Run:
    """`||` (wanted: True) and `&&` (False): one operand that is `wanted` settles it, even beside a missing one."""

    def run(values: Values) -> Value:
        answer: bool | None = not wanted
        for operand in operands:
            value = operand(values)
            if value is wanted:
                return wanted
            if value is None:
                answer = None
        return answer

    return run


def _bounded(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Value]:
    """Integers that leave 64 bits are missing, as is what has no result."""

    def run(left: Any, right: Any) -> Value:
        value: int | float = function(left, right)
        return None if type(value) is int and not -_INT64 <= value < _INT64 else value

    return run


def _divided(left: float, right: float) -> Value:
    return left / right if right else None


_ARITHMETIC: Final[dict[str, Callable[[Any, Any], Value]]] = {
    "+": _bounded(operator.add),
    "-": _bounded(operator.sub),
    "*": _bounded(operator.mul),
    "/": _divided,
}


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise RuleError(f"unknown escape {match[0]} in a string; there are: \\\\ \\\" \\' \\n \\t")
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.)", character, text)
