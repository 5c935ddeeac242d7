"""Cards instead of transactions: a defrauded card is found or not, early or late."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from model.ranking import quotient
from model.scored_rows import ScoredRows


def card_level(rows: ScoredRows) -> dict[str, Any]:
    """Each card as one case: fraud if any of its rows is, scored by its highest row, alerted if any row was.

    Returns:
        `cards`, `fraud_cards`, `auc` and `average_precision` (None unless both classes are present), the quality of
        `review_or_decline` and `decline`, and `detection` (see `_detection`).
    """
    cards, card = np.unique(rows.card_ids, return_inverse=True)
    highest = np.full(len(cards), -np.inf)
    np.maximum.at(highest, card, rows.scores)
    is_fraud = _any(card, rows.labels == 1, len(cards))
    frauds = int(is_fraud.sum())
    both_classes = 0 < frauds < len(cards)
    return {
        "cards": len(cards),
        "fraud_cards": frauds,
        "auc": float(roc_auc_score(is_fraud, highest)) if both_classes else None,
        "average_precision": float(average_precision_score(is_fraud, highest)) if both_classes else None,
        "review_or_decline": _quality(is_fraud, _any(card, rows.reviewed, len(cards))),
        "decline": _quality(is_fraud, _any(card, rows.declined, len(cards))),
        "detection": _detection(rows, card, len(cards)),
    }


def _any(card: NDArray[np.intp], holds: NDArray[np.bool_], cards: int) -> NDArray[np.bool_]:
    found = np.zeros(cards, dtype=bool)
    found[card[holds]] = True
    return found


def _quality(is_fraud: NDArray[np.bool_], alerted: NDArray[np.bool_]) -> dict[str, float | int | None]:
    caught, alerts = int((is_fraud & alerted).sum()), int(alerted.sum())
    return {
        "alerted": alerts,
        "precision": quotient(caught, alerts),
        "recall": quotient(caught, int(is_fraud.sum())),
    }


def _detection(rows: ScoredRows, card: NDArray[np.intp], cards: int) -> dict[str, Any]:
    """How early the frauds of a card are noticed: at its first fraud that is reviewed or declined, in event time.

    Returns:
        `found_cards`; `found_at_first_fraud` and `never_found` (cards); `median_frauds_before` (of found cards, None
        without any); `amount_before` (US cents: frauds before the noticed one, or all of a card never noticed) and
        `amount_before_share` of all fraud.
    """
    frauds = np.flatnonzero(rows.labels == 1)
    frauds = frauds[np.lexsort((rows.event_times_ms[frauds], card[frauds]))]
    owner = card[frauds]
    starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1])[: len(owner)])
    number = np.arange(len(owner)) - np.repeat(starts, np.diff(np.append(starts, len(owner))))  # 0 = the card's first
    never = len(owner)
    noticed_at = np.full(cards, never)
    noticed = rows.reviewed[frauds]
    np.minimum.at(noticed_at, owner[noticed], number[noticed])
    by_card = noticed_at[owner[starts]]
    found = by_card[by_card < never]
    amounts = rows.amounts[frauds]
    before = int(amounts[number < noticed_at[owner]].sum())
    return {
        "found_cards": len(found),
        "found_at_first_fraud": int((found == 0).sum()),
        "never_found": len(by_card) - len(found),
        "median_frauds_before": float(np.median(found)) if len(found) else None,
        "amount_before": before,
        "amount_before_share": quotient(before, int(amounts.sum())),
    }
