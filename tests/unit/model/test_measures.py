"""All figures of scored rows together, and by group."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from model.evaluate import card_precision, cards_found_by_day
from model.measures import decision_quality, measure, segment
from model.scored_rows import (
    DAY_MS,
    MOST_GROUPS,
    NOT_GIVEN,
    OTHERS,
    by_amount,
    by_card_age,
    by_text,
    first_times,
)
from tests.unit.model.scored import random_rows, row_lists, scored_rows


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, float) else []


def test_decisions_agree_with_scikit_learn():
    judged = random_rows(2_000)
    quality = decision_quality(judged, judged.reviewed, 10)
    names = ("true_negatives", "false_positives", "false_negatives", "true_positives")
    counted = confusion_matrix(judged.labels, judged.reviewed).ravel()
    assert [quality[name] for name in names] == counted.tolist()
    assert quality["precision"] == pytest.approx(precision_score(judged.labels, judged.reviewed))
    assert quality["recall"] == pytest.approx(recall_score(judged.labels, judged.reviewed))
    assert quality["f1"] == pytest.approx(f1_score(judged.labels, judged.reviewed))
    weighted = recall_score(judged.labels, judged.reviewed, sample_weight=judged.amounts)
    assert quality["value_recall"] == pytest.approx(weighted)
    assert quality["alerts_per_day"] == judged.reviewed.sum() / 10
    assert quality["false_positive_rate"] == pytest.approx(counted[1] / (counted[0] + counted[1]))
    assert quality["false_alarms_per_fraud"] == pytest.approx(counted[1] / counted[3])


def test_decisions_by_truth_add_up():
    judged = random_rows(1_000)
    measured = measure(judged)
    made = measured["decisions"]
    assert sum(group["frauds"] + group["legitimate"] for group in made.values()) == 1_000
    amounts = sum(group["fraud_amount"] + group["legitimate_amount"] for group in made.values())
    assert amounts == int(judged.amounts.sum())
    assert made["review"]["frauds"] + made["decline"]["frauds"] == measured["review_or_decline"]["true_positives"]
    assert made["decline"]["legitimate"] == measured["decline"]["false_positives"]


def test_a_group_is_measured_like_rows_of_its_own():
    judged = random_rows(2_000)
    chosen = judged.days % 2 == 0
    figures = segment(judged, chosen)
    labels, scores = judged.labels[chosen], judged.scores[chosen]
    assert figures["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert figures["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    assert figures["recall"] == pytest.approx(recall_score(labels, judged.reviewed[chosen]))
    assert figures["precision"] == pytest.approx(precision_score(labels, judged.reviewed[chosen]))
    assert figures["fraud_share"] == pytest.approx(labels.mean())
    assert figures["mean_score"] == pytest.approx(scores.mean())


def test_every_row_is_in_one_group_of_each_segmentation():
    judged = random_rows(600)
    groups = by_text("colour", np.arange(600) % 3, ["red", None, "blue"])
    measured = measure(random_rows(600, segmentations=(groups, by_amount(judged.amounts))))
    assert list(measured["segments"]) == ["colour", "amount"]
    for listed in measured["segments"].values():
        assert sum(group["rows"] for group in listed) == 600
        assert sum(group["frauds"] for group in listed) == measured["frauds"]
    assert {group["group"] for group in measured["segments"]["colour"]} == {"red", NOT_GIVEN, "blue"}


@settings(max_examples=60, deadline=None)
@given(row_lists)
def test_any_rows_can_be_measured_and_written_as_json(rows):
    measured = measure(scored_rows(rows), review_capacity=2)
    json.dumps(measured, allow_nan=False)
    assert all(np.isfinite(numbers_in(measured)))


@pytest.mark.parametrize("fraud", [False, True])
def test_rows_of_one_class_have_no_ranking(fraud):
    measured = measure(scored_rows([(0, 0, fraud, 3, 100), (1, 1, fraud, 9, 100)]))
    assert (measured["auc"], measured["average_precision"]) == (None, None)
    assert measured["cards"]["auc"] is None
    assert measured["at_review_capacity"]["recall"] == (1.0 if fraud else None)
    assert measured["review_or_decline"]["value_recall"] == (0.5 if fraud else None)


def test_more_places_than_cards_cannot_find_more_than_there_are():
    rows = [(0, 0, True, 9, 100), (1, 0, False, 1, 100), (1, 1, True, 2, 100)]
    figures = measure(scored_rows(rows))["card_precision"]
    assert (figures["mean"], figures["attainable"]) == (0.01, 0.01)
    assert figures["days"] == [
        {"day": 0, "found": 1, "fraud_cards": 1, "cards": 2, "precision": 0.01},
        {"day": 1, "found": 1, "fraud_cards": 1, "cards": 1, "precision": 0.01},
    ]


def test_card_precision_is_the_mean_of_its_days():
    judged = random_rows(800, share=0.1)
    arguments = (judged.labels, judged.scores, judged.card_ids, judged.days)
    by_day = cards_found_by_day(*arguments, top=5)
    assert card_precision(*arguments, top=5) == pytest.approx(np.mean([day["found"] / 5 for day in by_day]))
    assert [day["day"] for day in by_day] == sorted(set(judged.days.tolist()))


def test_bands_begin_at_their_lower_bound():
    amounts = np.array([0, 999, 1_000, 4_999, 5_000, 99_999, 100_000, 10**12])
    assert by_amount(amounts).codes.tolist() == [0, 0, 1, 1, 2, 4, 5, 5]
    ages = np.array([0, DAY_MS - 1, DAY_MS, 7 * DAY_MS, 30 * DAY_MS, 90 * DAY_MS - 1, 90 * DAY_MS])
    assert by_card_age(ages).codes.tolist() == [0, 0, 1, 2, 3, 3, 4]


def test_texts_come_by_size_and_the_small_ones_together():
    names = [f"name-{number:02}" for number in range(20)]
    codes = np.repeat(np.arange(20), np.arange(20) + 1)
    groups = by_text("name", codes, names)
    assert len(groups.groups) == MOST_GROUPS
    assert groups.groups[:2] == ("name-19", "name-18")
    assert groups.groups[-1] == OTHERS
    counts = np.bincount(groups.codes)
    assert counts.tolist() == [*range(20, 6, -1), sum(range(1, 7))]
    assert by_text("name", np.array([1, 1]), ["absent", "here"]).groups == ("here",)
    assert by_text("name", np.array([], dtype=np.int64), []).groups == ()


def test_the_first_time_of_each_code():
    codes, times = np.array([1, 0, 1, 0]), np.array([30, 20, 10, 40])
    assert first_times(codes, times).tolist() == [10, 20, 10, 20]
    assert first_times(codes[:0], times[:0]).tolist() == []
