"""Named places where a fault test may kill this process; switched off unless a file is named.

The scoring function's failpoints have plain names; those of the other functions begin with the function's name, as in
`record_labels:after_commit`, so that one file reaches one function.

The file holds one line, `<failpoint>` or `<failpoint> <count>`. Reaching the failpoint it names takes one off the count
(the last one removes the file) and only then kills the process, so that the restarted one gets through.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

BEFORE_COMMIT: Final = "before_commit"
AFTER_COMMIT: Final = "after_commit"
AFTER_PUBLISH: Final = "after_publish"
FAILPOINTS: Final = (BEFORE_COMMIT, AFTER_COMMIT, AFTER_PUBLISH)

Reach = Callable[[str], None]


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failpoints(path: str, die: Callable[[], None] = kill_this_process, function: str = "") -> Reach:
    """The function to call at each failpoint of a function; for an empty `path` it does nothing."""
    if not path:
        return lambda name: None
    file = Path(path)

    def reach(name: str) -> None:
        if _take_one(file, f"{function}:{name}" if function else name):
            die()

    return reach


def _take_one(file: Path, name: str) -> bool:
    """Whether `file` names this failpoint; if so its count is one lower afterwards."""
    try:
        words = file.read_text().split()
    except FileNotFoundError:
        return False
    if not words or words[0] != name:
        return False
    # Several processes may arrive together: only the one whose rename succeeds has taken the file.
    taken = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.rename(taken)
    except FileNotFoundError:
        return False
    left = int(words[1]) - 1 if len(words) > 1 else 0
    if left > 0:
        taken.write_text(f"{name} {left}\n")
        taken.rename(file)
    else:
        taken.unlink()
    return True
