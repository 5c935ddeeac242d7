"""What this installation is: package, commit, feature sets."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

from stream_features.feature_sets import FEATURE_SETS

ROOT: Final = Path(__file__).resolve().parents[1]


def version_lines() -> list[str]:
    """`fraudstream 0.1.0 (commit 0123456789ab)`, then a line per feature set with its id."""
    commit = git_commit(ROOT)
    known = f" (commit {commit})" if commit else ""
    sets = [f"  {name}: {features.feature_set_id}" for name, features in FEATURE_SETS.items()]
    return [f"fraudstream {version('fraudstream')}{known}", "feature sets", *sets]


def git_commit(checkout: Path) -> str | None:
    """12 hex digits of the commit that `checkout` stands on, `+` behind them if files differ; None without git."""
    if not (checkout / ".git").exists():
        return None
    try:
        head = _git(checkout, "rev-parse", "--short=12", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
