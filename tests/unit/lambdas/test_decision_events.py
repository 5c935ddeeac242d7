"""One event per decision, whatever the stream of decisions repeats and whatever fails on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambdas.adapters.events import EventBridgeEvents
from lambdas.decision_events import event_effect
from lambdas.ports import NotPublished
from lambdas.records import UserRecord
from stream_features.decision import encode_decision
from stream_features.decision_event import DecisionEvent, decision_event
from tests.contract.test_ports import a_decision
from tests.unit.lambdas.deliveries import position
from tests.unit.lambdas.fakes import NOW_MS, TTL_DAYS, Crash, FakeDecisionEvents, Fault, World
from tests.unit.lambdas.processes import events_on
from tests.unit.lambdas.test_adapters import a_caller

REMAINING_MS = 60_000


def a_record(sequence: int, transaction_id: str) -> UserRecord:
    decision = a_decision(transaction_id, arrival_ms=NOW_MS).decision
    return UserRecord(encode_decision(decision), "decisions", position(sequence), NOW_MS)


def sent(world: World) -> list[str]:
    return [event.transaction_id for event in world.events_sent]


def test_a_decision_becomes_an_event_once_however_often_it_is_published() -> None:
    world = World()
    first = events_on(world).publish_batch(
        [a_record(1, "a"), a_record(2, "b"), a_record(3, "a")], remaining_ms=REMAINING_MS
    )
    assert (first.failed, first.counts["events"]) == ([], 2)
    again = events_on(world).publish_batch([a_record(4, "b"), a_record(5, "c")], remaining_ms=REMAINING_MS)
    assert (again.failed, again.counts["events"]) == ([], 1)
    assert sent(world) == ["a", "b", "c"]
    assert world.events_sent[0] == decision_event(a_decision("a").decision)
    assert world.expiry[event_effect(a_decision("a").decision)] == NOW_MS // 1000 + TTL_DAYS * 86_400
    assert world.counters == {}


def test_a_rescored_decision_is_a_second_event() -> None:
    world = World()
    degraded = a_decision("a", arrival_ms=NOW_MS, score=None, degraded=True, decision="review").decision
    rescored = a_decision("a", arrival_ms=NOW_MS, rescored_at_ms=NOW_MS + 9, decision="decline").decision
    documents = [encode_decision(one) for one in (degraded, degraded, rescored, rescored)]
    records = [UserRecord(each, "decisions", position(n + 1), NOW_MS) for n, each in enumerate(documents)]
    for batch in (records[:1], records[1:], records):
        assert events_on(world).publish_batch(batch, remaining_ms=REMAINING_MS).failed == []
    assert [(event.decision, event.rescored_at_ms) for event in world.events_sent] == [
        ("review", None),
        ("decline", NOW_MS + 9),
    ]


def test_what_is_no_decision_comes_again_with_an_alarm_and_holds_up_nothing_else() -> None:
    world = World()
    records = [a_record(1, "a"), UserRecord(b"{}", "decisions", position(2), NOW_MS), a_record(3, "b")]
    outcome = events_on(world).publish_batch(records, remaining_ms=REMAINING_MS)
    assert outcome.failed == ["2"]
    assert [number for _, number in outcome.alarms] == ["2"]
    assert sent(world) == ["a", "b"]
    assert events_on(world).publish_batch([records[1]], remaining_ms=REMAINING_MS).failed == ["2"]


def test_only_what_did_not_go_out_comes_again() -> None:
    class Refusing(FakeDecisionEvents):
        def publish(self, events: Sequence[DecisionEvent]) -> None:
            super().publish([event for event in events if event.transaction_id != "b"])
            raise NotPublished("refused", ["b"])

    world = World()
    records = [a_record(1, "a"), a_record(2, "b"), a_record(3, "c"), a_record(4, "b")]
    outcome = events_on(world, events=Refusing(world)).publish_batch(records, remaining_ms=REMAINING_MS)
    assert (outcome.failed, outcome.counts["events"]) == (["2", "4"], 2)
    assert events_on(world).publish_batch(records, remaining_ms=REMAINING_MS).failed == []
    assert sent(world) == ["a", "c", "b"]


@pytest.mark.parametrize("down", ["ledger.recorded", "decision_events.publish", "ledger.transact"])
def test_a_service_that_does_not_answer_lets_everything_come_again(down: str) -> None:
    world = World(down={down})
    records = [a_record(1, "a"), a_record(2, "b")]
    assert events_on(world).publish_batch(records, remaining_ms=REMAINING_MS).failed == ["1", "2"]
    world.down.clear()
    assert events_on(world).publish_batch(records, remaining_ms=REMAINING_MS).failed == []
    assert set(sent(world)) == {"a", "b"}


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.sampled_from("abcde"), min_size=1, max_size=10),
    size=st.integers(1, 4),
    at=st.integers(0, 12),
    kind=st.sampled_from(["crash", "failure"]),
    effect=st.booleans(),
)
def test_no_event_is_lost_and_only_a_fault_sends_one_twice(
    ids: list[str], size: int, at: int, kind: Any, effect: bool
) -> None:
    world = World(fault=Fault(at, kind, effect))
    records = [a_record(number + 1, key) for number, key in enumerate(ids)]
    struck = False
    for start in range(0, len(records), size):
        while True:
            try:
                outcome = events_on(world).publish_batch(records[start : start + size], remaining_ms=REMAINING_MS)
            except Crash:
                failed = True
            else:
                failed = bool(outcome.failed)
            if not failed:
                break
            world.fault, struck = None, True
    assert set(sent(world)) == set(ids)
    if not struck and (world.fault is None or len(world.calls) <= at):
        assert len(sent(world)) == len(set(ids))


class Bus:
    """Refuses the first try of some transactions."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.requests: list[list[str]] = []

    def put_events(self, Entries: list[dict[str, str]]) -> dict[str, Any]:
        ids = [entry["Detail"].split('"')[3] for entry in Entries]
        self.requests.append(ids)
        answers = [{"ErrorCode": "ThrottlingException"} if key in self.refused else {"EventId": "1"} for key in ids]
        self.refused -= set(ids)
        return {"FailedEntryCount": sum("ErrorCode" in answer for answer in answers), "Entries": answers}


def some_events(count: int) -> list[DecisionEvent]:
    return [decision_event(a_decision(f"t{number:02d}").decision) for number in range(count)]


def test_refused_entries_alone_are_put_again() -> None:
    bus = Bus("t03", "t11")
    EventBridgeEvents(bus, "bus", a_caller()).publish(some_events(12))
    assert bus.requests == [[f"t{n:02d}" for n in range(10)], ["t03"], ["t10", "t11"], ["t11"]]


def test_entries_that_stay_refused_are_named() -> None:
    class Never(Bus):
        def put_events(self, Entries: list[dict[str, str]]) -> dict[str, Any]:
            self.refused = {"t01"}
            return super().put_events(Entries)

    with pytest.raises(NotPublished) as refused:
        EventBridgeEvents(Never(), "bus", a_caller()).publish(some_events(3))
    assert refused.value.transaction_ids == {"t01"}
