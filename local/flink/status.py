"""What the launcher says about the job: `status.json`, written by it alone, read by everybody else."""

from __future__ import annotations

import msgspec

from local.flink.layout import FlinkFolder
from local.run import write_atomically

STOPPED = "STOPPED"  # asked to rest: see `FlinkFolder.stop_request`
DOWN = "DOWN"  # the REST interface does not answer, or there is no launcher


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the job's process began; the latest completed one."""

    completed: int = 0
    failed: int = 0
    consecutive_failed: int = 0
    latest_path: str | None = None
    latest_size_bytes: int | None = None
    latest_duration_ms: int | None = None


class FlinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The job as the launcher saw it last.

    Attributes:
        pid: the launcher.
        job_pid: the job's Python process; None while there is none.
        rest_port: of Flink's REST interface on 127.0.0.1.
        job_id: Flink's; None while there is none.
        state: Flink's word; STARTING until every vertex runs; STOPPED; DOWN.
        checkpoints: what became of them.
        restarts: how often the job was started again since `up`, by Flink or as a whole.
        restored_from: the snapshot its process began with; None for none.
        updated_at_ms: when this was written, epoch ms.
    """

    pid: int
    job_pid: int | None
    rest_port: int
    job_id: str | None
    state: str
    checkpoints: Checkpoints
    restarts: int
    restored_from: str | None
    updated_at_ms: int


def write_status(folder: FlinkFolder, status: FlinkStatus) -> None:
    write_atomically(folder.status, msgspec.json.encode(status))


def read_status_file(folder: FlinkFolder) -> FlinkStatus | None:
    """What the launcher wrote last; None before it wrote anything."""
    try:
        return msgspec.json.decode(folder.status.read_bytes(), type=FlinkStatus)
    except FileNotFoundError:
        return None
