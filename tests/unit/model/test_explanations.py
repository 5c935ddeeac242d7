"""Gain from the trees themselves, and Shapley values from their definition."""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import xgboost
from scipy.stats import spearmanr

from model.boosting import fit
from model.explanations import Explained, explain_rows, gain_importance, rank_correlation, shap_summary
from model.parameters import complete

COLUMNS = ("first", "second", "third", "unused")


@pytest.fixture(scope="module")
def features() -> np.ndarray[Any, Any]:
    values = np.random.default_rng(4).normal(size=(3_000, 4)).astype(np.float32)
    values[::7, 1] = np.nan
    values[:, 3] = 1.0
    return values


@pytest.fixture(scope="module")
def labels(features) -> np.ndarray[Any, Any]:
    margin = features[:, 0] * 2 + np.nan_to_num(features[:, 1]) * features[:, 2] - 2
    return (np.random.default_rng(5).random(3_000) < 1 / (1 + np.exp(-margin))).astype(np.uint8)


@pytest.fixture(scope="module")
def booster(features, labels) -> xgboost.Booster:
    return fit(features, labels, COLUMNS, complete({"n_estimators": 4}))


def trees_of(booster: xgboost.Booster) -> list[dict[str, Any]]:
    return [json.loads(tree) for tree in booster.get_dump(dump_format="json", with_stats=True)]


def nodes_of(tree: dict[str, Any]) -> list[dict[str, Any]]:
    return [tree, *(node for child in tree.get("children", ()) for node in nodes_of(child))]


def expected_value(node: dict[str, Any], row: np.ndarray[Any, Any], known: frozenset[str]) -> float:
    """The tree's value when only `known` features are looked at; unknown splits go both ways, by cover."""
    if "leaf" in node:
        return float(node["leaf"])
    children = {child["nodeid"]: child for child in node["children"]}
    if node["split"] not in known:
        total = sum(child["cover"] for child in children.values())
        return sum(child["cover"] / total * expected_value(child, row, known) for child in children.values())
    value = row[COLUMNS.index(node["split"])]
    side = "missing" if math.isnan(value) else "yes" if value < np.float32(node["split_condition"]) else "no"
    return expected_value(children[node[side]], row, known)


def shapley(trees: list[dict[str, Any]], row: np.ndarray[Any, Any], name: str) -> float:
    """The mean of what `name` adds over all orders in which features become known."""
    others = [other for other in COLUMNS if other != name]
    total = 0.0
    for size in range(len(others) + 1):
        weight = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(COLUMNS))
        for known in combinations(others, size):
            for tree in trees:
                with_it = expected_value(tree, row, frozenset((*known, name)))
                total += weight * (with_it - expected_value(tree, row, frozenset(known)))
    return total


def test_contributions_are_the_shapley_values_of_the_trees(booster, features, labels):
    explained = explain_rows(booster, features[:21], labels[:21])
    trees = trees_of(booster)
    for row, shares in zip(explained.features, explained.contributions, strict=True):
        assert shares.tolist() == pytest.approx([shapley(trees, row, name) for name in COLUMNS], abs=1e-5)
    assert explained.margin_error < 1e-5


def test_gain_is_what_the_trees_say(booster):
    gains: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for tree in trees_of(booster):
        for node in nodes_of(tree):
            if "split" in node:
                gains[node["split"]].append(node["gain"])
    listed = gain_importance(booster, COLUMNS)
    assert {entry["feature"] for entry in listed} == set(COLUMNS)
    for entry in listed:
        own = gains[entry["feature"]]
        assert entry["splits"] == len(own)
        assert entry["total_gain"] == pytest.approx(sum(own), rel=1e-4)
        assert entry["gain"] == pytest.approx(sum(own) / len(own) if own else 0.0, rel=1e-4)
    totals = [entry["total_gain"] for entry in listed]
    assert totals == sorted(totals, reverse=True)
    assert listed[-1] == {"feature": "unused", "splits": 0, "gain": 0.0, "total_gain": 0.0}


def test_a_sample_takes_each_class_evenly_and_the_summary_weighs_them_back(booster, features, labels):
    everything = explain_rows(booster, features, labels, most=10_000)
    sample = explain_rows(booster, features, labels, most=400)
    assert (len(everything.labels), int(sample.labels.sum()), len(sample.labels)) == (3_000, 400, 800)
    share = float(labels.mean())
    whole = shap_summary(everything, COLUMNS, share)
    direct = np.abs(everything.contributions.astype(np.float64)).mean(axis=0)
    by_name = {entry["feature"]: entry for entry in whole["features"]}
    assert [by_name[name]["mean_abs"] for name in COLUMNS] == pytest.approx(direct.tolist())
    sampled = {entry["feature"]: entry["mean_abs"] for entry in shap_summary(sample, COLUMNS, share)["features"]}
    assert [sampled[name] for name in COLUMNS] == pytest.approx(direct.tolist(), rel=0.1, abs=0.003)
    assert [entry["feature"] for entry in whole["features"]][-1] == "unused"
    assert by_name["first"]["rising"] > 0.9
    assert by_name["unused"]["rising"] is None


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_have_no_mean_of_the_other(booster, features, label):
    explained = explain_rows(booster, features[:30], np.full(30, label, dtype=np.uint8))
    first = shap_summary(explained, COLUMNS, float(label))["features"][0]
    assert (first["mean_abs_fraud"] is None, first["mean_abs_legitimate"] is None) == (not label, bool(label))
    assert first["mean_abs"] > 0


def test_no_rows_explain_nothing(booster):
    explained = explain_rows(booster, np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.uint8))
    summary = shap_summary(explained, COLUMNS, 0.0)
    assert (summary["rows"], summary["margin_error"], summary["features"][0]["mean_abs"]) == (0, 0.0, 0.0)


def test_the_rank_correlation_is_scipys_without_the_missing():
    rng = np.random.default_rng(6)
    values = rng.integers(0, 6, 200).astype(np.float32)
    contributions = (values + rng.normal(size=200)).round(1).astype(np.float32)
    values[::5] = np.nan
    known = ~np.isnan(values)
    expected = spearmanr(values[known], contributions[known]).statistic
    assert rank_correlation(values, contributions) == pytest.approx(expected)
    assert rank_correlation(np.full(5, np.nan), np.arange(5.0)) is None


def test_summary_of_given_contributions():
    explained = Explained(
        features=np.array([[1.0], [2.0], [3.0]], dtype=np.float32),
        contributions=np.array([[-1.0], [2.0], [4.0]], dtype=np.float32),
        labels=np.array([0, 0, 1], dtype=np.uint8),
        base=0.0,
        margin_error=0.0,
    )
    (only,) = shap_summary(explained, ("x",), 0.1)["features"]
    assert (only["mean_abs_fraud"], only["mean_abs_legitimate"]) == (4.0, 1.5)
    assert only["mean_abs"] == pytest.approx(0.1 * 4.0 + 0.9 * 1.5)
