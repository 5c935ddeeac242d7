"""From Lambda's Kinesis event to user records, and back to the identifiers of those that failed."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from stream_features.aggregation import user_payloads
from stream_features.decision import StreamPosition


class UserRecord(Struct, frozen=True):
    """One application's record with where and when it arrived.

    Attributes:
        payload: its bytes.
        stream: the stream it was published to.
        position: where it stands there.
        arrival_ms: when it arrived there, the stream's own time stamp.
        passed_on: where it stands in the stream it was delivered from, if that is another one.
    """

    payload: bytes
    stream: str
    position: StreamPosition
    arrival_ms: int
    passed_on: StreamPosition | None = None

    @property
    def delivery(self) -> StreamPosition:
        """Where it stands in the stream it was delivered from; no two records of a batch share it."""
        return self.passed_on or self.position

    @property
    def item_identifier(self) -> str:
        """What the event source mapping knows the record by; shared by all user records of one Kinesis record."""
        return self.delivery.sequence_number


def user_records(record: Mapping[str, Any]) -> Iterator[UserRecord]:
    """The user records of one entry of a Kinesis event, in order; an aggregated record holds several."""
    kinesis = record["kinesis"]
    stream = str(record["eventSourceARN"]).rpartition("/")[2]
    shard_id = str(record["eventID"]).partition(":")[0]
    sequence_number = str(kinesis["sequenceNumber"])
    arrival_ms = round(kinesis["approximateArrivalTimestamp"] * 1000)
    for index, payload in enumerate(user_payloads(base64.b64decode(kinesis["data"]))):
        yield UserRecord(payload, stream, StreamPosition(shard_id, sequence_number, index), arrival_ms)


def arrival_order(records: Iterable[UserRecord]) -> list[UserRecord]:
    """By (sequence number, sub-sequence number) of their delivery, as integers."""
    return sorted(records, key=lambda record: record.delivery.order)


def batch_item_failures(identifiers: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """The answer that makes Lambda redeliver from the lowest failed sequence number on."""
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}
