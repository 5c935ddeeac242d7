"""The functions of an engine over one world, each reading its stream as an event source mapping does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lambdas.batch import BatchOutcome
from lambdas.records import UserRecord
from stream_features.decision import StreamPosition
from stream_features.entity_event import EntityEvent, encode_entity_event
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.label import Label, encode_label
from stream_features.transaction import Transaction, encode_transaction
from tests.unit.lambdas.deliveries import REMAINING_MS, SHARD
from tests.unit.lambdas.fakes import NOW_MS, Crash, FakeLedger, World, features_service_on, service_on
from tests.unit.lambdas.job import Job
from tests.unit.lambdas.processes import entities_on, labels_on

Stream = Literal["transactions", "labels", "entity-events", "features"]
HandleBatch = Callable[[Sequence[UserRecord]], BatchOutcome]
NewFunction = Callable[[Stream], HandleBatch]


def record_on(stream: str, sequence: int, payload: bytes, arrival_ms: int = NOW_MS) -> UserRecord:
    return UserRecord(payload, stream, StreamPosition(shard_id=SHARD, sequence_number=str(sequence)), arrival_ms)


def event_records(events: Sequence[EntityEvent], first: int = 1) -> list[UserRecord]:
    return [record_on("entity-events", first + n, encode_entity_event(event)) for n, event in enumerate(events)]


def feature_records(payloads: Sequence[bytes], first: int = 1) -> list[UserRecord]:
    """Of the stream `features`; they arrive later than what they speak of did."""
    return [record_on("features", first + n, payload, NOW_MS + 5_000) for n, payload in enumerate(payloads)]


def label_records(labels: Sequence[Label | bytes], first: int = 1) -> list[UserRecord]:
    return [
        record_on("labels", first + n, label if isinstance(label, bytes) else encode_label(label), NOW_MS + n)
        for n, label in enumerate(labels)
    ]


def functions_on(world: World, features: FeatureSet | None = None) -> NewFunction:
    """Fresh processes of the Lambda engine's functions, by the stream they read."""
    features = features or feature_set("core")

    def new_function(stream: Stream) -> HandleBatch:
        if stream == "transactions":
            scoring = service_on(world, features=features)
            return lambda batch: scoring.score_batch(batch, remaining_ms=REMAINING_MS)
        if stream == "labels":
            labels = labels_on(world)
            return lambda batch: labels.record_batch(batch, remaining_ms=REMAINING_MS)
        entities = entities_on(world, features=features)
        return lambda batch: entities.apply_batch(batch, remaining_ms=REMAINING_MS)

    return new_function


def flink_functions_on(
    world: World,
    job: Job,
    features: FeatureSet | None = None,
    ledger: Callable[[World], FakeLedger] = FakeLedger,
) -> NewFunction:
    """Fresh processes of the Flink engine's functions, and the job, which is never fresh: its state outlives it."""
    features = features or feature_set("core")

    def new_function(stream: Stream) -> HandleBatch:
        if stream == "features":
            scoring = features_service_on(world, ledger=ledger(world), features=features)
            return lambda batch: scoring.score_batch(batch, remaining_ms=REMAINING_MS)
        if stream == "labels":
            return functions_on(world, features)(stream)
        return job.work_on

    return new_function


@dataclass
class Loop:
    """Streams with their mappings' checkpoints; what the functions publish appears in the streams they publish to."""

    world: World
    transactions: list[Transaction | bytes] = field(default_factory=list)
    labels: list[Label | bytes] = field(default_factory=list)
    new_function: NewFunction | None = None
    batch_size: int = 100
    done: dict[Stream, int] = field(default_factory=dict)

    def records(self, stream: Stream) -> list[UserRecord]:
        if stream == "transactions":
            return [
                record_on(stream, n + 1, t if isinstance(t, bytes) else encode_transaction(t))
                for n, t in enumerate(self.transactions)
            ]
        if stream == "labels":
            return label_records([*self.labels, *self.world.labels_sent])
        if stream == "features":
            return feature_records(self.world.features_sent)
        return event_records(self.world.entity_events)

    def drain(self, stream: Stream, most_deliveries: int = 400) -> None:
        """Deliver until nothing is left: from the lowest failed record again, from the same place after a crash."""
        new_function = self.new_function or functions_on(self.world)
        handle = new_function(stream)
        for _ in range(most_deliveries):
            records = self.records(stream)
            start = self.done.get(stream, 0)
            if start == len(records):
                return
            if self.world.fault is not None and len(self.world.calls) > self.world.fault.at:
                self.world.fault = None  # it has struck, and does not again
            batch = records[start : start + self.batch_size]
            try:
                failed = handle(batch).failed
            except Crash:
                self.world.fault = None
                handle = new_function(stream)
                continue
            self.done[stream] = min(map(int, failed)) - 1 if failed else start + len(batch)
        raise AssertionError("redelivered for ever")

    def run(self, *order: Stream) -> World:
        """Drain the streams in this order, again and again until all are at their end."""
        while any(self.done.get(stream, 0) < len(self.records(stream)) for stream in order):
            for stream in order:
                self.drain(stream)
        return self.world
