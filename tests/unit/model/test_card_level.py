"""Cards as cases, against loops over cards."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
from hypothesis import given
from sklearn.metrics import average_precision_score, roc_auc_score

from model.card_level import card_level
from tests.unit.model.scored import row_lists, scored_rows


@given(row_lists)
def test_cards_agree_with_their_definition(rows):
    judged = scored_rows(rows)
    measured = card_level(judged)
    order = np.argsort(judged.event_times_ms, kind="stable")
    by_card: dict[str, list[int]] = {}
    for row in order.tolist():
        by_card.setdefault(str(judged.card_ids[row]), []).append(row)
    is_fraud = [any(judged.labels[row] for row in card) for card in by_card.values()]
    highest = [max(judged.scores[row] for row in card) for card in by_card.values()]
    assert (measured["cards"], measured["fraud_cards"]) == (len(by_card), sum(is_fraud))
    if 0 < sum(is_fraud) < len(by_card):
        assert measured["auc"] == pytest.approx(roc_auc_score(is_fraud, highest))
        assert measured["average_precision"] == pytest.approx(average_precision_score(is_fraud, highest))
    else:
        assert (measured["auc"], measured["average_precision"]) == (None, None)
    for rule, alerted in (("review_or_decline", judged.reviewed), ("decline", judged.declined)):
        told = [any(alerted[row] for row in card) for card in by_card.values()]
        caught = sum(fraud and tell for fraud, tell in zip(is_fraud, told, strict=True))
        assert measured[rule] == {
            "alerted": sum(told),
            "precision": caught / sum(told) if sum(told) else None,
            "recall": caught / sum(is_fraud) if sum(is_fraud) else None,
        }
    detection = measured["detection"]
    before, amount_before, never = [], 0, 0
    for card in by_card.values():
        frauds = [row for row in card if judged.labels[row]]
        noticed = next((number for number, row in enumerate(frauds) if judged.reviewed[row]), None)
        amount_before += sum(int(judged.amounts[row]) for row in frauds[:noticed])
        never += bool(frauds) and noticed is None
        if noticed is not None:
            before.append(noticed)
    amount = int(judged.amounts[judged.labels == 1].sum())
    assert detection == {
        "found_cards": len(before),
        "found_at_first_fraud": before.count(0),
        "never_found": never,
        "median_frauds_before": median(before) if before else None,
        "amount_before": amount_before,
        "amount_before_share": amount_before / amount if amount else None,
    }


def test_an_alert_on_a_legitimate_row_does_not_notice_the_fraud():
    #             fraud 0.1   legitimate 0.9   fraud 0.9
    rows = [(0, 0, True, 1, 100), (0, 0, False, 9, 50), (0, 0, True, 9, 300)]
    detection = card_level(scored_rows(rows))["detection"]
    assert (detection["found_at_first_fraud"], detection["median_frauds_before"]) == (0, 1.0)
    assert (detection["amount_before"], detection["amount_before_share"]) == (100, 0.25)


def test_the_order_of_rows_does_not_matter():
    rows = [(0, day, day > 1, 3 * day, 10 * day) for day in range(4)]
    forward, backward = scored_rows(rows), scored_rows(rows[::-1])
    assert card_level(forward) == card_level(backward)
