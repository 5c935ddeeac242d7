"""Everything the report says about a set of scored rows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.card_level import card_level
from model.evaluate import TOP_CARDS, alert_quality, auc, average_precision, cards_found_by_day
from model.intervals import intervals
from model.probability import (
    brier_score,
    brier_skill,
    calibration_bins,
    calibration_error,
    log_loss,
)
from model.ranking import (
    CapacityRanking,
    best_f1,
    precision_recall_points,
    quotient,
    recall_at_precision,
    roc_points,
    round_numbers,
    threshold_cuts,
)
from model.scored_rows import ScoredRows

REVIEW_CAPACITY: Final = 100  # transactions a day
PRECISIONS: Final = (0.5, 0.75, 0.9, 0.95, 0.99)
_HISTOGRAM_BINS: Final = 50


def measure(rows: ScoredRows, *, review_capacity: int = REVIEW_CAPACITY) -> dict[str, Any]:
    """All figures of `rows`, at least one of them. Amounts are US cents; what is undefined is None.

    Args:
        rows: scored rows.
        review_capacity: transactions that can be reviewed in a day, at least 1.
    """
    cuts = threshold_cuts(rows.labels, rows.scores)
    frauds = int((rows.labels == 1).sum())
    ranking = CapacityRanking(rows.labels, rows.scores, rows.amounts, rows.days)
    return {
        **summary(rows),
        "intervals_95": intervals(rows),
        "card_precision": _card_precision(rows),
        "recall_at_precision": [recall_at_precision(cuts, frauds, wanted) for wanted in PRECISIONS],
        "best_f1": best_f1(cuts, frauds),
        "at_review_capacity": ranking.review(review_capacity),
        "by_review_capacity": [ranking.review(number) for number in round_numbers(ranking.busiest_day)],
        "review_or_decline": decision_quality(rows, rows.reviewed, ranking.days),
        "decline": decision_quality(rows, rows.declined, ranking.days),
        "decisions": _decisions(rows),
        "calibration": calibration_figures(rows.labels, rows.scores),
        "roc": roc_points(cuts, frauds, len(rows)),
        "precision_recall": precision_recall_points(cuts, frauds),
        "score_histogram": _histogram(rows),
        "cards": card_level(rows),
        "segments": {
            groups.name: [
                {"group": name, **segment(rows, groups.codes == code)}
                for code, name in enumerate(groups.groups)
                if (groups.codes == code).any()
            ]
            for groups in rows.segmentations
        },
    }


def summary(rows: ScoredRows) -> dict[str, Any]:
    """Size and ranking figures."""
    frauds = int((rows.labels == 1).sum())
    both_classes = 0 < frauds < len(rows)
    return {
        "rows": len(rows),
        "frauds": frauds,
        "fraud_share": frauds / len(rows),
        "fraud_amount": int(rows.amounts[rows.labels == 1].sum()),
        "first_event_time_ms": int(rows.event_times_ms.min()),
        "last_event_time_ms": int(rows.event_times_ms.max()),
        "days": len(np.unique(rows.days)),
        "auc": auc(rows.labels, rows.scores) if both_classes else None,
        "average_precision": average_precision(rows.labels, rows.scores) if both_classes else None,
    }


def calibration_figures(labels: NDArray[np.uint8], scores: NDArray[np.float64]) -> dict[str, Any]:
    """How far scores are probabilities: `bins`, their `error`, and the proper scores."""
    bins = calibration_bins(labels, scores)
    return {
        "bins": bins,
        "error": calibration_error(bins),
        "brier_score": brier_score(labels, scores),
        "brier_skill": brier_skill(labels, scores),
        "log_loss": log_loss(labels, scores),
        "mean_score": float(scores.mean()),
    }


def decision_quality(rows: ScoredRows, alerted: NDArray[np.bool_], days: int) -> dict[str, Any]:
    """Confusion matrix of one rule and what follows from it.

    Returns:
        `alert_quality`'s figures and `true_positives`, `false_positives`, `false_negatives`, `true_negatives`,
        `false_positive_rate`, `value_recall` (share of the fraud amount), `caught_amount`, `missed_amount`,
        `alerts_per_day`, `false_alarms_per_fraud`.
    """
    is_fraud = rows.labels == 1
    caught, missed = is_fraud & alerted, is_fraud & ~alerted
    false_positives = int((alerted & ~is_fraud).sum())
    true_negatives = int((~alerted & ~is_fraud).sum())
    caught_amount, missed_amount = int(rows.amounts[caught].sum()), int(rows.amounts[missed].sum())
    return {
        **alert_quality(rows.labels, alerted),
        "true_positives": int(caught.sum()),
        "false_positives": false_positives,
        "false_negatives": int(missed.sum()),
        "true_negatives": true_negatives,
        "false_positive_rate": quotient(false_positives, false_positives + true_negatives),
        "value_recall": quotient(caught_amount, caught_amount + missed_amount),
        "caught_amount": caught_amount,
        "missed_amount": missed_amount,
        "alerts_per_day": quotient(int(alerted.sum()), days),
        "false_alarms_per_fraud": quotient(false_positives, int(caught.sum())),
    }


def segment(rows: ScoredRows, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """The figures of one group of rows, at least one row."""
    labels, scores, reviewed = rows.labels[chosen], rows.scores[chosen], rows.reviewed[chosen]
    amounts = rows.amounts[chosen]
    is_fraud = labels == 1
    frauds, alerts, caught = int(is_fraud.sum()), int(reviewed.sum()), int((is_fraud & reviewed).sum())
    both_classes = 0 < frauds < len(labels)
    return {
        "rows": len(labels),
        "frauds": frauds,
        "fraud_share": frauds / len(labels),
        "mean_score": float(scores.mean()),
        "auc": auc(labels, scores) if both_classes else None,
        "average_precision": average_precision(labels, scores) if both_classes else None,
        "alerts": alerts,
        "precision": quotient(caught, alerts),
        "recall": quotient(caught, frauds),
        "value_recall": quotient(int(amounts[is_fraud & reviewed].sum()), int(amounts[is_fraud].sum())),
        "false_positive_rate": quotient(alerts - caught, len(labels) - frauds),
    }


def _card_precision(rows: ScoredRows) -> dict[str, Any]:
    by_day = cards_found_by_day(rows.labels, rows.scores, rows.card_ids, rows.days)
    best = [min(day["fraud_cards"], TOP_CARDS) / TOP_CARDS for day in by_day]
    return {
        "top": TOP_CARDS,
        "mean": float(np.mean([day["found"] / TOP_CARDS for day in by_day])),
        "attainable": float(np.mean(best)),
        "days": [{**day, "precision": day["found"] / TOP_CARDS} for day in by_day],
    }


def _decisions(rows: ScoredRows) -> dict[str, dict[str, int]]:
    """Rows and amounts by decision and truth."""
    is_fraud = rows.labels == 1
    made = {"approve": ~rows.reviewed, "review": rows.reviewed & ~rows.declined, "decline": rows.declined}
    return {
        name: {
            "frauds": int((chosen & is_fraud).sum()),
            "legitimate": int((chosen & ~is_fraud).sum()),
            "fraud_amount": int(rows.amounts[chosen & is_fraud].sum()),
            "legitimate_amount": int(rows.amounts[chosen & ~is_fraud].sum()),
        }
        for name, chosen in made.items()
    }


def _histogram(rows: ScoredRows) -> dict[str, list[Any]]:
    edges = np.linspace(0.0, 1.0, _HISTOGRAM_BINS + 1)
    is_fraud = rows.labels == 1
    return {
        "edges": edges.tolist(),
        "frauds": np.histogram(rows.scores[is_fraud], edges)[0].tolist(),
        "legitimate": np.histogram(rows.scores[~is_fraud], edges)[0].tolist(),
    }
