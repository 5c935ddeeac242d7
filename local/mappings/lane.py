"""One strand of calls: records of a shard (or of one hash class of its keys) to the function, strictly in order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from local.mappings.event import MAX_EVENT_BYTES, StreamRecord, discard_notice, kinesis_event
from local.mappings.outcome import Batch, Outcome, reported_outcome, settle, split_expired, wait_s
from local.mappings.settings import MappingSettings
from stream_features.flink_job.aws_calls import FAILURES

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ShardStatus:
    """What a shard's threads count, for `status.json`. Only they change it; a reader may see it a moment old."""

    millis_behind_latest: int | None = None  # of the newest read; None before the first
    read: int = 0
    filtered: int = 0  # of those read: no filter lets them through
    delivered: int = 0  # done, as the function answered
    calls: int = 0
    failed_calls: int = 0  # the function failed, wholly or partly
    undelivered_calls: int = 0  # no answer from Lambda
    discarded: int = 0
    open: int = 0  # read, not done
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class FailureQueue:
    """The on-failure destination of a mapping."""

    sqs: Any
    url: str


class Lane:
    """Collects records into batches and has the function do them until each is done or discarded."""

    def __init__(
        self,
        settings: MappingSettings,
        shard_id: str,
        functions: Any,
        role_arn: str,
        failure_queue: FailureQueue | None,
        finished: Callable[[Sequence[StreamRecord]], None],
        status: ShardStatus,
        stopping: threading.Event,
    ) -> None:
        """`functions` is a boto3 client of Lambda; `finished` is told of records in this lane's order."""
        self._settings = settings
        self._shard_id = shard_id
        self._functions = functions
        self._role_arn = role_arn
        self._failure_queue = failure_queue
        self._finished = finished
        self._status = status
        self._stopping = stopping
        self._waiting: deque[tuple[float, StreamRecord]] = deque()
        self._changed = threading.Condition()

    def put(self, records: Sequence[StreamRecord]) -> None:
        """Queue records, in stream order."""
        received_s = time.monotonic()
        with self._changed:
            self._waiting.extend((received_s, record) for record in records)
            self._changed.notify()

    def wake(self) -> None:
        """Have a waiting lane look at the stop event."""
        with self._changed:
            self._changed.notify()

    def run(self) -> None:
        """Work until stopped. What was queued but not done is read again from the checkpoint by the next run."""
        while not self._stopping.is_set():
            records = self._collect()
            if records:
                self._work_off(records)

    def _collect(self) -> list[StreamRecord]:
        """The next batch: full, or as old as the window; empty when stopping."""
        with self._changed:
            while not self._waiting:
                if self._stopping.is_set():
                    return []
                self._changed.wait()
            due_s = self._waiting[0][0] + self._settings.window_s
            while len(self._waiting) < self._settings.batch_size and not self._stopping.is_set():
                remaining_s = due_s - time.monotonic()
                if remaining_s <= 0 or self._fills_an_event():
                    break
                self._changed.wait(remaining_s)
            if self._stopping.is_set():
                return []
            return self._take()

    def _fills_an_event(self) -> bool:
        return sum(record.event_bytes for _, record in self._waiting) >= MAX_EVENT_BYTES

    def _take(self) -> list[StreamRecord]:
        taken: list[StreamRecord] = []
        event_bytes = 0
        while self._waiting and len(taken) < self._settings.batch_size:
            event_bytes += self._waiting[0][1].event_bytes
            if taken and event_bytes > MAX_EVENT_BYTES:
                break
            taken.append(self._waiting.popleft()[1])
        return taken

    def _work_off(self, records: list[StreamRecord]) -> None:
        queue = deque([Batch(0, len(records))])
        repeated_calls = 0
        while queue and not self._stopping.is_set():
            expired, left = split_expired(queue.popleft(), self._expired_until(records))
            if expired is not None:
                self._discard(records[expired.start : expired.stop], "RecordAgeExceeded", expired.retries)
            if left is None:
                continue
            outcome = self._call(left, records[left.start : left.stop])
            if outcome is None:
                queue.appendleft(left)  # Lambda did not answer: not a failure of the function, costs no retry
                repeated_calls += 1
                self._stopping.wait(wait_s(repeated_calls))
                continue
            settled = settle(left, outcome, self._settings.rules)
            if settled.discarded is not None:
                self._discard(records[left.start : left.stop], "RetryAttemptsExhausted", left.retries + 1)
            elif settled.done_until > left.start:
                self._status.delivered += settled.done_until - left.start
                self._finished(records[left.start : settled.done_until])
            queue.extendleft(reversed(settled.rest))
            repeated_calls = repeated_calls + 1 if settled.waits else 0
            if settled.waits:
                self._stopping.wait(wait_s(repeated_calls))

    def _expired_until(self, records: Sequence[StreamRecord]) -> int:
        """Index of the first record young enough. Arrival times rise along a shard."""
        max_age_s = self._settings.rules.max_age_s
        if max_age_s is None:
            return 0
        oldest = datetime.now(UTC) - timedelta(seconds=max_age_s)
        return next((place for place, record in enumerate(records) if record.arrived_at >= oldest), len(records))

    def _call(self, batch: Batch, records: Sequence[StreamRecord]) -> Outcome | None:
        """Call the function; None if Lambda gave no answer."""
        self._status.calls += 1
        try:
            answer = self._functions.invoke(
                FunctionName=self._settings.function_arn,
                InvocationType="RequestResponse",
                Payload=kinesis_event(records, self._settings, self._shard_id, self._role_arn),
            )
            body: bytes = answer["Payload"].read()
        except FAILURES as error:
            self._status.undelivered_calls += 1
            self._note(f"no answer: {error}")
            return None
        outcome = self._outcome(batch, records, answer.get("FunctionError"), body)
        if outcome.failed_from is not None:
            self._status.failed_calls += 1
            self._note(
                f"{batch.size} records from {records[0].sequence_number}, failed from number "
                f"{outcome.failed_from - batch.start}: {body[:300].decode(errors='replace')}"
            )
        return outcome

    def _outcome(
        self, batch: Batch, records: Sequence[StreamRecord], function_error: str | None, body: bytes
    ) -> Outcome:
        if function_error is not None:
            return Outcome(batch.start)
        if not self._settings.reports_item_failures:
            return Outcome(None)
        try:
            parsed = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Outcome(batch.start)
        return reported_outcome(batch, [record.sequence_number for record in records], parsed)

    def _discard(self, records: Sequence[StreamRecord], condition: str, calls: int) -> None:
        """Give records up: tell the on-failure destination, then move on. Stopping leaves them to the next run."""
        attempts = 0
        while self._failure_queue is not None:
            notice = discard_notice(
                records,
                self._settings,
                self._shard_id,
                condition=condition,
                calls=calls,
                function_error="Unhandled" if calls else None,
                now=datetime.now(UTC),
            )
            try:
                self._failure_queue.sqs.send_message(QueueUrl=self._failure_queue.url, MessageBody=notice)
                break
            except (ClientError, BotoCoreError) as error:
                self._note(f"cannot tell the on-failure queue: {error}")
                attempts += 1
                if self._stopping.wait(wait_s(attempts)):
                    return
        _log.warning("%s: discarded %d records (%s)", self._shard_id, len(records), condition)
        self._status.discarded += len(records)
        self._finished(records)

    def _note(self, message: str) -> None:
        self._status.last_error = message
        _log.warning("%s %s: %s", self._settings.function_arn.rsplit(":", 1)[-1], self._shard_id, message)
