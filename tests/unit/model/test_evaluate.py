"""The measures, against their definitions and the published tables."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.boosting import booster_scores, fit
from model.evaluate import (
    DAY_MS,
    alert_quality,
    auc,
    average_precision,
    card_precision,
    evaluate_decisions,
    rows_of_unknown_cards,
)
from model.parameters import complete
from stream_features.errors import UsageError

DATA = Path(os.environ.get("FRAUDSTREAM_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))

# (card, day, is fraud, score); scores are distinct so that no tie decides who is in the top.
card_days = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), min_size=1, max_size=60).flatmap(
    lambda rows: st.permutations(range(len(rows))).map(lambda ranks: list(zip(rows, ranks, strict=True)))
)


def card_precision_by_definition(rows: list[tuple[int, int, bool, float]], top: int) -> float:
    detected: set[int] = set()
    daily = []
    for day in sorted({day for _, day, _, _ in rows}):
        today = [(card, fraud, score) for card, at, fraud, score in rows if at == day and card not in detected]
        best = {card: max(score for other, _, score in today if other == card) for card, _, _ in today}
        watched = sorted(best, key=lambda card: -best[card])[:top]
        found = {card for card in watched if any(fraud for other, fraud, _ in today if other == card)}
        daily.append(len(found) / top)
        detected |= found
    return sum(daily) / len(daily)


@settings(max_examples=150)
@given(card_days, st.integers(1, 5))
def test_card_precision_agrees_with_its_definition(rows, top):
    flat = [(card, day, fraud, rank / 100) for (card, day, fraud), rank in rows]
    cards, days, labels, scores = (np.array(column) for column in zip(*flat, strict=True))
    measured = card_precision(labels.astype(np.uint8), scores, cards, days, top)
    assert measured == pytest.approx(card_precision_by_definition(flat, top), abs=1e-12)


def test_a_detected_card_leaves_the_later_days():
    cards = np.array(["a", "b", "a", "c"])
    days = np.array([0, 0, 1, 1])
    labels = np.array([1, 0, 1, 1], dtype=np.uint8)
    scores = np.array([0.9, 0.8, 0.9, 0.1])
    # Day 0 finds a. Day 1 no longer looks at a, so c is on top: 1/1 on both days.
    assert card_precision(labels, scores, cards, days, top=1) == 1.0


def test_undefined_quotients_of_an_alert_rule_are_zero():
    nothing = alert_quality(np.array([0, 0]), np.array([False, False]))
    assert nothing == {"alerts": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_a_card_is_known_from_the_label_delay_after_its_first_fraud():
    days = np.array([10, 11, 12, 12])
    cards = np.array(["a", "a", "a", "b"])
    # Fraud on day 4: known on day d when 4 <= d - 7 - 1. Card b's fraud lies before training.
    unknown = rows_of_unknown_cards(
        cards, days, np.array(["a", "b"]), np.array([4, 1]), training_from_day=2, label_delay_days=7
    )
    assert unknown.tolist() == [True, True, False, True]


def exported(tmp_path: Path, **columns: list[object]) -> Path:
    path = tmp_path / "decisions.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_exported_decisions_are_judged_by_the_truth_and_gaps_are_counted(tmp_path):
    path = exported(
        tmp_path,
        transaction_id=["t1", "t2", "t3", "t4"],
        card_id=["a", "b", "c", "d"],
        event_time_ms=[0, 1, DAY_MS, DAY_MS + 1],
        score=[0.95, 0.6, 0.1, 0.2],
        decision=["decline", "review", "approve", "approve"],
    )
    judged = evaluate_decisions(path, {"t1": True, "t2": False, "t3": True, "t9": True})
    assert (judged["decisions"], judged["rows"], judged["frauds"]) == (4, 3, 2)
    assert (judged["without_truth"], judged["without_decision"]) == (1, 1)
    assert judged["review_or_decline"] == {"alerts": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert judged["decline"] == {"alerts": 1, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert judged["auc"] == 0.5
    assert judged["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert judged["card_precision_at_100"] == pytest.approx(0.01)


def test_an_export_without_truth_or_without_a_column_is_a_usage_error(tmp_path):
    columns = {"transaction_id": ["t1"], "card_id": ["a"], "event_time_ms": [0], "score": [0.5]}
    with pytest.raises(UsageError, match="decision"):
        evaluate_decisions(exported(tmp_path, **columns), {"t1": True})
    with pytest.raises(UsageError, match="truth"):
        evaluate_decisions(exported(tmp_path, **columns, decision=["approve"]), {"t2": True})


@pytest.mark.data
def test_the_published_chapter_3_table_is_reproduced_on_the_published_features():
    """XGBoost with its old defaults, test week 08-08..08-14: 0.862 / 0.639 / 0.273 (AUC, AP, CP@100)."""
    path = DATA / "handbook_transformed_3weeks.parquet"
    if not path.exists():
        pytest.skip(f"no {path.name} in {DATA} (set FRAUDSTREAM_DATA)")
    table = pyarrow.parquet.read_table(path)
    column_of = {name: table[name].to_numpy() for name in table.column_names if name != "TX_DATETIME"}
    windows = ("TX_DURING_", "CUSTOMER_ID_", "TERMINAL_ID_")
    names = ["TX_AMOUNT", *(name for name in column_of if name.startswith(windows))]
    assert len(names) == 15
    features = np.column_stack([column_of[name] for name in names]).astype(np.float64)
    labels = column_of["TX_FRAUD"].astype(np.uint8)
    cards, days = column_of["CUSTOMER_ID"], column_of["TX_TIME_DAYS"].astype(np.int64)
    first_day = int(days.min())  # 2018-07-25
    training = days < first_day + 7
    frauds = labels == 1
    assessed = (days >= first_day + 14) & rows_of_unknown_cards(
        cards, days, cards[frauds], days[frauds], training_from_day=first_day, label_delay_days=7
    )
    assert (int(training.sum()), int(labels[training].sum())) == (67_240, 598)
    assert (int(assessed.sum()), int(labels[assessed].sum())) == (58_264, 385)
    # The handbook standardises before it trains, which only moves the rounding of split points.
    standard = ((features - features[training].mean(axis=0)) / features[training].std(axis=0)).astype(np.float32)
    booster = fit(
        standard[training],
        labels[training],
        names,
        complete({"tree_method": "exact", "learning_rate": 0.3, "max_depth": 6}),
    )
    scores = booster_scores(booster, standard[assessed]).astype(np.float64)
    assert auc(labels[assessed], scores) == pytest.approx(0.862, abs=0.002)
    assert average_precision(labels[assessed], scores) == pytest.approx(0.639, abs=0.003)
    assert card_precision(labels[assessed], scores, cards[assessed], days[assessed]) == pytest.approx(0.273, abs=0.003)
