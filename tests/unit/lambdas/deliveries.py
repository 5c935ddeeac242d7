"""Transactions, records, and an event source mapping that redelivers until everything is accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lambdas.batch import BatchOutcome
from lambdas.records import UserRecord
from lambdas.scoring import ScoringService
from stream_features.decision import StreamPosition
from stream_features.transaction import Transaction, encode_transaction
from tests.unit.lambdas.fakes import NOW_MS, Crash, World, service_on

SHARD = "shardId-000000000000"
STREAM = "transactions"
REMAINING_MS = 60_000


def a_transaction(transaction_id: str = "t1", **changes: object) -> Transaction:
    values: dict[str, object] = {
        "transaction_id": transaction_id,
        "event_time_ms": NOW_MS - 60_000,
        "card_id": "card-a",
        "merchant_id": "merchant-a",
        "amount_minor": 1_250,
        "currency": "USD",
    }
    return Transaction(**(values | changes))  # type: ignore[arg-type]


def a_record(sequence: int, payload: Transaction | bytes) -> UserRecord:
    raw = encode_transaction(payload) if isinstance(payload, Transaction) else payload
    return UserRecord(raw, STREAM, position(sequence), NOW_MS)


def position(sequence: int) -> StreamPosition:
    return StreamPosition(shard_id=SHARD, sequence_number=str(sequence))


def records_of(*payloads: Transaction | bytes, first: int = 1) -> list[UserRecord]:
    """Consecutive records from sequence number `first` on."""
    return [a_record(first + index, payload) for index, payload in enumerate(payloads)]


def deliver(service: ScoringService, records: Sequence[UserRecord], remaining_ms: int = REMAINING_MS) -> BatchOutcome:
    return service.score_batch(records, remaining_ms=remaining_ms)


def run_to_the_end(
    world: World,
    records: Sequence[UserRecord],
    *,
    batch_size: int = 100,
    new_service: Callable[[World], ScoringService] = service_on,
    most_deliveries: int = 200,
) -> int:
    """Deliver like Lambda does: from the lowest failed sequence number again, from the same place after a crash.

    The fault of `world` strikes once and is gone at the next delivery. Returns the number of deliveries.
    """
    start = deliveries = 0
    service = new_service(world)
    while start < len(records):
        deliveries += 1
        assert deliveries <= most_deliveries, "redelivered for ever"
        struck = world.fault is not None and len(world.calls) > world.fault.at
        if struck:
            world.fault = None
        batch = records[start : start + batch_size]
        try:
            failed = deliver(service, batch).failed
        except Crash:
            world.fault = None
            service = new_service(world)
            continue
        if failed:
            lowest = min(int(sequence) for sequence in failed)
            start = next(index for index, r in enumerate(records) if int(r.position.sequence_number) == lowest)
        else:
            start += len(batch)
    return deliveries
