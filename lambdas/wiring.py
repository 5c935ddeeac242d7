"""The one place that knows both the services and AWS."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from typing import Any, get_args

import boto3

from lambdas.adapters.calls import Caller, client_config
from lambdas.adapters.dynamodb import (
    DynamoDecisionStore,
    DynamoEffectStore,
    DynamoEntityStore,
    DynamoLabelStore,
    DynamoLedger,
    DynamoListStore,
)
from lambdas.adapters.events import EventBridgeEvents
from lambdas.adapters.quarantine import S3Quarantine
from lambdas.adapters.sagemaker import SageMakerScorer
from lambdas.adapters.ssm import SsmPolicySource
from lambdas.adapters.streams import (
    KinesisDecisionPublisher,
    KinesisEntityEventPublisher,
    KinesisLabelPublisher,
    KinesisTransactionPublisher,
    SnsAlerts,
)
from lambdas.answering import DecidesItself, WaitsForDecision
from lambdas.batch import BatchOutcome
from lambdas.budget import STOP_BEFORE_TIMEOUT_MS, Budget
from lambdas.commit import Committer
from lambdas.decision_events import DecisionEventService
from lambdas.engines import Scoring
from lambdas.entities import EntityUpdateService
from lambdas.failpoints import Reach, failpoints
from lambdas.judging import Judge
from lambdas.labels import LabelService
from lambdas.merchants import Kept
from lambdas.port_sets import EntityPorts, EventPorts, FeaturesPorts, LabelPorts, RequestPorts, TransactionPorts
from lambdas.score_requests import ScoreApi
from lambdas.scoring import ScoringService
from lambdas.settings import (
    CallSettings,
    EntitySettings,
    EventSettings,
    FeaturesSettings,
    FunctionSettings,
    LabelSettings,
    ScoreApiSettings,
    ScorerSettings,
    ScoringSettings,
)
from stream_features.decision import Engine
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.names import COUNTER_SHARDS

DAY_MS = 86_400_000
API_STOPS_BEFORE_MS = 100  # of its budget: an answer is small


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed_s(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


def jitter(seconds: float) -> float:
    """Between half of `seconds` and all of it, so that processes that failed together do not try together again."""
    return seconds * (0.5 + secrets.randbelow(1_000) / 2_000)


class _Process:
    """What every function is built on: clocks, the invocation's budget, callers and clients."""

    def __init__(self, settings: CallSettings, *, stop_before_ms: int = STOP_BEFORE_TIMEOUT_MS) -> None:
        self.clock = SystemClock()
        self.budget = Budget(self.clock, longest_call_ms=settings.longest_call_ms, stop_before_ms=stop_before_ms)
        self.caller = Caller(self.budget, self.clock, jitter)
        self.session = boto3.Session()
        self._config = client_config(
            connect_timeout_s=settings.connect_timeout_s, read_timeout_s=settings.read_timeout_s
        )
        self.dynamodb = self.client("dynamodb")
        self.kinesis = self.client("kinesis")

    def quarantine(self, settings: FunctionSettings) -> S3Quarantine:
        return S3Quarantine(
            self.client("s3"),
            self.client("sqs"),
            bucket=settings.lake_bucket,
            queue_url=settings.quarantine_queue_url,
            caller=self.caller,
        )

    def client(self, service: str) -> Any:
        return self.session.client(service, config=self._config)

    def ledger(
        self, *, effects_table: str, decisions_table: str = "", entity_state_table: str = "", labels_table: str = ""
    ) -> DynamoLedger:
        return DynamoLedger(
            self.dynamodb,
            decisions_table=decisions_table,
            entity_state_table=entity_state_table,
            effects_table=effects_table,
            labels_table=labels_table,
            counter_shard=secrets.randbelow(COUNTER_SHARDS),
            caller=self.caller,
        )

    def committer(self, ledger: DynamoLedger) -> Committer:
        return Committer(ledger, self.budget, self.clock, jitter)


def _features(settings: ScorerSettings | EntitySettings) -> FeatureSet:
    features = feature_set(settings.feature_set)
    retention_ms = features.card_layout.retention_ms
    if features.merchant_layout is not None:
        retention_ms = max(retention_ms, features.merchant_layout.retention_ms)
    if settings.decision_ttl_days * DAY_MS < retention_ms:
        raise ValueError(
            f"DECISION_TTL_DAYS={settings.decision_ttl_days}: items would expire before the windows that need them, "
            f"{math.ceil(retention_ms / DAY_MS)} days"
        )
    return features


def wire(settings: ScoringSettings) -> ScoringService:
    """Build the service behind score_transactions. botocore finds region, credentials and endpoints as it always does.

    Raises:
        ValueError: `decision_ttl_days` is shorter than the feature set's retention.
        UsageError: there is no such feature set.
    """
    process = _Process(settings)
    ports, scoring = _transactions(process, settings, failpoints(settings.failpoint_file))
    return scoring.of_transactions(ports)


def wire_api(settings: ScoreApiSettings, tell: Callable[[BatchOutcome], None]) -> ScoreApi:
    """Build what is behind score_api on AWS clients; `tell` is told what became of every try to decide.

    Raises:
        ValueError: as `wire`, or there is no such engine.
        UsageError: there is no such feature set.
    """
    process = _Process(settings, stop_before_ms=API_STOPS_BEFORE_MS)
    scoring_ports, scoring = _transactions(process, settings, failpoints(settings.failpoint_file, function="score_api"))
    ports = RequestPorts(
        decisions=scoring_ports.decisions,
        ledger=scoring_ports.ledger,
        transactions=KinesisTransactionPublisher(process.kinesis, settings.transactions_stream, process.caller),
        clock=process.clock,
    )
    if settings.engine == "lambda":
        decides = DecidesItself(scoring.of_requests(scoring_ports), ports, process.budget, tell)
        return ScoreApi(ports, decides, process.budget)
    if settings.engine == "flink":
        return ScoreApi(ports, WaitsForDecision(ports, process.budget), process.budget)
    raise ValueError(f"ENGINE must be {' or '.join(get_args(Engine))}, not {settings.engine!r}")


def _transactions(process: _Process, settings: ScoringSettings, reach: Reach) -> tuple[TransactionPorts, Scoring]:
    """What decides transactions whose windows lie in the table."""
    features = _features(settings)
    ledger = process.ledger(
        decisions_table=settings.decisions_table,
        entity_state_table=settings.entity_state_table,
        effects_table=settings.effects_table,
    )
    ports = TransactionPorts(
        **_scoring_ports(process, settings, features, ledger),
        entities=DynamoEntityStore(process.dynamodb, settings.entity_state_table, process.caller),
        entity_events=KinesisEntityEventPublisher(process.kinesis, settings.entity_events_stream, process.caller),
    )
    return ports, _scoring(process, settings, features, ledger, reach)


def wire_features(settings: FeaturesSettings) -> ScoringService:
    """Build the service behind score_features on AWS clients.

    Raises:
        ValueError: `decision_ttl_days` is shorter than the feature set's retention: repeats come as long as that.
        UsageError: there is no such feature set.
    """
    process = _Process(settings)
    features = _features(settings)
    ledger = process.ledger(decisions_table=settings.decisions_table, effects_table=settings.effects_table)
    ports = FeaturesPorts(
        **_scoring_ports(process, settings, features, ledger),
        labels=DynamoLabelStore(process.dynamodb, settings.labels_table, process.caller),
        label_publisher=KinesisLabelPublisher(process.kinesis, settings.labels_stream, process.caller),
    )
    reach = failpoints(settings.failpoint_file, function="score_features")
    return _scoring(process, settings, features, ledger, reach).of_features(ports)


def _scoring_ports(
    process: _Process, settings: ScorerSettings, features: FeatureSet, ledger: DynamoLedger
) -> dict[str, Any]:
    """The fields of `ScoringPorts`."""
    endpoint_config = client_config(
        connect_timeout_s=settings.endpoint_connect_timeout_s, read_timeout_s=settings.endpoint_read_timeout_s
    )
    return {
        "decisions": DynamoDecisionStore(process.dynamodb, settings.decisions_table, process.caller),
        "ledger": ledger,
        "scorer": SageMakerScorer(
            process.session.client("sagemaker-runtime", config=endpoint_config),
            settings.endpoint_name,
            features,
            Caller(process.budget, process.clock, jitter, tries=2),
        ),
        "policies": SsmPolicySource(
            process.client("ssm"),
            process.client("s3"),
            settings.policy_parameter,
            lambda policy: Judge(policy, features),
            process.clock,
            process.caller,
        ),
        "lists": DynamoListStore(process.dynamodb, settings.lists_table, process.caller),
        "publisher": KinesisDecisionPublisher(process.kinesis, settings.decisions_stream, process.caller),
        "alerts": SnsAlerts(process.client("sns"), settings.alerts_topic_arn, process.caller),
        "quarantine": process.quarantine(settings),
        "clock": process.clock,
    }


def _scoring(
    process: _Process, settings: ScorerSettings, features: FeatureSet, ledger: DynamoLedger, reach: Reach
) -> Scoring:
    return Scoring(
        features=features,
        committer=process.committer(ledger),
        budget=process.budget,
        ttl_days=settings.decision_ttl_days,
        reach=reach,
    )


def wire_entities(settings: EntitySettings) -> EntityUpdateService:
    """Build the service behind update_entities on AWS clients.

    Raises:
        ValueError: `decision_ttl_days` is shorter than the feature set's retention, or no feature asks a merchant.
        UsageError: there is no such feature set.
    """
    process = _Process(settings)
    features = _features(settings)
    if features.merchant_layout is None:
        raise ValueError(f"FEATURE_SET={settings.feature_set}: no feature asks a merchant; disable this mapping")
    ledger = process.ledger(entity_state_table=settings.entity_state_table, effects_table=settings.effects_table)
    ports = EntityPorts(
        entities=DynamoEntityStore(process.dynamodb, settings.entity_state_table, process.caller),
        effects=DynamoEffectStore(process.dynamodb, settings.effects_table, process.caller),
        labels=DynamoLabelStore(process.dynamodb, settings.labels_table, process.caller),
        ledger=ledger,
        label_publisher=KinesisLabelPublisher(process.kinesis, settings.labels_stream, process.caller),
        quarantine=process.quarantine(settings),
        clock=process.clock,
    )
    return EntityUpdateService(
        ports,
        features,
        features.merchant_layout,
        process.committer(ledger),
        process.budget,
        kept=Kept(settings.decision_ttl_days, settings.label_ttl_days),
        reach=failpoints(settings.failpoint_file, function="update_entities"),
    )


def wire_events(settings: EventSettings) -> DecisionEventService:
    """Build the service behind publish_events on AWS clients."""
    process = _Process(settings)
    ledger = process.ledger(effects_table=settings.effects_table)
    ports = EventPorts(
        ledger=ledger,
        events=EventBridgeEvents(process.client("events"), settings.event_bus, process.caller),
        clock=process.clock,
    )
    return DecisionEventService(ports, process.committer(ledger), process.budget, ttl_days=settings.decision_ttl_days)


def wire_labels(settings: LabelSettings) -> LabelService:
    """Build the service behind record_labels on AWS clients."""
    process = _Process(settings)
    ledger = process.ledger(effects_table=settings.effects_table, labels_table=settings.labels_table)
    ports = LabelPorts(
        labels=DynamoLabelStore(process.dynamodb, settings.labels_table, process.caller),
        decisions=DynamoDecisionStore(process.dynamodb, settings.decisions_table, process.caller),
        ledger=ledger,
        entity_events=KinesisEntityEventPublisher(process.kinesis, settings.entity_events_stream, process.caller),
        quarantine=process.quarantine(settings),
        clock=process.clock,
    )
    return LabelService(
        ports,
        process.committer(ledger),
        process.budget,
        ttl_days=settings.label_ttl_days,
        reach=failpoints(settings.failpoint_file, function="record_labels"),
    )
