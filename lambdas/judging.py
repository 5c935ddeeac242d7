"""From a policy to decisions: hard block > kill switch > allow > rules > model.

Everything that applies is named in `rules`, in this order; the first one decides, and the model where none applies.
Where the model could not be asked, `score` is missing: rules that need it do not fire, and `degraded_decision` stands
for the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv6Address
from typing import Any, Final, NamedTuple

from lambdas.policy import ENTITY_KINDS, EntityKind, Example, InvalidPolicy, Lists, Policy, Rule
from lambdas.rules import Kind, RuleError, Value, Values, compile_condition
from stream_features.decision import Verdict
from stream_features.feature_sets import FeatureSet
from stream_features.transaction import FIELDS, Transaction

MAX_RULES: Final = 200
MAX_VERSION: Final = 128
LISTED_FIELDS: Final[Mapping[EntityKind, str]] = {
    "card": "card_id",
    "merchant": "merchant_id",
    "device": "device_id",
    "ip": "ip",
}

_RULE_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VERSION: Final = re.compile(r"[A-Za-z0-9_.:+-]+")
_FIELD_KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(FIELDS, "string"),
    "event_time_ms": "int",
    "amount_minor": "int",
    "latitude": "double",
    "longitude": "double",
}
_NOWHERE: Final = Lists()


class Judgement(NamedTuple):
    """A decision, and the ids of what asked for one, first come first."""

    decision: Verdict
    rules: list[str]


class Judge:
    """One policy, checked and compiled for one feature set.

    Raises:
        InvalidPolicy: names every problem.
    """

    def __init__(self, policy: Policy, features: FeatureSet) -> None:
        self.policy = policy
        self.feature_names = features.names
        self._rules: list[tuple[Rule, Callable[[Values], bool | None]]] = []
        names = names_of(policy, features)
        problems = [*_problems(policy), *_example_problems(policy, features)]
        for rule in sorted(policy.rules, key=lambda rule: -rule.priority):
            try:
                self._rules.append((rule, compile_condition(rule.expression, names)))
            except RuleError as error:
                problems.append(f"rule {rule.id!r}: expression: {error}")
        if problems:
            raise InvalidPolicy(problems)

    @property
    def uses_lists(self) -> bool:
        return bool(self.policy.lists.block or self.policy.lists.allow)

    def judge(
        self, fields: Any, features: Mapping[str, float | None], score: float | None, listed: Lists = _NOWHERE
    ) -> Judgement:
        """Decide one transaction.

        Args:
            fields: whatever has the transaction's fields as attributes.
            features: by name, None for missing.
            score: the model's; None: it could not be asked.
            listed: on which lists its entities are, by kind.
        """
        policy = self.policy
        applies: list[tuple[str, Verdict]] = []
        if policy.lists.block:
            applies += ((f"list:block:{kind}", "decline") for kind in policy.lists.block if kind in listed.block)
        if policy.kill_switch != "off":
            applies.append(
                (f"kill:{policy.kill_switch}", "review" if policy.kill_switch == "force_review" else "approve")
            )
        if policy.lists.allow:
            applies += ((f"list:allow:{kind}", "approve") for kind in policy.lists.allow if kind in listed.allow)
        if self._rules:
            values: dict[str, Value] = {name: getattr(fields, name, None) for name in FIELDS}
            values.update(features)
            values["score"] = score
            for kind in policy.lists.block:
                values[f"block.{kind}"] = kind in listed.block
            for kind in policy.lists.allow:
                values[f"allow.{kind}"] = kind in listed.allow
            applies += ((rule.id, rule.action) for rule, holds in self._rules if holds(values))
        if not applies:
            return Judgement(policy.decide(score), [])
        return Judgement(applies[0][1], [rule_id for rule_id, _ in applies])


def list_entry(kind: EntityKind, value: str) -> str:
    """The key of an entity in the table of lists. One IPv6 address has many spellings, and one key."""
    if kind == "ip" and ":" in value:
        value = str(IPv6Address(value))
    return f"{kind}#{value}"


def entries_asked(policy: Policy, transactions: Iterable[Transaction]) -> list[str]:
    """The keys that a batch needs of the table of lists, each once."""
    fields = [
        (kind, LISTED_FIELDS[kind]) for kind in ENTITY_KINDS if kind in policy.lists.block or kind in policy.lists.allow
    ]
    return list(
        dict.fromkeys(
            list_entry(kind, value)
            for transaction in transactions
            for kind, field in fields
            if (value := getattr(transaction, field)) is not None
        )
    )


def listed_of(policy: Policy, transaction: Transaction, found: Mapping[str, str]) -> Lists:
    """On which lists a transaction's entities are.

    Args:
        policy: says which kinds count for which list.
        transaction: the transaction.
        found: entry key to the name of its list.
    """
    if not found:
        return _NOWHERE

    def on(name: str, kinds: tuple[EntityKind, ...]) -> tuple[EntityKind, ...]:
        return tuple(
            kind
            for kind in kinds
            if (value := getattr(transaction, LISTED_FIELDS[kind])) is not None
            and found.get(list_entry(kind, value)) == name
        )

    return Lists(on("block", policy.lists.block), on("allow", policy.lists.allow))


def names_of(policy: Policy, features: FeatureSet) -> dict[str, Kind]:
    """Everything a rule of the policy may name, with its kind. Where names meet, the feature is meant."""
    names: dict[str, Kind] = dict(_FIELD_KINDS)
    names.update(dict.fromkeys(features.names, "double"))
    names["score"] = "double"
    names.update(dict.fromkeys((f"block.{kind}" for kind in policy.lists.block), "bool"))
    names.update(dict.fromkeys((f"allow.{kind}" for kind in policy.lists.allow), "bool"))
    return names


def failed_examples(judge: Judge) -> list[str]:
    """What the policy decides otherwise than its own examples say."""
    failed: list[str] = []
    for example in judge.policy.examples:
        transaction = _Fields(example.transaction)
        found = judge.judge(transaction, _all_of(judge, example), example.score, example.lists)
        if found.decision != example.expect:
            decides = "none, the model decides" if example.score is not None else "none, degraded_decision decides"
            because = f" (rules: {', '.join(found.rules) or decides})"
            failed.append(f"example {example.name!r}: expected {example.expect}, got {found.decision}{because}")
        elif example.rules is not None and list(example.rules) != found.rules:
            failed.append(f"example {example.name!r}: expected rules {list(example.rules)}, got {found.rules}")
    return failed


class _Fields:
    """Attributes from a dictionary; what it lacks is missing."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.__dict__.update(values)


def _all_of(judge: Judge, example: Example) -> dict[str, float | None]:
    return dict.fromkeys(judge.feature_names) | example.features


def _problems(policy: Policy) -> Iterator[str]:
    """What is wrong with the fields, rules' expressions and examples aside."""
    if len(policy.policy_version) > MAX_VERSION or not _VERSION.fullmatch(policy.policy_version):
        yield f"policy_version {policy.policy_version!r}: 1..{MAX_VERSION} of A-Z a-z 0-9 _ . : + -"
    if policy.degrade_after_ms is not None and policy.degrade_after_ms < 0:
        yield f"degrade_after_ms must not be negative, it is {policy.degrade_after_ms}"
    if len(policy.rules) > MAX_RULES:
        yield f"rules: {len(policy.rules)} rules, more than {MAX_RULES}"
    for rule in policy.rules:
        if not _RULE_ID.fullmatch(rule.id):
            yield f"rule {rule.id!r}: id: 1..64 of A-Z a-z 0-9 _ . -"
    for rule_id, count in Counter(rule.id for rule in policy.rules).items():
        if count > 1:
            yield f"rule {rule_id!r}: id: used by {count} rules"
    for name, kinds in (("block", policy.lists.block), ("allow", policy.lists.allow)):
        if len(set(kinds)) < len(kinds):
            yield f"lists.{name}: a kind is named twice"


def _example_problems(policy: Policy, features: FeatureSet) -> Iterator[str]:
    names = set(features.names)
    for example in policy.examples:
        for field in example.transaction.keys() - set(FIELDS):
            yield f"example {example.name!r}: transaction: unknown field {field!r}"
        for name in example.features.keys() - names:
            yield f"example {example.name!r}: features: unknown feature {name!r}"
        for field, value in example.transaction.items():
            if value is not None and not _fits(_FIELD_KINDS.get(field), value):
                yield f"example {example.name!r}: transaction: {field} must be {_FIELD_KINDS[field]}, not {value!r}"
        for name, kinds in (("block", example.lists.block), ("allow", example.lists.allow)):
            for kind in set(kinds) - set(getattr(policy.lists, name)):
                yield f"example {example.name!r}: lists.{name}: the policy does not use the {kind} list"


def _fits(kind: Kind | None, value: Value) -> bool:
    if kind == "double":
        return isinstance(value, int | float)
    return kind is None or type(value) is (int if kind == "int" else str)
