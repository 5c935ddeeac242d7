"""Rules, lists and kill switch through the scoring service, both engines."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from lambdas.policy import EntityKind, KillSwitch, Lists, Policy, Rule
from lambdas.ports import ListedEntity
from lambdas.records import UserRecord
from lambdas.scoring import ScoringService
from stream_features.decision import Decision, decode_decision
from tests.unit.lambdas.deliveries import a_transaction, deliver, records_of
from tests.unit.lambdas.fakes import NOW_MS, Fault, World, features_service_on, service_on
from tests.unit.lambdas.job import Job
from tests.unit.lambdas.loop import feature_records
from tests.unit.lambdas.test_effects_happen_once import KINDS, differences, records, run

LOW = Policy(policy_version="low", review_from=1.0, decline_from=1.0)  # the model alone approves everything
HIGH = Policy(policy_version="high", review_from=0.0, decline_from=0.0)  # and here it declines everything
BIG = Rule("big", "amount_minor > 10000", "decline")
ABROAD = Rule("abroad", "country != 'DE' && country != null", "review", priority=1)
USED: tuple[EntityKind, ...] = ("card", "merchant", "device", "ip")


def with_lists(policy: Policy, *rules: Rule, kill_switch: KillSwitch = "off") -> Policy:
    return msgspec.structs.replace(policy, rules=rules, lists=Lists(USED, USED), kill_switch=kill_switch)


def decided(world: World, transaction_id: str = "t1") -> Decision:
    return decode_decision(world.decisions[transaction_id])


def by_lambda(world: World, batch: list[UserRecord]) -> None:
    assert deliver(service_on(world), batch).failed == []


def by_flink(world: World, batch: list[UserRecord]) -> None:
    Job(world).work_on(batch)
    assert deliver(features_service_on(world), feature_records(world.features_sent)).failed == []


@pytest.fixture(params=[by_lambda, by_flink])
def decide(request: pytest.FixtureRequest) -> Callable[[World, list[UserRecord]], None]:
    chosen: Callable[[World, list[UserRecord]], None] = request.param
    return chosen


def test_rules_that_fire_are_named_and_the_first_one_decides(decide: Callable[..., None]) -> None:
    world = World(policy=msgspec.structs.replace(LOW, rules=(BIG, ABROAD)))
    decide(
        world,
        records_of(
            a_transaction("t1", amount_minor=20_000, country="FR"),
            a_transaction("t2", amount_minor=20_000, country="DE"),
            a_transaction("t3", amount_minor=10_000),
        ),
    )
    assert [(decided(world, key).decision, decided(world, key).rules) for key in ("t1", "t2", "t3")] == [
        ("review", ["abroad", "big"]),
        ("decline", ["big"]),
        ("approve", []),
    ]
    assert {decided(world, key).policy_version for key in world.decisions} == {"low"}
    assert {stored.decision.transaction_id for stored in world.alerts} == {"t1", "t2"}
    assert world.counters["alerts"] == 2
    assert decided(world, "t2").reasons == []  # the rule alone declined: its id says why


def test_a_rule_reads_features_and_score(decide: Callable[..., None]) -> None:
    rules = (Rule("third", "card_count_1h >= 3 && score >= 0.0 && seconds_since_last != null", "review"),)
    world = World(policy=msgspec.structs.replace(LOW, rules=rules))
    decide(world, records_of(*(a_transaction(f"t{n}", event_time_ms=NOW_MS + n) for n in range(3))))
    assert [decided(world, f"t{n}").rules for n in range(3)] == [[], [], ["third"]]


@pytest.mark.parametrize(
    ("entry", "value"), [("card", "card-a"), ("merchant", "merchant-a"), ("device", "phone"), ("ip", "10.0.0.1")]
)
def test_a_blocked_entity_is_declined_whatever_else_holds(entry: str, value: str, decide: Callable[..., None]) -> None:
    world = World(policy=with_lists(LOW, Rule("fine", "true", "approve")))
    world.listed[f"{entry}#{value}"] = ListedEntity("block")
    other = {"card": "card_id", "merchant": "merchant_id", "device": "device_id", "ip": "ip"}[entry]
    transaction = a_transaction("t1", device_id="phone", ip="10.0.0.1")
    innocent = msgspec.structs.replace(transaction, transaction_id="t2", **{other: "10.0.0.2"})
    decide(world, records_of(transaction, innocent))
    assert (decided(world).decision, decided(world).rules) == ("decline", [f"list:block:{entry}", "fine"])
    assert (decided(world, "t2").decision, decided(world, "t2").rules) == ("approve", ["fine"])


def test_an_allowed_entity_is_approved_before_rules_and_model(decide: Callable[..., None]) -> None:
    world = World(policy=with_lists(HIGH, BIG))
    world.listed["merchant#merchant-a"] = ListedEntity("allow")
    decide(world, records_of(a_transaction("t1", amount_minor=20_000), a_transaction("t2", merchant_id="other")))
    assert (decided(world).decision, decided(world).rules) == ("approve", ["list:allow:merchant", "big"])
    assert decided(world, "t2").decision == "decline"


@pytest.mark.parametrize(("kill_switch", "decision"), [("force_review", "review"), ("force_approve", "approve")])
def test_the_kill_switch_decides_what_is_not_blocked(kill_switch: KillSwitch, decision: str) -> None:
    world = World(policy=with_lists(HIGH, BIG, kill_switch=kill_switch))
    world.listed["card#stolen"] = ListedEntity("block")
    world.listed["card#trusted"] = ListedEntity("allow")
    by_lambda(
        world, records_of(*(a_transaction(card, card_id=card, amount_minor=1) for card in ("stolen", "trusted", "x")))
    )
    assert (decided(world, "stolen").decision, decided(world, "stolen").rules[0]) == ("decline", "list:block:card")
    assert decided(world, "trusted").decision == decided(world, "x").decision == decision
    assert decided(world, "x").rules == [f"kill:{kill_switch}"]


def test_an_entry_counts_until_it_expires() -> None:
    world = World(policy=with_lists(LOW))
    world.listed["card#over"] = ListedEntity("block", NOW_MS // 1000)
    world.listed["card#still"] = ListedEntity("block", NOW_MS // 1000 + 1)
    by_lambda(world, records_of(*(a_transaction(card, card_id=card) for card in ("over", "still"))))
    assert (decided(world, "over").decision, decided(world, "still").decision) == ("approve", "decline")


def test_a_kind_that_the_policy_does_not_use_is_not_looked_up() -> None:
    world = World(policy=msgspec.structs.replace(LOW, lists=Lists(block=("device",))))
    world.listed["card#card-a"] = ListedEntity("block")
    by_lambda(world, records_of(a_transaction()))
    assert decided(world).decision == "approve"
    assert "lists.get" not in world.calls  # no device is known either
    plain = World(policy=LOW)
    by_lambda(plain, records_of(a_transaction(device_id="d")))
    assert "lists.get" not in plain.calls


def test_while_the_lists_cannot_be_read_nothing_is_decided() -> None:
    world = World(policy=with_lists(LOW), down={"lists.get"})
    world.listed["card#card-a"] = ListedEntity("block")
    batch = records_of(a_transaction("t1"), a_transaction("t2"))
    outcome = deliver(service_on(world), batch)
    assert (outcome.failed, outcome.alarms) == ([record.item_identifier for record in batch], [])
    assert (world.decisions, world.states) == ({}, {})
    world.down.clear()
    by_lambda(world, batch)
    assert decided(world).rules == ["list:block:card"]


def test_a_redelivered_record_keeps_the_decision_of_the_former_policy() -> None:
    world = World(policy=LOW)
    batch = records_of(a_transaction())
    service = service_on(world)
    deliver(service, batch)
    world.policy = with_lists(HIGH, kill_switch="force_review")
    deliver(service, batch)
    deliver(service, records_of(a_transaction("t2"), first=5))
    assert (decided(world).decision, decided(world).policy_version) == ("approve", "low")
    assert (decided(world, "t2").decision, decided(world, "t2").policy_version) == ("review", "high")


def test_an_outcome_says_that_the_published_policy_is_refused() -> None:
    world = World(policy=LOW)
    service = service_on(world)
    assert deliver(service, records_of(a_transaction())).policy_problem is None
    world.policy_problem = "rule 'r': expression: unknown name"
    outcome = deliver(service, records_of(a_transaction("t2"), first=5))
    assert outcome.policy_problem == world.policy_problem
    assert (outcome.failed, outcome.alarms) == ([], [])


def test_a_first_policy_that_is_invalid_fails_its_cards_with_an_alarm() -> None:
    world = World(policy=msgspec.structs.replace(LOW, rules=(Rule("r", "nobody > 1", "review"),)))
    outcome = deliver(service_on(world), records_of(a_transaction()))
    assert len(outcome.failed) == 1
    assert "unknown name 'nobody'" in outcome.alarms[0][0]


# --- effects happen once, with lists read as well

RICH = with_lists(LOW, BIG, Rule("many", "card_count_1h > 50", "review"))


def ruled(fault: Fault | None) -> World:
    def new_service(world: World) -> ScoringService:
        world.policy = RICH
        world.listed = {"card#card-1": ListedEntity("block"), "merchant#m3": ListedEntity("allow")}
        return service_on(world)

    return run(fault, new_service=new_service)


UNDISTURBED = ruled(None)


def test_the_undisturbed_run_uses_every_part() -> None:
    fired = {rule for key in UNDISTURBED.decisions for rule in decided(UNDISTURBED, key).rules}
    assert fired == {"list:block:card", "list:allow:merchant", "many"}
    assert UNDISTURBED.calls.count("lists.get") >= 2
    assert len(records()) > len(UNDISTURBED.decisions)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_call_changes_nothing(kind: str) -> None:
    for at in range(len(UNDISTURBED.calls)):
        for effect in (False, True):
            world = ruled(Fault(at, kind, effect))  # type: ignore[arg-type]
            assert differences(world, UNDISTURBED) == [], (at, effect)
