"""Training: the same input gives the same bytes; thresholds come from validation rows only."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xgboost

from model.artifact import pack_artifact, read_artifact
from model.boosting import booster_scores
from model.thresholds import choose_thresholds
from model.train import VALIDATION_GAP_MS, split_for_validation, train
from model.training_set import TrainingSet, build_training_set
from stream_features.errors import UsageError
from stream_features.feature_sets import feature_set
from tests.unit.model.history import DAY_MS, START_MS, a_history

CORE = feature_set("core")
CHECKOUT = Path(__file__).resolve().parents[3]
FEW_ROUNDS = {"n_estimators": 15}


@pytest.fixture(scope="module")
def rows() -> TrainingSet:
    return build_training_set(a_history(), CORE)


@pytest.fixture(scope="module")
def split(rows: TrainingSet) -> tuple[TrainingSet, TrainingSet]:
    training, validation = split_for_validation(rows, from_ms=None, until_ms=None, valid_from_ms=START_MS + 27 * DAY_MS)
    assert validation is not None
    return training, validation


def test_the_same_input_gives_the_same_artifact_bytes_in_another_process_too(rows):
    packed = pack_artifact(train(rows, parameters=FEW_ROUNDS).artifact)
    program = (
        "import sys\n"
        "from model.artifact import pack_artifact\n"
        "from model.train import train\n"
        "from model.training_set import build_training_set\n"
        "from stream_features.feature_sets import feature_set\n"
        "from tests.unit.model.history import a_history\n"
        "rows = build_training_set(a_history(), feature_set('core'))\n"
        "sys.stdout.buffer.write(pack_artifact(train(rows, parameters={'n_estimators': 15}).artifact))\n"
    )
    again = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, check=True)
    assert again.stdout == packed


def test_the_number_of_threads_does_not_change_the_trees(rows):
    one, two = (train(rows, parameters={**FEW_ROUNDS, "nthread": threads}) for threads in (1, 2))
    assert one.artifact.booster_ubj == two.artifact.booster_ubj


def test_another_seed_changes_the_scores_where_rows_are_sampled(rows):
    scores = [
        booster_scores(train(rows, parameters={**FEW_ROUNDS, "subsample": 0.5, "seed": seed}).booster, rows.features)
        for seed in (1, 2)
    ]
    assert not np.array_equal(*scores)


def test_the_trained_model_ranks_fraud_it_has_not_seen(split):
    training, validation = split
    trained = train(training, validation, parameters=FEW_ROUNDS)
    measured = trained.artifact.metrics["validation"]
    assert measured["rows"] == len(validation)
    assert measured["average_precision"] > 0.5
    assert measured["average_precision"] > 5 * measured["frauds"] / measured["rows"]


def test_without_validation_the_thresholds_are_the_fixed_ones(rows):
    thresholds = train(rows, parameters=FEW_ROUNDS).manifest.thresholds
    assert (thresholds.review_from, thresholds.decline_from) == (0.5, 0.9)


def test_thresholds_are_chosen_on_validation_rows_alone_and_do_not_touch_the_trees(split):
    training, validation = split
    trained = train(training, validation, parameters=FEW_ROUNDS)
    scores = booster_scores(trained.booster, validation.features)
    assert trained.manifest.thresholds == choose_thresholds(validation.labels, scores)
    assert trained.artifact.booster_ubj == train(training, parameters=FEW_ROUNDS).artifact.booster_ubj


def test_training_ends_seven_days_before_validation(rows):
    valid_from_ms = START_MS + 27 * DAY_MS
    training, validation = split_for_validation(rows, from_ms=None, until_ms=None, valid_from_ms=valid_from_ms)
    assert validation is not None
    assert training.event_times_ms.max() < valid_from_ms - VALIDATION_GAP_MS
    assert validation.event_times_ms.min() >= valid_from_ms
    early_end, bounded = split_for_validation(
        rows, from_ms=START_MS + DAY_MS, until_ms=START_MS + 30 * DAY_MS, valid_from_ms=valid_from_ms
    )
    assert bounded is not None
    assert early_end.event_times_ms.min() >= START_MS + DAY_MS
    assert bounded.event_times_ms.max() < START_MS + 30 * DAY_MS


def test_validation_rows_too_near_the_training_rows_are_refused(rows):
    training = rows.between(None, START_MS + 20 * DAY_MS)
    with pytest.raises(UsageError, match="7 days"):
        train(training, rows.between(START_MS + 21 * DAY_MS, None))


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_only_are_a_usage_error(rows, label):
    with pytest.raises(UsageError, match="fraud"):
        train(dataclasses.replace(rows, labels=np.full(len(rows), label, dtype=np.uint8)))


def test_no_rows_are_a_usage_error(rows):
    with pytest.raises(UsageError, match="rows"):
        train(rows.between(0, 1))


@pytest.mark.parametrize(
    "parameters", [{"max_depth": -3}, {"tree_method": "guess"}, {"base_score": 1.5}, {"objective": "x"}]
)
def test_parameters_that_xgboost_refuses_are_a_usage_error(rows, parameters):
    with pytest.raises(UsageError):
        train(rows, parameters={**FEW_ROUNDS, **parameters})


def test_the_artifact_says_what_the_model_is_and_where_it_comes_from(rows, tmp_path):
    trained = train(rows, parameters=FEW_ROUNDS, provenance={"file_sha256": "ab"})
    artifact = read_artifact(trained.write(tmp_path))
    assert artifact.manifest.columns == CORE.names
    assert artifact.manifest.definitions == CORE.definitions
    assert artifact.manifest.feature_set_id == CORE.feature_set_id
    assert artifact.provenance["training"]["rows"] == len(rows)
    assert artifact.provenance["parameters"]["n_estimators"] == 15
    assert artifact.provenance["parameters"]["base_score"] == 0.5
    assert artifact.provenance["source"] == {"file_sha256": "ab"}
    assert artifact.provenance["versions"]["xgboost"] == xgboost.__version__
