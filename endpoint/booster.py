"""A booster out of an artefact, the same whichever XGBoost of ours or of AWS's container reads it."""

from __future__ import annotations

import re
from typing import Final

import xgboost

# In UBJSON: the key, then a string with its length as eight bytes.
_BASE_SCORE: Final = re.compile(rb"base_scoreSL.{8}\[([0-9.eE+-]+)\]", re.DOTALL)
_FIRST_WITH_BRACKETS: Final = (3, 1)


def load_booster(ubj: bytes) -> xgboost.Booster:
    """Read a booster as XGBoost 3.1 or newer saves it. Raises XGBoostError."""
    booster = xgboost.Booster()
    booster.load_model(bytearray(ubj))
    base_score = bracketed_base_score(ubj)
    if base_score is not None and library_version(xgboost.__version__) < _FIRST_WITH_BRACKETS:
        # Since 3.1 the base score is saved as a list, "[1E-1]". Older ones, as in AWS's container, read that as 0.5
        # without a word, and every score would be wrong.
        booster.set_param({"base_score": base_score})
    return booster


def bracketed_base_score(ubj: bytes) -> str | None:
    """The base score (a probability) of a booster saved by XGBoost 3.1 or newer; None for an older one's file."""
    found = _BASE_SCORE.search(ubj)
    return found[1].decode() if found else None


def library_version(version: str) -> tuple[int, int]:
    """Major and minor of `3.0.5`."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
