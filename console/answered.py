"""Which records of `transactions` have been answered: decided, counted as duplicate, or quarantined.

Every answer names the record by its position, whichever engine gave it. So where the next engine has to begin can be
read off the tables, and needs nobody's word for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from console.running import Pipeline
from console.tables import Tables
from lambdas.effects import duplicate_effect, quarantined_effect
from lambdas.records import UserRecord
from lambdas.repeats import claim_effect
from lambdas.writes import StoredDecision
from local.firehose.stream_reader import ShardReader, arrival_ms, list_shard_ids
from local.mappings.positions import ShardPosition
from stream_features.aggregation import user_payloads
from stream_features.decision import Decision, StreamPosition
from stream_features.errors import MalformedRecord, PortFailure
from stream_features.transaction import parse_transaction


class _Page:
    """User records of one page and what the tables say of them."""

    def __init__(self, tables: Tables, records: Sequence[UserRecord]) -> None:
        self.records = records
        self._tables = tables
        self._ids: dict[StreamPosition, str] = {}
        for record in records:
            try:
                transaction = parse_transaction(record.payload, arrival_ms=record.arrival_ms)
            except MalformedRecord:
                continue  # it has an answer of its own
            self._ids[record.position] = transaction.transaction_id
        self._decisions = {
            transaction_id: StoredDecision.from_document(document).decision
            for transaction_id, document in tables.decisions.get(list(dict.fromkeys(self._ids.values()))).items()
        }

    def decision(self, record: UserRecord) -> Decision | None:
        """The decision on this very record."""
        decision = self._decisions.get(self._ids.get(record.position, ""))
        return decision if decision is not None and decision.stream_position == record.position else None

    def concerning(self, record: UserRecord) -> Decision | None:
        """The decision on this very record, or the one that the score API made on its transaction."""
        decision = self._decisions.get(self._ids.get(record.position, ""))
        if decision is not None and decision.stream_position.of_request:
            return decision
        return self.decision(record)

    def unanswered(self) -> set[StreamPosition]:
        """The records that nothing has come of yet."""
        effects: dict[str, StreamPosition] = {}
        left = {record.position for record in self.records if self.decision(record) is None}
        for record in self.records:
            if record.position in left:
                effects[quarantined_effect(record)] = record.position
                if record.position in self._ids:
                    for mark in (duplicate_effect, claim_effect):
                        effects[mark(self._ids[record.position], record.position)] = record.position
        counted = self._tables.ledger.recorded(list(effects)) if effects else frozenset()
        return left - {effects[effect] for effect in counted}


def answered_up_to(pipeline: Pipeline, tables: Tables, after: Mapping[str, str]) -> dict[str, ShardPosition]:
    """For every shard the newest position up to which every record has been answered.

    Args:
        pipeline: the running pipeline.
        tables: of the pipeline.
        after: shard to a position up to which that is known; other shards are read from their start.

    Returns:
        Shard to position; a shard without any answered record is left out.

    Raises:
        PortFailure: Kinesis or DynamoDB did not answer.
    """
    positions: dict[str, ShardPosition] = {}
    for shard_id in _shards(pipeline):
        position = ShardPosition(after.get(shard_id))
        whole = True
        reader = _reader(pipeline, shard_id, position.sequence_number)
        for records in _pages(pipeline, reader):
            unanswered = {place.sequence_number for place in _Page(tables, records).unanswered()}
            for record in records:  # several may share one Kinesis record
                if record.position.sequence_number in unanswered:
                    whole = False
                    break
                position.sequence_number = record.position.sequence_number
            if not whole:
                break
        position.drained = whole and reader.drained
        if position.sequence_number is not None or position.drained:
            positions[shard_id] = position
    return positions


def decided_beyond(pipeline: Pipeline, tables: Tables, after: Mapping[str, str]) -> Iterator[Decision]:
    """The decisions on the transactions of records after these positions, up to the stream's end as it is now.

    Raises:
        PortFailure: Kinesis or DynamoDB did not answer.
    """
    for shard_id in _shards(pipeline):
        for records in _pages(pipeline, _reader(pipeline, shard_id, after.get(shard_id))):
            page = _Page(tables, records)
            for record in records:
                decision = page.concerning(record)
                if decision is not None:
                    yield decision


def _shards(pipeline: Pipeline) -> list[str]:
    stream = pipeline.output("TransactionsStreamName")
    try:
        return list_shard_ids(pipeline.client("kinesis"), stream)
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"stream {stream}: {error}") from error


def _reader(pipeline: Pipeline, shard_id: str, position: str | None) -> ShardReader:
    stream = pipeline.output("TransactionsStreamName")
    return ShardReader(pipeline.client("kinesis"), stream, shard_id, position=position, page_limit=2_000)


def _pages(pipeline: Pipeline, reader: ShardReader) -> Iterator[list[UserRecord]]:
    stream = pipeline.output("TransactionsStreamName")
    try:
        while not reader.drained:
            yield [
                user_record for raw in reader.read_page() for user_record in _user_records(stream, reader.shard_id, raw)
            ]
            if reader.caught_up:
                return
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"stream {stream}: {error}") from error


def _user_records(stream: str, shard_id: str, raw: Mapping[str, Any]) -> Iterator[UserRecord]:
    for index, payload in enumerate(user_payloads(raw["Data"])):
        position = StreamPosition(shard_id, raw["SequenceNumber"], index)
        yield UserRecord(payload, stream, position, arrival_ms(raw))
