"""How far each shard of a mapping is done, in memory and on disk."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

import msgspec

from local.run import write_atomically


class ShardPosition(msgspec.Struct, omit_defaults=True):
    """Every record up to and including `sequence_number` is done; None: none yet.

    `drained` says that the shard is closed and all of it is done, so its children may start. `from_ms` remembers
    when a mapping that starts at LATEST began to read, for a restart before its first record.
    """

    sequence_number: str | None = None
    drained: bool = False
    from_ms: int | None = None


class Checkpoints:
    """The positions of one mapping in `<uuid>.json`, which is replaced whole at every change. Thread-safe."""

    def __init__(self, state_dir: Path, uuid: str) -> None:
        self._path = state_dir / f"{uuid}.json"
        self._lock = threading.Lock()
        self._shards: dict[str, ShardPosition] = {}
        if self._path.exists():
            self._shards = msgspec.json.decode(self._path.read_bytes(), type=dict[str, ShardPosition])

    def get(self, shard_id: str) -> ShardPosition | None:
        with self._lock:
            return self._shards.get(shard_id)

    def is_drained(self, shard_id: str) -> bool:
        position = self.get(shard_id)
        return position is not None and position.drained

    def save(self, shard_id: str, position: ShardPosition) -> None:
        with self._lock:
            self._shards[shard_id] = position
            write_atomically(self._path, msgspec.json.encode(self._shards))

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever saved."""
        with self._lock:
            return not self._shards


class Progress:
    """Which of the records read from a shard are done, where several lanes finish them out of order. Thread-safe.

    >>> progress = Progress()
    >>> progress.read(["1", "2", "3"])
    >>> progress.finish(["2"]), progress.finish(["1"])
    (None, '2')
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: deque[str] = deque()  # read, in stream order, from the oldest that is not done
        self._done: set[str] = set()  # done, but an older one is not

    def read(self, sequence_numbers: list[str]) -> None:
        with self._lock:
            self._open.extend(sequence_numbers)

    def finish(self, sequence_numbers: list[str]) -> str | None:
        """Mark these as done; return the new position if it moved."""
        moved_to = None
        with self._lock:
            self._done.update(sequence_numbers)
            while self._open and self._open[0] in self._done:
                moved_to = self._open.popleft()
                self._done.remove(moved_to)
        return moved_to

    @property
    def open_records(self) -> int:
        """How many records are read but not covered by the position."""
        with self._lock:
            return len(self._open)
