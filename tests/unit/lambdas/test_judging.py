"""Policies: every bad document by its fault, and precedence against a slow restatement."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.judging import Judge, entries_asked, failed_examples, listed_of
from lambdas.policy import ENTITY_KINDS, InvalidPolicy, Lists, Policy, Rule, encode_policy, parse_policy
from stream_features.decision import Verdict
from stream_features.feature_sets import FEATURE_SETS, feature_set
from stream_features.transaction import FIELDS
from tests.unit.lambdas.deliveries import a_transaction

CORE = feature_set("core")
GOOD: dict[str, Any] = {"policy_version": "p", "review_from": 0.5, "decline_from": 0.9}


def a_rule(**changes: Any) -> dict[str, Any]:
    return {"id": "velocity", "expression": "card_count_1h > 5", "action": "review"} | changes


def with_rule(**changes: Any) -> dict[str, Any]:
    return GOOD | {"rules": [a_rule(id="first"), a_rule(**changes)]}


def an_example(**changes: Any) -> dict[str, Any]:
    return GOOD | {"examples": [{"name": "ordinary", "expect": "approve"} | changes]}


@pytest.mark.parametrize(
    ("document", "problems"),
    [
        ("{", ["policy document"]),
        ("[]", ["policy document"]),
        (b"\xff", ["policy document"]),
        (GOOD | {"rule": []}, ["unknown field `rule`"]),
        (GOOD | {"policy_version": "a b"}, ["policy_version 'a b'"]),
        (GOOD | {"policy_version": "v" * 129}, ["policy_version"]),
        (GOOD | {"policy_version": 7}, ["$.policy_version"]),
        (GOOD | {"review_from": "0.5"}, ["$.review_from"]),
        (GOOD | {"review_from": 0.95}, ["review_from=0.95"]),
        (GOOD | {"decline_from": 1.5}, ["decline_from=1.5"]),
        (GOOD | {"kill_switch": "on"}, ["$.kill_switch"]),
        (GOOD | {"degrade_after_ms": -1}, ["degrade_after_ms must not be negative"]),
        (GOOD | {"degrade_after_ms": 0.5}, ["$.degrade_after_ms"]),
        (GOOD | {"degraded_decision": "refuse"}, ["$.degraded_decision"]),
        (GOOD | {"degraded_decision": None}, ["$.degraded_decision"]),
        (GOOD | {"lists": {"block": ["cards"]}}, ["$.lists.block[0]"]),
        (GOOD | {"lists": {"grey": ["card"]}}, ["unknown field `grey`"]),
        (GOOD | {"lists": {"block": ["card", "card"]}}, ["lists.block: a kind is named twice"]),
        (GOOD | {"rules": {}}, ["$.rules"]),
        (GOOD | {"rules": ["x"]}, ["$.rules[0]"]),
        (GOOD | {"rules": [{"expression": "true", "action": "review"}]}, ["$.rules[0]", "id"]),
        (with_rule(action="block"), ["rule 'velocity'", "$.rules[1].action"]),
        (with_rule(when="always"), ["rule 'velocity'", "unknown field `when`"]),
        (with_rule(priority="high"), ["rule 'velocity'", "$.rules[1].priority"]),
        (with_rule(expression=5), ["rule 'velocity'", "$.rules[1].expression"]),
        (with_rule(id=""), ["rule '': id"]),
        (with_rule(id="list:block:card"), ["rule 'list:block:card': id"]),
        (with_rule(id="first"), ["rule 'first': id: used by 2 rules"]),
        (with_rule(expression="card_count_2h > 5"), ["rule 'velocity': expression: unknown name 'card_count_2h'"]),
        (with_rule(expression="country > 5"), ["rule 'velocity': expression: string > int"]),
        (with_rule(expression="card_count_1h"), ["rule 'velocity': expression: the expression is of type double"]),
        (with_rule(expression="block.card"), ["rule 'velocity': expression: unknown name 'block.card'"]),
        (with_rule(expression="TX_AMOUNT > 5"), ["rule 'velocity': expression: unknown name 'TX_AMOUNT'"]),
        (with_rule(expression="(", id="two words"), ["rule 'two words': id", "rule 'two words': expression"]),
        (GOOD | {"rules": [a_rule(id=f"r{n}") for n in range(201)]}, ["rules: 201 rules, more than 200"]),
        (an_example(expect="maybe"), ["$.examples[0].expect"]),
        (an_example(transaction={"amount": 5}), ["example 'ordinary': transaction: unknown field 'amount'"]),
        (an_example(transaction={"amount_minor": "5"}), ["example 'ordinary': transaction: amount_minor must be int"]),
        (an_example(transaction={"country": 5}), ["example 'ordinary': transaction: country must be string"]),
        (an_example(transaction={"latitude": "5"}), ["example 'ordinary': transaction: latitude must be double"]),
        (an_example(features={"card": 5}), ["example 'ordinary': features: unknown feature 'card'"]),
        (an_example(lists={"block": ["ip"]}), ["example 'ordinary': lists.block: the policy does not use the ip list"]),
    ],
)
def test_a_bad_document_is_refused_by_field_and_rule(document: Any, problems: list[str]) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        Judge(parse_policy(json.dumps(document) if isinstance(document, dict) else document), CORE)
    for problem in problems:
        assert problem in str(refused.value)


def test_every_problem_is_said_at_once() -> None:
    document = with_rule(expression="nobody > 1") | {"degrade_after_ms": -1}
    with pytest.raises(InvalidPolicy) as refused:
        Judge(parse_policy(json.dumps(document)), CORE)
    assert len(refused.value.problems) == 2


def test_an_inline_document_of_thresholds_stays_a_policy() -> None:
    policy = parse_policy('{"policy_version": "initial", "review_from": 0.5, "decline_from": 0.9}')
    assert Judge(policy, CORE).judge(a_transaction(), {}, 0.7) == ("review", [])
    assert parse_policy(encode_policy(policy)) == policy


@pytest.mark.parametrize("name", sorted(FEATURE_SETS))
def test_no_feature_is_named_like_a_field(name: str) -> None:
    """A rule could not name the field then."""
    assert not {*FIELDS, "score", "block", "allow"} & set(feature_set(name).names)


def test_examples_run() -> None:
    policy = parse_policy(
        json.dumps(
            GOOD
            | {
                "rules": [a_rule()],
                "lists": {"block": ["card"]},
                "examples": [
                    {"name": "quiet", "expect": "approve", "rules": []},
                    {"name": "busy", "expect": "review", "features": {"card_count_1h": 6}, "rules": ["velocity"]},
                    {"name": "stolen", "expect": "decline", "lists": {"block": ["card"]}},
                    {"name": "wrong", "expect": "decline", "score": 0.6},
                    {"name": "rules wrong", "expect": "review", "score": 0.6, "rules": ["velocity"]},
                ],
            }
        )
    )
    assert failed_examples(Judge(policy, CORE)) == [
        "example 'wrong': expected decline, got review (rules: none, the model decides)",
        "example 'rules wrong': expected rules ['velocity'], got []",
    ]


def test_examples_without_a_score_say_what_is_decided_while_the_endpoint_is_down() -> None:
    document = GOOD | {
        "degrade_after_ms": 10_000,
        "degraded_decision": "decline",
        "rules": [a_rule(), a_rule(id="likely", expression="score > 0.3", action="approve")],
        "examples": [
            {"name": "down", "expect": "decline", "score": None, "rules": []},
            {"name": "down and busy", "expect": "review", "score": None, "features": {"card_count_1h": 6}},
            {"name": "up", "expect": "approve", "score": 0.4, "rules": ["likely"]},
            {"name": "wrong", "expect": "approve", "score": None},
        ],
    }
    policy = parse_policy(json.dumps(document))
    assert failed_examples(Judge(policy, CORE)) == [
        "example 'wrong': expected approve, got decline (rules: none, degraded_decision decides)"
    ]
    assert parse_policy(encode_policy(policy)) == policy


def test_only_what_the_policy_uses_is_looked_up_each_once() -> None:
    transactions = [
        a_transaction("t1", ip="10.0.0.1"),
        a_transaction("t2"),
        a_transaction("t3", merchant_id="merchant-b", device_id="d"),
    ]
    policy = Policy(**GOOD, lists=Lists(block=("merchant",), allow=("ip", "merchant")))
    assert entries_asked(policy, transactions) == ["merchant#merchant-a", "ip#10.0.0.1", "merchant#merchant-b"]
    found = {"merchant#merchant-a": "allow", "ip#10.0.0.1": "block", "card#card-a": "block"}
    assert listed_of(policy, transactions[0], found) == Lists((), ("merchant",))


# --- precedence

VERDICTS: tuple[Verdict, ...] = ("approve", "review", "decline")
CONDITIONS = {"true": True, "false": False, "score > 0.5": None, "speed_from_last_m_s > 1.0": False}
LISTED = st.builds(
    Lists, *[st.lists(st.sampled_from(ENTITY_KINDS), unique=True).map(tuple) for _ in ("block", "allow")]
)
POLICIES = st.builds(
    lambda thresholds, rules, lists, kill: Policy(
        policy_version="p",
        review_from=min(thresholds),
        decline_from=max(thresholds),
        rules=tuple(
            Rule(f"r{n}", expression, action, priority=priority)
            for n, (expression, action, priority) in enumerate(rules)
        ),
        lists=lists,
        kill_switch=kill,
    ),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.lists(st.tuples(st.sampled_from(sorted(CONDITIONS)), st.sampled_from(VERDICTS), st.integers(-2, 2)), max_size=6),
    LISTED,
    st.sampled_from(("off", "force_review", "force_approve")),
)


def slowly(policy: Policy, score: float, listed: Lists) -> tuple[str, list[str]]:
    """What the documentation says, one sentence after the other."""
    fired: list[tuple[int, int, str, str]] = []  # tier, order within it, id, decision
    for place, kind in enumerate(policy.lists.block):
        if kind in listed.block:
            fired.append((1, place, "list:block:" + kind, "decline"))
    if policy.kill_switch == "force_review":
        fired.append((2, 0, "kill:force_review", "review"))
    if policy.kill_switch == "force_approve":
        fired.append((2, 0, "kill:force_approve", "approve"))
    for place, kind in enumerate(policy.lists.allow):
        if kind in listed.allow:
            fired.append((3, place, "list:allow:" + kind, "approve"))
    for place, rule in enumerate(policy.rules):
        holds = CONDITIONS[rule.expression]
        if holds is None:
            holds = score > 0.5
        if holds:
            fired.append((4, -rule.priority * 1000 + place, rule.id, rule.action))
    fired.sort()
    by_model = "decline" if score >= policy.decline_from else "review" if score >= policy.review_from else "approve"
    return (fired[0][3] if fired else by_model), [rule_id for _, _, rule_id, _ in fired]


@given(POLICIES, st.floats(0, 1), LISTED)
def test_precedence_is_block_kill_switch_allow_rules_model(policy: Policy, score: float, listed: Lists) -> None:
    features = dict.fromkeys(CORE.names)
    assert Judge(policy, CORE).judge(a_transaction(), features, score, listed) == slowly(policy, score, listed)
