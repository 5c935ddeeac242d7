"""Where the Flink part of a run keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FlinkFolder:
    """The folder `flink` of a run, by what lies in it."""

    path: Path

    @property
    def status(self) -> Path:
        """What the launcher says: see `local.flink.status`."""
        return self.path / "status.json"

    @property
    def properties(self) -> Path:
        """The job's properties; the path also marks the job's processes."""
        return self.path / "properties.json"

    @property
    def progress(self) -> Path:
        """Where the job's operators say how far they are."""
        return self.path / "progress"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def savepoints(self) -> Path:
        return self.path / "savepoints"

    @property
    def seed(self) -> Path:
        return self.path / "seed"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def start(self) -> Path:
        """Where a job without a snapshot begins to read; absent: at the start of the streams."""
        return self.path / "start.json"

    @property
    def stop_request(self) -> Path:
        """While it exists, the job rests: the launcher stops it with a savepoint and starts none."""
        return self.path / "stop-request"

    @property
    def life(self) -> Path:
        """How often the job was started again in this run."""
        return self.path / "life.json"

    def make(self) -> None:
        """Make the folders that are not there."""
        for folder in (self.progress, self.checkpoints, self.savepoints, self.seed, self.temporary, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
