"""A fault at every single call, with and without its effect: after redelivery nothing shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal

import pytest

from lambdas.records import UserRecord
from lambdas.scoring import ScoringService
from lambdas.writes import PutState, Write
from stream_features.entity_event import encode_entity_event
from tests.unit.lambdas.deliveries import a_record, a_transaction, run_to_the_end
from tests.unit.lambdas.fakes import NOW_MS, Crash, FakeLedger, Fault, World, service_on

BATCH_SIZE = 120
KINDS: tuple[Literal["crash", "failure", "outage"], ...] = ("crash", "failure", "outage")


@cache
def records() -> tuple[UserRecord, ...]:
    """Two batches: cards side by side, a card too long for one transaction, repeats within and across, poison."""
    events = [
        a_transaction(
            f"a{n:03d}",
            card_id="card-a",
            event_time_ms=NOW_MS - 900_000 + 1_000 * n,
            amount_minor=100 + n,
            merchant_id=f"m{n % 7}",
        )
        for n in range(101)
    ]
    events += [
        a_transaction(f"b{n}", card_id=f"card-{n % 3}", event_time_ms=NOW_MS - 500_000 + 7_000 * n, amount_minor=50 * n)
        for n in range(12)
    ]
    late = a_transaction("late", card_id="card-0", event_time_ms=NOW_MS - 800_000)
    refund = a_transaction("refund", card_id="card-1", type="refund", event_time_ms=NOW_MS)
    conflict = a_transaction("b3", card_id="card-9", amount_minor=1)
    after = [a_transaction(f"c{n}", card_id="card-a", event_time_ms=NOW_MS + 1_000 * n) for n in range(3)]
    payloads = [*events[:50], b"poison", *events[50:], events[10], late, refund, conflict, *after, events[0], b"{}"]
    payloads += [a_transaction(f"d{n}", card_id=f"card-{n}", event_time_ms=NOW_MS) for n in range(3)]
    return tuple(a_record(10 * (n + 1), payload) for n, payload in enumerate(payloads))


def expected_decisions() -> set[str]:
    return (
        {f"a{n:03d}" for n in range(101)}
        | {f"b{n}" for n in range(12)}
        | {"late", "refund", "c0", "c1", "c2"}
        | {
            "d0",
            "d1",
            "d2",
        }
    )


def run(
    fault: Fault | None,
    ledger: Callable[[World], FakeLedger] = FakeLedger,
    new_service: Callable[[World], ScoringService] | None = None,
) -> World:
    world = World(fault=fault)

    def ordinary(world: World) -> ScoringService:
        return service_on(world, ledger=ledger(world))

    run_to_the_end(world, records(), batch_size=BATCH_SIZE, new_service=new_service or ordinary)
    return world


def differences(world: World, undisturbed: World) -> list[str]:
    """What fault and redelivery must not change, and what differs all the same."""
    pairs = {
        "decisions": (world.decisions, undisturbed.decisions),
        "packed states": (
            {entity: state.packed for entity, state in world.states.items()},
            {entity: state.packed for entity, state in undisturbed.states.items()},
        ),
        "counters": (world.counters, undisturbed.counters),
        "effects": (world.effects, undisturbed.effects),
        "quarantine": (world.objects, undisturbed.objects),
        "queued positions": (
            {pointer.key for pointer in world.pointers},
            {pointer.key for pointer in undisturbed.pointers},
        ),
        "published documents": (
            {stored.document for stored in world.published},
            {stored.document for stored in undisturbed.published},
        ),
        "entity events": (
            {encode_entity_event(event) for event in world.entity_events},
            {encode_entity_event(event) for event in undisturbed.entity_events},
        ),
        "alerts": (
            {stored.document for stored in world.alerts},
            {stored.document for stored in undisturbed.alerts},
        ),
    }
    return [name for name, (got, wanted) in pairs.items() if got != wanted]


@cache
def undisturbed() -> World:
    return run(None)


def test_the_undisturbed_run_is_what_the_records_say() -> None:
    world = undisturbed()
    assert world.decisions.keys() == expected_decisions()
    assert world.counters == Counter(
        decided=len(expected_decisions()),
        late=world.counters["late"],
        alerts=len(world.alerts),
        duplicates=2,
        quarantined=3,
    )
    assert world.counters["late"] >= 1
    assert len(world.published) == len(world.decisions) + 1  # a000 again, for its duplicate in the second batch
    assert len(world.calls) > 15


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effect", [False, True], ids=["nothing happened", "it happened"])
def test_a_fault_at_any_call_leaves_no_trace_after_redelivery(
    kind: Literal["crash", "failure", "outage"], effect: bool
) -> None:
    for at in range(len(undisturbed().calls)):
        world = run(Fault(at, kind, effect))
        assert len(world.calls) > at, "the fault never struck"
        assert differences(world, undisturbed()) == [], f"{kind} at call {at} ({undisturbed().calls[at]})"


# --- the judge must be able to fail ------------------------------------------------------------------------------


class HalfWritten(FakeLedger):
    """Not atomic: a crash leaves the states written and the decisions not."""

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        fault = self._world.fault
        if fault is not None and fault.kind == "crash" and len(self._world.calls) == fault.at:
            for write in writes:
                if isinstance(write, PutState):
                    self._write(write)
            self._world.calls.append("ledger.transact")
            raise Crash
        super().transact(writes, counts, token=token)


class CountsApart(FakeLedger):
    """Counts before it writes, not in the same transaction."""

    def _apply(self, writes: Sequence[Write], counts: Mapping[str, int], token: str) -> None:
        self._world.counters.update(counts)
        super()._apply(writes, {}, token)


class ForgetsTokens(FakeLedger):
    """A repeated try is a new transaction, and conditions are not looked at."""

    def _apply(self, writes: Sequence[Write], counts: Mapping[str, int], token: str) -> None:
        self._world.tokens.clear()
        super()._apply(writes, counts, token)

    def _holds(self, write: Write) -> bool:
        return True


@pytest.mark.parametrize(
    ("ledger", "kind", "effect"),
    [(HalfWritten, "crash", False), (ForgetsTokens, "failure", True), (CountsApart, "failure", True)],
)
def test_a_broken_ledger_is_caught(
    ledger: Callable[[World], FakeLedger], kind: Literal["crash", "failure"], effect: bool
) -> None:
    caught: Counter[str] = Counter()
    for at, call in enumerate(undisturbed().calls):
        if call == "ledger.transact":
            caught.update(differences(run(Fault(at, kind, effect), ledger), undisturbed()))
    assert caught, "the comparison above would let this through"
