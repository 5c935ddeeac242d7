"""`fraudstream publish` beside a live view: a process of its own, so that drawing does not slow publishing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stream_features.errors import PipelineError


@dataclass
class Publishing:
    """A running `fraudstream publish`."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, file: Path, from_ms: int, rate: float) -> Publishing:
        """Publish `file` from `from_ms` on at `rate` transactions per second."""
        from console.options import iso_utc

        command = [
            sys.executable,
            "-m",
            "console",
            "publish",
            str(file),
            "--from",
            iso_utc(from_ms),
            "--rate",
            str(rate),
        ]
        return cls(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))

    def finished(self) -> bool:
        """Whether it has ended well.

        Raises:
            PipelineError: it has ended otherwise; with its own words.
        """
        code = self.process.poll()
        if code:
            raise PipelineError(f"publishing failed: {self.summary()}")
        return code == 0

    def summary(self) -> str:
        out, err = self.process.communicate()
        return (out if self.process.returncode == 0 else err).strip()
