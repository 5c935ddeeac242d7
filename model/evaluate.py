"""How good scores and decisions are, by the measures of the fraud-detection handbook.

* AUC ROC and average precision (scikit-learn's, no interpolation).
* Card precision@100: per UTC day each card counts once, with its highest score; cards whose fraud was found in the top
  100 of an earlier day are gone; the day's value is the number of cards with fraud among the top 100, over 100 (also
  where fewer cards were active); the measure is the mean over days.
* Precision, recall and F1 of "score >= threshold".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from model.exported import judged_decisions
from model.probability import brier_score, log_loss
from model.scored_rows import DAY_MS

TOP_CARDS: Final = 100


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve. Labels 0/1, both present."""
    return float(roc_auc_score(labels, scores))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision. Labels 0/1, at least one 1."""
    return float(average_precision_score(labels, scores))


def card_precision(
    labels: NDArray[Any],
    scores: NDArray[Any],
    card_ids: NDArray[Any],
    days: NDArray[Any],
    top: int = TOP_CARDS,
) -> float:
    """Card precision@`top`, mean over the days that have rows.

    Args:
        labels: shape (rows,), 1 = fraud.
        scores: shape (rows,).
        card_ids: shape (rows,), any type that can be sorted.
        days: shape (rows,), integers.
        top: cards a day that can be looked at.
    """
    return float(np.mean([day["found"] / top for day in cards_found_by_day(labels, scores, card_ids, days, top)]))


def cards_found_by_day(
    labels: NDArray[Any],
    scores: NDArray[Any],
    card_ids: NDArray[Any],
    days: NDArray[Any],
    top: int = TOP_CARDS,
) -> list[dict[str, int]]:
    """What card precision@`top` is the mean of: one entry per day that has rows, in order of days.

    Returns:
        `day`, `found` (cards with fraud among the top), `fraud_cards` and `cards` (active, not found on an earlier
        day). Arguments as for `card_precision`.
    """
    cards, card = np.unique(card_ids, return_inverse=True)
    detected = np.zeros(len(cards), dtype=bool)
    return [
        {"day": int(day), **_top_cards(card[rows], labels[rows], scores[rows], detected, top)}
        for day, rows in ((day, np.flatnonzero(days == day)) for day in np.unique(days))
    ]


def _top_cards(
    card: NDArray[np.int64], labels: NDArray[Any], scores: NDArray[Any], detected: NDArray[np.bool_], top: int
) -> dict[str, int]:
    """The cards with fraud among one day's top cards, beside all there are; marks the found ones in `detected`."""
    open_rows = ~detected[card]
    active, position = np.unique(card[open_rows], return_inverse=True)
    highest = np.full(len(active), -np.inf)
    np.maximum.at(highest, position, scores[open_rows].astype(np.float64))
    has_fraud = np.zeros(len(active), dtype=bool)
    has_fraud[position[labels[open_rows] == 1]] = True
    ranked = np.argsort(-highest, kind="stable")[:top]  # equal scores: in the order of card ids
    found = ranked[has_fraud[ranked]]
    detected[active[found]] = True
    return {"found": len(found), "fraud_cards": int(has_fraud.sum()), "cards": len(active)}


def alert_quality(labels: NDArray[Any], alerted: NDArray[np.bool_]) -> dict[str, float | int]:
    """Precision, recall and F1 of one alert rule, and how many it raised. Undefined quotients are 0."""
    alerts = int(alerted.sum())
    frauds = int((labels == 1).sum())
    caught = int((labels[alerted] == 1).sum())
    return {
        "alerts": alerts,
        "precision": caught / alerts if alerts else 0.0,
        "recall": caught / frauds if frauds else 0.0,
        "f1": 2 * caught / (alerts + frauds) if alerts + frauds else 0.0,
    }


def score_metrics(
    labels: NDArray[Any],
    scores: NDArray[Any],
    card_ids: NDArray[Any],
    event_times_ms: NDArray[np.int64],
    *,
    review_from: float,
    decline_from: float,
) -> dict[str, Any]:
    """All measures of scored rows at two thresholds.

    AUC and average precision are None where only one class is present.
    """
    return {
        **_ranking_metrics(labels, scores, card_ids, event_times_ms),
        "review_or_decline": alert_quality(labels, scores >= review_from),
        "decline": alert_quality(labels, scores >= decline_from),
        "thresholds": {"review_from": review_from, "decline_from": decline_from},
    }


def _ranking_metrics(
    labels: NDArray[Any], scores: NDArray[Any], card_ids: NDArray[Any], event_times_ms: NDArray[np.int64]
) -> dict[str, Any]:
    frauds = int((labels == 1).sum())
    both_classes = 0 < frauds < len(labels)
    return {
        "rows": len(labels),
        "frauds": frauds,
        "auc": auc(labels, scores) if both_classes else None,
        "average_precision": average_precision(labels, scores) if both_classes else None,
        f"card_precision_at_{TOP_CARDS}": (
            card_precision(labels, scores, card_ids, event_times_ms // DAY_MS) if len(labels) else None
        ),
    }


def rows_of_unknown_cards(
    card_ids: NDArray[Any],
    days: NDArray[Any],
    fraud_card_ids: NDArray[Any],
    fraud_days: NDArray[Any],
    *,
    training_from_day: int,
    label_delay_days: int,
) -> NDArray[np.bool_]:
    """Which assessed rows belong to cards not yet known as defrauded, as the handbook's protocol keeps them.

    On day d a card is known by a fraud of any day from `training_from_day` to d - `label_delay_days` - 1.

    Args:
        card_ids: shape (rows,), of the assessed rows.
        days: shape (rows,), their days.
        fraud_card_ids: shape (frauds,), of every fraud of the whole history.
        fraud_days: shape (frauds,), their days.
        training_from_day: first day of training.
        label_delay_days: full days until a fraud is known.
    """
    first_fraud_day: dict[Any, int] = {}
    for card_id, day in zip(fraud_card_ids.tolist(), fraud_days.tolist(), strict=True):
        if day >= training_from_day:
            first_fraud_day[card_id] = min(day, first_fraud_day.get(card_id, day))
    never = np.iinfo(np.int64).max
    known_from = np.array([first_fraud_day.get(card_id, never) for card_id in card_ids.tolist()], dtype=np.int64)
    unknown: NDArray[np.bool_] = known_from > days - label_delay_days - 1
    return unknown


def evaluate_decisions(exported: Path, truth: Mapping[str, bool]) -> dict[str, Any]:
    """Judge exported decisions by the truth.

    Args:
        exported: Parquet, one row per transaction, with the columns of `model.exported.DECISION_COLUMNS`.
        truth: transaction_id to "is fraud". Decisions without truth are counted and left out, as are truths without
            a decision.

    Returns:
        The ranking measures, log loss, Brier score, the quality of the decisions made, and the counts `decisions`,
        `rows` (judged), `without_truth`, `without_decision`.

    Raises:
        UsageError: the file lacks a column, a decision has no score, or no decision has a truth.
    """
    judged = judged_decisions(exported, truth)
    rows = judged.rows
    return {
        **judged.counts,
        **_ranking_metrics(rows.labels, rows.scores, rows.card_ids, rows.event_times_ms),
        "log_loss": log_loss(rows.labels, rows.scores),
        "brier_score": brier_score(rows.labels, rows.scores),
        "review_or_decline": alert_quality(rows.labels, rows.reviewed),
        "decline": alert_quality(rows.labels, rows.declined),
    }
