"""All three functions: a fault at every single call, and merchants, labels and counters are what the history says."""

from __future__ import annotations

from functools import cache
from typing import Literal

import pytest

from stream_features.entity_event import encode_entity_event
from stream_features.feature_sets import feature_set
from stream_features.history import history_states
from stream_features.label import Label
from stream_features.merchant_codec import pack_merchant
from stream_features.names import merchant_key
from stream_features.transaction import Transaction
from tests.unit.lambdas.deliveries import a_transaction
from tests.unit.lambdas.fakes import NOW_MS, Fault, World
from tests.unit.lambdas.loop import Loop, Stream, functions_on

HOUR_MS = 3_600_000
ORDERS: tuple[tuple[Stream, ...], ...] = (
    ("transactions", "labels", "entity-events"),
    ("labels", "transactions", "entity-events"),  # every label comes before its decision
    ("labels", "entity-events", "transactions"),
)


@cache
def transactions() -> tuple[Transaction, ...]:
    """Merchants side by side, one with more purchases than one transaction holds, and a refund."""
    hot = [
        a_transaction(f"h{n:03d}", card_id=f"card-{n % 5}", merchant_id="hot", event_time_ms=NOW_MS - 90_000 * n)
        for n in range(103)
    ]
    others = [
        a_transaction(
            f"o{n:02d}",
            card_id=f"card-{n % 3}",
            merchant_id=f"m{n % 4} é",
            event_time_ms=NOW_MS - 5_000_000 * n,
            amount_minor=17 * n,
        )
        for n in range(14)
    ]
    refund = a_transaction("refund", merchant_id="m1 é", type="refund")
    return (*hot[:60], *others, refund, *hot[60:])


def a_label(transaction_id: str, is_fraud: bool, after_ms: int, *, complete: bool = True) -> Label:
    found = next((t for t in transactions() if t.transaction_id == transaction_id), None)
    return Label(
        transaction_id=transaction_id,
        is_fraud=is_fraud,
        reported_at_ms=NOW_MS + after_ms,
        source="chargeback",
        merchant_id=found.merchant_id if found and complete else None,
        event_time_ms=found.event_time_ms if found and complete else None,
    )


@cache
def labels() -> tuple[Label, ...]:
    """Fraud and not, corrected, reported out of order, and without saying whose they are."""
    return (
        a_label("h000", True, 5),
        a_label("h001", False, 5),
        a_label("o01", True, HOUR_MS),
        a_label("o02", True, 2 * HOUR_MS, complete=False),
        a_label("o03", True, 7),
        a_label("o03", False, 8 * HOUR_MS),
        a_label("o03", True, 9 * HOUR_MS),
        a_label("o04", True, 9 * HOUR_MS),
        a_label("o04", False, 2 * HOUR_MS),  # reported earlier, arrives later
        a_label("o04", True, HOUR_MS),
        a_label("o05", False, 3, complete=False),
        a_label("o05", True, 4, complete=False),
    )


def run(fault: Fault | None, order: tuple[Stream, ...], feature_set_name: str = "core") -> World:
    world = World(fault=fault)
    loop = Loop(
        world,
        [*transactions(), b"poison", transactions()[0]],
        [*labels()[:5], b"{}", *labels()[5:], labels()[0]],
        functions_on(world, feature_set(feature_set_name)),
        batch_size=130,
    )
    return loop.run(*order)


@cache
def undisturbed(order: tuple[Stream, ...]) -> World:
    return run(None, order)


def merchants_by_history(feature_set_name: str = "core") -> dict[str, bytes]:
    reported = sorted(labels(), key=lambda label: label.reported_at_ms)
    states = history_states(transactions(), feature_set(feature_set_name), reported)
    return {merchant_key(merchant): pack_merchant(state) for merchant, state in states.merchants.items()}


def merchant_bytes(world: World) -> dict[str, bytes]:
    return {key: state.packed for key, state in world.states.items() if key.startswith("merchant#")}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["core", "handbook"])
def test_merchants_are_what_the_history_says(order: tuple[Stream, ...], name: str) -> None:
    assert merchant_bytes(run(None, order, name)) == merchants_by_history(name)


def test_the_undisturbed_runs_count_what_happened() -> None:
    for order in ORDERS:
        world = undisturbed(order)
        assert world.counters["labels"] == len(labels())
        assert world.counters["labels_waiting"] == 0
        assert world.counters["labels_quarantined"] == 1
        assert world.counters["quarantined"] == 1
        assert world.counters["entity_events_quarantined"] == 0
        assert {label.transaction_id for label in world.labels_sent} == (
            set() if order == ORDERS[0] else {"o02", "o05"}
        )
        assert sum(effect.endswith("#decided") for effect in world.effects) == len(transactions()) - 1  # no refund


def differences(world: World, order: tuple[Stream, ...]) -> list[str]:
    whole = undisturbed(order)
    pairs = {
        "merchants": (merchant_bytes(world), merchant_bytes(whole)),
        "effects": (world.effects, whole.effects),
        "label effects": (world.revised, whole.revised),
        "labels": (world.labels, whole.labels),
        "counters": (world.counters, whole.counters),
        "quarantine": (world.objects, whole.objects),
        "entity events": (
            {encode_entity_event(event) for event in world.entity_events},
            {encode_entity_event(event) for event in whole.entity_events},
        ),
    }
    return [name for name, (got, wanted) in pairs.items() if got != wanted]


@pytest.mark.parametrize("kind", ["crash", "failure", "outage"])
@pytest.mark.parametrize("effect", [False, True], ids=["nothing happened", "it happened"])
@pytest.mark.parametrize("order", ORDERS[:2], ids=["decisions first", "labels first"])
def test_a_fault_at_any_call_leaves_no_trace_after_redelivery(
    order: tuple[Stream, ...], kind: Literal["crash", "failure", "outage"], effect: bool
) -> None:
    calls = undisturbed(order).calls
    for at in range(len(calls)):
        world = run(Fault(at, kind, effect), order)
        assert len(world.calls) > at, "the fault never struck"
        assert differences(world, order) == [], f"{kind} at call {at} ({calls[at]})"
