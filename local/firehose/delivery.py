"""One delivery stream at work: read its shards, buffer, flush into S3, then advance the positions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from local.firehose.checkpoint import load_checkpoint, save_checkpoint
from local.firehose.destination import Destination
from local.firehose.hive_types import parse_hive_type
from local.firehose.objects import Columns, build_objects
from local.firehose.stream_reader import ShardReader, ShardRecord, arrival_ms, list_shard_ids, stream_identity
from stream_features.aggregation import user_payloads
from stream_features.errors import UsageError
from stream_features.flink_job.aws_calls import FAILURES

_LOGGER: Final = logging.getLogger("local.firehose")
_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 20.0
# What a later attempt may cure: AWS did not answer, or what is deployed does not fit (a Glue column type) until fixed.
DELIVERY_FAILURES: Final = (*FAILURES, UsageError)


@dataclass(frozen=True, slots=True)
class AwsClients:
    """boto3 clients of the services a delivery uses."""

    kinesis: Any
    s3: Any
    glue: Any
    firehose: Any


@dataclass(slots=True)
class Buffer:
    """Records read and not yet delivered, and where each shard will stand once they are."""

    records: list[ShardRecord] = field(default_factory=list)
    bytes: int = 0
    upto: dict[str, str] = field(default_factory=dict)
    since: float | None = None  # monotonic seconds of the oldest record

    def add(self, record: ShardRecord, *, now: float) -> None:
        self.records.append(record)
        self.bytes += len(record.payload)
        self.upto[record.shard_id] = record.sequence_number
        if self.since is None:
            self.since = now

    def due(self, destination: Destination, *, now: float) -> bool:
        """Whether a buffering hint says to flush: enough bytes, or the oldest record waited long enough."""
        if self.since is None:
            return False
        return self.bytes >= destination.size_bytes or now - self.since >= destination.interval_seconds


class Delivery:
    """Runs one delivery stream. Not thread-safe; the worker calls `poll` again and again.

    The records of a flush are fixed before the first put (`Checkpoint.flushing`) and stay in memory until the last one
    succeeded; while S3 fails, nothing more is read, and Kinesis keeps what waits.
    """

    def __init__(
        self,
        destination: Destination,
        clients: AwsClients,
        state_dir: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Find the shards and the position of each.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Kinesis refused or did not answer.
        """
        self.destination = destination
        self.last_error: str | None = None  # of the latest attempt
        self._clients = clients
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._path = state_dir / f"{destination.name}.json"
        self._checkpoint = load_checkpoint(self._path, stream_identity(clients.kinesis, destination.stream_name))
        self._readers: dict[str, ShardReader] = {}
        self._buffer = Buffer()
        self._flush_pending = False
        self._failures_in_a_row = 0
        self._not_before = 0.0
        self.find_shards()
        self._recover()

    def reconfigure(self, destination: Destination) -> None:
        """Use the settings deployed now; a flush under way keeps those it began with."""
        if not self._flush_pending:
            self.destination = destination

    def find_shards(self) -> None:
        """Take up shards that a reshard has added; they are read from their oldest record."""
        for shard_id in list_shard_ids(self._clients.kinesis, self.destination.stream_name):
            if shard_id not in self._readers and shard_id not in self._checkpoint.drained:
                self._readers[shard_id] = ShardReader(
                    self._clients.kinesis,
                    self.destination.stream_name,
                    shard_id,
                    position=self._checkpoint.positions.get(shard_id),
                )

    def poll(self, *, flush: bool = False) -> bool:
        """Read what there is and flush what is due; with `flush`, everything that can be read now.

        Returns:
            With `flush`: whether everything readable at the call has been delivered. Without: whether it read any.
        """
        if self._monotonic() < self._not_before:
            return False
        try:
            did = self._read_and_flush(flush=flush)
        except DELIVERY_FAILURES as error:
            self._failures_in_a_row += 1
            wait = min(_FIRST_BACKOFF_SECONDS * 2 ** (self._failures_in_a_row - 1), _LONGEST_BACKOFF_SECONDS)
            self._not_before = self._monotonic() + wait
            self.last_error = str(error)
            _LOGGER.warning("delivery %s waits %.1f s: %s", self.destination.name, wait, error)
            return False
        self._failures_in_a_row = 0
        self.last_error = None
        return did

    def flush_buffered(self) -> bool:
        """Deliver what has been read, without reading on. Returns whether it is delivered."""
        try:
            self._flush()
        except DELIVERY_FAILURES as error:
            self.last_error = str(error)
            return False
        return True

    def status(self) -> dict[str, Any]:
        return {
            "stream": self.destination.stream_name,
            "positions": dict(self._checkpoint.positions),
            "millis_behind": {shard_id: reader.millis_behind for shard_id, reader in sorted(self._readers.items())},
            "buffered_records": len(self._buffer.records),
            "buffered_bytes": self._buffer.bytes,
            "delivered_records": self._checkpoint.delivered_records,
            "failed_records": self._checkpoint.failed_records,
            "objects": self._checkpoint.objects,
            "error": self.last_error,
        }

    def _read_and_flush(self, *, flush: bool) -> bool:
        if self._flush_pending:
            self._flush()
        read_any = False
        for reader in self._readers.values():
            while not reader.drained:
                read_any |= self._read_page(reader) > 0
                if self._buffer.due(self.destination, now=self._monotonic()):
                    self._flush()
                if reader.caught_up:
                    break
        if flush or self._buffer.due(self.destination, now=self._monotonic()):
            self._flush()
        self._forget_drained_shards()
        return True if flush else read_any

    def _read_page(self, reader: ShardReader, upto: str | None = None) -> int:
        """Buffer the next page; records beyond sequence number `upto` are left for later."""
        page = reader.read_page()
        now = self._monotonic()
        for record in page:
            sequence_number = record["SequenceNumber"]
            if upto is not None and int(sequence_number) > int(upto):
                reader.seek(upto)
                break
            at_ms = arrival_ms(record)
            for sub_sequence_number, payload in enumerate(user_payloads(record["Data"])):
                self._buffer.add(
                    ShardRecord(reader.shard_id, sequence_number, sub_sequence_number, at_ms, payload), now=now
                )
        return len(page)

    def _recover(self) -> None:
        """Fill the buffer with exactly the records of the flush that a former worker did not finish."""
        if self._checkpoint.flushing is None:
            return
        for shard_id, last in self._checkpoint.flushing.items():
            reader = self._readers.get(shard_id)
            if reader is None:
                _LOGGER.error("delivery %s: shard %s expired before it was delivered", self.destination.name, shard_id)
                continue
            while reader.position != last:
                self._read_page(reader, upto=last)
                if reader.caught_up and reader.position != last:
                    _LOGGER.error("delivery %s: records of %s have expired", self.destination.name, shard_id)
                    break
        self._flush_pending = True

    def _flush(self) -> None:
        if self._buffer.records:
            self._checkpoint.flushing = dict(self._buffer.upto)
            self._flush_pending = True
            save_checkpoint(self._path, self._checkpoint)
            objects = build_objects(self.destination, self._buffer.records, self._columns(), now_ms=self._wall_ms())
            for lake_object in objects:
                self._clients.s3.put_object(Bucket=self.destination.bucket, Key=lake_object.key, Body=lake_object.body)
            self._checkpoint.positions.update(self._buffer.upto)
            self._checkpoint.delivered_records += sum(o.records for o in objects if not o.failed)
            self._checkpoint.failed_records += sum(o.records for o in objects if o.failed)
            self._checkpoint.objects += len(objects)
        if self._flush_pending:
            self._checkpoint.flushing = None
            save_checkpoint(self._path, self._checkpoint)
            self._buffer = Buffer()
            self._flush_pending = False

    def _columns(self) -> Columns | None:
        conversion = self.destination.conversion
        if conversion is None:
            return None
        table = self._clients.glue.get_table(DatabaseName=conversion.database, Name=conversion.table)["Table"]
        return Columns(
            tuple((column["Name"], parse_hive_type(column["Type"])) for column in table["StorageDescriptor"]["Columns"])
        )

    def _forget_drained_shards(self) -> None:
        for shard_id, reader in list(self._readers.items()):
            if reader.drained and shard_id not in self._buffer.upto:
                del self._readers[shard_id]
                self._checkpoint.drained.append(shard_id)
                save_checkpoint(self._path, self._checkpoint)
