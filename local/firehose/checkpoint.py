"""Where a delivery stands, on disk: positions, counts, and the flush that was under way."""

from __future__ import annotations

from pathlib import Path

import msgspec

from local.run import write_atomically


class Checkpoint(msgspec.Struct, kw_only=True):
    """State of one delivery stream.

    `flushing` is written before the first object of a flush is put and cleared with the new positions. After a crash
    in between, the next worker reads exactly the same records again (from `positions` up to and including `flushing`)
    and puts the same objects under the same keys: nothing is lost, and nothing stands in the lake twice.
    """

    stream_identity: str
    positions: dict[str, str] = {}  # shard id -> last delivered sequence number
    drained: list[str] = []  # closed shards whose records are all delivered
    flushing: dict[str, str] | None = None  # shard id -> last sequence number of the flush under way
    delivered_records: int = 0
    failed_records: int = 0  # delivered to the error prefix
    objects: int = 0


_DECODER = msgspec.json.Decoder(Checkpoint)


def load_checkpoint(path: Path, stream_identity: str) -> Checkpoint:
    """The checkpoint in `path`; a fresh one if there is none, or if it belongs to a stream that exists no more."""
    try:
        saved = _DECODER.decode(path.read_bytes())
    except FileNotFoundError:
        return Checkpoint(stream_identity=stream_identity)
    return saved if saved.stream_identity == stream_identity else Checkpoint(stream_identity=stream_identity)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    write_atomically(path, msgspec.json.encode(checkpoint))
