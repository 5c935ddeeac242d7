"""Small models really trained on random rows with the `core` columns: enough for serving, which knows no history."""

from __future__ import annotations

from functools import cache

import numpy as np
import xgboost
from numpy.typing import NDArray

from model.artifact import Artifact, Calibration, Manifest, Thresholds, model_version
from model.boosting import fit
from model.parameters import complete
from stream_features.feature_sets import FeatureSet, feature_set

CORE: FeatureSet = feature_set("core")


def some_rows(count: int, *, seed: int = 7) -> NDArray[np.float64]:
    """Shape (count, core columns), float64 of several magnitudes, a tenth of the values missing."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, len(CORE.names))) * 10.0 ** rng.integers(-2, 6, size=len(CORE.names))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows


@cache
def a_booster(*, seed: int = 0, rounds: int = 20) -> xgboost.Booster:
    """A booster whose scores span 0.05 to 0.95; another seed learns another rule."""
    rows = some_rows(3_000, seed=seed).astype(np.float32)
    scaled = np.nan_to_num(rows / np.nanstd(rows, axis=0))
    drawn = np.random.default_rng(seed).random(len(rows))
    labels = (drawn < 1 / (1 + np.exp(1.5 - 2 * scaled[:, 0] - scaled[:, 3] * scaled[:, 4]))).astype(np.uint8)
    parameters = complete({"n_estimators": rounds, "nthread": 1, "max_depth": 4, "seed": seed})
    return fit(rows, labels, CORE.names, parameters)


@cache
def an_artifact(*, seed: int = 0, rounds: int = 20) -> Artifact:
    """The artefact of `a_booster`."""
    return with_manifest(bytes(a_booster(seed=seed, rounds=rounds).save_raw("ubj")))


def with_manifest(
    booster_ubj: bytes,
    *,
    columns: tuple[str, ...] = CORE.names,
    definitions: tuple[str, ...] = CORE.definitions,
    feature_set_name: str = "core",
    review_from: float = 0.5,
    decline_from: float = 0.9,
    calibration: Calibration | None = None,
) -> Artifact:
    """An artefact around a booster, with a manifest that hashes correctly whatever it says."""
    facts = {
        "feature_set": feature_set_name,
        "feature_set_id": CORE.feature_set_id,
        "columns": columns,
        "definitions": definitions,
        "thresholds": Thresholds(review_from=review_from, decline_from=decline_from),
        "calibration": calibration,
    }
    version = model_version(booster_ubj, Manifest(model_version="", **facts))
    return Artifact(
        booster_ubj=booster_ubj,
        manifest=Manifest(model_version=version, **facts),
        metrics={"training": {"auc": 0.9}},
        provenance={"source": {}},
    )
