"""Fuzzing for a given time: Hypothesis in rounds of its own seeds, and what breaks is kept in the corpus."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CORPUS: Final = Path(__file__).parent / "corpus"
SECONDS: Final = float(os.environ.get("FRAUDSTREAM_FUZZ_SECONDS", "1"))  # of every target
SEED: Final = int(os.environ.get("FRAUDSTREAM_FUZZ_SEED", "1"))
_EXAMPLES_A_ROUND: Final = 40


def kept(folder: Path) -> dict[str, bytes]:
    """The corpus in `folder`, by file name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def fuzz(
    check: Callable[[bytes], object], inputs: st.SearchStrategy[bytes], folder: Path, *, seconds: float = SECONDS
) -> int:
    """Give `check` inputs until the time is over, at least one round of them.

    An input that makes it raise is shrunk, kept in `folder`, so that it is tried first from now on, and raised again.

    Returns:
        How many inputs were tried.
    """
    tried = 0
    broke: bytes | None = None

    def one(data: bytes) -> None:
        nonlocal tried, broke
        tried += 1
        try:
            check(data)
        except Exception:
            broke = data  # the shrunk one comes last
            raise

    ends_at = time.monotonic() + seconds
    number = 0
    while number == 0 or time.monotonic() < ends_at:
        round_settings = settings(
            max_examples=_EXAMPLES_A_ROUND,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        try:
            seed(1_000_000 * SEED + number)(round_settings(given(inputs)(one)))()
        except Exception:
            if broke is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"found-{hashlib.sha256(broke).hexdigest()[:12]}").write_bytes(broke)
            raise
        number += 1
    return tried
