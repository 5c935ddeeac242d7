"""The service on real clients, which are built without a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from lambdas import wiring
from lambdas.decision_events import DecisionEventService
from lambdas.entities import EntityUpdateService
from lambdas.labels import LabelService
from lambdas.score_requests import ScoreApi
from lambdas.scoring import ScoringService
from lambdas.settings import (
    EntitySettings,
    EventSettings,
    FeaturesSettings,
    LabelSettings,
    ScoreApiSettings,
    ScoringSettings,
)
from lambdas.wiring import SystemClock, jitter, wire, wire_api, wire_entities, wire_events, wire_features, wire_labels
from stream_features.errors import UsageError
from tests.unit.lambdas.test_policy_and_settings import (
    ENTITIES_ENVIRONMENT,
    ENVIRONMENT,
    EVENTS_ENVIRONMENT,
    FEATURES_ENVIRONMENT,
    LABELS_ENVIRONMENT,
    SCORE_API_ENVIRONMENT,
)

SETTINGS = ScoringSettings.from_env(ENVIRONMENT | {"FEATURE_SET": "core"})


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


def test_settings_make_a_service() -> None:
    assert isinstance(wire(SETTINGS), ScoringService)
    assert isinstance(wire(dataclasses.replace(SETTINGS, feature_set="handbook")), ScoringService)
    for engine in ("lambda", "flink"):
        assert isinstance(
            wire_api(ScoreApiSettings.from_env(SCORE_API_ENVIRONMENT | {"ENGINE": engine}), tell=print), ScoreApi
        )
    assert isinstance(wire_features(FeaturesSettings.from_env(FEATURES_ENVIRONMENT)), ScoringService)
    assert isinstance(wire_entities(EntitySettings.from_env(ENTITIES_ENVIRONMENT)), EntityUpdateService)
    assert isinstance(wire_events(EventSettings.from_env(EVENTS_ENVIRONMENT)), DecisionEventService)
    assert isinstance(wire_labels(LabelSettings.from_env(LABELS_ENVIRONMENT)), LabelService)


def test_each_functions_failpoints_carry_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    def note(path: str, function: str = "") -> Callable[[str], None]:
        named.append(function)
        return lambda name: None

    monkeypatch.setattr(wiring, "failpoints", note)
    wire(SETTINGS)
    wire_api(ScoreApiSettings.from_env(SCORE_API_ENVIRONMENT), tell=print)
    wire_features(FeaturesSettings.from_env(FEATURES_ENVIRONMENT))
    wire_entities(EntitySettings.from_env(ENTITIES_ENVIRONMENT))
    wire_labels(LabelSettings.from_env(LABELS_ENVIRONMENT))
    assert named == ["", "score_api", "score_features", "update_entities", "record_labels"]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="ENGINE must be lambda or flink"):
        wire_api(ScoreApiSettings.from_env(SCORE_API_ENVIRONMENT | {"ENGINE": "storm"}), tell=print)


def test_an_unknown_feature_set_is_refused() -> None:
    with pytest.raises(UsageError, match="no-such-set"):
        wire(dataclasses.replace(SETTINGS, feature_set="no-such-set"))


def test_items_that_would_expire_before_their_windows_are_over_are_refused() -> None:
    with pytest.raises(ValueError, match="DECISION_TTL_DAYS=30"):
        wire(dataclasses.replace(SETTINGS, decision_ttl_days=30))
    with pytest.raises(ValueError, match="38 days"):
        wire_features(FeaturesSettings.from_env(FEATURES_ENVIRONMENT | {"DECISION_TTL_DAYS": "37"}))
    with pytest.raises(ValueError, match="38 days"):
        wire_entities(EntitySettings.from_env(ENTITIES_ENVIRONMENT | {"DECISION_TTL_DAYS": "37"}))


def test_pauses_are_spread_over_the_upper_half() -> None:
    pauses = [jitter(1.0) for _ in range(200)]
    assert 0.5 <= min(pauses) < max(pauses) <= 1.0


def test_the_clock_counts_forward_and_knows_the_date() -> None:
    clock = SystemClock()
    before = clock.elapsed_s()
    clock.pause(0.001)
    assert clock.elapsed_s() > before
    assert clock.now_ms() > 1_700_000_000_000
