"""update_entities on fakes: what stands afterwards, for any order, repetition and cut of the events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambdas.commit import MAX_ENTITY_EFFECTS
from lambdas.merchants import effect_of, stored_merchant
from lambdas.ports import ConditionFailed, NotPublished
from lambdas.records import UserRecord
from lambdas.writes import PutState, StoredLabel, StoredState, Write
from stream_features.entity_event import EntityEvent, FraudEntry
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.label import Label
from stream_features.merchant_codec import pack_merchant
from stream_features.merchant_state import MerchantState
from tests.unit.lambdas.deliveries import REMAINING_MS
from tests.unit.lambdas.fakes import NOW_MS, TTL_DAYS, FakeLabelPublisher, FakeLedger, World
from tests.unit.lambdas.loop import event_records, record_on
from tests.unit.lambdas.processes import LABEL_TTL_DAYS, entities_on

CORE = feature_set("core")
SETS = (CORE, feature_set("handbook"))
DAY_S = 86_400
HOUR_MS = 3_600_000


def decided(transaction_id: str, merchant_id: str = "m", ago_ms: int = 0, amount: int = 100) -> EntityEvent:
    return EntityEvent(
        kind="decided",
        merchant_id=merchant_id,
        transaction_id=transaction_id,
        event_time_ms=NOW_MS - ago_ms,
        amount_base=amount,
    )


def labelled(transaction_id: str, revision: int, *frauds: FraudEntry, merchant_id: str = "m") -> EntityEvent:
    return EntityEvent(
        kind="label",
        merchant_id=merchant_id,
        transaction_id=transaction_id,
        event_time_ms=NOW_MS,
        revision=revision,
        frauds=list(frauds),
    )


def apply(world: World, records: Sequence[UserRecord], features: FeatureSet = CORE) -> list[str]:
    return entities_on(world, features=features).apply_batch(records, remaining_ms=REMAINING_MS).failed


def state_of(world: World, merchant_id: str = "m", features: FeatureSet = CORE) -> MerchantState:
    return stored_merchant(features, world.states[f"merchant#{merchant_id}"])


def expected_bytes(features: FeatureSet, events: Sequence[EntityEvent], merchant_id: str) -> bytes:
    """Each decided event once, of each label the highest revision: the slow way."""
    layout = features.merchant_layout
    assert layout is not None
    state = MerchantState.empty()
    newest: dict[str, EntityEvent] = {}
    seen: set[str] = set()
    for event in events:
        if event.merchant_id != merchant_id:
            continue
        if event.kind == "decided" and event.transaction_id not in seen:
            seen.add(event.transaction_id)
            state.add(layout, event.event_time_ms, event.amount_base)
        if event.kind == "label" and newest.get(event.transaction_id, labelled("", 0)).revision < event.revision:
            newest[event.transaction_id] = event
    for event in newest.values():
        for fraud in event.frauds:
            state.add_fraud(layout, fraud.event_time_ms, fraud.effective_ms, fraud.delta)
    return pack_merchant(state)


# --- any order, any cut ------------------------------------------------------------------------------------------

REPORTS = tuple(NOW_MS - hours * HOUR_MS for hours in (3, 30, 200))


@st.composite
def histories(draw: st.DrawFn) -> list[EntityEvent]:
    """Events of two merchants as the functions would publish them: revisions grow, the first report only gets older."""
    events: list[EntityEvent] = []
    for number in range(draw(st.integers(1, 8))):
        merchant_id = draw(st.sampled_from(["m", "n"]))
        ago_ms = draw(st.integers(0, 50 * 24)) * HOUR_MS + draw(st.integers(0, 90_000))
        events.append(decided(f"t{number}", merchant_id, ago_ms, draw(st.integers(0, 10**6))))
        for revision in range(1, draw(st.integers(0, 3)) + 1):
            frauds = [FraudEntry(NOW_MS - ago_ms, REPORTS[revision - 1], 1)]
            if draw(st.booleans()):
                frauds.append(FraudEntry(NOW_MS - ago_ms, NOW_MS + 60_000 * revision, -1))
            events.append(labelled(f"t{number}", revision, *frauds, merchant_id=merchant_id))
    return events


@settings(max_examples=60)
@given(histories(), st.data())
def test_merchants_bytes_do_not_depend_on_order_repetition_or_batches(
    events: list[EntityEvent], data: st.DataObject
) -> None:
    features = data.draw(st.sampled_from(SETS))
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=6))
    delivered = data.draw(st.permutations([*events, *repeated]))
    size = data.draw(st.integers(1, len(delivered)))
    world = World()
    records = event_records(delivered)
    for start in range(0, len(records), size):
        assert apply(world, records[start : start + size], features) == []
    for merchant_id in {event.merchant_id for event in events}:
        assert world.states[f"merchant#{merchant_id}"].packed == expected_bytes(features, events, merchant_id)


# --- once --------------------------------------------------------------------------------------------------------


def test_a_decided_event_applies_once() -> None:
    world = World()
    records = event_records([decided("t1"), decided("t1"), decided("t2")])
    apply(world, records)
    assert sum(state_of(world).fine.counts) == 2
    before = world.states["merchant#m"]
    assert apply(world, records) == []
    assert world.states["merchant#m"] == before  # not even another version


def test_a_higher_revision_replaces_the_entries_and_a_lower_or_equal_one_is_ignored() -> None:
    world = World()
    # both so late that no window looks at the purchase before they take effect
    first, second = (FraudEntry(NOW_MS, NOW_MS + days * 24 * HOUR_MS, 1) for days in (20, 30))
    apply(world, event_records([labelled("t1", 2, first)]))
    stands = state_of(world).frauds.keys
    apply(world, event_records([labelled("t1", 1, second), labelled("t1", 2, second)]))
    assert state_of(world).frauds.keys == stands
    apply(world, event_records([labelled("t1", 3, second)]))
    assert state_of(world).frauds.keys != stands
    assert state_of(world).frauds.nets == [1]
    apply(world, event_records([labelled("t1", 4)]))
    assert state_of(world).frauds.nets == []
    assert world.revised[effect_of(labelled("t1", 4))].revision == 4


def test_of_several_revisions_in_one_batch_the_highest_applies() -> None:
    world = World()
    fraud = FraudEntry(NOW_MS, NOW_MS + HOUR_MS, 1)
    apply(world, event_records([labelled("t1", 1, fraud), labelled("t1", 3), labelled("t1", 2, fraud)]))
    assert world.revised[effect_of(labelled("t1", 3))].revision == 3
    assert "merchant#m" not in world.states  # nothing stands, so nothing is written


def test_an_event_that_changes_nothing_leaves_its_mark_only() -> None:
    world = World()
    layout = CORE.merchant_layout
    assert layout is not None
    apply(world, event_records([decided("t1")]))
    loaded = stored_merchant(CORE, world.states["merchant#m"])
    world.states["merchant#m"] = StoredState(7, layout.layout_id, pack_merchant(loaded), complete_from_ms=NOW_MS + 1)
    apply(world, event_records([decided("t2", ago_ms=5)]))  # the bootstrap has loaded everything before
    assert world.states["merchant#m"].version == 7
    assert effect_of(decided("t2")) in world.effects


def test_items_expire_by_the_wall_clock_of_their_arrival() -> None:
    world = World()
    apply(world, event_records([decided("t1", ago_ms=20 * 24 * HOUR_MS), labelled("t1", 1)]))
    assert world.expiry == {
        "merchant#m": NOW_MS // 1000 + TTL_DAYS * DAY_S,
        "merchant#m#t1#decided": NOW_MS // 1000 + TTL_DAYS * DAY_S,
        "merchant#m#t1#label": NOW_MS // 1000 + LABEL_TTL_DAYS * DAY_S,
    }


# --- many and busy merchants -------------------------------------------------------------------------------------


def test_a_merchant_with_more_effects_than_a_transaction_holds_takes_several_in_order() -> None:
    world = World()
    events = [decided(f"t{n:04d}", ago_ms=n) for n in range(2 * MAX_ENTITY_EFFECTS + 5)]
    assert apply(world, event_records(events)) == []
    assert world.calls.count("ledger.transact") == 3
    assert world.states["merchant#m"].version == 3
    assert world.states["merchant#m"].packed == expected_bytes(CORE, events, "m")


def test_a_hot_merchant_stays_one_item_under_the_cap_batch_after_batch() -> None:
    """A fifth of the traffic of 40 days, labels included, in batches as a shard delivers them."""
    world = World()
    events: list[EntityEvent] = []
    for n in range(4_000):
        merchant_id = "hot" if n % 5 == 0 else f"m{n % 97}"
        ago_ms = (4_000 - n) * 40 * 24 * HOUR_MS // 4_000
        events.append(decided(f"t{n}", merchant_id, ago_ms, amount=n))
        if n % 10 == 0:
            fraud = FraudEntry(NOW_MS - ago_ms, NOW_MS - ago_ms + 8 * 24 * HOUR_MS, 1)
            events.append(labelled(f"t{n}", 1, fraud, merchant_id=merchant_id))
    records = event_records(events)
    for start in range(0, len(records), 500):
        assert apply(world, records[start : start + 500]) == []
    hot = [entity for entity in world.states if entity == "merchant#hot"]
    assert len(hot) == 1
    assert world.states["merchant#hot"].packed == expected_bytes(CORE, events, "hot")
    assert len(world.states["merchant#hot"].packed) <= 64_000


def test_small_merchants_share_transactions() -> None:
    world = World()
    apply(world, event_records([decided(f"t{n}", merchant_id=f"m{n}") for n in range(60)]))
    assert world.calls == ["effects.get", "entities.get", "ledger.transact", "ledger.transact", "labels.get"]


class AnotherWriter(FakeLedger):
    """Writes the state of merchant `m` first, `times` times."""

    def __init__(self, world: World, times: int) -> None:
        super().__init__(world)
        self.times = times

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        if self.times and any(isinstance(write, PutState) and write.entity == "merchant#m" for write in writes):
            self.times -= 1
            stored = self._world.states["merchant#m"]
            self._world.states["merchant#m"] = StoredState(stored.version + 1, stored.layout, stored.packed)
            raise ConditionFailed("another writer")
        super().transact(writes, counts, token=token)


@pytest.mark.parametrize(("times", "failed"), [(1, []), (2, []), (4, ["2", "3"])])
def test_a_merchant_that_meets_another_writer_starts_again_once_and_then_fails_alone(
    times: int, failed: list[str]
) -> None:
    world = World()
    apply(world, event_records([decided("t0")]))
    events = [decided("t9", merchant_id="n"), decided("t1"), decided("t2"), decided("t8", merchant_id="n")]
    service = entities_on(world, ledger=AnotherWriter(world, times))
    outcome = service.apply_batch(event_records(events), remaining_ms=REMAINING_MS)
    assert outcome.failed == failed
    assert sum(state_of(world, "n").fine.counts) == 2
    assert sum(state_of(world).fine.counts) == (1 if failed else 3)


# --- what fails --------------------------------------------------------------------------------------------------


def test_a_state_that_cannot_be_read_fails_its_merchant_with_an_alarm() -> None:
    world = World(states={"merchant#m": StoredState(1, "another-layout", b"")})
    events = [decided("t1"), decided("t2", merchant_id="n")]
    outcome = entities_on(world).apply_batch(event_records(events), remaining_ms=REMAINING_MS)
    assert outcome.failed == ["1"]
    assert [sequence for _, sequence in outcome.alarms] == ["1"]
    assert effect_of(events[1]) in world.effects


def test_bad_bytes_are_quarantined_and_counted_apart_and_the_others_apply() -> None:
    world = World()
    records = [record_on("entity-events", 1, b'{"kind": "born"}'), *event_records([decided("t1")], first=2)]
    assert apply(world, records) == []
    [rejected] = world.objects.values()
    assert (rejected.field, rejected.rule, rejected.stream) == ("$", "entity_event", "entity-events")
    assert world.counters == {"entity_events_quarantined": 1}
    assert apply(world, records) == []
    assert world.counters == {"entity_events_quarantined": 1}


@pytest.mark.parametrize("call", ["effects.get", "entities.get", "ledger.transact", "labels.get"])
def test_a_port_that_is_down_returns_the_records_and_quarantines_nothing(call: str) -> None:
    world = World(down={call})
    assert apply(world, event_records([decided("t1"), decided("t2", merchant_id="n")])) == ["1", "2"]
    assert world.objects == {}


def test_an_invocation_that_runs_out_of_time_keeps_what_it_has_committed_and_returns_the_records() -> None:
    world = World(seconds_per_call=2.0)
    records = event_records([decided(f"t{n:04d}", ago_ms=n) for n in range(4 * MAX_ENTITY_EFFECTS)])
    # 6 s of the 15 stay reserved: two reads and three commits begin in time, the look for waiting labels does not
    outcome = entities_on(world).apply_batch(records, remaining_ms=15_000)
    assert len(outcome.failed) == len(records)
    assert world.states["merchant#m"].version == 3
    assert entities_on(world).apply_batch(records, remaining_ms=15_000).failed == []
    assert world.states["merchant#m"].version == 4
    assert sum(state_of(world).fine.counts) == len(records)


# --- labels that wait --------------------------------------------------------------------------------------------


def a_label(waiting: bool, merchant_id: str | None = None, event_time_ms: int | None = None) -> StoredLabel:
    return StoredLabel(
        revision=1,
        is_fraud=True,
        reported_at_ms=NOW_MS + 7,
        source="customer",
        history=b"[]",
        merchant_id=merchant_id,
        event_time_ms=event_time_ms,
        waiting=waiting,
    )


def a_refunds_label() -> StoredLabel:
    return msgspec.structs.replace(a_label(False, "m", NOW_MS), no_purchase=True)


@pytest.mark.parametrize(
    "label",
    [a_label(True), a_label(True, "m"), a_label(False, "other", NOW_MS), a_label(False, "m", NOW_MS - 1)],
    ids=["knows nothing", "knows the merchant", "wrong merchant", "wrong time"],
)
def test_a_label_that_does_not_know_whose_it_is_goes_to_its_stream_again_completed(label: StoredLabel) -> None:
    world = World(labels={"t1": label})
    records = event_records([decided("t1"), decided("t2")])
    for _ in range(2):  # redelivered: a crash may have come before the label went out
        apply(world, records)
    completed = Label(
        transaction_id="t1",
        is_fraud=True,
        reported_at_ms=NOW_MS + 7,
        source="customer",
        merchant_id="m",
        event_time_ms=NOW_MS,
    )
    assert world.labels_sent == [completed, completed]


def test_a_refund_changes_no_state_and_completes_the_label_that_waits_for_it() -> None:
    world = World(labels={"t1": a_label(True), "t2": a_label(False, "m", NOW_MS), "t3": a_refunds_label()})
    refunds = [msgspec.structs.replace(decided(name), is_purchase=False) for name in ("t1", "t2", "t3")]
    assert apply(world, event_records(refunds)) == []
    assert (world.states, world.effects) == ({}, set())
    assert [(label.transaction_id, label.merchant_id) for label in world.labels_sent] == [("t1", "m"), ("t2", "m")]


def test_a_label_that_knows_stays_where_it_is() -> None:
    world = World(labels={"t1": a_label(False, "m", NOW_MS)})
    apply(world, event_records([decided("t1")]))
    assert world.labels_sent == []


class RefusesSome(FakeLabelPublisher):
    def publish(self, labels: Sequence[Label]) -> None:
        raise NotPublished("refused", ["t2"])


def test_a_label_that_does_not_go_out_returns_its_event() -> None:
    world = World(labels={"t1": a_label(True), "t2": a_label(True)})
    service = entities_on(world, label_publisher=RefusesSome(world))
    outcome = service.apply_batch(event_records([decided("t1"), decided("t2")]), remaining_ms=REMAINING_MS)
    assert outcome.failed == ["2"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"kind":"decided","merchant_id":"m","transaction_id":"x","event_time_ms":' + b"9" * 30 + b"}",
        b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
    ids=["a number that no state holds", "nested too deep"],
)
def test_an_event_that_no_merchant_can_take_in_does_not_hold_up_the_others(raw: bytes) -> None:
    """Both ended the whole batch, which was then delivered again for ever."""
    world = World()
    records = event_records([decided("t1"), decided("t2")])
    broken = [records[0], record_on("entity-events", 9, raw), *records[1:]]
    assert apply(world, broken) == []
    assert sum(state_of(world).fine.counts) == 2
    assert [sequence for _, sequence, _ in world.objects] == ["9"]
