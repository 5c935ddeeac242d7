"""The policy document: thresholds, rules, lists, kill switch and examples, with a version.

It is one JSON document. What its fields must obey beside their types is in `judging.py`, which knows the features.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from stream_features.decision import Verdict
from stream_features.errors import ContractMismatch

ListName = Literal["block", "allow"]
EntityKind = Literal["card", "merchant", "device", "ip"]
KillSwitch = Literal["off", "force_review", "force_approve"]
ENTITY_KINDS: Final[tuple[EntityKind, ...]] = ("card", "merchant", "device", "ip")

_AT_RULE: Final = re.compile(r"\$\.rules\[(\d+)\]")


class InvalidPolicy(ContractMismatch):
    """A policy document that must not go live.

    Attributes:
        problems: what is wrong, each naming its field and, within a rule, the rule.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__(f"policy document: {'; '.join(problems)}")
        self.problems = problems


class Rule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When `expression` holds, `action` is taken, unless something that comes first has decided.

    Attributes:
        id: 1..64 of `A-Za-z0-9_.-`; decisions carry it.
        expression: in the language of `rules.py`.
        action: the decision.
        reason: for people.
        priority: rules of a higher priority come first; equal ones in the document's order.
    """

    id: str
    expression: str
    action: Verdict
    reason: str = ""
    priority: int = 0


class Lists(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which kinds of entities are looked up in the table of lists, and for which list."""

    block: tuple[EntityKind, ...] = ()
    allow: tuple[EntityKind, ...] = ()


class Example(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A case that the policy must decide as it says; what it does not name is missing.

    Attributes:
        name: of the case.
        expect: the decision.
        transaction: fields by name.
        features: by name.
        score: the model's; None: the endpoint is down.
        lists: the kinds of its entities that are listed.
        rules: ids that fire, in order; None: not looked at.
    """

    name: str
    expect: Verdict
    transaction: dict[str, int | float | str | None] = {}
    features: dict[str, float | None] = {}
    score: float | None = 0.0
    lists: Lists = Lists()
    rules: tuple[str, ...] | None = None


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Scores are probabilities in 0..1; a score equal to a threshold has reached it.

    Attributes:
        policy_version: decisions carry it.
        review_from: least score to review.
        decline_from: least score to decline.
        rules: see `Rule`.
        lists: see `Lists`.
        kill_switch: `force_review` or `force_approve` decide whatever is not on a block list.
        degrade_after_ms: how long the endpoint may be down before rules decide alone; None: records wait.
        degraded_decision: what is decided then where no list, switch or rule does.
        examples: see `Example`.
        description: for people.
    """

    policy_version: str
    review_from: float
    decline_from: float
    rules: tuple[Rule, ...] = ()
    lists: Lists = Lists()
    kill_switch: KillSwitch = "off"
    degrade_after_ms: int | None = None
    degraded_decision: Verdict = "review"
    examples: tuple[Example, ...] = ()
    description: str = ""

    def decide(self, score: float | None) -> Verdict:
        """What the model alone says; None where it could not be asked."""
        if score is None:
            return self.degraded_decision
        if score >= self.decline_from:
            return "decline"
        return "review" if score >= self.review_from else "approve"


def parse_policy(document: str | bytes) -> Policy:
    """Read the policy document.

    Raises:
        InvalidPolicy: not JSON, a field missing, unknown or of the wrong type, or thresholds not
            0 <= review <= decline <= 1.
    """
    try:
        policy = msgspec.json.decode(document, type=Policy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy([_with_rule(str(error), document)]) from error
    problems = []
    if not policy.policy_version:
        problems.append("policy_version is empty")
    if not 0.0 <= policy.review_from <= policy.decline_from <= 1.0:
        problems.append(
            "thresholds must satisfy 0 <= review_from <= decline_from <= 1, "
            f"not review_from={policy.review_from}, decline_from={policy.decline_from}"
        )
    if problems:
        raise InvalidPolicy(problems)
    return policy


class PolicyPointer(Struct, frozen=True, forbid_unknown_fields=True):
    """What the parameter holds while the document lies in S3.

    Attributes:
        bucket: of the document.
        key: of the document.
        sha256: of its bytes, 64 hex digits.
        previous_key: of the policy that was in force before, in the same bucket; empty: there was none.
        previous_sha256: of that one.
    """

    bucket: str
    key: str
    sha256: str
    previous_key: str = ""
    previous_sha256: str = ""


def parse_parameter(value: str) -> Policy | PolicyPointer:
    """Read the parameter: a pointer to the document, or the document itself.

    Raises:
        InvalidPolicy: it is neither.
    """
    try:
        found = msgspec.json.decode(value)
        if isinstance(found, dict) and "sha256" in found:
            return msgspec.convert(found, PolicyPointer)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidPolicy([str(error)]) from error
    return parse_policy(value)


def encode_policy(policy: Policy) -> bytes:
    """JSON for people: one line per field, in the order of the fields."""
    return msgspec.json.format(msgspec.json.encode(policy), indent=2) + b"\n"


def _with_rule(problem: str, document: str | bytes) -> str:
    """The parser's words, with the id of the rule they are about."""
    found = _AT_RULE.search(problem)
    if found is None:
        return problem
    rules: list[Any] = msgspec.json.decode(document)["rules"]
    rule = rules[int(found[1])]
    rule_id = rule.get("id") if isinstance(rule, dict) else None
    return f"rule {rule_id!r}: {problem}" if rule_id else problem
