"""Starting a kept run again with the other engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from local.run import RunState, state_folder
from local.up import change_kept_engine, down, up


def restart_with(engine: str, progress: Callable[[str], None], *, state_dir: Path | None = None) -> RunState:
    """`down --keep`, then `up` on the same data with `engine`. The caller has handed over what the engines keep.

    The job's own data go when its engine goes: from then on the tables know better.

    Raises:
        RunFailed: the run did not stop cleanly or a part did not start. In the second case the data are kept, and
            `fraudstream up --engine` with the new engine takes them up.
        UsageError: the new engine is not available.
    """
    folder = state_folder(state_dir)
    progress("stopping, data kept")
    down(keep=True, state_dir=folder)
    kept = change_kept_engine(folder, engine)
    if engine != "flink":
        shutil.rmtree(folder / "flink", ignore_errors=True)
    return up(kept.target, engine, kept.feature_set, progress, state_dir=folder)
