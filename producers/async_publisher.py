"""The publisher for programs that use asyncio: the same core, one event loop, no locks.

boto3 makes the calls, in a few threads of the publisher's own. One hop into a thread for up to 500 Kinesis records is
cheap; an asyncio port of botocore would pin the botocore of every application that imports us.

Nothing here is a task, so nothing here can be cancelled half-way: a caller that is cancelled only stops waiting.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

from producers.aggregation import Aggregation
from producers.deliveries import Delivered, DeliveryFailed, OnDelivered, OnFailed, PublishCounters, PublisherFull
from producers.outbox import Answer, Entry, NoAnswer
from producers.publisher import MAX_WAITING_BYTES, MAX_WAITING_RECORDS
from producers.put_records import MAX_RECORDS, MAX_REQUEST_BYTES
from producers.retries import RetryPolicy
from producers.sending import Sending, WhenFull, deliveries, failures, survive_fork
from producers.validation import validated
from stream_features.errors import MalformedRecord, UsageError
from stream_features.transaction import Transaction

_LOG: Final = logging.getLogger(__name__)
_SYSTEM_RANDOM: Final = secrets.SystemRandom()


class AsyncRecordPublisher:
    """Collects records into PutRecords requests and sends them while the event loop does something else.

    Used by one event loop at a time; after a flush another loop may go on (a function that calls `asyncio.run` for each
    event). In a process made by fork it starts empty. As a context manager it closes at the end of the block, also when
    the block failed.

    Args:
        client: as of `RecordPublisher`, as are the others that are not named here.
        stream_name: the stream to write to.
        max_records: Kinesis records per request.
        max_request_bytes: payloads and keys of a request together.
        linger_s: how long a record may wait for company; None: 0.02, with aggregation 0.1.
        retry: how often and how patiently refused records are sent again.
        max_waiting_records: records held at most, those in requests included.
        max_waiting_bytes: their payloads and keys.
        when_full: "block": publishing waits for room; "raise": it raises PublisherFull.
        aggregation: many records in one Kinesis record; the same for all publishers of a stream, for good.
        strict_order: never two records of one key under way.
        max_in_flight: requests at a time, each in a thread.
        on_delivered: told about every accepted record, in the event loop.
        on_failed: told about every record that is given up; it then has left the publisher.
        chance: uniform draws in [0, 1) for the jitter.
    """

    def __init__(
        self,
        client: Any,
        stream_name: str,
        *,
        max_records: int = MAX_RECORDS,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        linger_s: float | None = None,
        retry: RetryPolicy | None = None,
        max_waiting_records: int = MAX_WAITING_RECORDS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        when_full: WhenFull = "block",
        aggregation: Aggregation | None = None,
        strict_order: bool = True,
        max_in_flight: int = 4,
        on_delivered: OnDelivered | None = None,
        on_failed: OnFailed | None = None,
        chance: Callable[[], float] = _SYSTEM_RANDOM.random,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError("max_in_flight is at least 1")
        self._sending = Sending(
            client,
            stream_name,
            max_records=max_records,
            max_request_bytes=max_request_bytes,
            linger_s=linger_s,
            retry=retry,
            max_waiting_records=max_waiting_records,
            max_waiting_bytes=max_waiting_bytes,
            when_full=when_full,
            aggregation=aggregation,
            strict_order=strict_order,
            on_delivered=on_delivered,
            on_failed=on_failed,
        )
        self._max_in_flight = max_in_flight
        self._chance = chance
        self._is_closed = False
        self._start_empty()
        survive_fork(self)

    def _start_empty(self) -> None:
        self.counters = PublishCounters()
        self._outbox = self._sending.outbox(self.counters, keep_given_up=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()  # set for an instant after every request
        self._in_a_hurry = 0  # callers that wait for a flush or for room
        self._under_way: list[list[Entry]] = []

    def start_empty_in_child(self) -> None:
        """Called in the child right after a fork."""
        self._sending.start_again_in_child()
        self._start_empty()

    @property
    def waiting(self) -> int:
        """Records queued and not yet accepted by the stream."""
        return self._outbox.waiting

    async def publish_raw(self, partition_key: str, payload: bytes, *, record_id: str = "") -> None:
        """Queue one record; returns once there is room for it. A cancelled call has queued nothing.

        Raises:
            MalformedRecord: Kinesis would refuse the record whatever the stream's state.
            PublisherFull: there is no room, and `when_full` is "raise".
            UsageError: the publisher is closed, in use by another loop, or has no `on_failed`.
        """
        if self._sending.on_failed is None:
            raise UsageError("give the publisher on_failed, or await deliver: nobody else would learn of a failure")
        await self._queue(partition_key, payload, record_id, None)

    async def deliver_raw(self, partition_key: str, payload: bytes, *, record_id: str = "") -> Delivered:
        """Queue one record and wait until the stream has it. A call cancelled while it waits leaves it on its way.

        Raises:
            DeliveryFailed: the record was given up.
            MalformedRecord, PublisherFull, UsageError: as `publish_raw`.
        """
        outcome: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        await self._queue(partition_key, payload, record_id, outcome)
        return await outcome

    async def flush(self) -> None:
        """Return when everything queued before the call is accepted or given up; bound it with `asyncio.timeout`."""
        self._use_running_loop()
        mark = self._outbox.next_epoch()
        self._in_a_hurry += 1
        try:
            while not self._outbox.is_settled(mark):
                self._send_what_is_due()
                await self._settled.wait()
        finally:
            self._in_a_hurry -= 1

    async def close(self) -> None:
        """Take no more records and flush. The client stays open. Can be called again if it is cancelled."""
        self._is_closed = True
        await self.flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _queue(self, key: str, payload: bytes, record_id: str, outcome: asyncio.Future[Delivered] | None) -> None:
        self._use_running_loop()
        try:
            size = self._sending.size_of(key, payload)
        except MalformedRecord:
            self.counters.invalid += 1
            raise
        lane = self._sending.lane_of(key)
        while True:
            if self._is_closed:
                raise UsageError("the publisher is closed")
            if self._outbox.has_room(size):
                break
            if self._sending.when_full == "raise":
                raise PublisherFull(f"{self._outbox.waiting} records wait for stream {self._sending.stream_name}")
            self._in_a_hurry += 1
            try:
                self._send_what_is_due()
                await self._settled.wait()
            finally:
                self._in_a_hurry -= 1
        self._outbox.add(lane, key, payload, size, record_id, time.monotonic(), outcome)
        if self._timer is None or self._outbox.is_lone or self._outbox.is_full:
            self._send_what_is_due()

    def _use_running_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and self._under_way:
            if not self._loop.is_closed():
                raise UsageError("the publisher has requests under way in another event loop: flush it there first")
            for entries in self._under_way:
                self._outbox.put_back(entries, time.monotonic())  # their loop ended before their answers came
            self._under_way.clear()
        self._loop, self._timer, self._settled, self._in_a_hurry = loop, None, asyncio.Event(), 0

    def _send_what_is_due(self) -> None:
        """Start every request that may start now, and come again when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is None:
            return
        everything = self._in_a_hurry > 0
        while self._outbox.in_flight < self._max_in_flight:
            entries = self._outbox.take(time.monotonic(), everything=everything)
            if entries is None:
                break
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._max_in_flight, thread_name_prefix="fraudstream-publisher")
            self._under_way.append(entries)
            sent = self._loop.run_in_executor(self._executor, self._sending.put, entries)
            sent.add_done_callback(lambda done, entries=entries: self._book(entries, done))  # type: ignore[misc]
        if self._outbox.in_flight < self._max_in_flight:
            now_s = time.monotonic()
            due_in_s = self._outbox.retry_in_s(now_s) if everything else self._outbox.due_in_s(now_s)
            if due_in_s < math.inf:
                self._timer = self._loop.call_later(due_in_s, self._send_what_is_due)

    def _book(self, entries: list[Entry], done: asyncio.Future[Answer]) -> None:
        self._under_way.remove(entries)
        error = done.exception()
        if error is not None:
            answer: Answer = NoAnswer(f"{type(error).__name__}: {error}", final=True, unknown=True)
        else:
            answer = done.result()
        settled = self._outbox.settle(entries, answer, time.monotonic(), self._chance())
        for record, delivered in deliveries(settled):
            if record.token is not None and not record.token.done():
                record.token.set_result(delivered)
        for given_up in settled.given_up:
            for record, undelivered in failures(given_up):
                if record.token is not None and not record.token.done():
                    record.token.set_exception(DeliveryFailed(undelivered))
                elif self._sending.on_failed is None:  # its caller was cancelled
                    _LOG.error("record %s was not delivered: %s", record.record_id or "(raw)", undelivered.reason)
        self._settled.set()
        self._settled.clear()
        self._send_what_is_due()
        self.counters.callback_errors += self._sending.report(settled)


class AsyncTransactionPublisher(AsyncRecordPublisher):
    """Publishes transactions, each checked against its contract, in strict order per card."""

    async def publish(self, transaction: Transaction | Mapping[str, Any]) -> None:
        """Queue one transaction (an instance, or a mapping of the contract's fields); returns once there is room.

        Raises:
            MalformedRecord: it breaks the contract and would be quarantined; names field and rule.
            PublisherFull, UsageError: as `publish_raw`.
        """
        card_id, payload, transaction_id = self._validated(transaction)
        await self.publish_raw(card_id, payload, record_id=transaction_id)

    async def deliver(self, transaction: Transaction | Mapping[str, Any]) -> Delivered:
        """Queue one transaction and wait until the stream has it; many callers share one request.

        Raises:
            DeliveryFailed: it was given up.
            MalformedRecord, PublisherFull, UsageError: as `publish`.
        """
        card_id, payload, transaction_id = self._validated(transaction)
        return await self.deliver_raw(card_id, payload, record_id=transaction_id)

    def _validated(self, transaction: Transaction | Mapping[str, Any]) -> tuple[str, bytes, str]:
        try:
            valid = validated(transaction, arrival_ms=time.time_ns() // 1_000_000)
        except MalformedRecord:
            self.counters.invalid += 1
            raise
        return valid.transaction.card_id, valid.payload, valid.transaction.transaction_id
