"""Whether the functions behind the streams, and the Flink job, have finished with everything that is in them.

What a function has finished stands in its mapping's checkpoint file; what there is to finish stands in the stream. Both
are positions, so the answer is exact and needs no counter. A function publishes what it derives before its checkpoint
moves; so once every checkpoint stands at the end of its stream, and the ends are still where they were, nothing more
can come of what was published.

The Flink job reads ahead of what it has finished, so it says both: positions, and two counts that are equal when
nothing is under way inside it. Mappings that are disabled belong to the other engine and are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from console.flink import JobConsumer, job_consumer
from console.lag import MappingCheckpoint, enabled_mappings, read_checkpoints
from console.running import Pipeline
from local.capabilities import why_not
from local.firehose.stream_reader import ShardReader, list_shard_ids
from stream_features.errors import PipelineError, PortFailure, UsageError

READ_BY_FUNCTIONS: Final = (
    *("TransactionsStreamName", "LabelsStreamName", "EntityEventsStreamName", "FeaturesStreamName"),
)
STALLED_AFTER_S: Final = 180.0

Newest = dict[tuple[str, str], str]  # (stream, shard) -> its newest sequence number; empty shards are left out


class NotAtRest(PipelineError):
    """A function or the job has not moved for a long time although there is something to do; the message says which."""


class Consumers:
    """The mappings of some streams, and how far each is.

    Args:
        kinesis: boto3 client.
        mappings: (mapping uuid, function, stream) of every function that reads one of the streams.
        checkpoint_dir: where `<mapping uuid>.json` lie.
        job: the Flink job, where it is the engine.
        clock: monotonic seconds.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        kinesis: Any,
        mappings: Iterable[tuple[str, str, str]],
        checkpoint_dir: Path,
        *,
        job: JobConsumer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._kinesis = kinesis
        self._mappings = sorted(mappings)
        self._checkpoint_dir = checkpoint_dir
        self._job = job
        self._streams = dict.fromkeys([stream for _, _, stream in self._mappings] + list(job.streams if job else ()))
        self._clock = clock
        self._sleep = sleep
        self._readers: dict[tuple[str, str], ShardReader] = {}

    def wait_until_at_rest(
        self,
        *,
        progress: Callable[[str], None] = lambda line: None,
        stalled_after_s: float = STALLED_AFTER_S,
        poll_s: float = 0.03,
    ) -> None:
        """Return once every consumer has finished with everything in its stream and nothing new follows from it.

        Args:
            progress: takes a line about what is being waited for, every five seconds.
            stalled_after_s: how long nothing may move.
            poll_s: pause between two looks.

        Raises:
            NotAtRest: nothing moved for `stalled_after_s`; names function, shard and position.
            PortFailure: Kinesis did not answer.
        """
        newest = self._newest()
        while True:
            self._wait_for(newest, progress, stalled_after_s, poll_s)
            again = self._newest()
            if again == newest:  # all of it was finished when this look began, and nothing has come since
                return
            newest = again

    def wait_for_what_is_there(
        self,
        *,
        progress: Callable[[str], None] = lambda line: None,
        stalled_after_s: float = STALLED_AFTER_S,
        poll_s: float = 0.03,
    ) -> None:
        """Return once every consumer has finished with what stood in its stream at the call, whatever comes meanwhile.

        Args and Raises: as `wait_until_at_rest`.
        """
        self._wait_for(self._newest(), progress, stalled_after_s, poll_s)

    def _wait_for(self, newest: Newest, progress: Callable[[str], None], stalled_after_s: float, poll_s: float) -> None:
        """Return once nothing up to `newest` is open."""
        open_before: Sequence[str] = ()
        moved_at = said_at = self._clock()
        while still_open := self._open(newest):
            now = self._clock()
            if still_open != open_before:
                open_before, moved_at = still_open, now
            elif now - moved_at > stalled_after_s:
                raise NotAtRest(f"nothing moved for {stalled_after_s:g} s; open: " + "; ".join(still_open))
            if now - said_at > 5.0:
                said_at = now
                progress("waiting for " + "; ".join(still_open))
            self._sleep(poll_s)

    def _newest(self) -> Newest:
        """The end of every shard now."""
        newest: Newest = {}
        try:
            for stream in self._streams:
                self._find_shards(stream)
                for key, reader in self._readers.items():
                    if key[0] == stream:
                        _read_to_the_end(reader)
                        if reader.position is not None:
                            newest[key] = reader.position
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"looking for the end of a stream: {error}") from error
        return newest

    def _find_shards(self, stream: str) -> None:
        known = [reader for (name, _), reader in self._readers.items() if name == stream]
        if known and not any(reader.drained for reader in known):
            return  # only a split or merge makes new shards, and it closes those that are there
        for shard_id in list_shard_ids(self._kinesis, stream):
            if (stream, shard_id) not in self._readers:
                # what every function has finished need not be read again
                position = min(
                    self._positions(stream, shard_id), key=lambda number: -1 if number is None else int(number)
                )
                reader = ShardReader(self._kinesis, stream, shard_id, position=position)
                self._readers[stream, shard_id] = reader

    def _positions(self, stream: str, shard_id: str) -> Iterator[str | None]:
        """Where every consumer of the shard stands."""
        for uuid, _, name in self._mappings:
            if name == stream:
                committed = read_checkpoints(self._checkpoint_dir, uuid)
                yield committed.get(shard_id, MappingCheckpoint()).sequence_number
        if self._job is not None and stream in self._job.streams:
            yield self._job.position(stream, shard_id)

    def _open(self, newest: Mapping[tuple[str, str], str]) -> list[str]:
        """What is not finished, as `function/shard at position of newest`."""
        still_open = []
        for uuid, function, stream in self._mappings:
            committed = read_checkpoints(self._checkpoint_dir, uuid)
            for (name, shard_id), last in newest.items():
                if name != stream:
                    continue
                checkpoint = committed.get(shard_id, MappingCheckpoint())
                if checkpoint.drained or int(checkpoint.sequence_number or -1) >= int(last):
                    continue
                still_open.append(f"{function}/{shard_id} at {checkpoint.sequence_number or 'the start'} of {last}")
        return still_open if self._job is None else still_open + self._job.open(newest)


def can_be_followed(pipeline: Pipeline) -> bool:
    """Whether the run's mappings keep checkpoints that can be read here."""
    return why_not(pipeline.run.place, "mapping lag") is None


def consumers_of(pipeline: Pipeline) -> Consumers:
    """What reads transactions, labels, entity events and features in `pipeline`.

    Raises:
        UsageError: the run's mappings keep no checkpoints that can be read here.
        PortFailure: an AWS service did not answer.
    """
    if not can_be_followed(pipeline):
        raise UsageError(f"{why_not(pipeline.run.place, 'mapping lag')}, so nothing can wait for them")
    wanted = {pipeline.run.outputs[name] for name in READ_BY_FUNCTIONS if name in pipeline.run.outputs}
    try:
        mappings = [mapping for mapping in enabled_mappings(pipeline.client("lambda")) if mapping[2] in wanted]
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"listing the event source mappings: {error}") from error
    job = job_consumer(pipeline.run) if pipeline.run.engine == "flink" else None
    return Consumers(pipeline.client("kinesis"), mappings, pipeline.state_dir / "mappings", job=job)


def _read_to_the_end(reader: ShardReader) -> None:
    while not reader.drained:
        reader.read_page()
        if reader.caught_up:
            return
