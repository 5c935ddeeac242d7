"""Options of a training: weights, whole cards, calibration; unused ones leave no trace."""

from __future__ import annotations

import numpy as np
import pytest

from model.artifact import pack_artifact
from model.boosting import fit
from model.groups import held_out
from model.parameters import complete, parse_class_weight, weighted
from model.train import VALIDATION_GAP_MS, split_for_validation, train
from model.training_run import TrainingPlan, run_training
from model.training_set import TrainingSet, build_training_set
from stream_features.errors import UsageError
from stream_features.feature_sets import feature_set
from tests.unit.model.history import DAY_MS, START_MS, a_history

CORE = feature_set("core")
FEW_ROUNDS = {"n_estimators": 10}
VALID_FROM_MS = START_MS + 27 * DAY_MS


@pytest.fixture(scope="module")
def rows() -> TrainingSet:
    return build_training_set(a_history(cards=100), CORE)


def test_a_plan_without_options_is_the_plain_training(rows):
    source = {"file": "x", "from_ms": None, "until_ms": None, "valid_from_ms": None}
    planned = run_training(rows, TrainingPlan(parameters=FEW_ROUNDS), {"file": "x"})
    assert pack_artifact(planned.model.artifact) == pack_artifact(
        train(rows, parameters=FEW_ROUNDS, provenance=source).artifact
    )
    assert planned.validation is None


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": 3.0},
        {"class_weight": "balanced"},
        {"calibrate": True},
        {"valid_cards": 0.3},
        {"valid_from_ms": VALID_FROM_MS},
        {"valid_from_ms": VALID_FROM_MS, "valid_cards": 0.3, "class_weight": "balanced", "calibrate": True},
        {"parameters": {**FEW_ROUNDS, "subsample": 0.7, "colsample_bynode": 0.5}, "calibrate": True},
    ],
    ids=lambda options: "+".join(options),
)
def test_each_option_gives_the_same_bytes_again_and_leaves_its_trace(rows, options):
    plan = TrainingPlan(**{"parameters": FEW_ROUNDS, **options})
    one, two = (run_training(rows, plan, {}).model.artifact for _ in range(2))
    assert pack_artifact(one) == pack_artifact(two)
    for name in options.keys() - {"parameters"}:
        assert one.provenance["source"][name] is not None
    assert pack_artifact(one) != pack_artifact(
        run_training(rows, TrainingPlan(parameters=FEW_ROUNDS), {}).model.artifact
    )


def test_a_class_weight_is_xgboosts_parameter(rows):
    trained = train(rows, parameters=FEW_ROUNDS, class_weight=4.0)
    direct = fit(rows.features, rows.labels, CORE.names, complete({**FEW_ROUNDS, "scale_pos_weight": 4.0}))
    assert trained.artifact.booster_ubj == bytes(direct.save_raw("ubj"))
    assert trained.artifact.provenance["parameters"]["scale_pos_weight"] == 4.0


def test_balanced_weighs_both_classes_the_same():
    labels = np.array([1, 0, 0, 0, 1, 0, 0, 0], dtype=np.uint8)
    weight = weighted({}, "balanced", labels)["scale_pos_weight"]
    assert weight * labels.sum() == (labels == 0).sum()


@pytest.mark.parametrize(("text", "weight"), [("balanced", "balanced"), ("2.5", 2.5), ("10", 10.0)])
def test_class_weights_as_typed(text, weight):
    assert parse_class_weight(text) == weight


@pytest.mark.parametrize("text", ["", "0", "-1", "heavy", "nan", "inf"])
def test_what_is_no_class_weight_is_a_usage_error(text):
    with pytest.raises(UsageError, match="--class-weight takes balanced or a number above 0"):
        parse_class_weight(text)


def test_a_weight_given_twice_is_a_usage_error(rows):
    with pytest.raises(UsageError, match="give one of them"):
        train(rows, parameters={"scale_pos_weight": 2.0}, class_weight=2.0)


def test_whole_cards_are_kept_for_validation(rows):
    times = {"from_ms": None, "until_ms": None, "valid_from_ms": None}
    training, validation = split_for_validation(rows, **times, valid_cards=0.3)
    assert validation is not None
    assert set(validation.card_ids.tolist()) == set(rows.card_ids[held_out(rows.card_ids, 0.3)].tolist())
    assert not set(training.card_ids.tolist()) & set(validation.card_ids.tolist())
    assert len(training) + len(validation) == len(rows)


def test_whole_cards_after_a_date_are_apart_in_both(rows):
    training, validation = split_for_validation(
        rows, from_ms=None, until_ms=None, valid_from_ms=VALID_FROM_MS, valid_cards=0.3
    )
    assert validation is not None
    assert not set(training.card_ids.tolist()) & set(validation.card_ids.tolist())
    assert training.event_times_ms.max() < VALID_FROM_MS - VALIDATION_GAP_MS
    assert validation.event_times_ms.min() >= VALID_FROM_MS


def test_other_cards_may_be_validated_at_the_same_time_but_the_same_cards_may_not(rows):
    held = held_out(rows.card_ids, 0.3)
    train(rows.take(~held), rows.take(held), parameters={"n_estimators": 1})
    with pytest.raises(UsageError, match="or be of other cards"):
        train(rows, rows.take(held), parameters={"n_estimators": 1})


@pytest.mark.parametrize("share", [0.0, 1.0, 20.0])
def test_a_share_that_is_none_is_refused_before_any_row_is_read(share):
    with pytest.raises(UsageError, match="--valid-cards"):
        TrainingPlan(valid_cards=share)


def test_held_out_cards_without_fraud_are_a_usage_error(rows):
    honest = rows.take((rows.labels == 0) | ~held_out(rows.card_ids, 0.3))
    with pytest.raises(UsageError, match=r"no fraud among the .* validation rows"):
        run_training(honest, TrainingPlan(valid_cards=0.3), {})


def test_rows_can_be_taken_by_place_or_mask_and_know_their_place_in_the_history(rows):
    some = rows.take(np.array([3, 1]))
    history = a_history(cards=100)
    assert [history[row][0].transaction_id for row in some.history_rows] == some.transaction_ids.tolist()
    assert rows.take(rows.labels == 1).labels.all()
    later = rows.between(VALID_FROM_MS, None)
    assert [history[row][0].transaction_id for row in later.history_rows] == later.transaction_ids.tolist()
