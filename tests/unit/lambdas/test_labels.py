"""record_labels on fakes: histories, corrections, labels that wait, and what merchants are told."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from lambdas.label_records import MOST_REPORTS
from lambdas.ports import ConditionFailed, NotPublished
from lambdas.writes import PutLabel, StoredLabel, Write
from stream_features.entity_event import EntityEvent, FraudEntry
from stream_features.label import Label, LabelSource
from stream_features.label_history import LabelReport
from stream_features.transaction import Transaction
from tests.unit.lambdas.deliveries import REMAINING_MS, a_transaction, deliver, records_of
from tests.unit.lambdas.fakes import NOW_MS, FakeDecisionStore, FakeEntityEvents, FakeLedger, World, service_on
from tests.unit.lambdas.loop import label_records
from tests.unit.lambdas.processes import LABEL_TTL_DAYS, labels_on

EFFECT_MS = 120_000
EVENT_MS = NOW_MS - 60_000


def a_label(
    is_fraud: bool = True,
    reported_at_ms: int = NOW_MS,
    *,
    transaction_id: str = "t1",
    source: LabelSource = "chargeback",
    merchant_id: str | None = "m",
    event_time_ms: int | None = EVENT_MS,
) -> Label:
    return Label(
        transaction_id=transaction_id,
        is_fraud=is_fraud,
        reported_at_ms=reported_at_ms,
        source=source,
        merchant_id=merchant_id,
        event_time_ms=event_time_ms,
    )


def orphan(is_fraud: bool = True, reported_at_ms: int = NOW_MS) -> Label:
    return a_label(is_fraud, reported_at_ms, merchant_id=None)


def record(world: World, *labels: Label | bytes, first: int = 1) -> list[str]:
    return labels_on(world).record_batch(label_records(labels, first), remaining_ms=REMAINING_MS).failed


def decide(world: World, transaction: Transaction) -> None:
    assert deliver(service_on(world), records_of(transaction)).failed == []
    world.entity_events.clear()


def reports(world: World, transaction_id: str = "t1") -> list[tuple[int, bool]]:
    history = msgspec.json.decode(world.labels[transaction_id].history, type=list[LabelReport])
    return [(report.reported_at_ms, report.is_fraud) for report in history]


def frauds(*changes: tuple[int, int], event_time_ms: int = EVENT_MS) -> list[FraudEntry]:
    return [FraudEntry(event_time_ms, reported_at_ms + EFFECT_MS, delta) for reported_at_ms, delta in changes]


# --- the ordinary label ------------------------------------------------------------------------------------------


def test_a_label_is_stored_counted_and_told_to_its_merchant() -> None:
    world = World()
    assert record(world, a_label()) == []
    label = world.labels["t1"]
    assert (label.is_fraud, label.reported_at_ms, label.source, label.revision) == (True, NOW_MS, "chargeback", 1)
    assert (label.merchant_id, label.event_time_ms, label.waiting) == ("m", EVENT_MS, False)
    assert world.expiry["t1"] == NOW_MS // 1000 + LABEL_TTL_DAYS * 86_400
    assert world.counters == {"labels": 1}
    assert world.entity_events == [
        EntityEvent(
            kind="label",
            merchant_id="m",
            transaction_id="t1",
            event_time_ms=EVENT_MS,
            revision=1,
            frauds=frauds((NOW_MS, 1)),
        )
    ]


def test_a_legitimate_label_is_stored_and_nobody_is_told() -> None:
    world = World()
    record(world, a_label(False))
    assert (world.labels["t1"].is_fraud, world.entity_events, world.counters) == (False, [], {"labels": 1})


def test_a_redelivered_label_changes_nothing_and_is_told_again() -> None:
    world = World()
    record(world, a_label())
    before = dict(world.labels)
    record(world, a_label())
    assert world.labels == before
    assert world.counters == {"labels": 1}
    assert world.entity_events == [world.entity_events[0]] * 2


def test_the_same_report_published_twice_is_one_report() -> None:
    world = World()
    record(world, a_label(), a_label())
    record(world, a_label(), first=50)
    assert reports(world) == [(NOW_MS, True)]
    assert world.counters == {"labels": 1}
    assert world.labels["t1"].revision == 1


# --- corrections -------------------------------------------------------------------------------------------------


def test_the_label_reported_last_holds_and_only_changes_are_told() -> None:
    world = World()
    record(world, a_label(True, NOW_MS))
    record(world, a_label(True, NOW_MS + 5, source="analyst"), first=2)
    record(world, a_label(False, NOW_MS + 9), first=3)
    assert [event.revision for event in world.entity_events] == [1, 2, 3]
    assert world.entity_events[1].frauds == frauds((NOW_MS, 1))
    assert world.entity_events[2].frauds == frauds((NOW_MS, 1), (NOW_MS + 9, -1))
    assert (world.labels["t1"].is_fraud, world.labels["t1"].reported_at_ms) == (False, NOW_MS + 9)
    assert world.counters == {"labels": 3}


def test_a_report_that_arrives_late_takes_its_place_in_the_history() -> None:
    world = World()
    record(world, a_label(False, NOW_MS + 9))
    record(world, a_label(True, NOW_MS), first=2)
    assert reports(world) == [(NOW_MS, True), (NOW_MS + 9, False)]
    assert world.labels["t1"].is_fraud is False
    assert world.entity_events[-1].frauds == frauds((NOW_MS, 1), (NOW_MS + 9, -1))


def test_of_two_reports_of_one_instant_the_later_arrival_holds() -> None:
    world = World()
    record(world, a_label(True), a_label(False))
    assert world.labels["t1"].is_fraud is False
    other = World()
    record(other, a_label(False), a_label(True))
    assert other.labels["t1"].is_fraud is True


def test_a_report_published_twice_stands_where_it_first_arrived() -> None:
    """Delivered out of order, as across the shards of a split stream."""
    world = World()
    record(world, a_label(True), first=500)
    early = [label_records([a_label(True)], 1)[0], label_records([a_label(False)], 2)[0]]
    for each in reversed(early):
        labels_on(world).record_batch([each], remaining_ms=REMAINING_MS)
    assert world.labels["t1"].is_fraud is False
    assert world.counters == {"labels": 2}


def test_the_item_does_not_depend_on_batches_or_redelivery() -> None:
    labels = [a_label(flag, NOW_MS + at) for at, flag in enumerate([True, False, True, True])]
    records = label_records(labels)
    ends = []
    for cuts in itertools.product([False, True], repeat=3):
        world = World()
        bounds = [0, *(n + 1 for n, cut in enumerate(cuts) if cut), len(records)]
        for begin, end in itertools.pairwise(bounds):
            for _ in range(2):
                labels_on(world).record_batch(records[begin:end], remaining_ms=REMAINING_MS)
        assert world.counters == {"labels": 4}
        ends.append(msgspec.structs.replace(world.labels["t1"], revision=0))
    assert ends == [ends[0]] * len(ends)


def test_too_many_reports_are_quarantined_and_what_stands_holds() -> None:
    world = World()
    record(world, *(a_label(bool(n % 2), NOW_MS + n) for n in range(MOST_REPORTS)))
    for _ in range(2):
        assert record(world, a_label(True, NOW_MS + MOST_REPORTS), first=999) == []
    assert len(reports(world)) == MOST_REPORTS
    assert [rejected.rule for rejected in world.objects.values()] == ["too_many_reports"]
    assert world.counters == {"labels": MOST_REPORTS, "labels_quarantined": 1}


# --- whose it is -------------------------------------------------------------------------------------------------


def test_the_decisions_merchant_and_time_win() -> None:
    world = World()
    decide(world, a_transaction(merchant_id="right", event_time_ms=EVENT_MS - 1))
    record(world, a_label())
    assert (world.labels["t1"].merchant_id, world.labels["t1"].event_time_ms) == ("right", EVENT_MS - 1)
    [event] = world.entity_events
    assert (event.merchant_id, event.frauds) == ("right", frauds((NOW_MS, 1), event_time_ms=EVENT_MS - 1))


def test_a_merchant_who_was_told_wrongly_is_told_that_nothing_stands() -> None:
    world = World()
    record(world, a_label(merchant_id="wrong"))
    decide(world, a_transaction(merchant_id="right", event_time_ms=EVENT_MS))
    record(world, a_label(merchant_id="right"), first=2)  # as update_entities sends it again
    told = {event.merchant_id: event for event in world.entity_events}
    assert told["wrong"].frauds == []
    assert told["right"].frauds == frauds((NOW_MS, 1))
    assert {event.revision for event in told.values()} == {2}
    assert world.counters["labels"] == 1


def test_a_label_of_a_refund_tells_nobody() -> None:
    world = World()
    decide(world, a_transaction(type="refund", merchant_id="m"))
    record(world, a_label())
    assert world.labels["t1"].is_fraud
    assert world.entity_events == []


def test_a_merchant_accused_before_a_refund_was_decided_is_told_that_nothing_stands() -> None:
    #  label names m     refund of m decided     the label again, as update_entities sends it
    #       |  m: +1            |                      |  m: nothing stands
    world = World()
    record(world, a_label())
    assert [event.frauds for event in world.entity_events] == [frauds((NOW_MS, 1))]
    decide(world, a_transaction(type="refund", merchant_id="m", event_time_ms=EVENT_MS))
    record(world, a_label(), first=2)
    [event] = world.entity_events
    assert (event.merchant_id, event.frauds, event.revision) == ("m", [], 2)
    assert world.labels["t1"].is_fraud
    assert world.counters["labels"] == 1


def test_a_refund_stays_a_refund_when_its_decision_has_expired() -> None:
    world = World()
    decide(world, a_transaction(type="refund", merchant_id="m", event_time_ms=EVENT_MS))
    record(world, a_label())
    world.decisions.clear()
    record(world, a_label(True, NOW_MS + 1), first=2)
    assert world.entity_events == []


def test_a_refund_decided_between_reading_and_writing_is_found() -> None:
    elsewhere, world = World(), World()
    decide(elsewhere, a_transaction(type="refund", merchant_id="m", event_time_ms=EVENT_MS))
    service = labels_on(world, decisions=DecidedMeanwhile(world, elsewhere.decisions["t1"]))
    assert service.record_batch(label_records([a_label()]), remaining_ms=REMAINING_MS).failed == []
    assert [event.frauds for event in world.entity_events] == [[]]


@pytest.mark.parametrize("label", [orphan(), a_label(event_time_ms=None)])
def test_a_label_that_does_not_say_whose_it_is_waits_and_is_completed_by_another(label: Label) -> None:
    world = World()
    record(world, label)
    assert world.labels["t1"].waiting
    assert world.entity_events == []
    assert world.counters == {"labels": 1, "labels_waiting": 1}
    record(world, label)
    assert world.counters == {"labels": 1, "labels_waiting": 1}
    record(world, a_label(), first=2)  # the same report, completed
    assert world.counters == {"labels": 1, "labels_waiting": 0}
    assert not world.labels["t1"].waiting
    assert [event.frauds for event in world.entity_events] == [frauds((NOW_MS, 1))]


def test_an_incomplete_label_of_a_decided_transaction_applies_at_once() -> None:
    world = World()
    decide(world, a_transaction(merchant_id="m", event_time_ms=EVENT_MS))
    record(world, orphan())
    assert [event.frauds for event in world.entity_events] == [frauds((NOW_MS, 1))]
    assert world.counters["labels_waiting"] == 0


def test_what_is_known_stays_known_when_the_decision_has_expired() -> None:
    world = World()
    decide(world, a_transaction(merchant_id="right", event_time_ms=EVENT_MS))
    record(world, orphan())
    world.decisions.clear()
    record(world, a_label(False, NOW_MS + 1, merchant_id="wrong"), first=2)
    assert world.labels["t1"].merchant_id == "right"
    assert world.entity_events[-1].frauds == frauds((NOW_MS, 1), (NOW_MS + 1, -1))


class DecidedMeanwhile(FakeDecisionStore):
    """The scorer commits the decision just after it was looked for the first time."""

    def __init__(self, world: World, document: bytes) -> None:
        super().__init__(world)
        self.world = world
        self.document = document

    def get(self, transaction_ids: Sequence[str]) -> dict[str, bytes]:
        found = super().get(transaction_ids)
        self.world.decisions["t1"] = self.document
        return found


def test_a_decision_that_comes_between_reading_and_writing_is_found() -> None:
    elsewhere, world = World(), World()
    decide(elsewhere, a_transaction(merchant_id="m", event_time_ms=EVENT_MS))
    service = labels_on(world, decisions=DecidedMeanwhile(world, elsewhere.decisions["t1"]))
    assert service.record_batch(label_records([orphan()]), remaining_ms=REMAINING_MS).failed == []
    assert not world.labels["t1"].waiting
    assert world.counters == {"labels": 1, "labels_waiting": 0}
    assert [event.frauds for event in world.entity_events] == [frauds((NOW_MS, 1))]


# --- what fails --------------------------------------------------------------------------------------------------


def test_bad_labels_are_quarantined_by_field_and_rule_and_counted_apart() -> None:
    world = World()
    bad = b'{"transaction_id": "t1", "is_fraud": "yes", "reported_at_ms": 1, "source": "chargeback"}'
    assert record(world, bad, a_label()) == []
    [rejected] = world.objects.values()
    assert (rejected.field, rejected.rule, rejected.stream) == ("is_fraud", "wrong_type", "labels")
    assert world.counters == {"labels": 1, "labels_quarantined": 1}


@pytest.mark.parametrize("call", ["labels.get", "decisions.get", "ledger.transact", "entity_events.publish"])
def test_a_port_that_is_down_returns_the_records_and_quarantines_nothing(call: str) -> None:
    world = World(down={call})
    assert record(world, a_label(), a_label(transaction_id="t2")) == ["1", "2"]
    assert world.objects == {}


def test_an_item_that_cannot_be_read_fails_its_transaction_with_an_alarm() -> None:
    world = World()
    record(world, a_label())
    world.labels["t1"] = msgspec.structs.replace(world.labels["t1"], history=b"?")
    batch = label_records([a_label(False, NOW_MS + 1), a_label(transaction_id="t2")], first=5)
    outcome = labels_on(world).record_batch(batch, remaining_ms=REMAINING_MS)
    assert outcome.failed == ["5"]
    assert [sequence for _, sequence in outcome.alarms] == ["5"]
    assert "t2" in world.labels


class RefusesSome(FakeEntityEvents):
    def publish(self, events: Sequence[EntityEvent]) -> None:
        raise NotPublished("refused", ["t2"])


def test_an_event_that_does_not_go_out_returns_its_labels() -> None:
    world = World()
    service = labels_on(world, entity_events=RefusesSome(world))
    labels = [a_label(), a_label(transaction_id="t2"), a_label(False, transaction_id="t3")]
    assert service.record_batch(label_records(labels), remaining_ms=REMAINING_MS).failed == ["2"]


class AnotherWriter(FakeLedger):
    """Another process adds a report of its own first, `times` times."""

    def __init__(self, world: World, times: int) -> None:
        super().__init__(world)
        self.times = times

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        if self.times and any(isinstance(write, PutLabel) for write in writes):
            self.times -= 1
            standing = self._world.labels.get("t1")
            revision = 1 if standing is None else standing.revision + 1
            self._world.labels["t1"] = StoredLabel(
                revision, False, NOW_MS - 5, "analyst", other_history(), "m", EVENT_MS, False
            )
            raise ConditionFailed("another writer")
        super().transact(writes, counts, token=token)


def other_history() -> bytes:
    report = LabelReport(
        reported_at_ms=NOW_MS - 5, arrival_ms=NOW_MS, sequence_number="9", is_fraud=False, source="analyst"
    )
    return msgspec.json.encode([report])


@pytest.mark.parametrize(("times", "failed"), [(1, []), (2, []), (9, ["1"])])
def test_a_transaction_that_meets_another_writer_starts_again_and_then_fails(times: int, failed: list[str]) -> None:
    world = World()
    service = labels_on(world, ledger=AnotherWriter(world, times))
    assert service.record_batch(label_records([a_label()]), remaining_ms=REMAINING_MS).failed == failed
    if not failed:
        assert reports(world) == [(NOW_MS - 5, False), (NOW_MS, True)]
