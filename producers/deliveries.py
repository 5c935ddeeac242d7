"""What becomes of a record: accepted by the stream, or given up; and the errors a publisher raises itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stream_features.errors import PortFailure


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """The stream has the record.

    Attributes:
        record_id: the transaction id; empty for records published raw without one.
        partition_key: the card.
        shard_id: where it lies.
        sequence_number: its place there; all records of an aggregate share one.
        sub_sequence_number: its place in the aggregate, 0 without aggregation.
    """

    record_id: str
    partition_key: str
    shard_id: str
    sequence_number: str
    sub_sequence_number: int


class Undelivered(msgspec.Struct, frozen=True, gc=False):
    """The publisher has given the record up and no longer holds it.

    After a timeout the stream may have it nevertheless; publishing it again is always right.

    Attributes:
        record_id: the transaction id; empty for records published raw without one.
        partition_key: the card.
        payload: the record, to be published again or kept somewhere else.
        reason: what AWS said last.
    """

    record_id: str
    partition_key: str
    payload: bytes
    reason: str


OnDelivered = Callable[[Delivered], Any]
OnFailed = Callable[[Undelivered], Any]


class PublisherFull(PortFailure):
    """The stream does not take records as fast as they come, and `when_full` is "raise". Nothing was queued."""


class DeliveryFailed(PortFailure):
    """The awaited record was given up; `undelivered` holds it."""

    def __init__(self, undelivered: Undelivered) -> None:
        super().__init__(f"record {undelivered.record_id or '(raw)'} was not delivered: {undelivered.reason}")
        self.undelivered = undelivered


class PublishCounters(msgspec.Struct, gc=False):
    """What a publisher has done so far, in this process.

    Attributes:
        published: records the stream accepted.
        requests: PutRecords calls, repeated ones included.
        retried: records sent again after a failure (one record may count several times).
        failed: records given up. Without `on_failed` they stay queued, and may count again.
        unanswered: records of requests without an answer: each may be in the stream twice.
        invalid: records refused before they were queued.
        callback_errors: callbacks that raised.
    """

    published: int = 0
    requests: int = 0
    retried: int = 0
    failed: int = 0
    unanswered: int = 0
    invalid: int = 0
    callback_errors: int = 0
