"""What must have come of a run, derived from the stream itself: who published what is not asked, only what is there.

A publisher whose answer was lost does not know how often its record is in the stream. The stream does, so duplicates
and bad records are counted there, by position: published = decided + duplicates + quarantined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from console.quarantine import rejected_records
from console.running import Pipeline
from lambdas.adapters.items import Item
from local.firehose.stream_reader import ShardReader, arrival_ms, list_shard_ids
from stream_features.aggregation import user_payloads
from stream_features.decision import Decision, StreamPosition, decode_decision
from stream_features.errors import MalformedRecord
from stream_features.names import QUARANTINE_PREFIX, quarantine_key
from stream_features.transaction import Transaction, parse_transaction, payload_sha256


@dataclass
class Truth:
    """The stream of transactions, as far as it was read.

    Attributes:
        records: user records.
        first: by transaction id where it came first, and what it said there.
        duplicates: later records that say the same.
        bad: quarantine key → payload of every record that must not be decided.
    """

    records: int = 0
    first: dict[str, tuple[StreamPosition, Transaction]] = field(default_factory=dict)
    duplicates: int = 0
    bad: dict[str, bytes] = field(default_factory=dict)

    def add(self, stream: str, position: StreamPosition, arrived_ms: int, payload: bytes) -> None:
        """Take in one user record; those of a shard in its order."""
        self.records += 1
        try:
            transaction = parse_transaction(payload, arrival_ms=arrived_ms)
        except MalformedRecord:
            self._reject(stream, position, payload)
            return
        _, known = self.first.setdefault(transaction.transaction_id, (position, transaction))
        if known is transaction:
            return
        if payload_sha256(known) == payload_sha256(transaction):
            self.duplicates += 1
        else:
            self._reject(stream, position, payload)

    def _reject(self, stream: str, at: StreamPosition, payload: bytes) -> None:
        self.bad[quarantine_key(stream, at.shard_id, at.sequence_number, at.sub_sequence_number)] = payload

    @property
    def valid(self) -> list[Transaction]:
        """Each valid transaction once."""
        return [transaction for _, transaction in self.first.values()]


class TruthReader:
    """Reads the stream of transactions forward into `truth`."""

    def __init__(self, pipeline: Pipeline) -> None:
        kinesis, stream = pipeline.client("kinesis"), pipeline.output("TransactionsStreamName")
        self.truth = Truth()
        self._stream = stream
        self._readers = [
            ShardReader(kinesis, stream, shard_id, position=None) for shard_id in list_shard_ids(kinesis, stream)
        ]

    def advance(self) -> Truth:
        """The truth up to now."""
        for reader in self._readers:
            for record in pages(reader):
                for number, payload in enumerate(user_payloads(record["Data"])):
                    position = StreamPosition(reader.shard_id, record["SequenceNumber"], number)
                    self.truth.add(self._stream, position, arrival_ms(record), payload)
        return self.truth


def pages(reader: ShardReader) -> list[dict[str, Any]]:
    """Everything from where the reader stands to the shard's end."""
    records: list[dict[str, Any]] = []
    while not reader.drained:
        records += reader.read_page()
        if reader.caught_up:
            break
    return records


def count_problems(truth: Truth, status: Mapping[str, Any]) -> list[str]:
    """Where the status differs from what the stream holds."""
    expected = {
        "published": truth.records,
        "decided": len(truth.first),
        "duplicates": truth.duplicates,
        "quarantined": len(truth.bad),
        "in_flight": 0,
    }
    return [f"{name} is {status[name]}, not {count}" for name, count in expected.items() if status[name] != count]


def quarantine_problems(pipeline: Pipeline, truth: Truth) -> list[str]:
    """Objects that should not be in quarantine, or are missing, by the key that says their position."""
    s3, prefix = pipeline.client("s3"), f"{QUARANTINE_PREFIX}{pipeline.output('TransactionsStreamName')}/"
    found = {
        entry["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(
            Bucket=pipeline.output("LakeBucketName"), Prefix=prefix
        )
        for entry in page.get("Contents", [])
    }
    return [f"not in quarantine: {key}" for key in sorted(truth.bad.keys() - found)] + [
        f"wrongly in quarantine: {key}" for key in sorted(found - truth.bad.keys())
    ]


def quarantined_bytes_problems(pipeline: Pipeline, truth: Truth) -> list[str]:
    """Objects in quarantine that do not hold the bytes of their record."""
    return [
        f"{key} holds other bytes than the stream"
        for key, rejected in rejected_records(pipeline)
        if key in truth.bad and rejected.payload != truth.bad[key]
    ]


def position_problems(truth: Truth, decisions: Mapping[str, Decision]) -> list[str]:
    """Decisions of another record than the first of their transaction."""
    return [
        f"{name} was decided from {decisions[name].stream_position}, came first at {position}"
        for name, (position, _) in truth.first.items()
        if name in decisions and decisions[name].stream_position != position
    ]


def publication_problems(pipeline: Pipeline, decisions: Mapping[str, Decision]) -> list[str]:
    """Published decisions that are not the stored ones, and stored ones that were never published."""
    kinesis, stream = pipeline.client("kinesis"), pipeline.output("DecisionsStreamName")
    published: Counter[str] = Counter()
    problems = []
    for shard_id in list_shard_ids(kinesis, stream):
        for record in pages(ShardReader(kinesis, stream, shard_id, position=None)):
            decision = decode_decision(record["Data"])
            published[decision.transaction_id] += 1
            if decisions.get(decision.transaction_id) != decision:
                problems.append(f"{decision.transaction_id}: published what is not stored")
    return problems + [f"{name}: never published" for name in sorted(decisions.keys() - published.keys())]


def decisions_of(pipeline: Pipeline, transaction_ids: Sequence[str]) -> dict[str, Decision]:
    """The stored decisions of these transactions."""
    items = _items(pipeline, pipeline.output("DecisionsTableName"), "transaction_id", transaction_ids)
    return {item["transaction_id"]["S"]: decode_decision(item["document"]["S"]) for item in items}


def states_of(pipeline: Pipeline, keys: Sequence[str]) -> dict[str, bytes]:
    """The packed states of these entities."""
    items = _items(pipeline, pipeline.output("EntityStateTableName"), "entity", keys)
    return {item["entity"]["S"]: item["state"]["B"] for item in items}


def _items(pipeline: Pipeline, table: str, key_name: str, keys: Sequence[str]) -> list[Item]:
    found: list[Item] = []
    for start in range(0, len(keys), 100):
        asked = [{key_name: {"S": key}} for key in keys[start : start + 100]]
        answer = pipeline.client("dynamodb").batch_get_item(
            RequestItems={table: {"Keys": asked, "ConsistentRead": True}}
        )
        assert not answer.get("UnprocessedKeys")
        found += answer["Responses"][table]
    return found
