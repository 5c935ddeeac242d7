"""What goes into a prediction and what comes out of it, whatever the wire format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """Rows to score.

    Attributes:
        values: shape (rows, columns), float32, NaN = missing.
        columns: the name of each column; None = exactly the model's columns in its order (formats without names).
        definitions: the definition hash of each column; None = not stated.
        feature_set_id: the set the rows were computed by; checked only where columns have no names.
        explain_from: rows that score this (0..1) or more get reasons; None = none do.
    """

    values: Matrix
    columns: Sequence[str] | None = None
    definitions: Sequence[str] | None = None
    feature_set_id: str | None = None
    explain_from: float | None = None


class Reason(msgspec.Struct, frozen=True):
    """One feature's share of a row's margin, in log-odds (exact TreeSHAP)."""

    feature: str
    contribution: float


class Prediction(msgspec.Struct, frozen=True):
    """One row's answer; `base` plus all contributions is `margin`, to float32.

    Reasons hold every feature of the model, largest absolute contribution first, equal ones in column order.
    """

    score: float  # 0..1, a float32 widened
    margin: float  # log-odds
    base: float  # log-odds before any feature is known
    reasons: list[Reason]


class ScoringResponse(msgspec.Struct, frozen=True):
    """What one request gets back, rows in the request's order."""

    model_version: str
    predictions: list[Prediction]
