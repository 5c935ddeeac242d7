"""The scorer and merchants: asked with the cards, never changed, and told of every purchase at least once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lambdas.ports import NotPublished
from lambdas.writes import StoredState
from stream_features.currency import base_amount
from stream_features.decision import decode_decision
from stream_features.entity_event import EntityEvent
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.history import observe_history
from stream_features.kernel import features_json
from stream_features.merchant_codec import pack_merchant
from stream_features.merchant_state import MerchantState
from stream_features.transaction import Transaction
from tests.unit.lambdas.deliveries import a_record, a_transaction, deliver, records_of, run_to_the_end
from tests.unit.lambdas.fakes import NOW_MS, Crash, FakeEntityEvents, Fault, World, service_on
from tests.unit.lambdas.loop import Loop, functions_on

DAY_MS = 86_400_000
CORE = feature_set("core")


def with_merchant(features: FeatureSet, *ago_ms: int, merchant_id: str = "merchant-a") -> World:
    layout = features.merchant_layout
    assert layout is not None
    state = MerchantState.empty()
    for each in ago_ms:
        state.add(layout, NOW_MS - each, 5_000)
    stored = StoredState(3, layout.layout_id, pack_merchant(state))
    return World(states={f"merchant#{merchant_id}": stored})


def merchant_features(features: FeatureSet) -> list[str]:
    return [feature.name for feature in features.features if feature.entity == "merchant"]


@pytest.mark.parametrize("name", ["core", "handbook"])
def test_values_are_those_of_the_merchants_stored_state(name: str) -> None:
    features = feature_set(name)
    alone = with_merchant(features)
    world = with_merchant(features, *(DAY_MS * n // 2 for n in range(60)))
    before = world.states["merchant#merchant-a"]
    for each in (alone, world):
        assert deliver(service_on(each, features=features), [a_record(1, a_transaction())]).failed == []
    names = merchant_features(features)
    seen = decode_decision(world.decisions["t1"]).features
    assert [seen[n] for n in names] != [decode_decision(alone.decisions["t1"]).features[n] for n in names]
    assert any("COUNT" in n.upper() or "NB_TX" in n for n in names)
    assert world.states["merchant#merchant-a"] == before


@pytest.mark.parametrize("name", ["core", "handbook"])
def test_the_whole_loop_serves_what_the_history_says(name: str) -> None:
    """Batch by batch, merchants updated in between: the values are those of the scalar path, to the bit."""
    features = feature_set(name)
    history = [
        a_transaction(
            f"t{n:03d}",
            card_id=f"card-{n % 7}",
            merchant_id=f"m{n % 2}",
            event_time_ms=NOW_MS - 60 * DAY_MS + n * DAY_MS // 2,
            amount_minor=n,
        )
        for n in range(120)
    ]
    world = World()
    loop = Loop(world, [], [], functions_on(world, features))
    for transaction in history:
        loop.transactions.append(transaction)
        loop.run("transactions", "entity-events")
    for transaction, observation in observe_history(history, features):
        served = decode_decision(world.decisions[transaction.transaction_id]).features
        assert served == features_json(features, observation.values)
    assert max(served[n] or 0 for n in merchant_features(features)) > 1


def test_cards_and_merchants_are_read_in_one_call_each_once() -> None:
    world = World()
    records = records_of(*(a_transaction(f"t{n}", card_id=f"c{n % 3}", merchant_id=f"m{n % 2}") for n in range(12)))
    deliver(service_on(world), records)
    assert world.calls.count("entities.get") == 1


def test_a_merchant_that_cannot_be_read_fails_the_cards_that_were_there_with_an_alarm() -> None:
    world = World(states={"merchant#bad": StoredState(1, CORE.merchant_layout_id or "", b"garbage")})
    records = records_of(
        a_transaction("t1", card_id="a", merchant_id="bad"),
        a_transaction("t2", card_id="b", merchant_id="good"),
        a_transaction("t3", card_id="a", merchant_id="good"),
    )
    outcome = deliver(service_on(world), records)
    assert outcome.failed == ["1", "3"]
    assert [sequence for _, sequence in outcome.alarms] == ["1"]
    assert list(world.decisions) == ["t2"]


# --- telling merchants -------------------------------------------------------------------------------------------


def decided(transaction: Transaction) -> EntityEvent:
    return EntityEvent(
        kind="decided",
        merchant_id=transaction.merchant_id,
        transaction_id=transaction.transaction_id,
        event_time_ms=transaction.event_time_ms,
        amount_base=base_amount(transaction.amount_minor, transaction.currency, transaction.event_time_ms),
    )


def test_every_decision_tells_its_merchant_and_nothing_else_does() -> None:
    world = World()
    purchase = a_transaction("t1", currency="EUR", amount_minor=1_000, merchant_id="Käse & Brot")
    deliver(service_on(world), records_of(purchase, a_transaction("t2", type="refund"), b"poison"))
    refunded = EntityEvent(
        kind="decided",
        merchant_id="merchant-a",
        transaction_id="t2",
        event_time_ms=purchase.event_time_ms,
        amount_base=1250,
        is_purchase=False,
    )
    assert world.entity_events == [decided(purchase), refunded]
    assert world.entity_events[0].amount_base > 1_000  # in US cents


def test_a_redelivered_and_a_repeated_purchase_tell_again() -> None:
    world = World()
    purchase = a_transaction("t1")
    records = records_of(purchase)
    for _ in range(2):
        deliver(service_on(world), records)
    deliver(service_on(world), records_of(purchase, first=9))
    assert world.entity_events == [decided(purchase)] * 3
    conflicting = records_of(a_transaction("t1", merchant_id="elsewhere"), first=20)
    deliver(service_on(world), conflicting)
    assert len(world.entity_events) == 3


def test_a_crash_after_the_commit_does_not_lose_the_event() -> None:
    undisturbed = World()
    records = records_of(*(a_transaction(f"t{n}", card_id=f"c{n}") for n in range(5)))
    run_to_the_end(undisturbed, records)
    for at, call in enumerate(undisturbed.calls):
        world = World(fault=Fault(at, "crash", effect=True))
        run_to_the_end(world, records)
        told = {event.transaction_id for event in world.entity_events}
        assert told == {f"t{n}" for n in range(5)}, f"crash at {call}"


class Dies(FakeEntityEvents):
    def publish(self, events: Sequence[EntityEvent]) -> None:
        raise Crash


def test_events_go_out_before_the_batch_is_acknowledged() -> None:
    world = World()
    with pytest.raises(Crash):
        deliver(service_on(world, entity_events=Dies(world)), [a_record(1, a_transaction())])
    assert list(world.decisions) == ["t1"]  # and the record is not acknowledged


class RefusesSome(FakeEntityEvents):
    def publish(self, events: Sequence[EntityEvent]) -> None:
        raise NotPublished("refused", ["t1"])


def test_a_purchase_whose_event_does_not_go_out_is_returned() -> None:
    world = World()
    records = records_of(a_transaction("t0", card_id="a"), a_transaction("t1", card_id="b"))
    assert deliver(service_on(world, entity_events=RefusesSome(world)), records).failed == ["2"]
