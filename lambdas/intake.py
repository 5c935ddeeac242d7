"""How transactions come in: as their publishers sent them, or with their features from the Flink job."""

from __future__ import annotations

from typing import Final

from lambdas.batch import Arrival, Batch
from lambdas.effects import Mark, OnceOnly, RecordKind, Rejection
from lambdas.records import UserRecord
from stream_features.errors import ContractMismatch, MalformedRecord
from stream_features.feature_record import DuplicateRecord, FeaturesRecord, RejectedMark, decode_feature_record
from stream_features.names import ENTITY_EVENTS_STREAM, FEATURES_STREAM, TRANSACTIONS_STREAM
from stream_features.transaction import parse_transaction, payload_sha256

KIND_BY_STREAM: Final[dict[str, RecordKind]] = {
    TRANSACTIONS_STREAM: "transaction",
    ENTITY_EVENTS_STREAM: "entity-event",
}


class TransactionIntake:
    """Records of the transactions stream: what breaks the contract is quarantined."""

    def __init__(self, once_only: OnceOnly) -> None:
        self._once_only = once_only

    def take_in(self, batch: Batch) -> None:
        rejections: list[Rejection] = []
        with batch.stage("decode"):
            for record in batch.records:
                try:
                    transaction = parse_transaction(record.payload, arrival_ms=record.arrival_ms)
                except MalformedRecord as error:
                    rejections.append((record, error))
                else:
                    batch.arrivals.append(Arrival(transaction, payload_sha256(transaction), record))
        with batch.stage("commit"):
            self._once_only.quarantine(batch, rejections)


class FeaturesIntake:
    """Records of the features stream: transactions, repeats, and marks of records that lie in quarantine.

    Each speaks of a record of another stream; arrivals and marks carry that one, as it was published. Only our own job
    writes this stream, so a record that does not fit is nobody's but ours: it fails and raises an alarm.
    """

    def __init__(self, once_only: OnceOnly) -> None:
        self._once_only = once_only

    def take_in(self, batch: Batch) -> None:
        marks: dict[RecordKind, list[Mark]] = {kind: [] for kind in KIND_BY_STREAM.values()}
        with batch.stage("decode"):
            for record in batch.records:
                try:
                    found = decode_feature_record(record.payload)
                    if isinstance(found, RejectedMark):
                        marks[_kind(found)].append((_marked(found, record), found))
                    else:
                        batch.arrivals.append(_arrival(found, record))
                except ContractMismatch as error:
                    batch.fail([record], error)
        with batch.stage("commit"):
            for kind, of_kind in marks.items():
                self._once_only.announce(batch, of_kind, kind)


def _arrival(found: FeaturesRecord | DuplicateRecord, record: UserRecord) -> Arrival:
    # Streams of one stack share their prefix.
    stream = record.stream.removesuffix(FEATURES_STREAM) + TRANSACTIONS_STREAM
    published = UserRecord(found.payload.encode(), stream, found.position, found.arrival_ms, record.position)
    try:
        transaction = parse_transaction(published.payload, arrival_ms=found.arrival_ms)
    except MalformedRecord as error:
        raise ContractMismatch(f"the job took in a transaction that is none: {error.field}: {error.rule}") from error
    features = found if isinstance(found, FeaturesRecord) else None
    return Arrival(transaction, payload_sha256(transaction), published, features, repeats=features is None)


def _kind(mark: RejectedMark) -> RecordKind:
    for stream, kind in KIND_BY_STREAM.items():
        if mark.stream.endswith(stream):
            return kind
    raise ContractMismatch(f"a rejected record of stream {mark.stream!r}, which the job does not read")


def _marked(mark: RejectedMark, record: UserRecord) -> UserRecord:
    return UserRecord(b"", mark.stream, mark.position, mark.arrival_ms, record.position)
