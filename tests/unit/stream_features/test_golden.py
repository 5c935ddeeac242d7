"""Golden vectors: the same transactions give the same bits, release after release, in every virtual environment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream_features.feature_sets import FEATURE_SETS, FeatureSet
from stream_features.label import parse_label
from stream_features.transaction import parse_transaction
from tests.golden.vectors import ARRIVAL_MS, vectors, vectors_path
from tests.oracle import bits, oracle_features

VECTOR_COUNT = 300

each_set = pytest.mark.parametrize("features", FEATURE_SETS.values(), ids=FEATURE_SETS)


def on_file(features: FeatureSet) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows."""
    header, *rows = [json.loads(line) for line in vectors_path(features).read_text(encoding="utf-8").splitlines()]
    return header, rows


@each_set
def test_the_kernel_gives_the_bits_on_file(features: FeatureSet) -> None:
    """If a formula changed on purpose: raise its revision, then `python -m tests.golden.vectors`."""
    header, rows = on_file(features)
    assert (header["feature_set_id"], header["columns"]) == (features.feature_set_id, list(features.names))
    assert len(rows) == VECTOR_COUNT
    for row, again in zip(rows, vectors(features, [row["transaction"] for row in rows], header["labels"]), strict=True):
        assert again == row


@each_set
def test_the_oracle_gives_the_bits_on_file(features: FeatureSet) -> None:
    header, rows = on_file(features)
    history = [parse_transaction(json.dumps(row["transaction"]).encode(), arrival_ms=ARRIVAL_MS) for row in rows]
    labels = [parse_label(json.dumps(label).encode()) for label in header["labels"]]
    for row, expected in zip(rows, oracle_features(history, features.name, labels), strict=True):
        assert [bits(value) for value in expected.values()] == row["features"]


@each_set
def test_the_vectors_hold_what_is_hard(features: FeatureSet) -> None:
    _, rows = on_file(features)
    assert sum(row["late"] for row in rows) > 20
    assert sum(row["stateless"] for row in rows) > 2
    assert {row["transaction"]["currency"] for row in rows} == {"USD", "EUR", "JPY"}
    assert {row["transaction"].get("type") for row in rows} == {"purchase", "refund", "reversal"}
    for column, name in enumerate(features.names):
        assert len({row["features"][column] for row in rows} - {None}) > 1, name
