"""The judge is judged: a wrong value, however small, must be noticed, and the oracle's own answers stand on paper."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest

from tests import oracle
from tests.oracle import assert_same_features, is_late, oracle_features
from tests.unit.stream_features.cards import a_full_transaction

MINUTE_MS = 60_000


def two_rows() -> list[dict[str, float | None]]:
    return oracle_features(
        [
            a_full_transaction(transaction_id="a", event_time_ms=1_600_000_000_000, amount_minor=100),
            a_full_transaction(transaction_id="b", event_time_ms=1_600_000_030_000, amount_minor=300),
        ]
    )


def test_by_hand() -> None:
    second = two_rows()[1]
    assert second["amount"] == 300.0
    assert second["card_count_1m"] == 2.0
    assert second["card_sum_30d"] == 400.0
    assert second["amount_over_card_mean_30d"] == 3.0
    assert second["seconds_since_last"] == 30.0
    assert second["first_time_at_merchant"] == 0.0
    assert second["distance_from_last_m"] == 0.0


@pytest.mark.parametrize("name", list(two_rows()[1]))
def test_one_changed_value_is_caught(name: str) -> None:
    expected, actual = two_rows(), two_rows()
    value = actual[1][name]
    actual[1][name] = None if value is None else math.nextafter(value, math.inf)
    if value is None:
        actual[1][name] = 0.0
    with pytest.raises(AssertionError, match=f"row 1: {name}"):
        assert_same_features(expected, actual)


def test_minus_zero_null_order_and_length_are_differences() -> None:
    expected = two_rows()
    assert assert_same_features(expected, two_rows()) == 2
    for name, wrong in (("distance_from_last_m", -0.0), ("card_count_1m", None)):
        actual = two_rows()
        actual[1][name] = wrong
        with pytest.raises(AssertionError):
            assert_same_features(expected, actual)
    with pytest.raises(AssertionError):
        assert_same_features(expected, [dict(reversed(row.items())) for row in expected])
    with pytest.raises(ValueError, match="shorter"):
        assert_same_features(expected, expected[:1])


def test_late_means_older_than_the_newest_purchase() -> None:
    times = [(100, "purchase"), (50, "purchase"), (200, "refund"), (150, "purchase"), (150, "purchase")]
    history = [
        a_full_transaction(transaction_id=str(n), event_time_ms=time, type=kind) for n, (time, kind) in enumerate(times)
    ]
    assert is_late(history) == [False, True, False, False, False]


def test_the_oracle_does_not_lean_on_what_it_judges() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in imported if module and module.startswith("stream_features")}
    assert ours == {
        "stream_features.currency_rates",
        "stream_features.feature_sets",
        "stream_features.label",
        "stream_features.transaction",
    }


def test_what_it_cannot_judge_it_refuses() -> None:
    with pytest.raises(ValueError, match="none"):
        oracle_features([], "none")
    crowd = [a_full_transaction(transaction_id=str(n), event_time_ms=1_600_000_000_000 + n) for n in range(1026)]
    with pytest.raises(ValueError, match="more purchases"):
        oracle_features(crowd)
