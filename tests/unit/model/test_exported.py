"""Exports beside the truth: what is read, what is counted, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from model.evaluate import evaluate_decisions
from model.exported import judged_decisions
from model.report import decisions_report
from model.scored_rows import DAY_MS
from stream_features.errors import UsageError

START_MS = 1_760_000_000_000
ROWS: dict[str, list[Any]] = {
    "transaction_id": ["t1", "t2", "t3", "t4"],
    "card_id": ["a", "b", "a", "c"],
    "event_time_ms": [START_MS, START_MS + 1, START_MS + 2 * DAY_MS, START_MS + 3],
    "score": [0.95, 0.6, 0.1, 0.2],
    "decision": ["decline", "review", "approve", "approve"],
    "amount_minor": [1_000, 2_000, 3_000, 4_000],
    "currency": ["USD", "USD", "USD", "USD"],
    "channel": ["pos", "ecom", None, "pos"],
    "country": ["US", "DE", "US", None],
    "merchant_category": ["food", "food", "toys", "toys"],
    "model_version": ["m-1", "m-1", "m-2", "m-1"],
}
TRUTH = {"t1": True, "t2": False, "t3": True, "t9": True}


def exported(tmp_path: Path, **changed: list[Any] | None) -> Path:
    columns = {name: values for name, values in {**ROWS, **changed}.items() if values is not None}
    path = tmp_path / "decisions.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_decisions_are_judged_with_their_amounts_and_groups(tmp_path):
    judged = judged_decisions(exported(tmp_path), TRUTH)
    rows = judged.rows
    assert rows.labels.tolist() == [1, 0, 1]
    assert rows.amounts.tolist() == [1_000, 2_000, 3_000]
    assert (rows.reviewed.tolist(), rows.declined.tolist()) == ([True, True, False], [True, False, False])
    assert judged.counts == {"decisions": 4, "without_truth": 1, "without_decision": 1}
    assert judged.made_by == {"model_version": {"m-1": 2, "m-2": 1}}
    groups = {groups.name: [groups.groups[code] for code in groups.codes] for groups in rows.segmentations}
    assert groups == {
        "channel": ["pos", "ecom", "(not given)"],
        "country": ["US", "DE", "US"],
        "merchant category": ["food", "food", "toys"],
        "amount": ["10 to 50 USD"] * 3,
        "card age": ["first day", "first day", "1 to 7 days"],
    }


def test_a_card_is_as_old_as_the_truth_knows_it(tmp_path):
    first_seen_ms = {"a": START_MS - 100 * DAY_MS, "b": START_MS + DAY_MS}
    rows = judged_decisions(exported(tmp_path), TRUTH, first_seen_ms=first_seen_ms).rows
    ages = next(groups for groups in rows.segmentations if groups.name == "card age")
    assert [ages.groups[code] for code in ages.codes] == ["90 days and more", "first day", "90 days and more"]


def test_foreign_amounts_are_us_cents(tmp_path):
    rows = judged_decisions(exported(tmp_path, currency=["JPY", "USD", "EUR", "USD"]), TRUTH).rows
    assert rows.amounts[0] != 1_000
    assert rows.amounts[1] == 2_000


def test_an_unknown_currency_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no_rate"):
        judged_decisions(exported(tmp_path, currency=["XXX", "USD", "USD", "USD"]), TRUTH)


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_decision_without_score_is_a_usage_error(tmp_path, score):
    path = exported(tmp_path, score=[0.95, score, 0.1, 0.2])
    with pytest.raises(UsageError, match="1 of its decisions have no score"):
        judged_decisions(path, TRUTH)
    with pytest.raises(UsageError, match="no score"):
        evaluate_decisions(path, TRUTH)


def test_a_file_that_is_no_parquet_is_a_usage_error(tmp_path):
    path = tmp_path / "decisions.parquet"
    path.write_text("transaction_id,score\n")
    with pytest.raises(UsageError, match="no Parquet file"):
        judged_decisions(path, TRUTH)


def test_no_rows_are_a_usage_error(tmp_path):
    path = exported(tmp_path, **{name: values[:0] for name, values in ROWS.items()})
    with pytest.raises(UsageError, match="none of its 0 decisions"):
        judged_decisions(path, TRUTH)


def test_evaluation_adds_log_loss_and_brier_score(tmp_path):
    figures = evaluate_decisions(exported(tmp_path), TRUTH)
    assert figures["brier_score"] == pytest.approx((0.05**2 + 0.6**2 + 0.9**2) / 3)
    assert figures["log_loss"] == pytest.approx(1.09, abs=0.01)


def test_a_report_says_what_the_file_could_not(tmp_path):
    path = exported(tmp_path, amount_minor=None, currency=None, channel=None)
    document = decisions_report(judged_decisions(path, TRUTH), {"decisions": "x"}).document
    said = " ".join(document["notes"])
    assert "Only 2 frauds" in said
    assert "Several models" in said
    assert "no amounts" in said
    assert "1 of 4 decisions have no truth" in said
    assert set(document["measured"]["segments"]) == {"country", "merchant category", "card age"}
    assert document["measured"]["review_or_decline"]["value_recall"] is None


def test_the_thresholds_of_a_report_are_the_decisions_themselves(tmp_path):
    document = decisions_report(judged_decisions(exported(tmp_path), TRUTH), {}).document
    assert document["measured"]["review_or_decline"]["alerts"] == 2
    assert document["measured"]["decline"]["true_positives"] == 1
    assert "model" not in document
