"""Asking the running worker to deliver now: a request is a file in its state folder, the answer is its removal."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Final

import msgspec

from stream_features.errors import PortFailure

_FOLDER: Final = "flush-requests"
STATUS_FILE: Final = "status.json"


def request_flush(state_dir: Path, timeout_s: float = 30.0) -> None:
    """Return when every record that could be read from the source streams at the call stands in the lake.

    Args:
        state_dir: the folder the worker was started with (`--state-dir`).
        timeout_s: how long to wait for the worker.

    Raises:
        PortFailure: it did not happen in time; the message carries what the worker said last.
    """
    folder = state_dir / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    request = folder / uuid.uuid4().hex
    request.touch()
    ends_at = time.monotonic() + timeout_s
    try:
        while request.exists():
            if time.monotonic() > ends_at:
                raise PortFailure(f"the lake was not flushed within {timeout_s:g} s; {_last_words(state_dir)}")
            time.sleep(0.02)
    finally:
        request.unlink(missing_ok=True)


def open_requests(state_dir: Path) -> list[Path]:
    """Requests waiting for an answer; the worker lists them before it reads and removes them after the flush."""
    folder = state_dir / _FOLDER
    return sorted(folder.iterdir()) if folder.exists() else []


def read_worker_status(state_dir: Path) -> dict[str, object] | None:
    """What the worker wrote last, or None before its first poll. Shape: see `worker.Worker.status`."""
    try:
        status: dict[str, object] = msgspec.json.decode((state_dir / STATUS_FILE).read_bytes())
    except FileNotFoundError:
        return None
    return status


def _last_words(state_dir: Path) -> str:
    status = read_worker_status(state_dir)
    if status is None:
        return f"no worker has reported in {state_dir}"
    return f"the worker (process {status['pid']}) reports {status['errors'] or 'no error'}"
