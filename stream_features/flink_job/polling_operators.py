"""Reader and writer as operators: their snapshots stand in keyed state, processing-time timers set them going."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from pyflink.common import Types
from pyflink.datastream import KeyedCoProcessFunction, KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ListStateDescriptor

from stream_features.feature_sets import feature_set
from stream_features.flink_job.aws_calls import client, wall_clock_ms
from stream_features.flink_job.elements import LABEL_DONE, Intake, Lake, Outgoing, entities
from stream_features.flink_job.failpoints import AFTER_PUT, AFTER_READ, failpoints
from stream_features.flink_job.intake import take_in_entity_event, take_in_transaction
from stream_features.flink_job.operators import Level, read_ahead_of, value_state
from stream_features.flink_job.polling_reader import PollingReader, monotonic_ms
from stream_features.flink_job.polling_writer import MOST_RECORDS, Entry, PollingWriter
from stream_features.flink_job.progress import LABELLED, WRITTEN, ProgressFiles
from stream_features.flink_job.properties import InputProperties, JobProperties, StreamProperties

POSITIONS: Final = "positions-v1"
UNSENT: Final = "unsent-v1"
COUNTS: Final = "counts-v1"

FLUSH_MS: Final = 200  # a checkpoint waits for the requests that are under way
MOST_UNSENT: Final = 5_000  # beyond that nothing is taken in before something is out
BEAT_MS: Final = 1_000
BUSY_MS: Final = 50  # under load records wait so long for others, as long as one arrives every ms


class ReaderOperator(KeyedProcessFunction):
    """Reads one stream whole under one key: a seed element sets it going, out come what intake makes of the records.

    Args:
        stream: which stream.
        properties: of the job.
        labels: the stream holds entity events, not transactions.
    """

    def __init__(self, stream: InputProperties, properties: JobProperties, *, labels: bool) -> None:
        self._stream = stream
        self._properties = properties
        self._labels = labels

    def open(self, runtime_context: RuntimeContext) -> None:
        stream = self._stream
        self._positions = value_state(runtime_context, POSITIONS)
        self._reader = PollingReader(
            kinesis_client(stream), stream.arn, start_positions=stream.start_positions, poll_ms=stream.poll_ms
        )
        self._restored = False
        take_in = take_in_entity_event if self._labels else take_in_transaction
        self._intake = Intake(
            lambda arrived, now_ms: take_in(arrived, now_ms=now_ms),
            Lake(client("s3", region=stream.region), self._properties.lake_bucket),
            wall_clock_ms,
        )
        self._ahead = read_ahead_of(self._properties)
        self._asks_merchants = feature_set(self._properties.feature_set).merchant_layout is not None
        self._progress = ProgressFiles(self._properties.progress_dir)
        self._reach = failpoints(self._properties.failpoint_file)
        self._metrics = runtime_context.get_metrics_group()
        self._rejected = self._metrics.counter("rejected")
        self._failed_calls = Level(self._metrics, "failedCalls")
        self._lost_shards = Level(self._metrics, "lostShards")
        self._behind: dict[str, Level] = {}

    def process_element(self, value: str, ctx: Any) -> Iterable[Any]:
        """The seed. Another one changes nothing: the timer of the first goes on, over restarts too."""
        if self._positions.value() is None:
            self._positions.update(self._reader.snapshot())
            register_timer(ctx, 1)
        return ()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterable[Any]:
        reader = self._reader
        if not self._restored:
            reader.restore(self._positions.value())
            self._restored = True
        turn = reader.turn()
        rejected_before = self._intake.rejected
        elements = self._intake(turn.records)
        self._rejected.inc(self._intake.rejected - rejected_before)
        if elements:
            self._reach(AFTER_READ)
            if self._ahead is not None:
                self._ahead.announce(entities(elements, merchants=self._asks_merchants))
        self._positions.update(reader.snapshot())
        self._progress.read(self._stream.name, reader.taken, reader.positions, reader.millis_behind)
        self._show_levels()
        register_timer(ctx, min(turn.wait_ms, BEAT_MS))
        return elements

    def _show_levels(self) -> None:
        """How far behind each shard is (-1 before its first page), and what went wrong."""
        for shard_id, behind in self._reader.millis_behind.items():
            level = self._behind.get(shard_id)
            if level is None:
                group = self._metrics.add_group("shardId", shard_id)
                level = self._behind[shard_id] = Level(group, "millisBehindLatest")
            level.set(-1 if behind is None else behind)
        self._failed_calls.set(self._reader.failed_calls)
        self._lost_shards.set(self._reader.lost_shards)


class _Counts(msgspec.Struct):
    """Records that have finished, since the job first started."""

    written: int = 0
    labelled: int = 0


class WriterOperator(KeyedCoProcessFunction):
    """Puts records on the features stream under one key; the second input is the seed of its timer.

    The list of unsent records and label marks stands in state and, for speed, in memory.
    """

    def __init__(self, properties: JobProperties) -> None:
        self._properties = properties

    def open(self, runtime_context: RuntimeContext) -> None:
        stream = self._properties.features
        self._unsent = runtime_context.get_list_state(ListStateDescriptor(UNSENT, Types.PICKLED_BYTE_ARRAY()))
        self._counts_state = value_state(runtime_context, COUNTS)
        self._writer = PollingWriter(kinesis_client(stream), stream.arn)
        self._counts = _Counts()
        self._labels_done = 0  # marks in the list
        self._last_put = 0  # how many records the last flush put
        self._restored = False
        self._armed = False
        self._progress = ProgressFiles(self._properties.progress_dir)
        self._reach = failpoints(self._properties.failpoint_file)
        metrics = runtime_context.get_metrics_group()
        self._unsent_level = Level(metrics, "unsent")
        self._refused_puts = Level(metrics, "refusedPuts")
        self._written = metrics.counter("written")

    def process_element1(self, value: Outgoing, ctx: Any) -> Iterable[Any]:
        self._restore()
        self._unsent.add(value)
        self._take(value)
        if len(self._writer.unsent) >= MOST_RECORDS:
            self._flush()
            while len(self._writer.unsent) >= MOST_UNSENT:
                time.sleep(self._writer.wait_ms / 1000)
                self._flush()
        if not self._armed:
            self._arm(ctx)
        return ()

    def process_element2(self, value: str, ctx: Any) -> Iterable[Any]:
        """The seed of the beat, which tells after a restart how far the writer is although nothing comes in."""
        self._beat(ctx)
        return ()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterable[Any]:
        self._restore()
        self._flush()
        if timestamp % BEAT_MS == 0:
            self._beat(ctx)
        else:
            self._armed = False
        if not self._armed and self._writer.unsent:
            self._arm(ctx)
        return ()

    def _restore(self) -> None:
        """State can only be read where there is a key, so not in `open`."""
        if self._restored:
            return
        self._restored = True
        stored = self._counts_state.value()
        if stored is not None:
            self._counts = msgspec.json.decode(stored, type=_Counts)
        for value in self._unsent.get():
            self._take(value)
        self._tell()

    def _take(self, value: Outgoing) -> None:
        if value == LABEL_DONE:
            self._labels_done += 1
        else:
            self._writer.add((Entry(*value),))

    def _flush(self) -> None:
        writer, counts = self._writer, self._counts
        ends_ms = monotonic_ms() + FLUSH_MS
        written = 0
        while writer.unsent and not writer.wait_ms and monotonic_ms() < ends_ms:
            written += writer.put()
        if not written and not self._labels_done:
            return
        if written:
            self._reach(AFTER_PUT)
        self._last_put = written
        counts.written += written
        counts.labelled += self._labels_done
        self._labels_done = 0
        if writer.unsent:
            self._unsent.update([tuple(entry) for entry in writer.unsent])
        else:
            self._unsent.clear()
        self._counts_state.update(msgspec.json.encode(counts))
        self._written.inc(written)
        self._tell()

    def _tell(self) -> None:
        self._unsent_level.set(len(self._writer.unsent))
        self._refused_puts.set(self._writer.refused)
        self._progress.finished(WRITTEN, self._counts.written)
        self._progress.finished(LABELLED, self._counts.labelled)

    def _arm(self, ctx: Any) -> None:
        """Flush soon, never on the beat: a timer that meets another of its time is one timer."""
        self._armed = True
        wait_ms = max(self._properties.features.max_buffer_ms, min(self._last_put, BUSY_MS), self._writer.wait_ms)
        at_ms = ctx.timer_service().current_processing_time() + wait_ms
        ctx.timer_service().register_processing_time_timer(at_ms + (at_ms % BEAT_MS == 0))

    def _beat(self, ctx: Any) -> None:
        """Timers of the beat stand at whole seconds, so that two seeds make one beat."""
        now_ms = ctx.timer_service().current_processing_time()
        ctx.timer_service().register_processing_time_timer((now_ms // BEAT_MS + 1) * BEAT_MS)


def register_timer(ctx: Any, wait_ms: int) -> None:
    timers = ctx.timer_service()
    timers.register_processing_time_timer(timers.current_processing_time() + wait_ms)


def kinesis_client(stream: StreamProperties) -> Any:
    return client("kinesis", region=stream.region, endpoint=stream.endpoint)
