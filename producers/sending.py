"""What the publishers share, however they wait: bounds, lanes, the client of this process, and reports."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Final, Literal, Protocol

from producers.aggregation import ENTRY_OVERHEAD, RECORD_OVERHEAD, Aggregation, aggregate
from producers.deliveries import Delivered, OnDelivered, OnFailed, PublishCounters, Undelivered
from producers.outbox import Answer, Entry, GivenUp, Limits, Outbox, Record, Settled
from producers.put_records import MAX_KEY_CHARACTERS, MAX_RECORD_BYTES, MAX_RECORDS, MAX_REQUEST_BYTES, put_records
from producers.retries import RetryPolicy
from stream_features.errors import MalformedRecord

WhenFull = Literal["block", "raise"]

_LOG: Final = logging.getLogger(__name__)


class Sending:
    """How records of one publisher go out. The arguments are those of `RecordPublisher`."""

    def __init__(
        self,
        client: Any,
        stream_name: str,
        *,
        max_records: int,
        max_request_bytes: int,
        linger_s: float | None,
        retry: RetryPolicy | None,
        max_waiting_records: int,
        max_waiting_bytes: int,
        when_full: WhenFull,
        aggregation: Aggregation | None,
        strict_order: bool,
        on_delivered: OnDelivered | None,
        on_failed: OnFailed | None,
    ) -> None:
        if not 1 <= max_records <= MAX_RECORDS or not 1 <= max_request_bytes <= MAX_REQUEST_BYTES:
            raise ValueError(f"a request holds 1..{MAX_RECORDS} records and at most {MAX_REQUEST_BYTES} bytes")
        if max_waiting_records < 1 or max_waiting_bytes < MAX_RECORD_BYTES:
            raise ValueError(f"at least one record of {MAX_RECORD_BYTES} bytes must be allowed to wait")
        if when_full not in ("block", "raise"):
            raise ValueError('when_full is "block" or "raise"')
        if aggregation is not None and not strict_order:
            raise ValueError("aggregated records always go in order: leave strict_order on")
        self.stream_name = stream_name
        self.when_full = when_full
        self.on_delivered = on_delivered
        self.on_failed = on_failed
        self.retry = retry or RetryPolicy()
        # An aggregate is worth waiting for: ten requests a second and bucket instead of fifty.
        self.linger_s = linger_s if linger_s is not None else 0.02 if aggregation is None else 0.1
        self.limits = Limits(
            request_records=max_records,
            request_bytes=max_request_bytes,
            entry_records=1 if aggregation is None else aggregation.max_records,
            entry_bytes=0 if aggregation is None else aggregation.max_bytes,
            entry_overhead=0 if aggregation is None else ENTRY_OVERHEAD,
            record_overhead=0 if aggregation is None else RECORD_OVERHEAD,
            waiting_records=max_waiting_records,
            waiting_bytes=max_waiting_bytes,
        )
        self._max_record_bytes = min(MAX_RECORD_BYTES, max_request_bytes)
        self._max_record_bytes -= self.limits.entry_overhead + self.limits.record_overhead
        self._aggregation = aggregation
        self._make_client: Callable[[], Any] | None = client if callable(client) else None
        self._client: Any = None if callable(client) else client
        self._client_lock = threading.Lock()
        self.lane_of: Callable[[str], str]
        if aggregation is not None:
            self.lane_of = aggregation.hash_key_of
        elif strict_order:
            self.lane_of = str
        else:
            numbers = count()
            self.lane_of = lambda key: str(next(numbers))  # a lane of its own: nothing waits for it

    def outbox(self, counters: PublishCounters, *, keep_given_up: bool) -> Outbox:
        """An empty one."""
        return Outbox(
            self.limits, linger_s=self.linger_s, retry=self.retry, keep_given_up=keep_given_up, counters=counters
        )

    def size_of(self, partition_key: str, payload: bytes) -> int:
        """Bytes of payload and key.

        Raises:
            MalformedRecord: Kinesis would refuse the record whatever the stream's state.
        """
        if not 1 <= len(partition_key) <= MAX_KEY_CHARACTERS:
            raise MalformedRecord("partition_key", "length", f"Kinesis takes 1 to {MAX_KEY_CHARACTERS} characters")
        size = len(payload) + (len(partition_key) if partition_key.isascii() else len(partition_key.encode()))
        if size > self._max_record_bytes:
            raise MalformedRecord("$", "size", f"{size} bytes with its key, a record holds {self._max_record_bytes}")
        return size

    def put(self, entries: Sequence[Entry]) -> Answer:
        """One PutRecords call; called by whichever thread sends."""
        for entry in entries:
            if entry.data is None:
                if self._aggregation is None:
                    entry.data = entry.records[0].payload
                else:
                    entry.hash_key = entry.lane_name
                    entry.data = aggregate(entry, entry.lane_name)
        return put_records(self._connected(), self.stream_name, entries)

    def report(self, settled: Settled) -> int:
        """Tell the callbacks; returns how many of them raised. An exception in one is logged and stops nothing."""
        errors = 0
        if self.on_delivered is not None:
            for record, delivered in deliveries(settled):
                errors += _call(self.on_delivered, delivered, record.record_id)
        if self.on_failed is not None:
            for given_up in settled.given_up:
                for record, undelivered in failures(given_up):
                    errors += _call(self.on_failed, undelivered, record.record_id)
        return errors

    def start_again_in_child(self) -> None:
        """After a fork: connections of the parent must not carry our bytes."""
        self._client_lock = threading.Lock()
        if self._make_client is not None:
            self._client = None
        elif hasattr(self._client, "close"):
            self._client.close()  # botocore's: drops the pooled connections, the next call makes new ones

    def _connected(self) -> Any:
        if self._client is None and self._make_client is not None:
            with self._client_lock:
                if self._client is None:
                    self._client = self._make_client()
        return self._client


def deliveries(settled: Settled) -> Iterator[tuple[Record, Delivered]]:
    """Every accepted record with its place in the stream."""
    for entry, (shard_id, sequence_number) in settled.accepted:
        for place, record in enumerate(entry.records):
            yield record, Delivered(record.record_id, record.key, shard_id, sequence_number, place)


def failures(given_up: GivenUp) -> Iterator[tuple[Record, Undelivered]]:
    """Every record of an entry that was given up, with the reason."""
    reason = f"after {given_up.after}: {given_up.reason}"
    for record in given_up.entry.records:
        yield record, Undelivered(record.record_id, record.key, record.payload, reason)


def _call(callback: Callable[[Any], Any], outcome: Delivered | Undelivered, record_id: str) -> int:
    try:
        callback(outcome)
    except Exception:
        _LOG.exception("callback of record %s failed", record_id or "(raw)")
        return 1
    return 0


class Forkable(Protocol):
    def start_empty_in_child(self) -> None: ...


_FORKABLE: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def survive_fork(publisher: Forkable) -> None:
    """From now on the publisher starts empty in every child process: what waits belongs to the parent."""
    _FORKABLE.add(publisher)


def _in_child() -> None:
    for publisher in list(_FORKABLE):
        publisher.start_empty_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
