"""One shard of one mapping: a reading thread, its lanes, and the position both add up to."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from local.mappings.event import StreamRecord
from local.mappings.filters import passing
from local.mappings.lane import FailureQueue, Lane, ShardStatus
from local.mappings.positions import Checkpoints, Progress, ShardPosition
from local.mappings.settings import MappingSettings
from stream_features.aws_answers import whole
from stream_features.flink_job.aws_calls import FAILURES

_log = logging.getLogger(__name__)

_BUSY_PAUSE_S: Final = 0.015
_IDLE_PAUSE_S: Final = 0.04
_IDLE_AFTER_S: Final = 2.0
_SMALLEST_PAGE: Final = 500
_LARGEST_PAGE: Final = 10_000
_MOST_HELD_BYTES: Final = 32 * 1024 * 1024
_LONGEST_BACKOFF_S: Final = 2.0
_THROTTLED: Final = (
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "KMSThrottlingException",
)


@dataclass(frozen=True, slots=True)
class Clients:
    """boto3 clients. `functions` must not repeat calls by itself: a repeated call is a redelivery."""

    kinesis: Any
    functions: Any
    sqs: Any


class ShardWorker:
    """Delivers one shard from its checkpoint on. Threads start with `start` and end after `stop`."""

    def __init__(
        self,
        settings: MappingSettings,
        shard_id: str,
        clients: Clients,
        checkpoints: Checkpoints,
        *,
        role_arn: str,
        failure_queue: FailureQueue | None,
        starts_with_mapping: bool,
    ) -> None:
        """`starts_with_mapping`: the mapping itself starts now, so its starting position counts.

        Any other shard without a checkpoint came into being later, and is read from its start.
        """
        self._settings = settings
        self._shard_id = shard_id
        self._kinesis = clients.kinesis
        self._checkpoints = checkpoints
        self._starts_with_mapping = starts_with_mapping
        self._progress = Progress()
        self._position_lock = threading.Lock()
        self._held_bytes = 0
        self._room = threading.Condition()
        self._stopping = threading.Event()
        self._last_read: str | None = None
        self._page_size = min(_LARGEST_PAGE, max(_SMALLEST_PAGE, settings.batch_size * settings.lanes_per_shard))
        self.status = ShardStatus()
        self.error: str | None = None  # a thread died of this; the owner starts the shard again
        self._passes = passing(settings.filters)
        self._lanes = [
            Lane(
                settings,
                shard_id,
                clients.functions,
                role_arn,
                failure_queue,
                self._finish,
                self.status,
                self._stopping,
            )
            for _ in range(settings.lanes_per_shard)
        ]
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"{shard_id}/{name}", daemon=True)
            for name, work in [("reader", self._read), *((f"lane{n}", lane.run) for n, lane in enumerate(self._lanes))]
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask the threads to end; calls under way are finished and their outcome is saved."""
        self._stopping.set()
        for lane in self._lanes:
            lane.wake()
        with self._room:
            self._room.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; whether all ended."""
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # a thread's last line of defence: nothing may end silently
            _log.exception("%s: a thread died", self._shard_id)
            self.error = f"{type(error).__name__}: {error}"
            self.stop()

    def _read(self) -> None:
        iterator: str | None = None
        failures = 0
        active_at_s = time.monotonic()
        while not self._stopping.is_set():
            if not self._wait_for_room():
                return
            try:
                if iterator is None:
                    iterator = self._iterator()
                page = whole(self._kinesis.get_records(ShardIterator=iterator, Limit=self._page_size), "Records")
            except FAILURES as error:
                failures += 1
                iterator = self._after_failure(error, iterator, failures)
                continue
            failures = 0
            iterator = page.get("NextShardIterator")
            self.status.millis_behind_latest = page.get("MillisBehindLatest", 0)
            if page["Records"]:
                active_at_s = time.monotonic()
                self._hand_out(page["Records"])
            if iterator is None:
                self._finish_shard()
                return
            if not self.status.millis_behind_latest:
                idle = time.monotonic() - active_at_s > _IDLE_AFTER_S
                self._stopping.wait(_IDLE_PAUSE_S if idle else _BUSY_PAUSE_S)

    def _iterator(self) -> str:
        """Where to read on: after the last record read, else after the checkpoint, else where the mapping starts."""
        request: dict[str, Any] = {"StreamName": self._settings.stream_name, "ShardId": self._shard_id}
        position = self._checkpoints.get(self._shard_id)
        read_up_to = self._last_read or (position.sequence_number if position is not None else None)
        if read_up_to is not None:
            request |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": read_up_to}
        elif position is not None and position.from_ms is not None and not self._starts_with_mapping:
            request |= {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": _instant(position.from_ms)}
        elif not self._starts_with_mapping:
            request |= {"ShardIteratorType": "TRIM_HORIZON"}
        elif self._settings.starting_position == "AT_TIMESTAMP":
            request |= {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": self._settings.starting_timestamp}
        else:
            request |= {"ShardIteratorType": self._settings.starting_position}
        iterator = str(whole(self._kinesis.get_shard_iterator(**request), "ShardIterator")["ShardIterator"])
        self._starts_with_mapping = False  # an iterator that expires before its first record is renewed by time
        return iterator

    def _after_failure(self, error: Exception, iterator: str | None, failures: int) -> str | None:
        """Wait as the error asks for; the iterator to go on with."""
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        if code == "ExpiredIteratorException" and failures == 1:
            return None
        if code not in _THROTTLED:
            self.status.last_error = f"cannot read: {error}"
            _log.warning("%s: cannot read: %s", self._shard_id, error)
        longest_s = min(0.1 * 2 ** min(failures - 1, 10), _LONGEST_BACKOFF_S)
        self._stopping.wait(longest_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads readers, hides nothing
        return iterator if code in _THROTTLED else None

    def _hand_out(self, raw_records: Sequence[dict[str, Any]]) -> None:
        records = [
            StreamRecord(
                sequence_number=raw["SequenceNumber"],
                partition_key=raw["PartitionKey"],
                payload=raw["Data"],
                arrived_at=raw["ApproximateArrivalTimestamp"],
            )
            for raw in raw_records
        ]
        self._last_read = records[-1].sequence_number
        self._progress.read([record.sequence_number for record in records])
        with self._room:
            self._held_bytes += sum(len(record.payload) for record in records)
        self.status.read += len(records)
        self.status.open = self._progress.open_records
        if self._settings.filters:
            records = self._filtered(records)
        if len(self._lanes) == 1:
            self._lanes[0].put(records)
            return
        by_lane: dict[int, list[StreamRecord]] = {}
        for record in records:
            by_lane.setdefault(lane_of(record.partition_key, len(self._lanes)), []).append(record)
        for lane, part in by_lane.items():
            self._lanes[lane].put(part)

    def _filtered(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        """Those that pass; the others are done with."""
        passes = [self._passes(record.payload) for record in records]
        left_out = [record for record, kept in zip(records, passes, strict=True) if not kept]
        if left_out:
            self.status.filtered += len(left_out)
            self._finish(left_out)
        return [record for record, kept in zip(records, passes, strict=True) if kept]

    def _wait_for_room(self) -> bool:
        """Block while enough is read ahead; False when stopping."""
        with self._room:
            while not self._stopping.is_set() and (
                self._progress.open_records >= 2 * self._page_size or self._held_bytes >= _MOST_HELD_BYTES
            ):
                self._room.wait(0.5)
        return not self._stopping.is_set()

    def _finish(self, records: Sequence[StreamRecord]) -> None:
        """Called by the lanes. Saves the position if it moved, before the next batch is called."""
        with self._position_lock:  # lanes must not save an older position over a newer
            moved_to = self._progress.finish([record.sequence_number for record in records])
            if moved_to is not None:
                self._checkpoints.save(self._shard_id, ShardPosition(sequence_number=moved_to))
        self.status.open = self._progress.open_records
        with self._room:
            self._held_bytes -= sum(len(record.payload) for record in records)
            self._room.notify_all()

    def _finish_shard(self) -> None:
        """The shard is closed and read to its end: once all of it is done, its children may start."""
        with self._room:
            while self._progress.open_records and not self._stopping.is_set():
                self._room.wait(0.5)
        if self._progress.open_records == 0:
            with self._position_lock:
                position = self._checkpoints.get(self._shard_id) or ShardPosition()
                self._checkpoints.save(
                    self._shard_id, ShardPosition(sequence_number=position.sequence_number, drained=True)
                )
            self.stop()


def lane_of(partition_key: str, lanes: int) -> int:
    """The lane of a key: all records of one key go one way."""
    return int.from_bytes(hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()[:8]) % lanes


def _instant(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
