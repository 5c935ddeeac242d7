"""Activation, rollback and backtest of policies, on stand-ins of S3 and the parameter store."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from console.backtest import Archived, Backtest, Firing, archived_decisions, backtest
from console.cli import main
from console.policies import PolicyRefused, PolicyStore, read_policy
from console.thresholds import by_capacity, by_cost
from lambdas.judging import Judge, failed_examples
from lambdas.policy import Example, InvalidPolicy, Lists, Policy, Rule, encode_policy, parse_policy
from stream_features.decision import Verdict
from stream_features.errors import UsageError
from stream_features.feature_sets import feature_set
from tests.unit.lambdas.deliveries import a_transaction

CORE = feature_set("core")
DAY_MS = 86_400_000
INLINE = '{"policy_version": "initial", "review_from": 0.5, "decline_from": 0.9}'


class Aws:
    """S3, the parameter store, and the pipeline that knows them."""

    def __init__(self, value: str = INLINE) -> None:
        self.value = value
        self.objects: dict[str, bytes] = {}

    def client(self, service: str) -> Aws:
        return self

    def output(self, name: str) -> str:
        return {"ArtifactsBucketName": "bucket", "PolicyParameterName": "/policy"}[name]

    def get_parameter(self, *, Name: str) -> dict[str, Any]:
        return {"Parameter": {"Value": self.value}}

    def put_parameter(self, *, Name: str, Value: str, Type: str, Overwrite: bool) -> None:
        self.value = Value

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": Key}}, "GetObject")
        return {"Body": io.BytesIO(self.objects[Key])}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        self.objects[Key] = Body


def store(aws: Aws) -> PolicyStore:
    return PolicyStore(aws)  # type: ignore[arg-type]


def a_judge(version: str = "p1", **changes: Any) -> Judge:
    return Judge(Policy(policy_version=version, review_from=0.4, decline_from=0.8, **changes), CORE)


def in_force(aws: Aws) -> str:
    return store(aws).published().policy.policy_version


def test_an_activated_policy_is_what_the_parameter_names() -> None:
    aws = Aws()
    store(aws).activate(a_judge())
    document = aws.objects["policies/p1.json"]
    assert document == encode_policy(a_judge().policy)
    pointer = json.loads(aws.value)
    assert (pointer["key"], pointer["sha256"]) == ("policies/p1.json", hashlib.sha256(document).hexdigest())
    assert in_force(aws) == "p1"


def test_rollback_returns_to_what_was_replaced_and_back_again() -> None:
    aws = Aws()
    with pytest.raises(UsageError, match="nothing to roll back to"):
        store(aws).rollback()
    store(aws).activate(a_judge("p1"))
    store(aws).activate(a_judge("p2"))
    store(aws).activate(a_judge("p2"))  # twice is once
    assert store(aws).rollback()[1].policy_version == in_force(aws) == "p1"
    assert store(aws).rollback()[1].policy_version == in_force(aws) == "p2"


def test_the_first_rollback_returns_to_the_inline_document() -> None:
    aws = Aws()
    store(aws).activate(a_judge())
    store(aws).rollback()
    assert store(aws).published().policy == Policy(policy_version="initial", review_from=0.5, decline_from=0.9)


def test_rollback_to_what_has_changed_is_refused() -> None:
    aws = Aws()
    store(aws).activate(a_judge("p1"))
    store(aws).activate(a_judge("p2"))
    aws.objects["policies/p1.json"] += b" "
    with pytest.raises(UsageError, match="not there any more as it was"):
        store(aws).rollback()
    assert in_force(aws) == "p2"


def test_a_version_belongs_to_one_document() -> None:
    aws = Aws()
    store(aws).activate(a_judge())
    with pytest.raises(UsageError, match="'p1' is taken"):
        store(aws).activate(a_judge(description="another"))


def test_a_policy_that_fails_its_examples_is_not_activated() -> None:
    aws = Aws()
    with pytest.raises(PolicyRefused, match="example 'x': expected decline, got approve"):
        store(aws).activate(a_judge(examples=(Example("x", "decline"),)))
    assert (aws.value, aws.objects) == (INLINE, {})


def test_a_policy_can_replace_a_broken_one() -> None:
    aws = Aws('{"bucket": "bucket", "key": "policies/gone.json", "sha256": "0"}')
    with pytest.raises(InvalidPolicy, match=r"policies/gone\.json is not there"):
        store(aws).published()
    store(aws).activate(a_judge())
    assert in_force(aws) == "p1"


def test_files_are_refused_by_field_and_rule_with_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    rules = [
        {"id": "one", "expression": "amout > 1.0", "action": "review"},
        {"id": "two", "expression": "amount > 'x'", "action": "decline"},
    ]
    file.write_text(json.dumps({"policy_version": "p", "review_from": 0.5, "decline_from": 0.9, "rules": rules}))
    with pytest.raises(PolicyRefused) as refused:
        read_policy(file, CORE)
    assert str(refused.value).splitlines() == [
        f"{file}: rule 'one': expression: unknown name 'amout'; did you mean 'amount'?",
        f"{file}: rule 'two': expression: double > string: these cannot be compared",
    ]
    environment = {"FRAUDSTREAM_STATE": str(tmp_path)}
    for command in ("validate", "test"):
        result = CliRunner().invoke(main, ["policy", command, str(file)], env=environment)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "rule 'two'" in result.stderr
    assert CliRunner().invoke(main, ["policy", "activate", str(file)], env=environment).exit_code == 2  # nothing runs


def test_a_valid_file_is_told_with_its_examples(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_bytes(encode_policy(a_judge(examples=(Example("x", "approve"),)).policy))
    environment = {"FRAUDSTREAM_STATE": str(tmp_path)}
    told = CliRunner().invoke(main, ["policy", "validate", str(file), "--json"], env=environment)
    assert json.loads(told.stdout) == {"valid": True, "policy_version": "p1", "rules": 0}
    told = CliRunner().invoke(main, ["policy", "test", str(file), "--json"], env=environment)
    assert (told.exit_code, json.loads(told.stdout)) == (0, {"examples": 1, "failed": []})


# --- backtest


def archived(transaction_id: str, decision: Verdict, score: float | None = 0.0, **changes: Any) -> Archived:
    return Archived(a_transaction(transaction_id, **changes), dict.fromkeys(CORE.names), score, decision)


def test_a_backtest_counts_what_would_have_fired_and_what_it_would_have_saved() -> None:
    judge = a_judge(
        rules=(Rule("big", "amount_minor >= 1000", "decline"), Rule("never", "amount_minor < 0", "review")),
        lists=Lists(block=("card",)),
    )
    past = [
        archived("saved", "approve", amount_minor=5_000),
        archived("stopped before", "decline", amount_minor=7_000),
        archived("good", "approve", amount_minor=2_000),
        archived("let go", "decline", amount_minor=300),
        archived("blocked", "approve", amount_minor=1_500, card_id="stolen"),
        archived("unknown", "approve", amount_minor=9_000),
    ]
    frauds = {"saved": True, "stopped before": True, "good": False, "let go": True, "blocked": True}
    found = backtest(judge, past, frauds, {"card#stolen": "block"})
    assert found == Backtest(
        "p1",
        decisions=6,
        labelled=5,
        rules={
            "big": Firing(fired=5, decided=4, labelled=4, frauds=3, value_saved=5_000),
            "never": Firing(),
            "list:block:card": Firing(fired=1, decided=1, labelled=1, frauds=1, value_saved=1_500),
        },
        outcomes=found.outcomes,
        value_saved=6_500,
        value_lost=300,
        value_refused=2_000,
        changed=[
            ("saved", "approve", "decline", ["big"]),
            ("good", "approve", "decline", ["big"]),
            ("let go", "decline", "approve", []),
            ("blocked", "approve", "decline", ["list:block:card", "big"]),
            ("unknown", "approve", "decline", ["big"]),
        ],
    )
    assert found.outcomes == {("approve", "decline"): 4, ("decline", "decline"): 1, ("decline", "approve"): 1}
    figures = found.document()
    assert (figures["changed"], figures["rules"][0]["precision"], figures["rules"][1]["precision"]) == (5, 0.75, None)
    text = "\n".join(found.lines())
    assert "big: would have fired 5 times, decided 4, precision 0.750 of 4 labelled, value saved 50.00 USD" in text


def test_a_backtest_decides_without_a_score_what_was_decided_so() -> None:
    judge = a_judge(rules=(Rule("likely", "score >= 0.0", "decline"), Rule("big", "amount_minor > 2000", "decline")))
    past = [
        archived("degraded", "approve", None),
        archived("degraded and big", "approve", None, amount_minor=5_000),
        archived("scored", "approve", 0.0),
    ]
    found = backtest(judge, past, {}, {})
    assert (found.decisions, found.degraded, found.document()["degraded"]) == (3, 2, 2)
    assert [(key, now) for key, _, now, _ in found.changed] == [
        ("degraded", "review"),
        ("degraded and big", "decline"),
        ("scored", "decline"),
    ]
    assert "2 have no score" in "\n".join(found.lines())


class Lake:
    """A pipeline whose lake holds objects of rows."""

    def __init__(self, *objects: list[dict[str, Any]]) -> None:
        self.state_dir = Path("/nowhere")
        self._objects = objects

    def client(self, service: str) -> Any:
        return self

    def output(self, name: str) -> str:
        return name

    def get_paginator(self, operation: str) -> Any:
        return self

    def paginate(self, **request: Any) -> list[dict[str, Any]]:
        return [{"Contents": [{"Key": str(number)} for number in range(len(self._objects))]}]

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        written = io.BytesIO()
        rows = self._objects[int(Key)]
        plain = pa.Table.from_pylist(
            [{name: value for name, value in row.items() if name != "features"} for row in rows]
        )
        features = pa.array([row["features"] for row in rows], pa.map_(pa.string(), pa.float64()))
        pq.write_table(plain.append_column("features", features), written)
        return {"Body": io.BytesIO(written.getvalue())}


@pytest.mark.parametrize("rescored_first", [False, True])
def test_the_lakes_rescored_decision_counts_whatever_was_published_last(
    monkeypatch: pytest.MonkeyPatch, rescored_first: bool
) -> None:
    monkeypatch.setattr("console.backtest.request_flush", lambda folder, timeout_s: None)
    transaction = msgspec.to_builtins(a_transaction("t1"))
    features = [("amount", 1.0)]
    degraded = transaction | {"score": None, "decision": "review", "degraded": True, "features": features}
    scored = transaction | {"score": 0.25, "decision": "approve", "degraded": False, "features": features}
    objects = [[scored], [degraded]] if rescored_first else [[degraded], [scored]]
    lake: Any = Lake(*objects)
    (found,) = archived_decisions(lake, from_ms=None, until_ms=None, progress=lambda line: None)
    assert (found.score, found.decision) == (0.25, "approve")
    (found,) = archived_decisions(Lake([degraded]), from_ms=None, until_ms=None, progress=lambda line: None)  # type: ignore[arg-type]
    assert (found.score, found.decision) == (None, "review")


def test_thresholds_leave_out_what_has_no_score() -> None:
    day = {"event_time_ms": DAY_MS * 19_000}
    scored = [archived(f"t{n}", "approve", n / 10, **day) for n in range(10)]
    unscored = [archived(f"u{n}", "review", None, event_time_ms=DAY_MS * (19_001 + n)) for n in range(5)]
    frauds = {f"t{n}": n > 6 for n in range(10)} | {f"u{n}": True for n in range(5)}
    assert by_capacity([*scored, *unscored], 2, 0.9) == by_capacity(scored, 2, 0.9)
    costs = {"review_cost": 100, "decline_cost": 500}
    assert by_cost([*scored, *unscored], frauds, **costs) == by_cost(scored, frauds, **costs)
    with pytest.raises(UsageError, match="no decisions with a score"):
        by_capacity(unscored, 2, 0.9)


def test_amounts_of_other_currencies_are_converted() -> None:
    past = [archived("yen", "approve", amount_minor=10_000, currency="JPY")]
    found = backtest(a_judge(rules=(Rule("all", "true", "review"),)), past, {"yen": True}, {})
    assert 3_000 < found.value_saved < 15_000  # 10,000 yen, in cents


# --- thresholds


@st.composite
def labelled_past(draw: st.DrawFn) -> tuple[list[Archived], dict[str, bool]]:
    rows = draw(
        st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9]), st.booleans(), st.integers(1, 900)), min_size=1)
    )
    past = [
        archived(f"t{n}", "approve", score, amount_minor=amount, event_time_ms=DAY_MS * (19_000 + n % 3))
        for n, (score, _, amount) in enumerate(rows)
    ]
    return past, {f"t{n}": fraud for n, (_, fraud, _) in enumerate(rows)}


@given(labelled_past(), st.integers(0, 300), st.integers(0, 600))
def test_no_other_thresholds_would_cost_less(
    past_and_frauds: tuple[list[Archived], dict[str, bool]], review_cost: int, decline_cost: int
) -> None:
    past, frauds = past_and_frauds

    def cost(review_from: float, decline_from: float) -> int:
        total = 0
        for one in past:
            fraud = frauds[one.transaction.transaction_id]
            if one.score >= decline_from:
                total += 0 if fraud else decline_cost
            elif one.score >= review_from:
                total += review_cost
            elif fraud:
                total += one.transaction.amount_minor
        return total

    chosen = by_cost(past, frauds, review_cost=review_cost, decline_cost=decline_cost)
    cuts = [0.1, 0.2, 0.5, 0.7, 0.9, 1.0]
    least = min(cost(review, decline) for review in cuts for decline in cuts if review <= decline)
    assert chosen.cost_minor == cost(chosen.review_from, chosen.decline_from) == least
    assert chosen.review_from <= chosen.decline_from


@given(labelled_past(), st.sampled_from([0, 0.5, 1, 2, 100]), st.sampled_from([0.5, 0.9, 1.0]))
def test_reviews_stay_within_capacity_and_one_score_more_would_not(
    past_and_frauds: tuple[list[Archived], dict[str, bool]], per_day: float, decline_from: float
) -> None:
    past, _ = past_and_frauds
    days = len({one.transaction.event_time_ms // DAY_MS for one in past})

    def reviews(review_from: float) -> int:
        return sum(review_from <= one.score < decline_from for one in past)

    chosen = by_capacity(past, per_day, decline_from)
    assert chosen.reviews_per_day == reviews(chosen.review_from) / days <= per_day
    lower = [one.score for one in past if one.score < chosen.review_from]
    assert not lower or reviews(max(lower)) > per_day * days


def test_thresholds_need_decisions_and_costs_need_labels() -> None:
    with pytest.raises(UsageError, match="no decisions"):
        by_capacity([], 5, 0.9)
    with pytest.raises(UsageError, match="thresholds by cost need labels"):
        by_cost([archived("t", "approve")], {}, review_cost=1, decline_cost=1)


@pytest.mark.parametrize(
    "options", [[], ["--review-cost", "1"], ["--reviews-per-day", "5", "--review-cost", "1", "--decline-cost", "1"]]
)
def test_one_way_to_choose_thresholds_at_a_time(tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "policy.json"
    file.write_text(INLINE)
    words = ["policy", "thresholds", str(file), *options, "--version", "v", "--out", str(tmp_path / "new.json")]
    result = CliRunner().invoke(main, words, env={"FRAUDSTREAM_STATE": str(tmp_path)})
    assert result.exit_code == 2
    assert "either --reviews-per-day" in result.stderr


def test_the_policy_of_the_documentation_is_valid_and_its_examples_hold() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "policy.md").read_text()
    judge = Judge(parse_policy(page.split("```json\n")[1].split("```")[0]), CORE)
    assert judge.policy.rules
    assert judge.policy.examples
    assert failed_examples(judge) == []
