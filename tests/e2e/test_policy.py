"""A policy put into force on the running pipeline: rules and lists change decisions, nothing is deployed."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from console.options import iso_utc
from lambdas.adapters.ssm import KEPT_FOR_S
from lambdas.rules import compile_condition
from producers.files import read_transactions
from stream_features.decision import Decision
from tests.e2e.driver import Installation, stored_decisions

pytestmark = pytest.mark.e2e

COUNT = 600
ABROAD = "country != 'US' && amount > 1.0"


@dataclass
class Scene:
    """Three parts of a file, each published under another policy, and what became of them."""

    installation: Installation
    folder: Path
    blocked: str
    allowed: str
    parts: list[dict[str, Decision]]
    backtest: dict[str, Any]
    first_version: str
    modified: tuple[str, str]


def a_policy(folder: Path, **changes: Any) -> Path:
    file = folder / "policy.json"
    document = {
        "policy_version": "rules-1",
        "review_from": 1.0,
        "decline_from": 1.0,
        "lists": {"block": ["card"], "allow": ["card"]},
        "rules": [{"id": "abroad", "expression": ABROAD, "action": "review", "reason": "not from here"}],
        "examples": [
            {
                "name": "abroad",
                "expect": "review",
                "transaction": {"country": "FR"},
                "features": {"amount": 2.0},
                "rules": ["abroad"],
            },
            {"name": "country unknown", "expect": "approve", "features": {"amount": 2.0}, "rules": []},
            {"name": "stolen", "expect": "decline", "lists": {"block": ["card"]}},
        ],
    }
    file.write_text(json.dumps(document | changes))
    return file


def in_force() -> None:
    time.sleep(KEPT_FOR_S + 1)


@pytest.fixture(scope="module")
def scene(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("policy")
    file = folder / "transactions.csv"
    installation.run("simulate", COUNT, "--seed", 11, "--days", 3, "--out", file)
    transactions = [row.transaction for row in read_transactions(file)]
    cuts = [iso_utc(transactions[COUNT * part // 3].event_time_ms) for part in (1, 2)]
    pipeline = installation.pipeline()
    parts: list[dict[str, Decision]] = []

    def publish(*window: str) -> None:
        before = stored_decisions(pipeline)
        installation.run("publish", file, *window, "--label-delay", "1m", "--wait")
        parts.append({key: one for key, one in stored_decisions(pipeline).items() if key not in before})

    (blocked, _), (allowed, _) = Counter(t.card_id for t in transactions[COUNT // 3 : 2 * COUNT // 3]).most_common(2)
    function = pipeline.client("lambda")
    name = pipeline.output("ScoreTransactionsFunctionName")
    modified = function.get_function_configuration(FunctionName=name)["LastModified"]
    first_version = json.loads(installation.run("policy", "show", "--json"))["policy_version"]
    publish("--until", cuts[0])

    policy = a_policy(folder)
    installation.run("lists", "add", "block", "card", blocked, "--reason", "stolen", "--author", "ann", "--for", "30d")
    installation.run("lists", "add", "allow", "card", allowed, "--reason", "a tester's", "--author", "ann")
    installation.run("policy", "validate", policy)
    installation.run("policy", "test", policy)
    found: dict[str, Any] = {}
    if installation.has("firehose format"):
        found = json.loads(installation.run("policy", "backtest", policy, "--json"))
    installation.run("policy", "activate", policy)
    in_force()
    publish("--from", cuts[0], "--until", cuts[1])

    installation.run("policy", "rollback")
    in_force()
    publish("--from", cuts[1])
    now = function.get_function_configuration(FunctionName=name)["LastModified"]
    return Scene(installation, folder, blocked, allowed, parts, found, first_version, (modified, now))


def test_decisions_follow_the_policy_in_force(scene: Scene) -> None:
    assert [len(part) for part in scene.parts] == [COUNT // 3] * 3
    versions = [{one.policy_version for one in part.values()} for part in scene.parts]
    assert versions == [{scene.first_version}, {"rules-1"}, {scene.first_version}]
    assert scene.modified[0] == scene.modified[1]  # nothing was deployed


def test_lists_and_rules_decide_and_are_named(scene: Scene) -> None:
    first, second, third = scene.parts
    assert {rule for part in (first, third) for one in part.values() for rule in one.rules} == set()
    abroad = compile_condition(ABROAD, {"country": "string", "amount": "double"})
    seen = Counter[str]()
    for one in second.values():
        fires = ["abroad"] if abroad({"country": one.country, "amount": one.features["amount"]}) else []
        if one.card_id == scene.blocked:
            expected = ("decline", ["list:block:card", *fires])
        elif one.card_id == scene.allowed:
            expected = ("approve", ["list:allow:card", *fires])
        else:
            expected = ("review" if fires else "approve", fires)
        assert (one.decision, one.rules) == expected
        seen[one.decision] += 1
    assert seen["decline"] > 0
    assert seen["approve"] > 0


def test_the_backtest_said_what_would_happen(scene: Scene) -> None:
    scene.installation.needs("firehose format")
    first = scene.parts[0]
    assert scene.backtest["decisions"] == len(first)
    assert 0.9 * len(first) < scene.backtest["labelled"] <= len(first)  # the last labels come in the next part
    abroad = compile_condition(ABROAD, {"country": "string", "amount": "double"})
    fired = sum(bool(abroad({"country": d.country, "amount": d.features["amount"]})) for d in first.values())
    rules = {rule["id"]: rule for rule in scene.backtest["rules"]}
    assert rules["abroad"]["fired"] == fired
    blocked = sum(one.card_id == scene.blocked for one in first.values())
    assert rules.get("list:block:card", {"fired": 0})["fired"] == blocked


def test_an_invalid_policy_is_not_activated(scene: Scene) -> None:
    bad = a_policy(
        scene.folder,
        policy_version="bad",
        rules=[{"id": "typo", "expression": "amout > 1.0", "action": "review"}],
        examples=[],
    )
    for command in ("validate", "activate"):
        assert scene.installation.run("policy", command, bad, expect=1) == ""
    failing = a_policy(scene.folder, policy_version="failing", examples=[{"name": "wrong", "expect": "decline"}])
    scene.installation.run("policy", "test", failing, expect=1)
    scene.installation.run("policy", "activate", failing, expect=1)
    taken = a_policy(scene.folder, description="another document of the same version")
    scene.installation.run("policy", "activate", taken, expect=2)
    shown = json.loads(scene.installation.run("policy", "show", "--json"))
    assert shown["policy_version"] == scene.first_version


def test_a_broken_pointer_leaves_the_last_good_policy_deciding(scene: Scene) -> None:
    pipeline = scene.installation.pipeline()
    ssm, name = pipeline.client("ssm"), pipeline.output("PolicyParameterName")
    good = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    pointer = {"bucket": pipeline.output("ArtifactsBucketName"), "key": "policies/none.json", "sha256": "0" * 64}
    ssm.put_parameter(Name=name, Value=json.dumps(pointer), Type="String", Overwrite=True)
    try:
        in_force()
        before = stored_decisions(pipeline)
        scene.installation.run("publish", "--simulate", 20, "--seed", 3, "--wait")
        new = {key: one for key, one in stored_decisions(pipeline).items() if key not in before}
        assert len(new) == 20
        assert {one.policy_version for one in new.values()} == {scene.first_version}
    finally:
        ssm.put_parameter(Name=name, Value=good, Type="String", Overwrite=True)


def test_the_lists_say_who_and_why(scene: Scene) -> None:
    shown = json.loads(scene.installation.run("lists", "show", "--json"))
    assert {(entry["list"], entry["kind"], entry["value"]) for entry in shown} == {
        ("block", "card", scene.blocked),
        ("allow", "card", scene.allowed),
    }
    assert {entry["author"] for entry in shown} == {"ann"}
    scene.installation.run("lists", "remove", "card", scene.blocked)
    scene.installation.run("lists", "remove", "card", scene.blocked, expect=2)
    scene.installation.run("lists", "add", "block", "card", "4111111111111111", "--reason", "a number", expect=2)
    assert len(json.loads(scene.installation.run("lists", "show", "--json"))) == 1
