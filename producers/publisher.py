"""Publishing to a Kinesis stream: full requests, strict order per card, retries of exactly what failed.

Delivery is at least once: after a timeout a request is sent again although it may have arrived. A program that uses
asyncio takes `producers.async_publisher` instead. Which records go when is decided in `producers.outbox`.
"""

from __future__ import annotations

import atexit
import logging
import math
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from producers.aggregation import Aggregation
from producers.deliveries import OnDelivered, OnFailed, PublishCounters, PublisherFull
from producers.outbox import Answer, Entry, GivenUp, NoAnswer
from producers.put_records import MAX_KEY_CHARACTERS, MAX_RECORD_BYTES, MAX_RECORDS, MAX_REQUEST_BYTES
from producers.retries import RetryPolicy
from producers.sending import Sending, WhenFull, survive_fork
from producers.validation import validated
from stream_features.errors import MalformedRecord, PortFailure, UsageError
from stream_features.transaction import Transaction

__all__ = [
    "MAX_KEY_CHARACTERS",
    "MAX_RECORDS",
    "MAX_RECORD_BYTES",
    "MAX_REQUEST_BYTES",
    "Aggregation",
    "PublishCounters",
    "RecordPublisher",
    "RetryPolicy",
    "TransactionPublisher",
]

MAX_WAITING_RECORDS: Final = 20_000
MAX_WAITING_BYTES: Final = 32 * 1024 * 1024

_LOG: Final = logging.getLogger(__name__)
_SYSTEM_RANDOM: Final = secrets.SystemRandom()  # publishers that were started together must not retry together
_WITH_THREADS: Final[weakref.WeakSet[RecordPublisher]] = weakref.WeakSet()


class RecordPublisher:
    """Collects records into PutRecords requests and sends them: in the calling thread, or in threads of its own.

    A request goes out when it is full, when `linger_s` has passed since its first record could go, or on `flush`.
    Without `sender_threads` lingering is noticed by the next `publish_raw`, or by `send_due` while the caller is idle;
    nothing happens between calls, so a function that is frozen after `flush` has nothing under way. All methods may be
    called from any thread. In a process made by fork the publisher starts empty, with connections of its own: what
    waited is the parent's. As a context manager it closes at the end of the block, also when the block failed.

    Args:
        client: a boto3 Kinesis client, or a function that makes one (`producers.put_records.kinesis_client`), called
            once in each process. A program that forks while other threads publish needs the function.
        stream_name: the stream to write to.
        max_records: Kinesis records per request, 1..500.
        max_request_bytes: payloads and keys of a request together.
        linger_s: how long a record may wait for company; None: 0.02, with aggregation 0.1.
        retry: how often and how patiently refused records are sent again.
        max_waiting_records: records held at most, those in requests included.
        max_waiting_bytes: their payloads and keys; a request under way takes up to four times its size on top.
        when_full: "block": publishing sends and waits until there is room; "raise": it sends what may go now, and
            raises PublisherFull if there is no room then.
        aggregation: put many records into one Kinesis record. A stream takes either plain or aggregated records: give
            all its publishers the same value, for good.
        strict_order: never two records of one key in one request, and none before the one ahead of it is accepted.
            False is faster where few keys have most of the records; a refused record may then land behind later ones.
        sender_threads: threads that send while the caller does something else (and as many requests at a time).
        on_delivered: told about every accepted record, in the thread that sent it, without a lock held.
        on_failed: told about every record that is given up; it then has left the publisher. Without it, given-up
            records stay queued and PortFailure is raised; threads have nobody to raise it to, so they need `on_failed`.
        sleep: waits that many seconds (without threads).
        clock: monotonic seconds.
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
        sender_threads: int = 0,
        on_delivered: OnDelivered | None = None,
        on_failed: OnFailed | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = _SYSTEM_RANDOM.random,
    ) -> None:
        if sender_threads < 0 or (sender_threads and on_failed is None):
            raise ValueError("sender threads need on_failed: nobody else would learn what was not delivered")
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
        self._sender_threads = sender_threads
        self._sleep = sleep
        self._clock = clock
        self._chance = chance
        self._is_closed = False
        self._start_empty()
        survive_fork(self)
        if sender_threads:
            _WITH_THREADS.add(self)

    def _start_empty(self) -> None:
        self.counters = PublishCounters()
        self._outbox = self._sending.outbox(self.counters, keep_given_up=self._sending.on_failed is None)
        self._lock = threading.Lock()  # guards the outbox and the counters
        self._changed = threading.Condition(self._lock)  # told what others may wait for
        self._threads: list[threading.Thread] = []

    def start_empty_in_child(self) -> None:
        """Called in the child right after a fork."""
        self._sending.start_again_in_child()
        self._start_empty()

    @property
    def waiting(self) -> int:
        """Records queued and not yet accepted by the stream."""
        return self._outbox.waiting

    def publish_raw(self, partition_key: str, payload: bytes, *, record_id: str = "") -> None:
        """Queue one record and, without sender threads, send what has become full or due.

        Raises:
            MalformedRecord: Kinesis would refuse the record whatever the stream's state; nothing was queued.
            PublisherFull: there is no room, and `when_full` is "raise"; nothing was queued.
            PortFailure: records were given up, and there is no `on_failed`. Nothing is lost: this record is queued like
                the others; `flush` tries again, publishing it again would make a duplicate.
            UsageError: the publisher is closed.
        """
        try:
            size = self._sending.size_of(partition_key, payload)
        except MalformedRecord:
            self._count_invalid()
            raise
        lane = self._sending.lane_of(partition_key)
        while True:
            with self._lock:
                if self._is_closed:
                    raise UsageError("the publisher is closed")
                outbox, now_s = self._outbox, self._clock()
                if outbox.has_room(size):
                    outbox.add(lane, partition_key, payload, size, record_id, now_s)
                    if not self._sender_threads:
                        entries = outbox.take(now_s)
                        break
                    if len(self._threads) < self._sender_threads:
                        self._start_threads()
                    elif outbox.is_lone or outbox.is_full:
                        self._changed.notify_all()
                    return
            self._make_room(size)
        while entries is not None:
            self._send(entries)
            entries = self._take()

    def due_in_s(self) -> float:
        """Seconds until `send_due` has something to do; infinite when nothing waits."""
        with self._lock:
            return self._outbox.due_in_s(self._clock())

    def send_due(self) -> None:
        """Send one request if one is full, lingered long enough or is to be repeated. Raises PortFailure like flush."""
        entries = self._take()
        if entries is not None:
            self._send(entries)

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when everything queued before the call is accepted or given up.

        Args:
            timeout_s: start no further request after so many seconds; a request under way is still waited for.

        Raises:
            PortFailure: records were given up, and there is no `on_failed`; or the time has passed. What is not
                accepted stays queued.
        """
        ends_at_s = math.inf if timeout_s is None else self._clock() + timeout_s
        with self._lock:
            mark = self._outbox.next_epoch()
        while True:
            with self._lock:
                if self._outbox.is_settled(mark):
                    return
                now_s = self._clock()
                if now_s >= ends_at_s:
                    raise PortFailure(f"{self._outbox.waiting} records are still waiting after {timeout_s} s")
                entries = self._outbox.take(now_s, everything=True)
                wait_s = min(self._outbox.retry_in_s(now_s), ends_at_s - now_s)
                if entries is None and self._others_may_act():
                    self._wait(wait_s)
                    continue
            if entries is None:
                self._sleep(wait_s)
            else:
                self._send(entries)

    def close(self, timeout_s: float | None = None) -> None:
        """Take no more records, flush, end the threads. The client stays open. Can be called again if it raises.

        Raises:
            PortFailure: as `flush`.
        """
        with self._lock:
            self._is_closed = True
            self._changed.notify_all()
        self.flush(timeout_s)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except PortFailure as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # what went wrong first must not be hidden by what it left behind

    def _count_invalid(self) -> None:
        with self._lock:
            self.counters.invalid += 1

    def _take(self) -> list[Entry] | None:
        with self._lock:
            return self._outbox.take(self._clock())

    def _make_room(self, size: int) -> None:
        """Do one thing that may make room, or wait for it."""
        refuses = self._sending.when_full == "raise"
        with self._lock:
            outbox, now_s = self._outbox, self._clock()
            if outbox.has_room(size):
                return
            # Without threads of its own the publisher can only make room here; with them "raise" means: at once.
            entries = None if refuses and self._sender_threads else outbox.take(now_s, everything=True)
            if entries is None:
                if refuses:
                    raise PublisherFull(f"{outbox.waiting} records wait for stream {self._sending.stream_name}")
                wait_s = outbox.retry_in_s(now_s)
                if self._others_may_act():
                    self._wait(wait_s)
                    return
        if entries is None:
            self._sleep(wait_s)
        else:
            self._send(entries)

    def _others_may_act(self) -> bool:
        return self._outbox.in_flight > 0 or self._sender_threads > 0

    def _wait(self, seconds: float) -> None:
        self._changed.wait(None if seconds == math.inf else seconds)

    def _send(self, entries: list[Entry]) -> None:
        try:
            answer = self._sending.put(entries)
        except BaseException:
            with self._lock:
                self._outbox.put_back(entries, self._clock())
                self._changed.notify_all()
            raise
        self._book(entries, answer)

    def _book(self, entries: list[Entry], answer: Answer) -> None:
        with self._lock:
            settled = self._outbox.settle(entries, answer, self._clock(), self._chance())
            self._changed.notify_all()
        errors = self._sending.report(settled)
        if errors:
            with self._lock:
                self.counters.callback_errors += errors
        if settled.given_up and self._sending.on_failed is None:
            raise PortFailure(self._given_up(settled.given_up)) from (
                answer.cause if isinstance(answer, NoAnswer) else None
            )

    def _given_up(self, given_up: list[GivenUp]) -> str:
        count = sum(len(one.entry.records) for one in given_up)
        return (
            f"stream {self._sending.stream_name} did not take {count} records after {given_up[0].after} "
            f"({given_up[0].reason}); {self.counters.published} published, {self.waiting} waiting"
        )

    def _start_threads(self) -> None:
        # Not before the first record: a server that imports the application and then forks has no thread to lose.
        while len(self._threads) < self._sender_threads:
            thread = threading.Thread(target=self._send_until_closed, name="fraudstream-publisher", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _send_until_closed(self) -> None:
        while True:
            with self._lock:
                while (entries := self._outbox.take(self._clock())) is None:
                    if self._is_closed:
                        return  # what is left to do, `close` does itself
                    self._wait(self._outbox.due_in_s(self._clock()))
            try:
                answer = self._sending.put(entries)
            except Exception as error:
                _LOG.exception("sending %s Kinesis records failed", len(entries))
                answer = NoAnswer(f"{type(error).__name__}: {error}", final=True, unknown=True)
            self._book(entries, answer)


class TransactionPublisher(RecordPublisher):
    """Publishes transactions, each checked against its contract, in strict order per card."""

    def publish(self, transaction: Transaction | Mapping[str, Any]) -> None:
        """Queue one transaction; it goes out as `publish_raw` says.

        Args:
            transaction: an instance, or a mapping of the contract's fields; see `producers.validation`.

        Raises:
            MalformedRecord: it breaks the contract and would be quarantined; names field and rule; nothing was queued.
            PublisherFull, PortFailure, UsageError: as `publish_raw`.
        """
        try:
            valid = validated(transaction, arrival_ms=time.time_ns() // 1_000_000)
        except MalformedRecord:
            self._count_invalid()
            raise
        self.publish_raw(valid.transaction.card_id, valid.payload, record_id=valid.transaction.transaction_id)


def _close_at_exit() -> None:
    for publisher in list(_WITH_THREADS):
        publisher.close()


atexit.register(_close_at_exit)  # threads end with the program, records must not
