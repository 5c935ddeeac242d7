"""The functions' settings, each read once from its environment. The template sets every one without a default.

A field's variable is its name in capitals: `decisions_table` is DECISIONS_TABLE, `read_timeout_s` is
READ_TIMEOUT_SECONDS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Final, Self

LABELS_COME_FOR_DAYS: Final = 120  # after their transaction; a label's history has to stand until then
_KINDS: Final[dict[str, type[str] | type[int] | type[float]]] = {"str": str, "int": int, "float": float}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """What every function is told: where effects are marked, and how long to wait for AWS."""

    function: ClassVar[str]  # names the function in errors

    effects_table: str
    failpoint_file: str = ""  # empty: no failpoints
    connect_timeout_s: float = 1.0
    read_timeout_s: float = 3.0

    @property
    def longest_call_ms(self) -> int:
        """The longest one try of one call may take."""
        return round(1000 * (self.connect_timeout_s + self.read_timeout_s))

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            ValueError: names every variable that is missing or not what it should be.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for field in fields(cls):
            variable = variable_of(field.name)
            text = env.get(variable)
            if text:
                values[field.name], problem = _read(variable, text, _KINDS[str(field.type)])
                problems += problem
            elif field.default is MISSING:
                problems.append(f"{variable} is missing")
        if problems:
            raise ValueError(f"environment of the {cls.function} function: {'; '.join(problems)}")
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings(CallSettings):
    """What publish_events is told."""

    function: ClassVar[str] = "event"

    event_bus: str
    decision_ttl_days: int  # counted from arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings(CallSettings):
    """What a function that reads foreign records is told: where rejected ones go."""

    lake_bucket: str
    quarantine_queue_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings(FunctionSettings):
    """What a function that decides is told, whichever engine computes the windows."""

    decisions_table: str
    decisions_stream: str
    alerts_topic_arn: str
    endpoint_name: str
    lists_table: str
    policy_parameter: str
    feature_set: str
    decision_ttl_days: int  # counted from arrival
    endpoint_connect_timeout_s: float = 1.0
    endpoint_read_timeout_s: float = 3.0

    @property
    def longest_call_ms(self) -> int:
        """The longest one try of one call may take."""
        aws_s = self.connect_timeout_s + self.read_timeout_s
        return round(1000 * max(aws_s, self.endpoint_connect_timeout_s + self.endpoint_read_timeout_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings(ScorerSettings):
    """What score_transactions is told."""

    function: ClassVar[str] = "scoring"

    entity_state_table: str
    entity_events_stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreApiSettings(ScoringSettings):
    """What score_api is told. Somebody waits for its answers, so its calls are cut off earlier."""

    function: ClassVar[str] = "score API"

    transactions_stream: str
    engine: str
    lake_bucket: str = ""  # a request that breaks the contract is refused; nothing of it is quarantined
    quarantine_queue_url: str = ""
    connect_timeout_s: float = 0.25
    read_timeout_s: float = 0.75
    endpoint_connect_timeout_s: float = 0.25
    endpoint_read_timeout_s: float = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesSettings(ScorerSettings):
    """What score_features is told."""

    function: ClassVar[str] = "features"

    labels_table: str
    labels_stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitySettings(FunctionSettings):
    """What update_entities is told."""

    function: ClassVar[str] = "entity"

    entity_state_table: str
    labels_table: str
    labels_stream: str
    feature_set: str
    decision_ttl_days: int  # counted from arrival
    label_ttl_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings(FunctionSettings):
    """What record_labels is told."""

    function: ClassVar[str] = "label"

    decisions_table: str
    labels_table: str
    entity_events_stream: str
    label_ttl_days: int  # counted from arrival


def variable_of(field_name: str) -> str:
    """The environment variable of a field."""
    return (f"{field_name.removesuffix('_s')}_seconds" if field_name.endswith("_timeout_s") else field_name).upper()


def required(settings: type[CallSettings]) -> tuple[str, ...]:
    """The variables without which a function does not start."""
    return tuple(variable_of(field.name) for field in fields(settings) if field.default is MISSING)


REQUIRED: Final = required(ScoringSettings)
SCORE_API_REQUIRED: Final = required(ScoreApiSettings)
FEATURES_REQUIRED: Final = required(FeaturesSettings)
ENTITIES_REQUIRED: Final = required(EntitySettings)
EVENTS_REQUIRED: Final = required(EventSettings)
LABELS_REQUIRED: Final = required(LabelSettings)


def _read(variable: str, text: str, kind: type[str] | type[int] | type[float]) -> tuple[str | int | float, list[str]]:
    """The value, and what is wrong with it."""
    if kind is str:
        return text, []
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6 or (kind is int and number % 1):
        return 0, [f"{variable} must be a positive number (days: a whole one), not {text!r}"]
    if variable == "LABEL_TTL_DAYS" and number < LABELS_COME_FOR_DAYS:
        return 0, [f"{variable} must be at least {LABELS_COME_FOR_DAYS}: labels may come that late"]
    return kind(number), []
