"""Degraded decisions get their score: once, with the stored bits, whatever dies on the way."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.judging import Judge
from lambdas.policy import Lists, Policy, Rule
from lambdas.port_sets import RescorePorts
from lambdas.ports import ConditionFailed, ListedEntity
from lambdas.rescoring import AT_ONCE, RescoreOutcome, Rescoring
from lambdas.writes import ReplaceDecision, StoredDecision
from stream_features.decision import Decision, decode_decision
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.feature_sets import feature_set
from stream_features.names import rescored_effect_key
from stream_features.transaction import Transaction
from tests.unit.lambdas.deliveries import a_transaction, deliver, records_of
from tests.unit.lambdas.fakes import (
    NOW_MS,
    Crash,
    FakeAlerts,
    FakeClock,
    FakeDecisionStore,
    FakeEffectStore,
    FakeLedger,
    FakeListStore,
    FakePublisher,
    FakeRescoreIndex,
    FakeScorer,
    Fault,
    World,
    service_on,
)

CORE = feature_set("core")
POLICY = Policy(
    policy_version="p1", review_from=0.5, decline_from=0.75, degrade_after_ms=0, degraded_decision="approve"
)
COUNT = 40


def purchases(count: int = COUNT) -> list[Transaction]:
    return [
        a_transaction(f"t{n:03d}", card_id=f"card-{n % 7}", event_time_ms=NOW_MS - 600_000 + n * 1_000, country="FR")
        for n in range(count)
    ]


def degraded_world(policy: Policy = POLICY, count: int = COUNT) -> World:
    world = World(policy=policy, endpoint_down=True)
    assert deliver(service_on(world), records_of(*purchases(count))).failed == []
    world.endpoint_down = False
    world.calls.clear()
    return world


def rescore(
    world: World,
    *,
    scorer: FakeScorer | None = None,
    ledger: FakeLedger | None = None,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> RescoreOutcome:
    clock = FakeClock(world)
    ports = RescorePorts(
        to_rescore=FakeRescoreIndex(world),
        decisions=FakeDecisionStore(world),
        effects=FakeEffectStore(world),
        scorer=scorer or FakeScorer(world, CORE),
        lists=FakeListStore(world),
        publisher=FakePublisher(world),
        alerts=FakeAlerts(world),
        clock=clock,
    )
    committer = Committer(ledger or FakeLedger(world), Budget(clock, longest_call_ms=0), clock, lambda seconds: seconds)
    judge = Judge(world.policy, CORE)
    return Rescoring(ports, judge, CORE, committer).rescore(from_ms=from_ms, until_ms=until_ms)


def decisions_of(world: World) -> dict[str, Decision]:
    return {key: decode_decision(document) for key, document in world.decisions.items()}


def scored_world() -> World:
    """The same records, with the endpoint up all the time."""
    world = World(policy=POLICY)
    deliver(service_on(world), records_of(*purchases()))
    return world


def test_a_rescored_decision_is_the_one_that_would_have_been_made() -> None:
    world, scored = degraded_world(), scored_world()
    before = dict(world.decisions)
    outcome = rescore(world)
    assert (outcome.found, outcome.rescored, outcome.told_again, outcome.left) == (COUNT, COUNT, 0, {})
    expected = {
        key: msgspec.structs.replace(decision, rescored_at_ms=NOW_MS) for key, decision in decisions_of(scored).items()
    }
    assert decisions_of(world) == expected
    assert world.counters == scored.counters | {"degraded": 0}
    assert world.states == scored.states
    assert {key: world.revised[rescored_effect_key(key)].document for key in before} == before
    assert world.expiry[rescored_effect_key("t000")] == world.decision_expiry["t000"]
    assert world.to_rescore == {}
    verdicts = {decision.decision for decision in expected.values()}
    assert verdicts == {"approve", "review", "decline"}
    assert {stored.decision.transaction_id for stored in world.alerts} == {
        key for key, decision in expected.items() if decision.decision != "approve"
    }
    assert outcome.alerted == len(world.alerts) > 0
    assert {stored.document for stored in world.published[-COUNT:]} == set(world.decisions.values())


def test_a_second_run_does_nothing() -> None:
    world = degraded_world()
    rescore(world)
    standing, published = dict(world.decisions), len(world.published)
    assert rescore(world) == RescoreOutcome()
    assert (world.decisions, len(world.published)) == (standing, published)
    assert world.calls[-1] == "to_rescore.entries"


def test_only_a_worse_verdict_is_alerted() -> None:
    world = degraded_world(msgspec.structs.replace(POLICY, degraded_decision="review"))
    alerted = len(world.alerts)
    outcome = rescore(world)
    declines = sum(decision.decision == "decline" for decision in decisions_of(world).values())
    assert len(world.alerts) - alerted == outcome.alerted == declines
    assert outcome.outcomes["review", "decline"] == declines > 0
    assert world.counters["alerts"] == sum(one.decision != "approve" for one in decisions_of(world).values())


def test_the_policy_and_the_lists_of_now_decide() -> None:
    world = degraded_world()
    world.policy = msgspec.structs.replace(
        POLICY, policy_version="p2", lists=Lists(block=("card",)), rules=(Rule("abroad", "country == 'FR'", "review"),)
    )
    world.listed = {"card#card-1": ListedEntity("block"), "card#card-2": ListedEntity("block", NOW_MS // 1000)}
    rescore(world)
    for decision in decisions_of(world).values():
        rules = ["list:block:card", "abroad"] if decision.card_id == "card-1" else ["abroad"]
        assert (decision.rules, decision.policy_version) == (rules, "p2")
        assert decision.decision == ("decline" if decision.card_id == "card-1" else "review")


def test_more_than_one_part() -> None:
    world = degraded_world(count=AT_ONCE + 30)
    assert rescore(world).rescored == AT_ONCE + 30
    assert world.calls.count("scorer.score") == 2
    assert (world.counters["degraded"], world.to_rescore) == (0, {})


def test_only_what_arrived_in_the_window() -> None:
    world = degraded_world()
    assert rescore(world, from_ms=NOW_MS + 1).found == 0
    assert rescore(world, until_ms=NOW_MS).found == 0
    assert rescore(world, from_ms=NOW_MS, until_ms=NOW_MS + 1).rescored == COUNT


def test_a_redelivered_record_gets_the_rescored_decision() -> None:
    world = degraded_world()
    rescore(world)
    standing = dict(world.decisions)
    assert deliver(service_on(world), records_of(*purchases())).failed == []
    assert world.decisions == standing
    assert {stored.document for stored in world.published[-COUNT:]} == set(standing.values())
    assert world.counters["decided"] == COUNT


def test_while_the_endpoint_is_down_nothing_changes() -> None:
    world = degraded_world()
    standing = dict(world.decisions)
    world.endpoint_down = True
    with pytest.raises(PortFailure):
        rescore(world)
    assert (world.decisions, world.counters["degraded"], len(world.to_rescore)) == (standing, COUNT, COUNT)


def test_what_cannot_be_scored_is_named_and_the_others_are() -> None:
    world = degraded_world()
    odd = decode_decision(world.decisions["t003"])
    world.decisions["t003"] = StoredDecision.of(msgspec.structs.replace(odd, feature_set_id="core-0")).document
    big = decode_decision(world.decisions["t007"])
    features = big.features | {CORE.names[0]: 777.0}
    world.decisions["t007"] = StoredDecision.of(msgspec.structs.replace(big, features=features)).document
    scorer = FakeScorer(world, CORE)
    scorer.refused_amounts.add(777.0)
    outcome = rescore(world, scorer=scorer)
    assert (outcome.rescored, set(outcome.left)) == (COUNT - 2, {"t003", "t007"})
    assert "its features are of set core-0" in outcome.left["t003"]
    assert (
        {key for key, one in decisions_of(world).items() if one.degraded} == set(world.to_rescore) == set(outcome.left)
    )
    scorer.mismatch = True
    with pytest.raises(ContractMismatch):
        rescore(world, scorer=scorer)


def differences(world: World, undisturbed: World) -> list[str]:
    pairs = {
        "decisions": (world.decisions, undisturbed.decisions),
        "kept": (world.revised, undisturbed.revised),
        "counters": (+world.counters, +undisturbed.counters),
        "published": ({s.document for s in world.published}, {s.document for s in undisturbed.published}),
        "alerts": ({s.document for s in world.alerts}, {s.document for s in undisturbed.alerts}),
        "index": (world.to_rescore, undisturbed.to_rescore),
    }
    return [name for name, (got, wanted) in pairs.items() if got != wanted]


def run_again_after(fault: Fault | None, ledger: type[FakeLedger] = FakeLedger) -> World:
    world = degraded_world()
    world.fault = fault
    for _ in range(3):
        try:
            rescore(world, ledger=ledger(world))
        except (Crash, PortFailure):
            world.fault = None
        else:
            return world
    raise AssertionError("never done")


UNDISTURBED = run_again_after(None)


@pytest.mark.parametrize("kind", ["crash", "failure", "outage"])
@pytest.mark.parametrize("effect", [False, True], ids=["nothing happened", "it happened"])
def test_a_fault_at_any_call_leaves_no_trace_after_another_run(
    kind: Literal["crash", "failure", "outage"], effect: bool
) -> None:
    for at, call in enumerate(UNDISTURBED.calls):
        world = run_again_after(Fault(at, kind, effect))
        assert differences(world, UNDISTURBED) == [], f"{kind} at call {at} ({call})"


class Forgetful(FakeLedger):
    """Takes a decision out of the index with its replacement, before anybody was told."""

    def transact(self, writes, counts, *, token):  # type: ignore[no-untyped-def]
        super().transact(writes, counts, token=token)
        for write in writes:
            if isinstance(write, ReplaceDecision):
                self._world.to_rescore.pop(write.stored.decision.transaction_id, None)


def test_a_broken_order_is_caught() -> None:
    caught = [
        name
        for at, call in enumerate(UNDISTURBED.calls)
        if call == "publisher.publish"
        for name in differences(run_again_after(Fault(at, "crash", effect=False), Forgetful), UNDISTURBED)
    ]
    assert "published" in caught


def test_two_runs_at_once_replace_once() -> None:
    """The other run replaces everything between this one's reading and its commit."""
    world = degraded_world()

    class Late(FakeLedger):
        overtaken = False

        def transact(self, writes, counts, *, token):  # type: ignore[no-untyped-def]
            if not self.overtaken:
                self.overtaken = True
                rescore(world)
            super().transact(writes, counts, token=token)

    outcome = rescore(world, ledger=Late(world))
    assert (outcome.found, outcome.rescored) == (COUNT, 0)
    assert differences(world, UNDISTURBED) == []


def test_what_was_replaced_is_kept_once() -> None:
    world = degraded_world()
    rescore(world)
    stored = StoredDecision.from_document(world.decisions["t000"])
    with pytest.raises(ConditionFailed):
        FakeLedger(world).transact([ReplaceDecision(stored, StoredDecision(stored.decision, b"{}"))], {}, token="x")
