"""Named places where a fault test may kill this process; switched off unless a file is named.

The file holds one line, `<failpoint>` or `<failpoint> <count>`: every time the place is reached takes one off the count
(the last one removes the file), then the process dies, so that the restarted one gets through.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

AFTER_READ: Final = "flink:after_read"  # records were taken in, nothing was handed on
AFTER_PUT: Final = "flink:after_put"  # records are on the features stream, no checkpoint knows it

Reach = Callable[[str], None]


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failpoints(file: Path | None, die: Callable[[], None] = kill_this_process) -> Reach:
    """The function to call at each failpoint; for no file it does nothing."""
    if file is None:
        return lambda name: None

    def reach(name: str) -> None:
        try:
            words = file.read_text().split()
        except FileNotFoundError:
            return
        if not words or words[0] != name:
            return
        left = int(words[1]) - 1 if len(words) > 1 else 0
        if left > 0:
            file.write_text(f"{name} {left}\n")
        else:
            file.unlink()
        die()

    return reach
