"""What the function is told from outside: policy document and environment."""

from __future__ import annotations

import pytest

from lambdas.policy import Policy, parse_parameter, parse_policy
from lambdas.score_requests import LEAST_BUDGET_MS
from lambdas.settings import (
    ENTITIES_REQUIRED,
    EVENTS_REQUIRED,
    FEATURES_REQUIRED,
    LABELS_REQUIRED,
    REQUIRED,
    SCORE_API_REQUIRED,
    CallSettings,
    EntitySettings,
    EventSettings,
    FeaturesSettings,
    LabelSettings,
    ScoreApiSettings,
    ScoringSettings,
)
from lambdas.wiring import API_STOPS_BEFORE_MS
from stream_features.errors import ContractMismatch

TTLS = {"DECISION_TTL_DAYS": "40", "LABEL_TTL_DAYS": "120"}
ENVIRONMENT = {name: name.lower() for name in REQUIRED} | TTLS
SCORE_API_ENVIRONMENT = (
    {name: name.lower() for name in SCORE_API_REQUIRED} | {"FEATURE_SET": "core", "ENGINE": "lambda"} | TTLS
)
FEATURES_ENVIRONMENT = {name: name.lower() for name in FEATURES_REQUIRED} | {"FEATURE_SET": "core"} | TTLS
ENTITIES_ENVIRONMENT = {name: name.lower() for name in ENTITIES_REQUIRED} | {"FEATURE_SET": "core"} | TTLS
EVENTS_ENVIRONMENT = {name: name.lower() for name in EVENTS_REQUIRED} | TTLS
LABELS_ENVIRONMENT = {name: name.lower() for name in LABELS_REQUIRED} | TTLS


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.0, "approve"), (0.4999, "approve"), (0.5, "review"), (0.8999, "review"), (0.9, "decline"), (1.0, "decline")],
)
def test_a_score_equal_to_a_threshold_has_reached_it(score: float, verdict: str) -> None:
    assert Policy(policy_version="p", review_from=0.5, decline_from=0.9).decide(score) == verdict


def test_a_policy_document_is_read() -> None:
    policy = parse_policy('{"policy_version": "2025-10-01", "review_from": 0.4, "decline_from": 0.8}')
    assert (policy.policy_version, policy.review_from, policy.decline_from) == ("2025-10-01", 0.4, 0.8)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("", "policy document"),
        ("[]", "policy document"),
        ('{"review_from": 0.4, "decline_from": 0.8}', "policy_version"),
        ('{"policy_version": "", "review_from": 0.4, "decline_from": 0.8}', "policy_version"),
        ('{"policy_version": "p", "review_from": "0.4", "decline_from": 0.8}', "review_from"),
        ('{"policy_version": "p", "review_from": 0.9, "decline_from": 0.8}', "review_from=0.9"),
        ('{"policy_version": "p", "review_from": -0.1, "decline_from": 0.8}', "review_from=-0.1"),
        ('{"policy_version": "p", "review_from": 0.5, "decline_from": 50}', "decline_from=50"),
    ],
)
def test_an_invalid_policy_is_refused_by_name(document: str, named: str) -> None:
    with pytest.raises(ContractMismatch, match="policy document") as refused:
        parse_policy(document)
    assert named in str(refused.value)


def test_a_parameter_nested_too_deep_is_refused() -> None:
    """Found by fuzzing: it ended the function with Python's own error."""
    with pytest.raises(ContractMismatch, match="policy document: maximum recursion depth"):
        parse_parameter("[" * 5_000 + "]" * 5_000)


def test_settings_come_from_the_environment() -> None:
    settings = ScoringSettings.from_env(
        ENVIRONMENT | {"FAILPOINT_FILE": "/tmp/f", "ENDPOINT_READ_TIMEOUT_SECONDS": "7"}  # noqa: S108
    )
    assert settings.decisions_table == "decisions_table"
    assert settings.decision_ttl_days == 40
    assert settings.failpoint_file == "/tmp/f"  # noqa: S108
    assert settings.longest_call_ms == 8_000


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="environment of the scoring function") as refused:
        ScoringSettings.from_env({"LAKE_BUCKET": ""})
    assert all(f"{name} is missing" in str(refused.value) for name in REQUIRED)


def test_each_function_needs_what_it_uses_and_nothing_else() -> None:
    assert set(REQUIRED) - set(FEATURES_REQUIRED) == {"ENTITY_STATE_TABLE", "ENTITY_EVENTS_STREAM"}
    assert set(SCORE_API_REQUIRED) - set(REQUIRED) == {"ENGINE", "TRANSACTIONS_STREAM"}
    assert set(REQUIRED) - set(SCORE_API_REQUIRED) == {"LAKE_BUCKET", "QUARANTINE_QUEUE_URL"}
    assert set(FEATURES_REQUIRED) - set(REQUIRED) == {"LABELS_TABLE", "LABELS_STREAM"}
    assert set(EVENTS_REQUIRED) == {"EFFECTS_TABLE", "EVENT_BUS", "DECISION_TTL_DAYS"}
    assert set(LABELS_REQUIRED) == {
        *("DECISIONS_TABLE", "EFFECTS_TABLE", "LABELS_TABLE", "ENTITY_EVENTS_STREAM", "LABEL_TTL_DAYS"),
        *("LAKE_BUCKET", "QUARANTINE_QUEUE_URL"),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DECISION_TTL_DAYS", "soon"),
        ("DECISION_TTL_DAYS", "-1"),
        ("DECISION_TTL_DAYS", "0.5"),
        ("READ_TIMEOUT_SECONDS", "nan"),
        ("ENDPOINT_READ_TIMEOUT_SECONDS", "0"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        ScoringSettings.from_env(ENVIRONMENT | {name: value})


def test_each_function_reads_its_own_settings() -> None:
    entities = EntitySettings.from_env(ENTITIES_ENVIRONMENT | {"READ_TIMEOUT_SECONDS": "5"})
    assert (entities.labels_stream, entities.decision_ttl_days, entities.label_ttl_days) == ("labels_stream", 40, 120)
    assert entities.longest_call_ms == 6_000
    features = FeaturesSettings.from_env(FEATURES_ENVIRONMENT | {"ENDPOINT_CONNECT_TIMEOUT_SECONDS": "4"})
    assert (features.labels_stream, features.decision_ttl_days, features.longest_call_ms) == (
        "labels_stream",
        40,
        7_000,
    )
    api = ScoreApiSettings.from_env(SCORE_API_ENVIRONMENT)
    assert (api.engine, api.transactions_stream) == ("lambda", "transactions_stream")
    assert api.longest_call_ms + API_STOPS_BEFORE_MS + 400 <= LEAST_BUDGET_MS  # what the first calls may take
    labels = LabelSettings.from_env(LABELS_ENVIRONMENT)
    assert (labels.entity_events_stream, labels.label_ttl_days) == ("entity_events_stream", 120)
    assert labels.longest_call_ms == 4_000


@pytest.mark.parametrize(
    ("settings", "required"),
    [
        (ScoreApiSettings, SCORE_API_REQUIRED),
        (FeaturesSettings, FEATURES_REQUIRED),
        (EntitySettings, ENTITIES_REQUIRED),
        (LabelSettings, LABELS_REQUIRED),
        (EventSettings, EVENTS_REQUIRED),
    ],
)
def test_every_function_names_what_is_missing_at_once(settings: type[CallSettings], required: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="environment of the") as refused:
        settings.from_env({})
    assert all(f"{name} is missing" in str(refused.value) for name in required)


def test_labels_that_would_expire_while_corrections_still_come_are_refused() -> None:
    with pytest.raises(ValueError, match="LABEL_TTL_DAYS must be at least 120"):
        LabelSettings.from_env(LABELS_ENVIRONMENT | {"LABEL_TTL_DAYS": "119"})
