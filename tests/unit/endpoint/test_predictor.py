"""Scores equal XGBoost's own, reasons are exact TreeSHAP, columns go by name and definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoint.messages import Prediction, ScoringRequest
from endpoint.predictor import Predictor
from model.artifact import Calibration, pack_artifact, unpack_artifact
from model.matrix import model_matrix
from model.train import train
from model.training_set import build_training_set
from stream_features.errors import ContractMismatch
from tests.unit.endpoint.models import CORE, a_booster, an_artifact, some_rows, with_manifest
from tests.unit.model.history import a_history

ROWS = some_rows(400)


def by_xgboost(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, margins, contributions with the base last) by `Booster.predict` on a DMatrix."""
    matrix = xgboost.DMatrix(rows.astype(np.float32), feature_names=list(CORE.names), nthread=1)
    booster = a_booster()
    return (
        booster.predict(matrix),
        booster.predict(matrix, output_margin=True),
        booster.predict(matrix, pred_contribs=True),
    )


def assert_equal(predictions: list[Prediction], rows: np.ndarray) -> None:
    scores, margins, contributions = by_xgboost(rows)
    assert [prediction.score for prediction in predictions] == scores.tolist()
    assert [prediction.margin for prediction in predictions] == margins.tolist()
    for prediction, row in zip(predictions, contributions, strict=True):
        assert prediction.base == float(row[-1])
        assert {reason.feature: reason.contribution for reason in prediction.reasons} == dict(
            zip(CORE.names, row[:-1].tolist(), strict=True)
        )


def request_for(rows: np.ndarray, **changed: object) -> ScoringRequest:
    named = {"columns": CORE.names, "definitions": CORE.definitions, "feature_set_id": CORE.feature_set_id}
    return ScoringRequest(values=model_matrix(rows, rows.shape[1]), **{**named, **changed})


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(an_artifact())


def test_scores_margins_and_reasons_equal_xgboosts_own_bit_for_bit(predictor):
    assert_equal(predictor.predict(request_for(ROWS, explain_from=0.0)).predictions, ROWS)


def test_a_calibrated_model_answers_what_training_said_and_explains_from_there():
    artifact = train(
        build_training_set(a_history(), CORE), parameters={"n_estimators": 15}, class_weight="balanced", calibrate=True
    )
    rows = np.vstack([ROWS, np.full(len(CORE.names), np.nan)])
    expected = artifact.scores(model_matrix(rows, len(CORE.names))).tolist()
    limit = sorted(expected)[len(expected) // 2]
    answer = Predictor(unpack_artifact(pack_artifact(artifact.artifact), "here")).predict(
        request_for(rows, explain_from=limit)
    )
    assert [prediction.score for prediction in answer.predictions] == expected
    assert [bool(prediction.reasons) for prediction in answer.predictions] == [score >= limit for score in expected]
    for prediction in answer.predictions:
        if prediction.reasons:
            total = prediction.base + sum(reason.contribution for reason in prediction.reasons)
            assert total == pytest.approx(prediction.margin, abs=1e-5)


def test_a_calibration_moves_scores_and_leaves_margins():
    line = Calibration(method="isotonic", scores=(0.0, 1.0), probabilities=(0.25, 0.75))
    booster_ubj = an_artifact().booster_ubj
    raw, moved = (
        Predictor(with_manifest(booster_ubj, calibration=calibration)).predict(request_for(ROWS)).predictions
        for calibration in (None, line)
    )
    assert [prediction.score for prediction in moved] == pytest.approx([0.25 + one.score / 2 for one in raw])
    assert [prediction.margin for prediction in moved] == [one.margin for one in raw]


feature_values = st.one_of(
    st.just(float("nan")),
    st.floats(min_value=-(2.0**100), max_value=2.0**100, width=32),
    st.sampled_from([0.0, -0.0, 1e-30]),
)
drawn_rows = st.lists(
    st.lists(feature_values, min_size=len(CORE.names), max_size=len(CORE.names)), min_size=1, max_size=4
).map(np.array)


@settings(deadline=None, max_examples=60)
@given(drawn_rows, st.integers(0, 3), st.sampled_from([-1e-7, 0.0, 1e-7]))
def test_reasons_are_treeshap_from_explain_from_up_whatever_the_rows(predictor, rows, position, beside):
    scores, margins, contributions = by_xgboost(rows)
    limit = float(scores[position % len(scores)]) + beside  # the score of a row, or just beside it
    predictions = predictor.predict(request_for(rows, explain_from=limit)).predictions
    for prediction, score, margin, expected in zip(predictions, scores, margins, contributions, strict=True):
        assert (prediction.score, prediction.margin, prediction.base) == (score, margin, expected[-1])
        said = {reason.feature: reason.contribution for reason in prediction.reasons}
        assert said == (dict(zip(CORE.names, expected[:-1].tolist(), strict=True)) if score >= limit else {})
        if prediction.reasons:
            assert math.fsum(said.values()) + prediction.base == pytest.approx(prediction.margin, abs=1e-4)


def test_a_row_gets_the_same_answer_alone_and_among_others(predictor):
    together = predictor.predict(request_for(ROWS[:40], explain_from=0.5)).predictions
    alone = [predictor.predict(request_for(row[None, :], explain_from=0.5)).predictions[0] for row in ROWS[:40]]
    assert alone == together


def test_self_test_one_changed_value_is_noticed(predictor):
    changed = ROWS.copy()
    changed[17, 0] = 1e6 if not ROWS[17, 0] > 1e5 else -1e6
    answered = predictor.predict(request_for(changed, explain_from=0.0)).predictions
    with pytest.raises(AssertionError):
        assert_equal(answered, ROWS)


def test_base_and_contributions_sum_to_the_margin_of_which_the_score_is_the_logistic(predictor):
    for prediction in predictor.predict(request_for(ROWS, explain_from=0.0)).predictions:
        total = prediction.base + sum(reason.contribution for reason in prediction.reasons)
        assert total == pytest.approx(prediction.margin, abs=1e-4)
        assert prediction.score == pytest.approx(1 / (1 + np.exp(-prediction.margin)), abs=1e-6)


def test_only_rows_that_reach_explain_from_get_reasons_and_then_all_of_them(predictor):
    scores = by_xgboost(ROWS)[0]
    limit = float(np.median(scores))  # a score of some row: the limit itself is reached
    predictions = predictor.predict(request_for(ROWS, explain_from=limit)).predictions
    assert [bool(prediction.reasons) for prediction in predictions] == [bool(score >= limit) for score in scores]
    assert {len(prediction.reasons) for prediction in predictions} == {0, len(CORE.names)}
    assert not any(prediction.reasons for prediction in predictor.predict(request_for(ROWS)).predictions)


def test_reasons_are_ranked_by_size_and_then_by_column(predictor):
    for prediction in predictor.predict(request_for(ROWS[:50], explain_from=0.0)).predictions:
        ranks = [(-abs(reason.contribution), CORE.names.index(reason.feature)) for reason in prediction.reasons]
        assert ranks == sorted(ranks)


def test_columns_are_taken_by_name_and_others_ignored(predictor):
    rng = np.random.default_rng(3)
    order = rng.permutation(len(CORE.names))
    shuffled = np.column_stack([ROWS[:, order], np.ones(len(ROWS))])
    request = request_for(
        shuffled,
        columns=[*(CORE.names[position] for position in order), "of_a_later_set"],
        definitions=[*(CORE.definitions[position] for position in order), "f" * 16],
        feature_set_id="a later one",
    )
    assert predictor.predict(request) == predictor.predict(request_for(ROWS))


def test_rows_without_names_are_taken_in_the_models_order(predictor):
    unnamed = request_for(ROWS, columns=None, definitions=None, feature_set_id=None)
    assert predictor.predict(unnamed) == predictor.predict(request_for(ROWS))


def test_no_rows_give_no_predictions(predictor):
    assert predictor.predict(request_for(ROWS[:0])).predictions == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"columns": ("x", *CORE.names[1:])}, CORE.names[0]),
        ({"columns": (CORE.names[1], *CORE.names[1:])}, CORE.names[1]),
        ({"definitions": ("0" * 16, *CORE.definitions[1:])}, CORE.names[0]),
        ({"definitions": CORE.definitions[1:]}, "definitions"),
        ({"columns": None, "definitions": None, "feature_set_id": "core-0-0"}, "core-0-0"),
    ],
)
def test_a_request_that_means_something_else_is_refused_by_name(predictor, changed, named):
    with pytest.raises(ContractMismatch, match=named):
        predictor.predict(request_for(ROWS, **changed))


def test_unnamed_rows_of_another_width_are_refused(predictor):
    with pytest.raises(ContractMismatch, match="columns"):
        predictor.predict(ScoringRequest(values=model_matrix(ROWS[:, 1:], ROWS.shape[1] - 1)))


def test_a_manifest_that_renames_the_boosters_columns_is_refused_at_start():
    columns = (CORE.names[1], CORE.names[0], *CORE.names[2:])
    with pytest.raises(ContractMismatch, match="trained on"):
        Predictor(with_manifest(an_artifact().booster_ubj, columns=columns, feature_set_name="elsewhere"))


def test_an_unreadable_booster_is_refused_at_start():
    with pytest.raises(ContractMismatch, match="booster"):
        Predictor(with_manifest(b"\x00garbage"))
