"""What the operators say about how far they are, for whoever waits until the job has taken in everything.

Small JSON files, each replaced whole by one operator only. All counts stand in checkpointed state, so after a restart
they may go back. A record finishes when what became of it is on the `features` stream (a transaction, a rejected
record) or in its merchant's state (a label event).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from stream_features.flink_job.polling_reader import ShardPosition

WRITTEN: Final = "written"
LABELLED: Final = "labelled"

_encode: Final = msgspec.json.Encoder().encode


class ProgressFiles:
    """Writes into `folder`; for None it does nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._said: dict[str, bytes] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def read(
        self,
        stream: str,
        taken: int,
        positions: Mapping[str, ShardPosition],
        millis_behind: Mapping[str, int | None],
    ) -> None:
        """`read-<stream>.json`: user records taken in so far, and where every shard stands."""
        if self._folder is None:
            return
        shards = {
            shard_id: {
                "sequence_number": position.sequence_number,
                "drained": position.drained,
                "millis_behind": millis_behind.get(shard_id),
            }
            for shard_id, position in positions.items()
        }
        self._replace(f"read-{stream}", {"stream": stream, "taken": taken, "positions": shards})

    def finished(self, name: str, count: int) -> None:
        """`<name>.json`: how many records have finished there."""
        if self._folder is not None:
            self._replace(name, {"finished": count})

    def _replace(self, name: str, document: object) -> None:
        content = _encode(document)
        if self._folder is None or self._said.get(name) == content:
            return
        path = self._folder / f"{name}.json"
        written = path.with_name(f".{path.name}.{os.getpid()}")
        written.write_bytes(content)
        written.replace(path)
        self._said[name] = content
