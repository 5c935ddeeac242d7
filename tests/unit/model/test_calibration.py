"""Isotonic calibration: fitted on rows its booster has not seen, kept in the artefact, one way to apply it."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from model.artifact import Artifact, Calibration, model_version, pack_artifact, unpack_artifact
from model.boosting import booster_scores, fit
from model.calibration import calibrated
from model.groups import card_folds
from model.isotonic import FOLDS, fit_calibration, isotonic, out_of_fold_scores
from model.parameters import complete
from model.thresholds import choose_thresholds
from model.train import split_for_validation, train
from model.training_set import TrainingSet, build_training_set
from stream_features.errors import ContractMismatch, UsageError
from stream_features.feature_sets import feature_set
from tests.unit.model.history import DAY_MS, START_MS, a_history

CORE = feature_set("core")
FEW_ROUNDS = {"n_estimators": 15}
LINE = Calibration(method="isotonic", scores=(0.25, 0.5, 0.75), probabilities=(0.0, 0.0, 0.5))

truths = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def rows() -> TrainingSet:
    return build_training_set(a_history(), CORE)


def test_between_points_lies_the_line_and_beyond_them_the_end():
    asked = np.array([0.0, 0.25, 0.4, 0.5, 0.625, 0.75, 1.0], dtype=np.float32)
    assert calibrated(LINE, asked).tolist() == [0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.5]
    assert calibrated(LINE, asked).dtype == np.float32


def test_without_calibration_scores_are_the_boosters():
    scores = np.array([0.1, 0.9], dtype=np.float32)
    assert calibrated(None, scores) is scores


def test_one_point_and_no_rows():
    constant = Calibration(method="isotonic", scores=(0.5,), probabilities=(0.125,))
    assert calibrated(constant, np.array([0.0, 1.0], dtype=np.float32)).tolist() == [0.125, 0.125]
    assert calibrated(LINE, np.array([], dtype=np.float32)).shape == (0,)


def pooled(labels: list[int], scores: list[float], low: float, high: float) -> dict[float, float]:
    """Adjacent violators pooled by hand: score to probability."""
    blocks: list[list[float]] = []  # sum, rows, scores...
    for score in sorted(set(scores)):
        inside = [label for label, other in zip(labels, scores, strict=True) if other == score]
        blocks.append([sum(inside), len(inside), score])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, rows, *members = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + rows, *blocks[-1][2:], *members]
    return {score: min(max(total / rows, low), high) for total, rows, *members in blocks for score in members}


@given(truths)
def test_the_fit_is_that_of_pooled_adjacent_violators_and_of_scikit_learn(rows):
    labels = np.array([fraud for fraud, _ in rows], dtype=np.uint8)
    scores = np.array([number / 20 for _, number in rows], dtype=np.float32)
    frauds = int(labels.sum())
    low, high = 1 / (len(rows) - frauds + 2), (frauds + 1) / (frauds + 2)
    found = calibrated(isotonic(labels, scores), scores)
    expected = pooled(labels.tolist(), scores.tolist(), low, high)
    assert found.tolist() == pytest.approx([expected[score] for score in scores.tolist()], abs=1e-6)
    wide = scores.astype(np.float64)
    reference = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(wide, labels)
    elsewhere = np.linspace(0, 1, 101, dtype=np.float32)
    assert calibrated(isotonic(labels, scores), elsewhere) == pytest.approx(
        reference.predict(elsewhere.astype(np.float64)), abs=1e-6
    )


@given(truths)
def test_a_calibration_never_turns_two_scores_round_and_never_says_never(rows):
    labels = np.array([fraud for fraud, _ in rows], dtype=np.uint8)
    calibration = isotonic(labels, np.array([number / 20 for _, number in rows], dtype=np.float32))
    answers = calibrated(calibration, np.linspace(0, 1, 1_001, dtype=np.float32))
    assert (np.diff(answers) >= 0).all()
    assert answers[0] > 0
    assert answers[-1] < 1


def test_each_row_is_scored_by_a_booster_that_has_not_seen_its_card(rows):
    settings = complete(FEW_ROUNDS)
    scores = out_of_fold_scores(rows, settings)
    fold = card_folds(rows.card_ids, rows.labels, FOLDS)
    for number in range(FOLDS):
        others = fold != number
        assert not set(rows.card_ids[others].tolist()) & set(rows.card_ids[~others].tolist())
        booster = fit(rows.features[others], rows.labels[others], CORE.names, settings)
        assert booster_scores(booster, rows.features[~others]).tobytes() == scores[~others].tobytes()


def test_calibration_brings_weighted_scores_back_to_the_fraud_share(rows):
    training, validation = split_for_validation(rows, from_ms=None, until_ms=None, valid_from_ms=START_MS + 27 * DAY_MS)
    raw = train(training, validation, parameters=FEW_ROUNDS, class_weight="balanced")
    calibrated_model = train(training, validation, parameters=FEW_ROUNDS, class_weight="balanced", calibrate=True)
    assert calibrated_model.artifact.booster_ubj == raw.artifact.booster_ubj
    share = training.labels.mean()
    assert raw.scores(training.features).mean() > 2 * share
    assert calibrated_model.scores(training.features).mean() == pytest.approx(share, rel=0.25)


def test_thresholds_and_metrics_are_of_calibrated_scores(rows):
    training, validation = split_for_validation(rows, from_ms=None, until_ms=None, valid_from_ms=START_MS + 27 * DAY_MS)
    trained = train(training, validation, parameters=FEW_ROUNDS, calibrate=True)
    scores = trained.scores(validation.features)
    assert (
        scores.tobytes()
        == calibrated(
            fit_calibration(training, complete(FEW_ROUNDS)), booster_scores(trained.booster, validation.features)
        ).tobytes()
    )
    assert trained.manifest.thresholds == choose_thresholds(validation.labels, scores)
    alerts = trained.artifact.metrics["validation"]["review_or_decline"]["alerts"]
    assert alerts == int((scores >= trained.manifest.thresholds.review_from).sum())


def test_the_artefact_carries_the_calibration_and_its_version_names_it(rows):
    plain, calibrated_model = (train(rows, parameters=FEW_ROUNDS, calibrate=wanted) for wanted in (False, True))
    read = unpack_artifact(pack_artifact(calibrated_model.artifact), "here")
    assert read == calibrated_model.artifact
    assert read.manifest.calibration == fit_calibration(rows, complete(FEW_ROUNDS))
    assert read.manifest.model_version != plain.manifest.model_version
    assert b"calibration" not in msgspec.json.encode(plain.manifest)


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        ({"scores": (), "probabilities": ()}, "one probability per score"),
        ({"scores": (0.1, 0.2), "probabilities": (0.1,)}, "one probability per score"),
        ({"scores": (0.2, 0.2), "probabilities": (0.1, 0.2)}, "must ascend"),
        ({"scores": (0.1, 0.2), "probabilities": (0.2, 0.1)}, "must not descend"),
        ({"scores": (0.1, 1.2), "probabilities": (0.1, 0.2)}, r"0\.\.1"),
        ({"scores": (0.1, 0.2), "probabilities": (-0.1, 0.2)}, r"0\.\.1"),
    ],
)
def test_an_impossible_calibration_is_refused(rows, calibration, reason):
    with pytest.raises(ContractMismatch, match=reason):
        unpack_artifact(pack_artifact(with_calibration(rows, Calibration(method="isotonic", **calibration))), "here")


def test_a_method_this_code_does_not_have_is_refused(rows):
    with pytest.raises(ContractMismatch, match="calibration"):
        unpack_artifact(
            pack_artifact(
                with_calibration(rows, Calibration(method="platt", scores=(0.5,), probabilities=(0.5,)))  # type: ignore[arg-type]
            ),
            "here",
        )


def with_calibration(rows: TrainingSet, calibration: Calibration) -> Artifact:
    artifact = train(rows, parameters={"n_estimators": 1}).artifact
    manifest = msgspec.structs.replace(artifact.manifest, calibration=calibration)
    version = model_version(artifact.booster_ubj, manifest)
    return dataclasses.replace(artifact, manifest=msgspec.structs.replace(manifest, model_version=version))


def test_too_few_defrauded_cards_to_calibrate_on_are_a_usage_error(rows):
    cards = sorted(set(rows.card_ids[rows.labels == 1].tolist()))[: FOLDS - 1]
    few = rows.take((rows.labels == 0) | np.isin(rows.card_ids, cards))
    with pytest.raises(UsageError, match=r"--calibrate needs fraud on at least 5 cards .*, not 4"):
        train(few, parameters=FEW_ROUNDS, calibrate=True)
