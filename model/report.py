"""The model report as one document: what was trained, how good it is, on whom, and what it looks at.

`report.json` and `report.html` say the same; neither holds a clock's time, so the same input gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from model.boosting import booster_scores
from model.evaluate import auc, average_precision
from model.explanations import Explained, explain_rows, gain_importance, shap_summary
from model.exported import JudgedDecisions
from model.history_facts import HistoryFacts
from model.learning import boosting_curve, card_curve
from model.measures import REVIEW_CAPACITY, calibration_figures, measure, summary
from model.scored_rows import ScoredRows
from model.train import TrainedModel
from model.training_set import TrainingSet
from stream_features.errors import UsageError

REPORT_JSON: Final = "report.json"
REPORT_PAGE: Final = "report.html"
_FEW_FRAUDS: Final = 100


@dataclass(frozen=True, slots=True)
class Report:
    """`document` is what `report.json` holds; `explained` are the rows of its SHAP summary, None without a model."""

    document: dict[str, Any]
    explained: Explained | None = None

    def write(self, directory: Path) -> Path:
        """Write `report.json` and `report.html` into `directory` (made if absent); return the page's path."""
        from model.report_page import page  # matplotlib is loaded by those who draw

        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        (directory / REPORT_JSON).write_text(text + "\n", encoding="utf-8")
        (directory / REPORT_PAGE).write_text(page(self), encoding="utf-8")
        return directory / REPORT_PAGE


def training_report(
    trained: TrainedModel,
    training: TrainingSet,
    validation: TrainingSet | None,
    facts: HistoryFacts,
    *,
    review_capacity: int = REVIEW_CAPACITY,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Judge a model by its validation rows, or, where there are none, by the rows it was trained on.

    Args:
        trained: the model.
        training: the rows it was trained on.
        validation: as given to `train`.
        facts: about every row of the history that both were chosen from.
        review_capacity: transactions that can be reviewed in a day.
        progress: told what takes long.

    Raises:
        UsageError: the capacity is below 1.
    """
    check_capacity(review_capacity)
    assessed = training if validation is None else validation
    rows = scored(trained, assessed, facts)
    progress(f"report on {len(rows)} rows")
    explained = explain_rows(trained.booster, assessed.features, assessed.labels)
    columns = trained.manifest.columns
    measured = measure(rows, review_capacity=review_capacity)
    provenance = trained.artifact.provenance
    document = {
        "kind": "training",
        "assessed": "training" if validation is None else "validation",
        "notes": _training_notes(trained, training, validation),
        "review_capacity": review_capacity,
        "model": {
            "model_version": trained.manifest.model_version,
            "feature_set": trained.manifest.feature_set,
            "feature_set_id": trained.manifest.feature_set_id,
            "columns": list(columns),
            "thresholds": {
                "review_from": trained.manifest.thresholds.review_from,
                "decline_from": trained.manifest.thresholds.decline_from,
            },
            "calibration": _calibration(trained),
            **provenance,
        },
        "measured": measured,
        "uncalibrated": None if trained.manifest.calibration is None else _uncalibrated(trained, assessed),
        "training_rows": summary(scored(trained, training, facts)),
        "learning": {
            "by_rounds": boosting_curve(trained.booster, training, validation),
            "by_cards": None
            if validation is None
            else card_curve(training, validation, provenance["parameters"], progress=progress),
        },
        "importance": gain_importance(trained.booster, columns),
        "shap": shap_summary(explained, columns, measured["fraud_share"]),
    }
    return Report(document, explained)


def decisions_report(
    judged: JudgedDecisions, source: Mapping[str, str], *, review_capacity: int = REVIEW_CAPACITY
) -> Report:
    """Judge decisions that were made.

    Args:
        judged: decisions beside their truth.
        source: what the page says of where they come from.
        review_capacity: transactions that can be reviewed in a day.

    Raises:
        UsageError: the capacity is below 1.
    """
    check_capacity(review_capacity)
    notes = _few_frauds(int((judged.rows.labels == 1).sum()))
    if len(judged.made_by.get("model_version", {})) > 1:
        notes.append("Several models made these decisions: their scores are ranked together here.")
    if unjudged := judged.counts.get("without_truth"):
        notes.append(f"{unjudged:,} of {judged.counts['decisions']:,} decisions have no truth and are left out.")
    if not judged.has_amounts:
        notes.append("The file holds no amounts: every figure of value is empty or 0.")
    document = {
        "kind": "decisions",
        "assessed": "decisions",
        "notes": notes,
        "review_capacity": review_capacity,
        "source": dict(source),
        "counts": judged.counts,
        "made_by": judged.made_by,
        "measured": measure(judged.rows, review_capacity=review_capacity),
    }
    return Report(document)


def scored(trained: TrainedModel, chosen: TrainingSet, facts: HistoryFacts) -> ScoredRows:
    """The rows with the model's scores and what its thresholds would decide."""
    scores = trained.scores(chosen.features).astype(np.float64)
    thresholds = trained.manifest.thresholds
    return ScoredRows(
        labels=chosen.labels,
        scores=scores,
        card_ids=chosen.card_ids,
        event_times_ms=chosen.event_times_ms,
        amounts=facts.amounts[chosen.history_rows],
        reviewed=scores >= thresholds.review_from,
        declined=scores >= thresholds.decline_from,
        segmentations=tuple(groups.take(chosen.history_rows) for groups in facts.segmentations),
    )


def check_capacity(review_capacity: int) -> None:
    """Raises UsageError below 1."""
    if review_capacity < 1:
        raise UsageError(f"--review-capacity takes at least 1 transaction a day, not {review_capacity}")


def _calibration(trained: TrainedModel) -> Mapping[str, Any] | None:
    calibration = trained.manifest.calibration
    if calibration is None:
        return None
    return {
        "method": calibration.method,
        "scores": list(calibration.scores),
        "probabilities": list(calibration.probabilities),
    }


def _uncalibrated(trained: TrainedModel, assessed: TrainingSet) -> dict[str, Any]:
    """What the booster's own scores would have shown: what calibration changed."""
    labels, scores = assessed.labels, booster_scores(trained.booster, assessed.features).astype(np.float64)
    return {"auc": auc(labels, scores), "average_precision": average_precision(labels, scores)} | calibration_figures(
        labels, scores
    )


def _training_notes(trained: TrainedModel, training: TrainingSet, validation: TrainingSet | None) -> list[str]:
    """What a reader must know not to be misled by the figures."""
    notes = []
    if validation is None:
        notes.append(
            "There were no validation rows. Every figure is measured on the rows the model was trained on and "
            "is better than it will be on others. Train with --valid-from or --valid-cards for honest ones."
        )
    else:
        notes.append(
            "The thresholds were chosen on these same rows, so what is said about decisions is slightly better than "
            "it will be elsewhere. Nothing else of the model has seen them."
        )
        if int(validation.event_times_ms.min()) <= int(training.event_times_ms.max()):
            notes.append(
                "Validation rows are other cards in the same time: they show how the model does on cards it has not "
                "seen, not how it will do in the future. Train with --valid-from as well for both."
            )
    weight = float(trained.artifact.provenance["parameters"].get("scale_pos_weight", 1.0))
    if weight != 1.0 and trained.manifest.calibration is None:
        notes.append(
            f"Each fraud counted {weight:.4g} times in training and the model is not calibrated: its scores rank, "
            "they are no probabilities."
        )
    return notes + _few_frauds(int((training if validation is None else validation).labels.sum()))


def _few_frauds(frauds: int) -> list[str]:
    if frauds >= _FEW_FRAUDS:
        return []
    return [f"Only {frauds} frauds: a few transactions more or less would move every figure. Mind the intervals."]
