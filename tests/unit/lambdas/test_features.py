"""score_features on fakes: what stands afterwards, whatever the job sent and how often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from lambdas.batch import BatchOutcome
from lambdas.ports import NotPublished
from lambdas.records import UserRecord
from lambdas.writes import PutDecision, StoredDecision, StoredLabel, Write
from stream_features.decision import Decision, decode_decision
from stream_features.feature_record import (
    DuplicateRecord,
    FeaturesRecord,
    FeatureStreamRecord,
    RejectedMark,
    encode_feature_record,
)
from stream_features.feature_sets import feature_set
from stream_features.history import observe_history
from stream_features.kernel import features_json
from stream_features.label import Label
from stream_features.transaction import Transaction, encode_transaction, payload_sha256
from tests.unit.lambdas.deliveries import REMAINING_MS, a_transaction, position
from tests.unit.lambdas.fakes import (
    NOW_MS,
    POLICY,
    TTL_DAYS,
    Crash,
    FakeLabelPublisher,
    FakeLedger,
    FakeScorer,
    Fault,
    World,
    features_service_on,
    score_of,
)
from tests.unit.lambdas.loop import feature_records

CORE = feature_set("core")


def features_of(transaction: Transaction, at: int, **changes: object) -> FeaturesRecord:
    """What the job says of a transaction that came at sequence number `at` of the transactions stream."""
    [(_, observation)] = observe_history([transaction], CORE)
    values: dict[str, object] = {
        "payload": encode_transaction(transaction).decode(),
        "position": position(at),
        "arrival_ms": NOW_MS,
        "feature_set_id": CORE.feature_set_id,
        "features": features_json(CORE, observation.values),
        "late": observation.late,
    }
    return FeaturesRecord(**(values | changes))  # type: ignore[arg-type]


def duplicate_of(transaction: Transaction, at: int) -> DuplicateRecord:
    payload = encode_transaction(transaction).decode()
    return DuplicateRecord(payload=payload, position=position(at), arrival_ms=NOW_MS)


def a_mark(at: int, stream: str = "transactions") -> RejectedMark:
    key = f"quarantine/{stream}/shardId-000000000000/{at}-0.json"
    return RejectedMark(stream=stream, position=position(at), arrival_ms=NOW_MS, field="$", rule="not_json", key=key)


def records_of(*sent: FeatureStreamRecord | bytes, first: int = 900) -> list[UserRecord]:
    return feature_records(
        [each if isinstance(each, bytes) else encode_feature_record(each) for each in sent], first=first
    )


def deliver(world: World, records: Sequence[UserRecord], **service: object) -> BatchOutcome:
    return features_service_on(world, **service).score_batch(  # type: ignore[arg-type]
        records, remaining_ms=REMAINING_MS
    )


def decision_of(world: World, transaction_id: str) -> Decision:
    return decode_decision(world.decisions[transaction_id])


# --- decisions ---------------------------------------------------------------------------------------------------


def test_a_decision_is_what_the_record_says_and_names_the_published_record() -> None:
    world = World()
    transaction = a_transaction(country="DE", latitude=52.5, longitude=13.4, channel="pos")
    record = features_of(transaction, 17, late=True)
    assert deliver(world, records_of(record)).failed == []
    decision = decision_of(world, "t1")
    values = tuple(math.nan if value is None else value for value in record.features.values())
    assert decision.score == score_of(values)
    assert decision.decision == POLICY.decide(decision.score)
    assert decision.features == record.features
    assert list(decision.features) == list(CORE.names)
    assert (decision.engine, decision.late, decision.degraded) == ("flink", True, False)
    assert (decision.stream_position, decision.arrival_ms) == (position(17), NOW_MS)
    assert decision.payload_sha256 == payload_sha256(transaction)
    assert (decision.country, decision.latitude, decision.channel) == ("DE", 52.5, "pos")
    assert world.decision_expiry["t1"] == NOW_MS // 1000 + TTL_DAYS * 86_400
    assert [stored.document for stored in world.published] == [world.decisions["t1"]]
    assert world.counters == Counter(decided=1, late=1, alerts=world.counters["alerts"])


def test_no_state_is_read_or_written_and_no_merchant_is_told() -> None:
    world = World()
    deliver(world, records_of(*(features_of(a_transaction(f"t{n}"), n) for n in range(5))))
    assert len(world.decisions) == 5
    assert (world.states, world.entity_events) == ({}, [])
    assert "entities.get" not in world.calls
    assert world.calls.count("scorer.score") == 1


def test_more_decisions_of_a_card_than_a_transaction_holds_take_several() -> None:
    world = World()
    records = records_of(*(features_of(a_transaction(f"t{n:03d}"), n) for n in range(250)))
    assert deliver(world, records).failed == []
    assert len(world.decisions) == world.counters["decided"] == 250


def test_reviews_and_declines_are_raised_once_per_delivery_of_their_own_record() -> None:
    world = World()
    sent = [features_of(a_transaction(f"t{n}", amount_minor=n), n) for n in range(30)]
    deliver(world, records_of(*sent))
    alerting = {key for key in world.decisions if decision_of(world, key).decision != "approve"}
    assert 2 < len(alerting) < 28
    assert {stored.decision.transaction_id for stored in world.alerts} == alerting
    assert world.counters["alerts"] == len(alerting)


# --- redelivery and repeats --------------------------------------------------------------------------------------


def test_a_record_the_job_wrote_again_is_a_redelivery_whatever_it_says_now() -> None:
    """After a restart the job may have met its merchants' events in another order: the stored decision wins."""
    world = World()
    transaction = a_transaction()
    first = features_of(transaction, 17)
    again = msgspec.structs.replace(first, features={**first.features, CORE.names[0]: 123.0}, late=True)
    deliver(world, records_of(first))
    document, counters = world.decisions["t1"], Counter(world.counters)
    outcome = deliver(world, records_of(again, first=905))
    assert (outcome.failed, outcome.counts["redelivered"]) == ([], 1)
    assert (world.decisions["t1"], world.counters, world.effects) == (document, counters, set())
    assert [stored.document for stored in world.published] == [document] * 2


def test_a_record_written_twice_within_a_batch_is_decided_once_by_the_first() -> None:
    world = World()
    first = features_of(a_transaction(), 17)
    outcome = deliver(world, records_of(first, msgspec.structs.replace(first, late=True)))
    assert (outcome.failed, outcome.counts["redelivered"]) == ([], 1)
    assert not decision_of(world, "t1").late
    assert world.counters == Counter(decided=1, alerts=world.counters["alerts"])
    assert len(world.published) == 1


def test_a_decision_of_another_feature_set_is_only_published_again() -> None:
    world = World()
    deliver(world, records_of(features_of(a_transaction(), 17)))
    elsewhere = features_of(a_transaction(), 17, feature_set_id="another", features={})
    assert deliver(world, records_of(elsewhere, first=905)).failed == []


def test_a_duplicate_is_counted_once_and_gets_the_stored_decision() -> None:
    world = World()
    transaction = a_transaction()
    deliver(world, records_of(features_of(transaction, 17)))
    for first in (905, 906, 907):
        outcome = deliver(world, records_of(duplicate_of(transaction, 18), first=first))
        assert outcome.failed == []
    assert world.counters["duplicates"] == 1
    assert world.effects == {"transaction#t1#duplicate#shardId-000000000000:18:0"}
    deliver(world, records_of(duplicate_of(transaction, 19), first=910))
    assert (world.counters["duplicates"], world.counters["decided"]) == (2, 1)
    assert [stored.document for stored in world.published] == [world.decisions["t1"]] * 5


def test_a_duplicate_at_the_decisions_own_position_is_a_redelivery() -> None:
    world = World()
    deliver(world, records_of(features_of(a_transaction(), 17)))
    outcome = deliver(world, records_of(duplicate_of(a_transaction(), 17), first=905))
    assert (outcome.failed, outcome.counts["redelivered"]) == ([], 1)
    assert (world.counters["duplicates"], world.effects) == (0, set())
    assert len(world.published) == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first comes first", "duplicate comes first"])
def test_a_duplicate_beside_its_first_record_is_settled_with_it(order: tuple[int, int]) -> None:
    world = World()
    pair = (features_of(a_transaction(), 17), duplicate_of(a_transaction(), 18))
    assert deliver(world, records_of(*(pair[n] for n in order))).failed == []
    assert decision_of(world, "t1").stream_position == position(17)
    assert world.counters == Counter(decided=1, duplicates=1, alerts=world.counters["alerts"])


def test_a_duplicate_whose_first_record_is_not_decided_waits_and_is_never_decided_itself() -> None:
    world = World()
    other = features_of(a_transaction("t2", card_id="card-b"), 20)
    outcome = deliver(world, records_of(duplicate_of(a_transaction(), 18), other))
    assert outcome.failed == ["900"]
    assert outcome.alarms == []
    assert list(world.decisions) == ["t2"]
    assert (world.effects, world.objects) == (set(), {})
    deliver(world, records_of(features_of(a_transaction(), 17)))
    assert deliver(world, records_of(duplicate_of(a_transaction(), 18))).failed == []
    assert world.counters["duplicates"] == 1


def test_a_duplicate_with_another_payload_is_quarantined_as_it_was_published() -> None:
    world = World()
    deliver(world, records_of(features_of(a_transaction(), 17)))
    other = a_transaction(amount_minor=1)
    for first in (905, 906):
        assert deliver(world, records_of(duplicate_of(other, 18), first=first)).failed == []
    [kept] = world.objects.values()
    assert (kept.field, kept.rule) == ("transaction_id", "conflicting_duplicate")
    assert (kept.stream, kept.stream_position, kept.arrival_ms) == ("transactions", position(18), NOW_MS)
    assert kept.payload == encode_transaction(other)
    assert world.counters == Counter(decided=1, quarantined=1, alerts=world.counters["alerts"])
    assert len(world.published) == 1


def test_an_id_reused_on_another_card_is_decided_for_the_first_and_quarantined_for_the_other() -> None:
    """Neither card has seen the id before, so the job sends features for both."""
    world = World()
    first, other = features_of(a_transaction(), 17), features_of(a_transaction(card_id="card-b"), 12)
    assert deliver(world, records_of(first, other)).failed == []
    assert decision_of(world, "t1").card_id == "card-a"
    assert [kept.stream_position for kept in world.objects.values()] == [position(12)]
    assert deliver(world, records_of(other, first=905)).failed == []
    assert world.counters == Counter(decided=1, quarantined=1, alerts=world.counters["alerts"])


def test_an_id_the_job_has_forgotten_is_a_duplicate_all_the_same() -> None:
    world = World()
    deliver(world, records_of(features_of(a_transaction(), 17)))
    assert deliver(world, records_of(features_of(a_transaction(), 40), first=905)).failed == []
    assert world.counters == Counter(decided=1, duplicates=1, alerts=world.counters["alerts"])


class Raced(FakeLedger):
    """A decision under the id lands just before ours: the same id, on another shard."""

    def __init__(self, world: World, other: StoredDecision) -> None:
        super().__init__(world)
        self._other: StoredDecision | None = other

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        if self._other is not None:
            self._write(PutDecision(self._other, 0))
            self._other = None
        super().transact(writes, counts, token=token)


def test_a_decision_that_another_shard_commits_first_stands_and_the_cards_others_are_still_decided() -> None:
    elsewhere = World()
    deliver(elsewhere, records_of(features_of(a_transaction(card_id="card-b"), 12)))
    other = StoredDecision.from_document(elsewhere.decisions["t1"])
    world = World()
    records = records_of(features_of(a_transaction(), 17), features_of(a_transaction("t2"), 18))
    outcome = deliver(world, records, ledger=Raced(world, other))
    assert outcome.failed == []
    assert decision_of(world, "t1").card_id == "card-b"
    assert decision_of(world, "t2").card_id == "card-a"
    assert world.counters == Counter(decided=1, quarantined=1, alerts=world.counters["alerts"])


# --- rejected records --------------------------------------------------------------------------------------------


def test_a_rejected_record_is_announced_and_counted_once_under_the_lambda_engines_key() -> None:
    world = World()
    for first in (900, 905):
        assert deliver(world, records_of(a_mark(17), first=first)).failed == []
    assert world.counters == Counter(quarantined=1)
    assert world.effects == {"transaction-record#transactions#quarantined#shardId-000000000000:17:0"}
    [pointer] = world.pointers
    assert (pointer.key, pointer.field, pointer.rule) == (a_mark(17).key, "$", "not_json")
    assert world.objects == {}  # the job has stored it


def test_a_rejected_entity_event_has_its_own_counter() -> None:
    world = World()
    sent = (a_mark(17), a_mark(17, "entity-events"), a_mark(17, "dev-entity-events"))
    assert deliver(world, records_of(*sent)).failed == []
    assert world.counters == Counter(quarantined=1, entity_events_quarantined=2)
    assert "entity-event-record#entity-events#quarantined#shardId-000000000000:17:0" in world.effects


def test_a_mark_written_twice_within_a_batch_is_counted_once() -> None:
    world = World()
    assert deliver(world, records_of(a_mark(17), a_mark(17))).failed == []
    assert world.counters == Counter(quarantined=1)


@pytest.mark.parametrize("down", ["quarantine.send_message", "ledger.recorded", "ledger.transact"])
def test_a_mark_that_cannot_be_announced_fails_alone_and_is_not_counted(down: str) -> None:
    world = World(down={down})
    records = records_of(a_mark(17))
    assert deliver(world, records).failed == ["900"]
    assert world.counters["quarantined"] == 0
    world.down.clear()
    assert deliver(world, records).failed == []
    assert world.counters["quarantined"] == 1


# --- whose fault -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"\xff", "not a record of the features stream"),
        (b'{"kind":"other"}', "not a record of the features stream"),
        (features_of(a_transaction(), 1, payload='{"card_id": "card-secret"}'), "transaction_id: missing"),
        (DuplicateRecord(payload="no JSON", position=position(1), arrival_ms=NOW_MS), "not_json"),
        (features_of(a_transaction(), 1, feature_set_id="another"), "another"),
        (features_of(a_transaction(), 1, features={"amount": 1.0}), "not those of"),
        (a_mark(1, "clicks"), "clicks"),
    ],
    ids=["no text", "no kind", "no transaction", "no duplicate", "other set", "other names", "unknown stream"],
)
def test_a_record_that_does_not_fit_fails_with_an_alarm_and_is_never_quarantined(
    sent: FeatureStreamRecord | bytes, says: str
) -> None:
    world = World()
    other = features_of(a_transaction("t2", card_id="card-b"), 2)
    outcome = deliver(world, records_of(sent, other))
    assert outcome.failed == ["900"]
    [(reason, sequence_number)] = outcome.alarms
    assert reason.startswith("ContractMismatch")
    assert says in reason
    assert "card-secret" not in reason
    assert sequence_number == "900"
    assert list(world.decisions) == ["t2"]
    assert (world.objects, world.pointers) == ({}, [])


@pytest.mark.parametrize("down", ["decisions.get", "policies.current", "scorer.score", "ledger.transact"])
def test_a_port_that_is_down_fails_the_records_by_their_own_numbers_and_quarantines_nothing(down: str) -> None:
    world = World(down={down})
    records = records_of(
        features_of(a_transaction("t1"), 70),
        duplicate_of(a_transaction("t1"), 71),
        features_of(a_transaction("t2", card_id="card-b"), 72),
    )
    outcome = deliver(world, records)
    assert (outcome.failed, outcome.alarms) == (["900", "901", "902"], [])
    assert (world.decisions, world.objects, world.counters) == ({}, {}, Counter())
    world.down.clear()
    assert deliver(world, records).failed == []
    assert world.counters == Counter(decided=2, duplicates=1, alerts=world.counters["alerts"])


def test_a_stored_decision_that_cannot_be_read_fails_its_repeats_too() -> None:
    world = World(decisions={"t1": b'{"schema_version": 99}'})
    records = records_of(duplicate_of(a_transaction(), 18), features_of(a_transaction("t2", card_id="card-b"), 2))
    outcome = deliver(world, records)
    assert outcome.failed == ["900"]
    assert len(outcome.alarms) == 1
    assert sorted(world.decisions) == ["t1", "t2"]


def test_a_row_that_the_endpoint_refuses_fails_its_card_alone() -> None:
    world = World()
    scorer = FakeScorer(world, CORE)
    refused = features_of(a_transaction("b1", card_id="card-b"), 2)
    refused.features[CORE.names[0]] = 777.0
    scorer.refused_amounts = {777.0}
    records = records_of(features_of(a_transaction(), 1), refused, features_of(a_transaction("t2"), 3))
    assert deliver(world, records, scorer=scorer).failed == ["901"]
    assert sorted(world.decisions) == ["t1", "t2"]


def test_batches_are_worked_in_the_order_of_the_features_stream() -> None:
    world = World()
    first, other = features_of(a_transaction(), 99), features_of(a_transaction(card_id="card-b"), 1)
    deliver(world, list(reversed(records_of(first, other, first=999))))  # as text 1000 would come first
    assert decision_of(world, "t1").card_id == "card-a"


# --- labels that wait --------------------------------------------------------------------------------------------


def a_stored_label(**changes: object) -> StoredLabel:
    values: dict[str, object] = {
        "revision": 1,
        "is_fraud": True,
        "reported_at_ms": NOW_MS,
        "source": "customer",
        "history": b"[]",
        "merchant_id": None,
        "event_time_ms": None,
        "waiting": True,
    }
    return StoredLabel(**(values | changes))  # type: ignore[arg-type]


def completed(transaction: Transaction) -> Label:
    return Label(
        transaction_id=transaction.transaction_id,
        is_fraud=True,
        reported_at_ms=NOW_MS,
        source="customer",
        merchant_id=transaction.merchant_id,
        event_time_ms=transaction.event_time_ms,
    )


def test_a_label_that_waited_is_sent_again_with_whose_it_is_and_again_after_a_redelivery() -> None:
    world = World(labels={"t1": a_stored_label(), "t9": a_stored_label()})
    records = records_of(features_of(a_transaction(), 1))
    for count in (1, 2):
        outcome = deliver(world, records)
        assert (outcome.failed, outcome.counts["labels_completed"]) == ([], 1)
        assert world.labels_sent == [completed(a_transaction())] * count


def test_a_label_that_knows_whose_it_is_is_left_alone_and_one_of_a_refund_learns_of_it() -> None:
    known = a_stored_label(merchant_id="merchant-a", event_time_ms=a_transaction().event_time_ms, waiting=False)
    wrong = a_stored_label(merchant_id="elsewhere", event_time_ms=1, waiting=False)
    world = World(labels={"t1": known, "t2": a_stored_label(), "t3": wrong})
    sent = [features_of(a_transaction("t1"), 1), features_of(a_transaction("t2", type="refund"), 2)]
    deliver(world, records_of(*sent, features_of(a_transaction("t3"), 3)))
    assert world.labels_sent == [completed(a_transaction("t2")), completed(a_transaction("t3"))]


@pytest.mark.parametrize("down", ["labels.get", "label_publisher.publish"])
def test_decisions_whose_labels_cannot_be_completed_are_returned(down: str) -> None:
    world = World(labels={"t1": a_stored_label()}, down={down})
    records = records_of(
        features_of(a_transaction(), 1), features_of(a_transaction("t2", card_id="b", type="refund"), 2)
    )
    assert deliver(world, records).failed == ["900", "901"]
    world.down.clear()
    assert deliver(world, records).failed == []
    assert world.labels_sent == [completed(a_transaction())]


class RefusesSome(FakeLabelPublisher):
    def publish(self, labels: Sequence[Label]) -> None:
        raise NotPublished("refused", ["t1"])


def test_only_the_purchases_whose_labels_did_not_go_out_are_returned() -> None:
    world = World(labels={"t0": a_stored_label(), "t1": a_stored_label()})
    records = records_of(features_of(a_transaction("t0", card_id="b"), 1), features_of(a_transaction("t1"), 2))
    assert deliver(world, records, label_publisher=RefusesSome(world)).failed == ["901"]


def test_a_crash_between_commit_and_sending_does_not_lose_the_label() -> None:
    calls = World(labels={"t1": a_stored_label()})
    records = records_of(features_of(a_transaction(), 1))
    deliver(calls, records)
    for at, call in enumerate(calls.calls):
        world = World(labels={"t1": a_stored_label()}, fault=Fault(at, "crash", effect=True))
        with pytest.raises(Crash):
            deliver(world, records)
        world.fault = None
        assert deliver(world, records).failed == []
        assert completed(a_transaction()) in world.labels_sent, f"crash at {call}"


# --- failpoints and time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "decided", "published"), [("before_commit", 0, 0), ("after_commit", 3, 0), ("after_publish", 3, 3)]
)
def test_the_failpoints_lie_around_commit_and_publication(point: str, decided: int, published: int) -> None:
    def reach(name: str) -> None:
        if name == point:
            raise Crash

    world = World()
    with pytest.raises(Crash):
        deliver(world, records_of(*(features_of(a_transaction(f"t{n}"), n) for n in range(3))), reach=reach)
    assert (len(world.decisions), len(world.published)) == (decided, published)


def test_out_of_time_the_rest_is_returned_as_failed() -> None:
    world = World(seconds_per_call=1.0)
    records = records_of(a_mark(1), features_of(a_transaction(), 2), duplicate_of(a_transaction(), 3))
    service = features_service_on(world, longest_call_ms=2_000)
    outcome = service.score_batch(records, remaining_ms=4_500)
    assert outcome.failed
    assert any("OutOfTime" in reason for reason in outcome.failures)
    assert world.decisions == {}


def test_an_empty_batch_is_no_work() -> None:
    world = World()
    assert deliver(world, []).failed == []
    assert world.calls == []


def test_the_stream_of_a_prefixed_stack_keeps_its_prefix() -> None:
    world = World()
    deliver(world, records_of(features_of(a_transaction(), 17)))
    [record] = records_of(duplicate_of(a_transaction(amount_minor=1), 18), first=905)
    assert deliver(world, [msgspec.structs.replace(record, stream="dev-features")]).failed == []
    assert [kept.stream for kept in world.objects.values()] == ["dev-transactions"]
