"""The Flink engine's functions behind the job: parity with the Lambda engine, and faults that leave no trace."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.decision import decode_decision
from stream_features.entity_event import encode_entity_event
from stream_features.feature_record import FeaturesRecord, decode_feature_record
from stream_features.feature_sets import feature_set
from stream_features.transaction import Transaction, encode_transaction, parse_transaction, payload_sha256
from tests.unit.lambdas.deliveries import SHARD, a_transaction, position
from tests.unit.lambdas.fakes import NOW_MS, FakeLedger, Fault, World
from tests.unit.lambdas.job import Job
from tests.unit.lambdas.loop import Loop, Stream, flink_functions_on, functions_on
from tests.unit.lambdas.test_effects_happen_once import CountsApart, ForgetsTokens
from tests.unit.lambdas.test_merchant_effects_happen_once import labels, transactions

DAY_MS = 86_400_000
BATCH_SIZE = 130
ORDERS: tuple[tuple[Stream, ...], ...] = (
    ("transactions", "features", "labels", "entity-events"),
    ("labels", "transactions", "features", "entity-events"),  # every label comes before its decision
    ("labels", "transactions", "entity-events", "features"),
)


def published() -> list[Transaction | bytes]:
    """Late records, a refund, poison, repeats of one card, and an id reused on another card."""
    first = transactions()[0]
    conflict = a_transaction(first.transaction_id, card_id=first.card_id, amount_minor=1)
    reused = a_transaction("o01", card_id="card-elsewhere", merchant_id="elsewhere")
    return [*transactions(), b"poison", first, conflict, first, reused, b'{"card_id": 7}']


def run(fault: Fault | None, order: tuple[Stream, ...], ledger: Callable[[World], FakeLedger] = FakeLedger) -> World:
    world = World(fault=fault)
    loop = Loop(
        world,
        published(),
        [*labels()[:5], b"{}", *labels()[5:], labels()[0]],
        flink_functions_on(world, Job(world), ledger=ledger),
        batch_size=BATCH_SIZE,
    )
    return loop.run(*order)


@cache
def undisturbed(order: tuple[Stream, ...]) -> World:
    return run(None, order)


# --- the same as the Lambda engine -------------------------------------------------------------------------------


def decided_by(world: World) -> dict[str, dict[str, Any]]:
    """Decisions without the engine's name."""
    return {key: json.loads(document) | {"engine": ""} for key, document in world.decisions.items()}


@pytest.mark.parametrize("name", ["core", "handbook"])
def test_in_lockstep_both_engines_decide_the_same_to_the_bit(name: str) -> None:
    """Sixty days, labels in between: every decision equal, engine aside, and the same counted."""
    features = feature_set(name)
    lambda_world, flink_world = World(), World()
    lambda_loop = Loop(lambda_world, [], [], functions_on(lambda_world, features))
    flink_loop = Loop(flink_world, [], [], flink_functions_on(flink_world, Job(flink_world, features), features))
    history: list[Transaction | bytes] = [
        a_transaction(
            f"t{n:03d}",
            card_id=f"card-{n % 7}",
            merchant_id=f"m{n % 3}",
            event_time_ms=NOW_MS - 60 * DAY_MS + n * DAY_MS // 2 - (5 * DAY_MS if n % 11 == 10 else 0),
            amount_minor=n,
            type="refund" if n % 13 == 12 else "purchase",
        )
        for n in range(120)
    ]
    history[60:60] = [b"poison", history[59], a_transaction("t058", card_id="card-9", event_time_ms=NOW_MS - DAY_MS)]
    for n, published in enumerate(history):
        for loop, order in (
            (lambda_loop, ("transactions", "entity-events", "labels", "entity-events")),
            (flink_loop, ("transactions", "features", "labels", "entity-events")),
        ):
            loop.transactions.append(published)
            if n % 17 == 5 and isinstance(published, Transaction):
                report = {"transaction_id": published.transaction_id, "is_fraud": True, "source": "chargeback"}
                loop.labels.append(json.dumps(report | {"reported_at_ms": published.event_time_ms + DAY_MS}).encode())
            loop.run(*order)  # type: ignore[arg-type]
    assert decided_by(flink_world) == decided_by(lambda_world)
    assert {decode_decision(document).engine for document in flink_world.decisions.values()} == {"flink"}
    risky = [n for n in features.names if "risk" in n.lower()]
    assert risky
    assert any(decode_decision(d).features[n] for d in flink_world.decisions.values() for n in risky)
    assert flink_world.counters == lambda_world.counters
    assert flink_world.counters["late"] > 3
    assert flink_world.effects >= {e for e in lambda_world.effects if not e.startswith("merchant#")}
    assert {key: kept.rule for key, kept in flink_world.objects.items()} == {
        key: kept.rule for key, kept in lambda_world.objects.items()
    }
    assert {p.key for p in flink_world.pointers} == {p.key for p in lambda_world.pointers}
    told = {encode_entity_event(event) for event in flink_world.entity_events}
    assert told == {encode_entity_event(event) for event in lambda_world.entity_events if event.kind == "label"}


def test_every_published_record_is_decided_a_duplicate_or_quarantined() -> None:
    for order in ORDERS:
        counters = undisturbed(order).counters
        assert counters["decided"] == len(transactions())
        assert counters["duplicates"] == 2
        assert counters["quarantined"] == 4
        assert len(published()) == counters["decided"] + counters["duplicates"] + counters["quarantined"]
        assert counters["labels_waiting"] == 0
        assert counters["labels"] == len(labels())


def test_labels_that_came_before_their_decisions_are_completed_without_update_entities() -> None:
    for order in ORDERS:
        sent = {label.transaction_id for label in undisturbed(order).labels_sent}
        assert sent == (set() if order == ORDERS[0] else {"o02", "o05"})
        assert {event.kind for event in undisturbed(order).entity_events} == {"label"}


# --- a fault at every call ---------------------------------------------------------------------------------------


def differences(world: World, whole: World) -> list[str]:
    pairs = {
        "decisions": (world.decisions, whole.decisions),
        "effects": (world.effects, whole.effects),
        "labels": (world.labels, whole.labels),
        "counters": (world.counters, whole.counters),
        "quarantine": (world.objects, whole.objects),
        "queued": ({pointer.key for pointer in world.pointers}, {pointer.key for pointer in whole.pointers}),
        "published": (
            {stored.document for stored in world.published},
            {stored.document for stored in whole.published},
        ),
        "alerts": ({stored.document for stored in world.alerts}, {stored.document for stored in whole.alerts}),
        "labels sent": (set(world.labels_sent), set(whole.labels_sent)),
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
        assert differences(world, undisturbed(order)) == [], f"{kind} at call {at} ({calls[at]})"


# --- a job that dies and writes again, at random -----------------------------------------------------------------


@dataclass(frozen=True)
class Disturbance:
    """The job, restored, writes again from `back_to` after having written `after` records; then the batches' faults."""

    restarts: tuple[tuple[float, float], ...]
    batch_size: int
    faults: tuple[Fault, ...]


faults = st.builds(Fault, st.integers(0, 40), st.sampled_from(["crash", "failure", "outage"]), st.booleans())
disturbances = st.builds(
    Disturbance,
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4).map(tuple),
    st.integers(1, 40),
    st.lists(faults, max_size=6).map(tuple),
)
# Few ids on few cards with few payloads, so that repeats, conflicts and ids reused on another card are common.
arrived = st.lists(
    st.one_of(
        st.builds(
            lambda n, card, amount: encode_transaction(
                a_transaction(f"t{n}", card_id=f"card-{card}", amount_minor=amount, event_time_ms=NOW_MS - 1_000 * n)
            ),
            st.integers(0, 9),
            st.integers(0, 2),
            st.integers(1, 2),
        ),
        st.sampled_from([b"poison", b"{}"]),
    ),
    max_size=40,
)


def written_with_restarts(written: Sequence[bytes], restarts: Sequence[tuple[float, float]]) -> list[bytes]:
    """The job dies after some records and writes again from its last checkpoint, as often as there are restarts."""
    sent: list[bytes] = []
    at = 0
    for forward, back in restarts:
        end = at + round(forward * (len(written) - at))
        sent += written[at:end]
        at = round(back * end)
    return sent + list(written[at:])


@settings(max_examples=150, deadline=None)
@given(arrived, disturbances)
def test_whatever_the_job_writes_again_and_wherever_the_function_dies(
    payloads: list[bytes], disturbance: Disturbance
) -> None:
    job_world = World()
    loop = Loop(job_world, list(payloads))
    Job(job_world).work_on(loop.records("transactions"))

    world = World(objects=dict(job_world.objects))
    world.features_sent = written_with_restarts(job_world.features_sent, disturbance.restarts)
    loop = Loop(world, [], [], flink_functions_on(world, Job(world)), batch_size=disturbance.batch_size)
    for fault in disturbance.faults:
        world.fault = Fault(len(world.calls) + fault.at, fault.kind, fault.effect)
        loop.drain("features")
        loop.done["features"] = 0  # and every record is delivered again
    world.fault = None
    loop.drain("features")

    sent = [decode_feature_record(raw) for raw in job_world.features_sent]
    winners: dict[str, FeaturesRecord] = {}
    for record in sent:
        if isinstance(record, FeaturesRecord):
            transaction = parse_transaction(record.payload.encode(), arrival_ms=NOW_MS)
            winners.setdefault(transaction.transaction_id, record)
    assert {key: decode_decision(document).stream_position for key, document in world.decisions.items()} == {
        key: record.position for key, record in winners.items()
    }
    expected: Counter[str] = Counter()
    quarantined = set()
    for n, payload in enumerate(payloads):
        where = (SHARD, str(n + 1), 0)
        if where in job_world.objects:
            quarantined.add(where)
            continue
        transaction = parse_transaction(payload, arrival_ms=NOW_MS)
        decision = decode_decision(world.decisions[transaction.transaction_id])
        if decision.stream_position == position(n + 1):
            expected["decided"] += 1
            expected["alerts"] += decision.decision != "approve"
            expected["late"] += decision.late
        elif decision.payload_sha256 == payload_sha256(transaction):
            expected["duplicates"] += 1
        else:
            quarantined.add(where)
    expected["quarantined"] = len(quarantined)
    assert +world.counters == +expected
    assert set(world.objects) == quarantined
    assert {stored.document for stored in world.published} == set(world.decisions.values())
    assert (world.states, world.entity_events) == ({}, [])


def test_writing_again_really_repeats_records() -> None:
    assert written_with_restarts([b"1", b"2", b"3", b"4"], [(0.5, 0.5)]) == [b"1", b"2", b"2", b"3", b"4"]


# --- a comparison that sees --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ledger", "kind", "effect"), [(ForgetsTokens, "failure", True), (CountsApart, "failure", True)]
)
def test_a_broken_ledger_is_caught(
    ledger: Callable[[World], FakeLedger], kind: Literal["crash", "failure"], effect: bool
) -> None:
    caught: Counter[str] = Counter()
    for at, call in enumerate(undisturbed(ORDERS[0]).calls):
        if call == "ledger.transact":
            caught.update(differences(run(Fault(at, kind, effect), ORDERS[0], ledger), undisturbed(ORDERS[0])))
    assert caught, "the comparison above would let this through"
