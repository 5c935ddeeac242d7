"""How far the job is, from the small files its operators keep.

The readers say what they have taken in and up to where; the writer and the merchants say how much of it is finished.
Nothing is under way inside the job exactly when both sums are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from local.flink.layout import FlinkFolder

_FINISHERS: Final = ("written.json", "labelled.json")


class ShardProgress(msgspec.Struct, frozen=True):
    """What has been read of one shard; `millis_behind` is None before the first read."""

    sequence_number: str | None = None
    drained: bool = False
    millis_behind: int | None = None


class ReaderProgress(msgspec.Struct, frozen=True):
    """One reader's file: user records taken in, and its shards."""

    stream: str
    taken: int
    positions: dict[str, ShardProgress]


class _Finished(msgspec.Struct, frozen=True):
    finished: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    """One look at all files.

    Attributes:
        finished: user records of both streams that nothing has to be done about any more.
        taken: user records of both streams that were read.
        positions: stream to shard to what was read.
    """

    finished: int
    taken: int
    positions: Mapping[str, Mapping[str, ShardProgress]]

    @property
    def under_way(self) -> int:
        """Records inside the job, read and not finished."""
        return self.taken - self.finished

    def at(self, stream: str, shard_id: str) -> ShardProgress:
        """What was read of a shard; nothing if the job has not spoken of it."""
        return self.positions.get(stream, {}).get(shard_id, ShardProgress())


def read_progress(folder: FlinkFolder) -> JobProgress:
    """Read what is finished first, then what was taken in.

    Both only grow, and nothing is finished before it was taken in. So if the sums are equal although the second was
    read later, nothing was under way in between; the other way round, they could be equal by chance.

    Raises:
        msgspec.DecodeError: a file is none of the job's.
    """
    finished = sum(map(_finished, (folder.progress / name for name in _FINISHERS)))
    readers = [
        msgspec.json.decode(path.read_bytes(), type=ReaderProgress)
        for path in sorted(folder.progress.glob("read-*.json"))
    ]
    return JobProgress(finished, sum(reader.taken for reader in readers), {r.stream: r.positions for r in readers})


def _finished(path: Path) -> int:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Finished).finished
    except FileNotFoundError:
        return 0
