"""How far event source mappings are behind their streams, from their checkpoints; the Flink job, from its files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from local.firehose.stream_reader import ShardReader, arrival_ms, list_shard_ids
from local.flink.layout import FlinkFolder
from local.flink.progress import read_progress
from local.mappings.settings import is_enabled, reads_kinesis
from stream_features.errors import PortFailure


class MappingCheckpoint(msgspec.Struct):
    """What a mapping has committed of one shard."""

    sequence_number: str | None = None
    drained: bool = False


_CHECKPOINTS = msgspec.json.Decoder(dict[str, MappingCheckpoint])


class KinesisMapping(NamedTuple):
    """An event source mapping that reads a Kinesis stream."""

    uuid: str
    function: str
    stream: str
    enabled: bool


def kinesis_mappings(functions: Any) -> list[KinesisMapping]:
    """Every mapping that reads a Kinesis stream, disabled ones included; takes a boto3 client of Lambda."""
    mappings: list[KinesisMapping] = []
    request: dict[str, Any] = {}
    while True:
        answer = functions.list_event_source_mappings(**request)
        for mapping in answer["EventSourceMappings"]:
            if reads_kinesis(mapping):
                function = mapping["FunctionArn"].rsplit(":", 1)[1]
                # With enhanced fan-out it goes on: stream/<name>/consumer/<name>:<time>.
                stream = mapping["EventSourceArn"].partition(":stream/")[2].partition("/")[0]
                mappings.append(KinesisMapping(mapping["UUID"], function, stream, is_enabled(mapping)))
        if not answer.get("NextMarker"):
            return mappings
        request = {"Marker": answer["NextMarker"]}


def enabled_mappings(functions: Any) -> list[tuple[str, str, str]]:
    """(uuid, function, stream) of every mapping that is delivered: those of the other engine are not."""
    return [mapping[:3] for mapping in kinesis_mappings(functions) if mapping.enabled]


def read_checkpoints(checkpoint_dir: Path, uuid: str) -> dict[str, MappingCheckpoint]:
    """Shard to what the mapping has committed of it; empty before its first commit."""
    try:
        return _CHECKPOINTS.decode((checkpoint_dir / f"{uuid}.json").read_bytes())
    except FileNotFoundError:
        return {}


class MappingLag:
    """Lag per mapping and shard: how long the oldest record that is not yet committed has waited."""

    def __init__(
        self,
        functions: Any,
        kinesis: Any,
        checkpoint_dir: Path,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take boto3 clients of Lambda and Kinesis, and the folder of `<mapping uuid>.json`."""
        self._functions = functions
        self._kinesis = kinesis
        self._checkpoint_dir = checkpoint_dir
        self._wall_ms = wall_ms
        self._mappings: list[tuple[str, str, str]] = []  # uuid, function, stream
        self._shards: dict[str, list[str]] = {}

    def read(self, newest: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
        """`<function>/<shard>` to ms.

        Args:
            newest: stream to shard to the sequence number that was the last one a moment ago; a mapping that stands
                there needs no look into the stream.

        Raises:
            PortFailure: an AWS service did not answer.
        """
        lag: dict[str, int] = {}
        try:
            self._find_mappings()
            for uuid, function, stream in self._mappings:
                committed = read_checkpoints(self._checkpoint_dir, uuid)
                for shard_id in self._shards[stream]:
                    checkpoint = committed.get(shard_id, MappingCheckpoint())
                    last = newest.get(stream, {}).get(shard_id)
                    lag[f"{function}/{shard_id}"] = self._behind_ms(stream, shard_id, checkpoint, last)
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"lag of the event source mappings: {error}") from error
        return lag

    def _find_mappings(self) -> None:
        if self._mappings:
            return
        self._mappings = enabled_mappings(self._functions)
        for stream in {stream for _, _, stream in self._mappings}:
            self._shards[stream] = list_shard_ids(self._kinesis, stream)

    def _behind_ms(self, stream: str, shard_id: str, checkpoint: MappingCheckpoint, last: str | None) -> int:
        position = None if checkpoint.drained else checkpoint.sequence_number
        if checkpoint.drained or (position is not None and position == last):
            return 0
        return waited_ms(self._kinesis, stream, shard_id, position, self._wall_ms())


class JobLag:
    """Lag of the Flink job per stream and shard: how long the oldest record that it has not taken in has waited.

    Positions are those of the job's own files. A shard that the job has never read is measured from its start, so
    "never read" is not taken for "caught up".
    """

    def __init__(
        self,
        kinesis: Any,
        folder: FlinkFolder,
        streams: Iterable[str],
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take a boto3 client of Kinesis, the job's folder and the names of the streams it reads."""
        self._kinesis = kinesis
        self._folder = folder
        self._streams = list(streams)
        self._wall_ms = wall_ms

    def read(self, newest: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
        """`flink/<stream>/<shard>` to ms; `newest` as in `MappingLag.read`. Raises PortFailure."""
        progress = read_progress(self._folder)
        lag: dict[str, int] = {}
        try:
            for stream in self._streams:
                for shard_id in list_shard_ids(self._kinesis, stream):
                    read = progress.at(stream, shard_id)
                    last = newest.get(stream, {}).get(shard_id)
                    done = read.drained or (read.sequence_number is not None and read.sequence_number == last)
                    lag[f"flink/{stream}/{shard_id}"] = (
                        0 if done else waited_ms(self._kinesis, stream, shard_id, read.sequence_number, self._wall_ms())
                    )
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"lag of the Flink job: {error}") from error
        return lag


def waited_ms(kinesis: Any, stream: str, shard_id: str, position: str | None, now_ms: int) -> int:
    """How long the first record after `position` has waited; 0 where there is none. Raises boto3's errors."""
    reader = ShardReader(kinesis, stream, shard_id, position=position, page_limit=1)
    while not reader.drained:
        records = reader.read_page()
        if records:
            return max(0, now_ms - arrival_ms(records[0]))
        if reader.caught_up:
            return 0
    return 0
