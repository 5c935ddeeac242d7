"""The scoring service on fakes: what stands afterwards, whatever happened on the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from lambdas.ports import ConditionFailed, NotPublished
from lambdas.writes import PutDecision, PutState, StoredDecision, StoredState, Write
from stream_features.codec import unpack
from stream_features.currency import base_amount
from stream_features.decision import Decision, decode_decision
from stream_features.feature_sets import feature_set
from stream_features.history import observe_history
from stream_features.transaction import Transaction, payload_sha256
from tests.unit.lambdas.deliveries import (
    REMAINING_MS,
    a_record,
    a_transaction,
    deliver,
    position,
    records_of,
    run_to_the_end,
)
from tests.unit.lambdas.fakes import (
    NOW_MS,
    POLICY,
    TTL_DAYS,
    Crash,
    FakeLedger,
    FakePublisher,
    FakeScorer,
    World,
    score_of,
    service_on,
)

MINUTE_MS = 60_000


def decision_of(world: World, transaction_id: str) -> Decision:
    return decode_decision(world.decisions[transaction_id])


def purchases(count: int, card_id: str = "card-a", prefix: str = "t") -> list[Transaction]:
    """One a second, amounts 1, 2, 3… dollars."""
    return [
        a_transaction(
            f"{prefix}{number:04d}",
            card_id=card_id,
            event_time_ms=NOW_MS - 3_600_000 + number * 1_000,
            amount_minor=100 * (number + 1),
        )
        for number in range(count)
    ]


def published_ids(world: World) -> list[str]:
    return [stored.decision.transaction_id for stored in world.published]


# --- the ordinary batch ------------------------------------------------------------------------------------------


def test_a_decision_carries_everything_the_contract_names() -> None:
    world = World()
    transaction = a_transaction(
        country="DE", latitude=52.5, longitude=13.4, channel="pos", merchant_category="food", auth_result="approved"
    )
    outcome = deliver(service_on(world), [a_record(17, transaction)])
    assert outcome.failed == []
    decision = decision_of(world, "t1")
    features = feature_set("core")
    [(_, observation)] = observe_history([transaction], features)
    assert {name: getattr(decision, name) for name in Transaction.__struct_fields__} == {
        name: getattr(transaction, name) for name in Transaction.__struct_fields__
    }
    assert list(decision.features) == list(features.names)
    for value, expected in zip(decision.features.values(), observation.values, strict=True):
        assert value == expected or (value is None and math.isnan(expected))
    assert decision.score == score_of(observation.values)
    assert decision.decision == POLICY.decide(decision.score)
    assert decision.stream_position == position(17)
    assert (decision.feature_set_id, decision.model_version, decision.variant, decision.policy_version) == (
        features.feature_set_id,
        "model-1",
        "AllTraffic",
        "p1",
    )
    assert (decision.engine, decision.arrival_ms, decision.scored_at_ms) == ("lambda", NOW_MS, NOW_MS)
    assert (decision.late, decision.degraded, decision.rules) == (False, False, [])
    assert decision.payload_sha256 == payload_sha256(transaction)
    assert world.decision_expiry["t1"] == NOW_MS // 1000 + TTL_DAYS * 86_400
    assert [stored.document for stored in world.published] == [world.decisions["t1"]]


def test_several_records_of_one_card_see_each_other_in_arrival_order() -> None:
    world = World()
    deliver(service_on(world), records_of(*purchases(5)))
    assert [decision_of(world, f"t{n:04d}").features["card_count_1h"] for n in range(5)] == [1, 2, 3, 4, 5]
    assert world.states["card#card-a"].version == 1
    assert world.counters["decided"] == 5
    assert len([call for call in world.calls if call == "scorer.score"]) == 1


def test_a_batch_handed_over_out_of_order_is_worked_in_the_order_of_its_sequence_numbers() -> None:
    straight, shuffled = World(), World()
    records = records_of(*purchases(12), first=95)  # 95..106: as text 100 would come before 95
    deliver(service_on(straight), records)
    deliver(service_on(shuffled), sorted(records, key=lambda record: record.item_identifier))
    assert shuffled.decisions == straight.decisions


def test_the_batches_cut_does_not_show_in_state_or_decisions() -> None:
    whole, cut = World(), World()
    mixed = [t for pair in zip(purchases(20, "card-a", "a"), purchases(20, "card-b", "b"), strict=True) for t in pair]
    records = records_of(*mixed)
    run_to_the_end(whole, records, batch_size=40)
    run_to_the_end(cut, records, batch_size=3)
    assert cut.decisions == whole.decisions
    assert {key: state.packed for key, state in cut.states.items()} == {
        key: state.packed for key, state in whole.states.items()
    }
    assert cut.counters == whole.counters


def test_reviews_and_declines_are_counted_as_alerts_and_raised() -> None:
    world = World()
    deliver(service_on(world), records_of(*purchases(60)))
    alerting = [key for key in world.decisions if decision_of(world, key).decision != "approve"]
    assert 5 < len(alerting) < 55
    assert sorted(stored.decision.transaction_id for stored in world.alerts) == sorted(alerting)
    assert world.counters["alerts"] == len(alerting)
    assert all(bool(decision_of(world, key).reasons) == (key in alerting) for key in world.decisions)


def test_refunds_are_decided_and_leave_the_state_alone() -> None:
    world = World()
    service = service_on(world)
    deliver(service, records_of(a_transaction("r1", type="refund")))
    assert world.states == {}
    deliver(service, records_of(*purchases(2), first=10))
    before = world.states["card#card-a"]
    deliver(service, records_of(a_transaction("r2", type="refund"), a_transaction("r3", type="reversal"), first=20))
    assert world.states["card#card-a"] == before
    assert sorted(world.decisions) == ["r1", "r2", "r3", "t0000", "t0001"]


def test_a_late_transaction_is_marked_and_counted() -> None:
    #   NOW-30min          NOW-20min
    #      | late (2nd)       | first
    world = World()
    first = a_transaction("first", event_time_ms=NOW_MS - 20 * MINUTE_MS)
    late = a_transaction("late", event_time_ms=NOW_MS - 30 * MINUTE_MS)
    deliver(service_on(world), records_of(first, late))
    assert (decision_of(world, "first").late, decision_of(world, "late").late) == (False, True)
    assert world.counters == Counter(decided=2, late=1, alerts=world.counters["alerts"])


def test_complete_from_stays_with_the_state() -> None:
    world = World()
    service = service_on(world)
    deliver(service, records_of(*purchases(1)))
    state = world.states["card#card-a"]
    world.states["card#card-a"] = StoredState(state.version, state.layout, state.packed, NOW_MS - 7_000_000)
    deliver(service, records_of(*purchases(3)[1:], first=10))
    assert world.states["card#card-a"].complete_from_ms == NOW_MS - 7_000_000
    assert world.states["card#card-a"].version == 2


@pytest.mark.parametrize("count", [98, 99, 100, 250])
def test_more_decisions_of_a_card_than_a_transaction_holds_take_several_in_order(count: int) -> None:
    world = World()
    deliver(service_on(world), records_of(*purchases(count), *purchases(3, "card-b", "b")))
    assert len(world.decisions) == count + 3
    assert world.states["card#card-a"].version == math.ceil(count / 98)
    assert world.counters["decided"] == count + 3
    expected = World()
    run_to_the_end(expected, records_of(*purchases(count)), batch_size=7)
    assert world.states["card#card-a"].packed == expected.states["card#card-a"].packed


def test_an_empty_batch_is_no_work() -> None:
    world = World()
    assert deliver(service_on(world), []).failed == []
    assert world.calls == []


# --- redelivery and duplicates -----------------------------------------------------------------------------------


def test_a_redelivery_publishes_the_stored_decision_and_computes_nothing() -> None:
    world = World()
    records = records_of(*purchases(30))
    deliver(service_on(world), records)
    before = (dict(world.decisions), dict(world.states), Counter(world.counters))
    alerts, calls = len(world.alerts), len(world.calls)
    outcome = deliver(service_on(world), records)
    assert (world.decisions, world.states, world.counters) == before
    assert outcome.counts["redelivered"] == 30
    assert len(world.published) == 60
    assert {stored.document for stored in world.published} == set(world.decisions.values())
    assert len(world.alerts) == 2 * alerts  # the first delivery may have died before raising them
    assert "scorer.score" not in world.calls[calls:]
    assert "entities.get" not in world.calls[calls:]


def test_a_duplicate_is_counted_once_however_often_it_is_delivered_and_gets_the_stored_decision() -> None:
    world = World()
    transaction = a_transaction()
    deliver(service_on(world), [a_record(1, transaction)])
    document, state = world.decisions["t1"], world.states["card#card-a"]
    for _ in range(3):
        assert deliver(service_on(world), [a_record(5, transaction)]).failed == []
    assert world.counters["duplicates"] == 1
    assert world.effects == {"transaction#t1#duplicate#shardId-000000000000:5:0"}
    deliver(service_on(world), [a_record(6, transaction)])
    assert world.counters["duplicates"] == 2
    assert world.counters["decided"] == 1
    assert (world.decisions["t1"], world.states["card#card-a"]) == (document, state)
    assert [stored.document for stored in world.published] == [document] * 5
    assert len(world.alerts) == (decision_of(world, "t1").decision != "approve")


def test_duplicates_inside_one_batch_are_decided_once_and_counted_each() -> None:
    world = World()
    transaction = a_transaction()
    other = a_transaction("t2", event_time_ms=NOW_MS)
    outcome = deliver(service_on(world), records_of(transaction, transaction, other, transaction))
    assert outcome.failed == []
    assert world.counters["decided"] == 2
    assert world.counters["duplicates"] == 2
    assert decision_of(world, "t1").stream_position == position(1)
    assert decision_of(world, "t2").features["card_count_1h"] == 2
    assert sorted(published_ids(world)) == ["t1", "t2"]


def test_a_conflicting_duplicate_is_quarantined_and_the_first_decision_stays() -> None:
    world = World()
    first, other = a_transaction(amount_minor=100), a_transaction(amount_minor=101, card_id="card-b")
    service = service_on(world)
    deliver(service, [a_record(1, first)])
    document = world.decisions["t1"]
    for _ in range(2):
        assert deliver(service, [a_record(2, other)]).failed == []
    assert world.decisions == {"t1": document}
    assert "card#card-b" not in world.states
    [kept] = world.objects.values()
    assert (kept.field, kept.rule, kept.stream_position) == ("transaction_id", "conflicting_duplicate", position(2))
    assert kept.payload == a_record(2, other).payload
    assert world.counters["quarantined"] == 1
    assert world.counters["duplicates"] == 0
    assert len(world.published) == 1


def test_a_conflicting_duplicate_inside_one_batch_loses_to_the_first_position() -> None:
    world = World()
    first, other = a_transaction(amount_minor=100), a_transaction(amount_minor=101)
    deliver(service_on(world), records_of(first, other, first))
    assert decision_of(world, "t1").amount_minor == 100
    assert [kept.stream_position for kept in world.objects.values()] == [position(2)]
    assert world.counters == Counter(decided=1, quarantined=1, duplicates=1, alerts=world.counters["alerts"])


def test_repeats_fail_with_the_record_they_repeat_and_settle_with_it() -> None:
    world = World(down={"ledger.transact"})
    first, other = a_transaction(amount_minor=100), a_transaction(amount_minor=101, card_id="card-b")
    records = records_of(first, first, other)
    assert deliver(service_on(world), records).failed == ["1", "2", "3"]
    assert (world.effects, world.objects) == (set(), {})
    world.down.clear()
    assert deliver(service_on(world), records).failed == []
    assert world.counters == Counter(decided=1, duplicates=1, quarantined=1, alerts=world.counters["alerts"])


def test_a_redelivered_record_is_known_by_its_position_even_if_its_hash_would_differ_today() -> None:
    """A new optional field changes canonical JSON; what was decided before must not turn into a conflict."""
    world = World()
    service = service_on(world)
    record = a_record(1, a_transaction())
    deliver(service, [record])
    document = world.decisions["t1"].replace(payload_sha256(a_transaction()).encode(), b"f" * 64)
    world.decisions["t1"] = document
    assert deliver(service, [record]).failed == []
    assert world.objects == {}
    assert world.published[-1].document == document


# --- other writers -----------------------------------------------------------------------------------------------


class RacedLedger(FakeLedger):
    """Another writer's transaction lands just before ours, as often as it has writes left."""

    def __init__(self, world: World, others: list[list[Write]]) -> None:
        super().__init__(world)
        self._others = others
        self._of = world

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        if self._others:
            for write in self._others.pop(0):
                self._write(write)
        super().transact(writes, counts, token=token)


def as_another_writer_would(world: World, records: list[Transaction], first: int) -> list[Write]:
    """What committing these on top of the world would write."""
    other = World(decisions=dict(world.decisions), states=dict(world.states))
    deliver(service_on(other), records_of(*records, first=first))
    writes: list[Write] = [
        PutState(entity, state.version - 1, state.layout, state.packed, None, 0)
        for entity, state in other.states.items()
        if world.states.get(entity) != state
    ]
    new = other.decisions.keys() - world.decisions.keys()
    return writes + [PutDecision(StoredDecision.from_document(other.decisions[key]), 0) for key in sorted(new)]


def test_a_card_that_meets_another_writer_starts_again_and_sees_what_was_written() -> None:
    world = World()
    history = purchases(6)
    racing = as_another_writer_would(world, history[:2], first=1)
    service = service_on(world, ledger=RacedLedger(world, [racing]))
    outcome = deliver(service, records_of(*history[2:], *purchases(2, "card-b", "b"), first=3))
    assert outcome.failed == []
    expected = World()
    run_to_the_end(expected, records_of(*history, *purchases(2, "card-b", "b")))
    assert world.decisions == expected.decisions
    assert world.states["card#card-a"].packed == expected.states["card#card-a"].packed
    assert world.counters["decided"] == 6  # the other writer counted its own two


def test_our_own_records_committed_by_an_earlier_delivery_meanwhile_are_redeliveries() -> None:
    world = World()
    history = purchases(4)
    zombie = as_another_writer_would(world, history[:3], first=1)
    outcome = deliver(service_on(world, ledger=RacedLedger(world, [zombie])), records_of(*history))
    assert outcome.failed == []
    assert outcome.counts["redelivered"] == 3
    expected = World()
    run_to_the_end(expected, records_of(*history))
    assert world.decisions == expected.decisions
    assert sorted(published_ids(world)) == [f"t{n:04d}" for n in range(4)]


def test_an_id_decided_meanwhile_from_another_position_makes_ours_a_duplicate() -> None:
    world = World()
    transaction = a_transaction()
    racing = as_another_writer_would(world, [transaction], first=900)
    assert deliver(service_on(world, ledger=RacedLedger(world, [racing])), [a_record(1, transaction)]).failed == []
    assert decision_of(world, "t1").stream_position == position(900)
    assert world.counters == Counter(duplicates=1)


def test_a_card_that_meets_another_writer_twice_fails_alone() -> None:
    world = World()
    history = purchases(6)
    first = as_another_writer_would(world, history[:1], first=1)
    interim = World()
    deliver(service_on(interim), records_of(*history[:1]))
    second = as_another_writer_would(interim, history[1:2], first=2)
    # The pack of both cards meets the first write; then alone, card-a; then card-a again the second.
    ledger = RacedLedger(world, [first, [], [], second])
    outcome = deliver(service_on(world, ledger=ledger), records_of(*history[2:], *purchases(2, "card-b", "b"), first=3))
    assert outcome.failed == ["3", "4", "5", "6"]
    assert outcome.alarms == []
    assert sorted(published_ids(world)) == ["b0000", "b0001"]
    assert run_to_the_end(world, records_of(*history[2:], first=3)) == 1
    expected = World()
    run_to_the_end(expected, records_of(*history))
    assert world.states["card#card-a"].packed == expected.states["card#card-a"].packed


def test_a_long_cards_committed_part_stands_when_a_later_part_meets_another_writer() -> None:
    world = World()

    class SecondPartRefused(FakeLedger):
        """The second and later transactions of this delivery are cancelled."""

        seen = 0

        def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
            self.seen += 1
            if self.seen > 1:
                raise ConditionFailed("another writer")
            super().transact(writes, counts, token=token)

    records = records_of(*purchases(150))
    outcome = deliver(service_on(world, ledger=SecondPartRefused(world)), records)
    assert outcome.failed == [str(n) for n in range(99, 151)]
    assert len(world.decisions) == 98
    assert len(published_ids(world)) == 98
    assert unpack(world.states["card#card-a"].packed).newest_ms == NOW_MS - 3_600_000 + 97_000
    run_to_the_end(world, records)
    expected = World()
    run_to_the_end(expected, records, batch_size=1)
    assert world.decisions == expected.decisions
    assert world.counters == expected.counters


# --- whose fault -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "field", "rule"),
    [
        (b"", "$", "empty"),
        (b"\xff\xfe", "$", "not_utf8"),
        (b'{"transaction_id": "x"}', "event_time_ms", "missing"),
        (b"[" * 100_000, "$", "too_deep"),
    ],
)
def test_poison_in_the_middle_is_quarantined_and_its_neighbours_are_decided(
    payload: bytes, field: str, rule: str
) -> None:
    world = World()
    records = records_of(a_transaction("t1"), payload, a_transaction("t2", event_time_ms=NOW_MS))
    for _ in range(2):
        outcome = deliver(service_on(world), records)
        assert outcome.failed == []
    assert sorted(world.decisions) == ["t1", "t2"]
    [kept] = world.objects.values()
    assert (kept.payload, kept.field, kept.rule) == (payload, field, rule)
    assert (kept.stream, kept.stream_position, kept.arrival_ms) == ("transactions", position(2), NOW_MS)
    assert world.counters["quarantined"] == 1
    assert world.effects == {"transaction-record#transactions#quarantined#shardId-000000000000:2:0"}
    assert len(world.pointers) == 1  # counted means stored and queued: not done again


@pytest.mark.parametrize("down", ["quarantine.put_object", "quarantine.send_message", "ledger.recorded"])
def test_a_record_that_cannot_be_quarantined_fails_alone_and_is_not_counted(down: str) -> None:
    world = World(down={down})
    records = records_of(a_transaction("t1"), b"poison", a_transaction("t2", card_id="card-b"))
    assert deliver(service_on(world), records).failed == ["2"]
    assert sorted(world.decisions) == ["t1", "t2"]
    assert world.counters["quarantined"] == 0
    world.down.clear()
    assert deliver(service_on(world), records).failed == []
    assert world.counters["quarantined"] == 1


@pytest.mark.parametrize("down", ["decisions.get", "entities.get", "policies.current", "scorer.score"])
def test_a_port_that_is_down_fails_the_records_and_quarantines_nothing(down: str) -> None:
    world = World(down={down})
    records = records_of(*purchases(3), *purchases(2, "card-b", "b"))
    outcome = deliver(service_on(world), records)
    assert outcome.failed == ["1", "2", "3", "4", "5"]
    assert outcome.alarms == []
    assert (world.decisions, world.states, world.objects, world.counters) == ({}, {}, {}, Counter())
    world.down.clear()
    assert deliver(service_on(world), records).failed == []
    assert world.counters["decided"] == 5


@pytest.mark.parametrize("down", ["publisher.publish", "alerts.raise_alerts"])
def test_what_was_committed_but_not_sent_is_sent_by_the_redelivery(down: str) -> None:
    world = World(down={down})
    records = records_of(*purchases(30))
    failed = deliver(service_on(world), records).failed
    assert failed
    world.down.clear()
    assert deliver(service_on(world), records).failed == []
    assert world.counters["decided"] == 30
    assert set(published_ids(world)) == set(world.decisions)
    alerting = {key for key in world.decisions if decision_of(world, key).decision != "approve"}
    assert {stored.decision.transaction_id for stored in world.alerts} == alerting


class PartlyRefusing(FakePublisher):
    """Two transactions do not go out."""

    def publish(self, decisions: Sequence[StoredDecision]) -> None:
        super().publish([stored for stored in decisions if stored.decision.transaction_id not in {"b0001", "c0000"}])
        raise NotPublished("throttled", {"b0001", "c0000"})


def test_only_unpublished_records_and_later_ones_of_their_cards_fail() -> None:
    world = World()
    records = records_of(*purchases(2, "card-a", "a"), *purchases(3, "card-b", "b"), *purchases(1, "card-c", "c"))
    outcome = deliver(service_on(world, publisher=PartlyRefusing(world)), records)
    assert outcome.failed == ["4", "5", "6"]
    assert sorted(published_ids(world)) == ["a0000", "a0001", "b0000", "b0002"]


def corrupt(world: World, entity: str) -> None:
    state = world.states[entity]
    packed = bytearray(state.packed)
    packed[len(packed) // 2] ^= 0xFF
    world.states[entity] = StoredState(state.version, state.layout, bytes(packed), state.complete_from_ms)


def test_corrupt_state_fails_its_card_alone_and_raises_an_alarm() -> None:
    world = World()
    service = service_on(world)
    deliver(service, records_of(*purchases(2), *purchases(2, "card-b", "b")))
    corrupt(world, "card#card-a")
    before = world.states["card#card-a"]
    more = records_of(*purchases(4)[2:], *purchases(4, "card-b", "b")[2:], first=10)
    outcome = deliver(service, more)
    assert outcome.failed == ["10", "11"]
    [(reason, sequence_number)] = outcome.alarms
    assert reason.startswith("StateCorrupt")
    assert "card-a" not in reason
    assert sequence_number == "10"
    assert world.states["card#card-a"] == before
    assert decision_of(world, "b0003").features["card_count_1h"] == 4
    assert world.objects == {}


def test_a_state_of_another_layout_fails_its_card_and_raises_an_alarm() -> None:
    world = World()
    service = service_on(world)
    deliver(service, records_of(*purchases(1)))
    state = world.states["card#card-a"]
    world.states["card#card-a"] = StoredState(state.version, "card-0-other", state.packed)
    outcome = deliver(service, records_of(*purchases(2)[1:], first=10))
    assert outcome.failed == ["10"]
    assert "card-0-other" in outcome.alarms[0][0]


def test_a_stored_decision_that_cannot_be_read_fails_its_card_and_raises_an_alarm() -> None:
    world = World(decisions={"t0001": b'{"schema_version": 99}'})
    outcome = deliver(service_on(world), records_of(*purchases(3), *purchases(1, "card-b", "b")))
    assert outcome.failed == ["1", "2", "3"]
    assert len(outcome.alarms) == 1
    assert sorted(world.decisions) == ["b0000", "t0001"]


def test_a_model_that_does_not_fit_fails_the_cards_and_raises_an_alarm() -> None:
    world = World()
    scorer = FakeScorer(world, feature_set("core"))
    scorer.mismatch = True
    outcome = deliver(service_on(world, scorer=scorer), records_of(*purchases(2)))
    assert outcome.failed == ["1", "2"]
    assert outcome.alarms[0][0].startswith("ContractMismatch")
    assert (world.decisions, world.objects) == ({}, {})


def test_a_row_that_the_endpoint_refuses_fails_its_card_alone() -> None:
    world = World()
    scorer = FakeScorer(world, feature_set("core"))
    transactions = [
        *purchases(2),
        a_transaction("b1", card_id="card-b", amount_minor=777),
        *purchases(1, "card-c", "c"),
    ]
    scorer.refused_amounts = {float(base_amount(777, "USD", NOW_MS))}
    outcome = deliver(service_on(world, scorer=scorer), records_of(*transactions))
    assert outcome.failed == ["3"]
    assert len(outcome.alarms) == 1
    assert sorted(world.decisions) == ["c0000", "t0000", "t0001"]


def test_a_fault_in_our_own_code_is_not_swallowed() -> None:
    class Broken(FakeScorer):
        def score(self, rows: Sequence[tuple[float, ...]], *, explain_from: float, once: bool = False) -> list[object]:  # type: ignore[override]
            raise ZeroDivisionError

    world = World()
    with pytest.raises(ZeroDivisionError):
        deliver(service_on(world, scorer=Broken(world, feature_set("core"))), records_of(a_transaction()))


# --- time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remaining_ms", range(6_000, 20_000, 500))
def test_out_of_time_the_rest_is_returned_as_failed_and_settles_later(remaining_ms: int) -> None:
    world = World(seconds_per_call=1.0)
    records = records_of(*purchases(120), b"poison", *purchases(60, "card-b", "b"), a_transaction("t0000"))
    begun_s = world.clock_s
    # Between two looks at the time the service makes at most two calls: that is what is kept back here.
    service = service_on(world, longest_call_ms=2_000)
    outcome = deliver(service, records, remaining_ms)
    assert world.clock_s - begun_s <= remaining_ms / 1000 - 2
    if outcome.failed:
        assert any("OutOfTime" in reason for reason in outcome.failures)
    world.seconds_per_call = 0.0
    run_to_the_end(world, records, batch_size=len(records))
    expected = World()
    run_to_the_end(expected, records, batch_size=len(records))
    assert world.decisions == expected.decisions
    assert world.counters == expected.counters
    assert deliver(service, records, REMAINING_MS).failed == []


# --- failpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "decided", "published"), [("before_commit", 0, 0), ("after_commit", 3, 0), ("after_publish", 3, 3)]
)
def test_the_failpoints_lie_around_commit_and_publication(point: str, decided: int, published: int) -> None:
    def reach(name: str) -> None:
        if name == point:
            raise Crash

    world = World()
    with pytest.raises(Crash):
        deliver(service_on(world, reach=reach), records_of(*purchases(3)))
    assert (len(world.decisions), len(world.published)) == (decided, published)
