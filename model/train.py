"""From training rows to an artefact: the same rows and parameters give the same bytes."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray

from model.artifact import Artifact, Manifest, Thresholds, model_version, write_artifact
from model.boosting import booster_scores, fit
from model.calibration import calibrated
from model.evaluate import score_metrics
from model.groups import held_out
from model.isotonic import fit_calibration
from model.parameters import ClassWeight, Value, complete, weighted
from model.thresholds import DEFAULT_THRESHOLDS, choose_thresholds
from model.training_set import TrainingSet
from stream_features.errors import UsageError

# Between training and validation: what a card does after a training fraud must not be judged, and labels take days.
VALIDATION_GAP_MS: Final = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A booster together with the artefact that carries it."""

    artifact: Artifact
    booster: xgboost.Booster

    @property
    def manifest(self) -> Manifest:
        return self.artifact.manifest

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's score of each row of (rows, columns) features: the booster's, calibrated where the model is."""
        return calibrated(self.manifest.calibration, booster_scores(self.booster, features))

    def write(self, directory: Path) -> Path:
        """Write `model.tar.gz` into `directory`; return its path."""
        return write_artifact(self.artifact, directory)


def split_for_validation(
    rows: TrainingSet,
    *,
    from_ms: int | None,
    until_ms: int | None,
    valid_from_ms: int | None,
    valid_cards: float | None = None,
) -> tuple[TrainingSet, TrainingSet | None]:
    """The rows to train on and those to validate on (None with neither `valid_from_ms` nor `valid_cards`).

    Training rows are `[from, until)`. With a validation start V they also end at V - 7 days, and validation rows are
    `[V, until)`; an `until` at or before V only ends training, and validation runs to the end of `rows`. With a share
    of cards (0..1, by their hash), validation rows are those of these cards only and training rows those of all others.

    Raises:
        UsageError: the share is not between 0 and 1.
    """
    if valid_cards is not None:
        held = held_out(rows.card_ids, valid_cards)
        times = {"from_ms": from_ms, "until_ms": until_ms, "valid_from_ms": valid_from_ms}
        training, _ = split_for_validation(rows.take(~held), **times)
        same_time, later = split_for_validation(rows.take(held), **times)
        return training, same_time if valid_from_ms is None else later
    if valid_from_ms is None:
        return rows.between(from_ms, until_ms), None
    gap_start_ms = valid_from_ms - VALIDATION_GAP_MS
    training_until_ms = gap_start_ms if until_ms is None else min(until_ms, gap_start_ms)
    validation_until_ms = until_ms if until_ms is not None and until_ms > valid_from_ms else None
    return rows.between(from_ms, training_until_ms), rows.between(valid_from_ms, validation_until_ms)


def train(
    training: TrainingSet,
    validation: TrainingSet | None = None,
    *,
    parameters: Mapping[str, Value] | None = None,
    provenance: Mapping[str, Any] | None = None,
    class_weight: ClassWeight | None = None,
    calibrate: bool = False,
) -> TrainedModel:
    """Train one model and describe it.

    Args:
        training: the rows to learn from.
        validation: rows that only choose thresholds and are only measured; unless their cards are others than those of
            `training`, their first event must lie at least 7 days after the last one of `training`. Without them the
            thresholds are 0.5 and 0.9.
        parameters: overrides of `model.parameters.DEFAULTS`.
        provenance: what the caller knows of the source (file hash, times asked for); joins the artefact's own.
        class_weight: how often a fraud counts; becomes the parameter `scale_pos_weight`.
        calibrate: fit an isotonic calibration on out-of-fold scores of the training rows, and apply it to every score.

    Raises:
        UsageError: no rows, no fraud or only fraud among them, a parameter that XGBoost refuses, or too few cards to
            calibrate on.
    """
    _check_rows(training, "training")
    if validation is not None:
        _check_rows(validation, "validation")
        too_near = int(validation.event_times_ms.min()) < int(training.event_times_ms.max()) + VALIDATION_GAP_MS
        if too_near and np.isin(validation.card_ids, training.card_ids).any():
            raise UsageError(
                "validation rows must begin at least 7 days after the last training row, or be of other cards"
            )
    settings = complete(weighted(parameters or {}, class_weight, training.labels))
    columns = training.feature_set.names
    booster = fit(training.features, training.labels, columns, settings)
    calibration = fit_calibration(training, settings) if calibrate else None
    thresholds = DEFAULT_THRESHOLDS
    metrics: dict[str, Any] = {}
    if validation is not None:
        validation_scores = calibrated(calibration, booster_scores(booster, validation.features))
        thresholds = choose_thresholds(validation.labels, validation_scores)
        metrics["validation"] = _measure(validation, validation_scores, thresholds)
    training_scores = calibrated(calibration, booster_scores(booster, training.features))
    metrics["training"] = _measure(training, training_scores, thresholds)
    booster_ubj = bytes(booster.save_raw("ubj"))
    manifest = Manifest(
        model_version="",  # a hash over all the rest; filled in below
        feature_set=training.feature_set.name,
        feature_set_id=training.feature_set.feature_set_id,
        columns=tuple(columns),
        definitions=tuple(training.feature_set.definitions),
        thresholds=thresholds,
        calibration=calibration,
    )
    manifest = msgspec.structs.replace(manifest, model_version=model_version(booster_ubj, manifest))
    described = {
        "parameters": settings,
        "training": _rows_described(training),
        "validation": None if validation is None else _rows_described(validation),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "xgboost": xgboost.__version__,
        },
        "source": dict(provenance or {}),
    }
    artifact = Artifact(booster_ubj=booster_ubj, manifest=manifest, metrics=metrics, provenance=described)
    return TrainedModel(artifact, booster)


def _check_rows(rows: TrainingSet, role: str) -> None:
    frauds = int(rows.labels.sum())
    if len(rows) == 0:
        raise UsageError(f"no labelled purchases among the {role} rows: check the times asked for and the label column")
    if frauds == 0:
        raise UsageError(f"no fraud among the {len(rows)} {role} rows: nothing to learn from")
    if frauds == len(rows):
        raise UsageError(f"all {len(rows)} {role} rows are fraud: nothing to tell it from")


def _measure(rows: TrainingSet, scores: NDArray[np.float32], thresholds: Thresholds) -> dict[str, Any]:
    return score_metrics(
        rows.labels,
        scores.astype(np.float64),
        rows.card_ids,
        rows.event_times_ms,
        review_from=thresholds.review_from,
        decline_from=thresholds.decline_from,
    )


def _rows_described(rows: TrainingSet) -> dict[str, int]:
    return {
        "rows": len(rows),
        "frauds": int(rows.labels.sum()),
        "first_event_time_ms": int(rows.event_times_ms.min()),
        "last_event_time_ms": int(rows.event_times_ms.max()),
    }
