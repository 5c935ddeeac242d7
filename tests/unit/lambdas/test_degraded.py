"""The endpoint is down: how long records wait, what rules decide alone, and what ends it, for both engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from lambdas.batch import BatchOutcome
from lambdas.outage import QUIET_S, Outage
from lambdas.policy import KillSwitch, Lists, Policy, Rule
from lambdas.ports import ListedEntity
from lambdas.records import UserRecord
from stream_features.decision import Decision, Verdict, decode_decision
from stream_features.feature_sets import feature_set
from stream_features.history import observe_history
from stream_features.kernel import features_json
from stream_features.transaction import Transaction
from tests.unit.lambdas.deliveries import a_transaction, deliver, records_of
from tests.unit.lambdas.fakes import NOW_MS, FakeScorer, World, features_service_on, service_on
from tests.unit.lambdas.job import Job
from tests.unit.lambdas.loop import feature_records

CORE = feature_set("core")
AFTER_MS = 5_000
PATIENT = Policy(policy_version="p", review_from=0.6, decline_from=0.9, degrade_after_ms=AFTER_MS)
BIG = Rule("big", "amount_minor > 10000", "decline")
CERTAIN = Rule("certain", "score >= 0.0", "decline")
UNSCORED = Rule("unscored", "score == null && country == 'FR'", "review")

Handle = Callable[[list[UserRecord]], BatchOutcome]


def by_lambda(world: World, scorer: FakeScorer) -> Handle:
    service = service_on(world, scorer=scorer)
    return lambda batch: deliver(service, batch)


def by_flink(world: World, scorer: FakeScorer) -> Handle:
    service, job = features_service_on(world, scorer=scorer), Job(world)
    taken: list[UserRecord] = []

    def handle(batch: list[UserRecord]) -> BatchOutcome:
        if batch != taken:  # else it is delivered again
            world.features_sent.clear()
            job.work_on(batch)
            taken[:] = batch
        return deliver(service, feature_records(world.features_sent, first=int(batch[0].item_identifier)))

    return handle


@pytest.fixture(params=[by_lambda, by_flink])
def engine(request: pytest.FixtureRequest) -> Callable[[World, FakeScorer], Handle]:
    chosen: Callable[[World, FakeScorer], Handle] = request.param
    return chosen


def decision_of(world: World, key: str) -> Decision:
    return decode_decision(world.decisions[key])


def purchases(count: int, prefix: str = "t") -> list[Transaction]:
    return [a_transaction(f"{prefix}{n}", event_time_ms=NOW_MS - 60_000 + n * 1_000) for n in range(count)]


def test_records_wait_until_the_endpoint_has_been_down_long_enough(
    engine: Callable[[World, FakeScorer], Handle],
) -> None:
    world = World(policy=PATIENT, endpoint_down=True)
    scorer = FakeScorer(world, CORE)
    handle, batch = engine(world, scorer), records_of(*purchases(3))
    for waited_ms in (0, 2_000, AFTER_MS - 1):
        world.clock_s = 1_000 + waited_ms / 1000
        outcome = handle(batch)
        assert len(outcome.failed) == 3
        assert (outcome.alarms, world.decisions, world.states) == ([], {}, {})
    world.clock_s = 1_000 + AFTER_MS / 1000
    outcome = handle(batch)
    assert (outcome.failed, outcome.alarms) == ([], [])
    assert sorted(world.decisions) == ["t0", "t1", "t2"]
    assert outcome.counts["degraded"] == world.counters["degraded"] == 3
    assert outcome.endpoint_problem == "InvokeEndpoint: ReadTimeoutError"
    assert scorer.asked_once == [False, True, True, True]  # one try per batch while it is down


def test_a_degraded_decision_lacks_only_what_the_model_says(engine: Callable[[World, FakeScorer], Handle]) -> None:
    at_once = msgspec.structs.replace(PATIENT, degrade_after_ms=0)
    world, scored = World(policy=at_once, endpoint_down=True), World(policy=PATIENT)
    batch = records_of(*purchases(4))
    assert engine(world, FakeScorer(world, CORE))(batch).failed == []
    assert engine(scored, FakeScorer(scored, CORE))(batch).failed == []
    for key in scored.decisions:
        assert decision_of(world, key) == msgspec.structs.replace(
            decision_of(scored, key),
            score=None,
            decision="review",
            reasons=[],
            rules=[],
            model_version="",
            variant="",
            degraded=True,
        )
    observed = observe_history(purchases(4), CORE)
    for transaction, observation in observed:
        assert decision_of(world, transaction.transaction_id).features == features_json(CORE, observation.values)
    assert world.states == scored.states
    assert world.entity_events == scored.entity_events
    assert world.to_rescore == dict.fromkeys(world.decisions, NOW_MS)
    assert scored.to_rescore == {}
    assert len(world.alerts) == world.counters["alerts"] == 4
    assert [stored.document for stored in world.published] == list(world.decisions.values())


def test_an_answer_ends_the_outage(engine: Callable[[World, FakeScorer], Handle]) -> None:
    world = World(policy=PATIENT, endpoint_down=True)
    scorer = FakeScorer(world, CORE)
    handle = engine(world, scorer)
    handle(records_of(*purchases(1, "a")))
    world.clock_s += 60
    assert handle(records_of(*purchases(1, "a"))).failed == []
    world.endpoint_down = False
    answered = handle(records_of(*purchases(1, "b"), first=20))
    assert (answered.failed, answered.endpoint_problem) == ([], None)
    world.endpoint_down = True
    world.clock_s += 60
    assert len(handle(records_of(*purchases(1, "c"), first=30)).failed) == 1  # it counts from now again
    assert [decision_of(world, key).degraded for key in ("a0", "b0")] == [True, False]
    assert sorted(world.decisions) == ["a0", "b0"]
    assert scorer.asked_once == [False, True, True, False]


@pytest.mark.parametrize("fault", ["mismatch", "row refused", "not asked"])
def test_faults_of_code_model_and_other_services_never_degrade(fault: str) -> None:
    world = World(policy=msgspec.structs.replace(PATIENT, degrade_after_ms=0))
    scorer = FakeScorer(world, CORE)
    handle = by_lambda(world, scorer)
    scorer.mismatch = fault == "mismatch"
    if fault == "row refused":
        scorer.refused_amounts.add(1_250.0)
    if fault == "not asked":
        world.down.add("scorer.score")  # a failure of another kind, such as a missing permission or the end of time
    for _ in range(3):
        world.clock_s += 60
        outcome = handle(records_of(*purchases(2)))
        assert len(outcome.failed) == 2
        assert bool(outcome.alarms) is (fault != "not asked")
    assert world.decisions == {}


def test_without_the_setting_records_wait_for_ever() -> None:
    world = World(policy=msgspec.structs.replace(PATIENT, degrade_after_ms=None), endpoint_down=True)
    handle = by_lambda(world, FakeScorer(world, CORE))
    for _ in range(3):
        world.clock_s += 100
        assert len(handle(records_of(*purchases(2))).failed) == 2
    assert world.decisions == {}


def test_a_refusal_is_an_answer_and_ends_the_outage() -> None:
    world = World(policy=PATIENT, endpoint_down=True)
    scorer = FakeScorer(world, CORE)
    handle, batch = by_lambda(world, scorer), records_of(*purchases(1))
    handle(batch)
    world.endpoint_down, scorer.mismatch = False, True
    world.clock_s += 60
    handle(batch)
    world.endpoint_down = True
    assert len(handle(batch).failed) == 1
    assert world.decisions == {}


def test_two_failures_long_apart_are_not_one_outage() -> None:
    """A lost call, then an hour without a record here (another environment got it), then a lost call again."""
    outage = Outage()
    assert outage.failed(100.0, 103.0) == 3.0
    assert outage.failed(103.0 + QUIET_S, 110.0 + QUIET_S) == 10.0 + QUIET_S
    assert outage.failed(111.0 + 2 * QUIET_S, 111.5 + 2 * QUIET_S) == 0.5
    assert outage.on
    outage.answered()
    assert not outage.on


@pytest.mark.parametrize(
    ("changes", "verdicts", "rules"),
    [
        ({}, ["review", "review", "review"], [[], [], []]),
        ({"degraded_decision": "approve"}, ["approve"] * 3, [[], [], []]),
        (
            {"rules": (BIG, CERTAIN, UNSCORED), "degraded_decision": "approve"},
            ["decline", "review", "approve"],
            [["big"], ["unscored"], []],
        ),
        (
            {"lists": Lists(block=("card",), allow=("card",)), "rules": (BIG,)},
            ["decline", "decline", "approve"],
            [["list:block:card", "big"], ["list:block:card"], ["list:allow:card"]],
        ),
        ({"kill_switch": "force_approve"}, ["approve"] * 3, [["kill:force_approve"]] * 3),
    ],
    ids=["nothing applies", "another fallback", "rules", "lists", "kill switch"],
)
def test_lists_switch_and_rules_decide_alone(
    engine: Callable[[World, FakeScorer], Handle],
    changes: dict[str, KillSwitch | Lists | Verdict | tuple[Rule, ...]],
    verdicts: Sequence[str],
    rules: Sequence[list[str]],
) -> None:
    policy = msgspec.structs.replace(PATIENT, degrade_after_ms=0, **changes)
    world = World(policy=policy, endpoint_down=True)
    world.listed = {"card#stolen": ListedEntity("block"), "card#trusted": ListedEntity("allow")}
    batch = records_of(
        a_transaction("t1", card_id="stolen", amount_minor=20_000, country="DE"),
        a_transaction("t2", card_id="stolen", country="FR"),
        a_transaction("t3", card_id="trusted"),
    )
    assert engine(world, FakeScorer(world, CORE))(batch).failed == []
    decisions = [decision_of(world, f"t{n}") for n in (1, 2, 3)]
    assert [one.decision for one in decisions] == list(verdicts)
    assert [one.rules for one in decisions] == list(rules)
    assert {one.degraded for one in decisions} == {True}


def test_a_redelivered_record_keeps_its_degraded_decision() -> None:
    world = World(policy=msgspec.structs.replace(PATIENT, degrade_after_ms=0), endpoint_down=True)
    handle, batch = by_lambda(world, FakeScorer(world, CORE)), records_of(*purchases(2))
    handle(batch)
    first = dict(world.decisions)
    world.endpoint_down = False
    assert handle(batch).failed == []
    assert world.decisions == first
    assert world.counters["decided"] == world.counters["degraded"] == 2
