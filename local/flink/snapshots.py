"""Which checkpoint or savepoint the job goes on from, and which are not needed any more.

Flink keeps the newest checkpoints of a job in `checkpoints/<job id>/chk-<n>` and leaves them there when the job dies.
A snapshot counts only with its `_metadata`, which is written last. Savepoints of a stop are snapshots like any other:
whichever was finished last holds the most.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from local.flink.layout import FlinkFolder

_METADATA: Final = "_metadata"


def newest_snapshot(folder: FlinkFolder) -> Path | None:
    """The folder of the snapshot that was finished last, whichever job made it; None if there is none."""
    found = _finished(folder)
    return max(found, key=lambda path: ((path / _METADATA).stat().st_mtime_ns, _number(path))) if found else None


def savepoint_of(folder: FlinkFolder, job_id: str) -> Path | None:
    """The newest finished savepoint of a job, for when the job took its own answer along; None if there is none."""
    found = [path for path in _finished(folder) if path.name.startswith(f"savepoint-{job_id[:6]}-")]
    return max(found, key=lambda path: (path / _METADATA).stat().st_mtime_ns) if found else None


def remove_others(folder: FlinkFolder, job_id: str) -> None:
    """Remove every snapshot that is not `job_id`'s own. Call it once that job has completed a checkpoint."""
    for path in folder.checkpoints.glob("*"):
        if path.name != job_id:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.savepoints.glob("*"):
        shutil.rmtree(path, ignore_errors=True)


def _finished(folder: FlinkFolder) -> list[Path]:
    found = [*folder.checkpoints.glob(f"*/chk-*/{_METADATA}"), *folder.savepoints.glob(f"*/{_METADATA}")]
    return [path.parent for path in found]


def _number(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if path.name.startswith("chk-") and digits.isdigit() else 0
