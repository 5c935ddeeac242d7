"""How far LocalStack's event source mappings are, written down as our own mapping runner does it.

LocalStack keeps this in a poller's memory and tells nobody, so nothing could wait until a function has finished with
its stream. Here it is watched only: what is delivered, when, and how often stays LocalStack's.
"""

# mypy: disable-error-code="import-not-found, misc"
from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Positions:
    """`<mapping uuid>.json` in a folder: shard to the last record that is done with, discarded ones included."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._shards: dict[str, dict[str, dict[str, str]]] = {}

    def note(self, uuid: str, shard_id: str, sequence_number: str) -> None:
        with self._lock:
            shards = self._shards.setdefault(uuid, {})
            shards[shard_id] = {"sequence_number": sequence_number}
            written = self._folder / f".{uuid}.json"
            written.write_text(json.dumps(shards))
            written.replace(self._folder / f"{uuid}.json")


def watch_pollers(folder: Path) -> None:
    """Have every poller of a Kinesis stream say into `folder` which batches it has finished with."""
    from localstack.services.lambda_.event_source_mapping.pollers.kinesis_poller import KinesisPoller

    positions = Positions(folder)
    forward = KinesisPoller.forward_events_to_target

    def forward_and_note(poller: Any, shard_id: str, records: Sequence[dict[str, Any]]) -> None:
        forward(poller, shard_id, records)  # returns when the batch succeeded, was given up, or the poller is ended
        if not poller._is_shutdown.is_set():
            positions.note(poller.esm_uuid, shard_id, records[-1]["SequenceNumber"])

    KinesisPoller.forward_events_to_target = forward_and_note
