"""The pipeline's tables, read and written by the functions' own adapters and conditional transactions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from console.running import Pipeline
from lambdas.adapters.calls import Caller
from lambdas.adapters.dynamodb import (
    DynamoDecisionStore,
    DynamoEffectStore,
    DynamoEntityStore,
    DynamoLabelStore,
    DynamoLedger,
    DynamoListStore,
    DynamoRescoreIndex,
)
from lambdas.adapters.sagemaker import SageMakerScorer
from lambdas.adapters.streams import KinesisDecisionPublisher, KinesisEntityEventPublisher, SnsAlerts
from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.port_sets import RescorePorts
from lambdas.wiring import SystemClock, jitter
from local.run import client
from stream_features.errors import PortFailure

ENDPOINT_TIMEOUT_S: Final = 10.0  # of one try; an endpoint that hangs is told of soon


@dataclass(frozen=True, slots=True)
class Tables:
    """Ports of the functions, for a command that has all the time it needs."""

    entities: DynamoEntityStore
    decisions: DynamoDecisionStore
    labels: DynamoLabelStore
    ledger: DynamoLedger
    committer: Committer
    entity_events: KinesisEntityEventPublisher
    clock: SystemClock


def tables_of(pipeline: Pipeline) -> Tables:
    clock = SystemClock()
    budget = Budget(clock, longest_call_ms=0)
    caller = Caller(budget, clock, jitter)
    dynamodb = pipeline.client("dynamodb")
    ledger = DynamoLedger(
        dynamodb,
        decisions_table=pipeline.output("DecisionsTableName"),
        entity_state_table=pipeline.output("EntityStateTableName"),
        effects_table=pipeline.output("EffectsTableName"),
        labels_table=pipeline.output("LabelsTableName"),
        counter_shard=0,
        caller=caller,
    )
    return Tables(
        entities=DynamoEntityStore(dynamodb, pipeline.output("EntityStateTableName"), caller),
        decisions=DynamoDecisionStore(dynamodb, pipeline.output("DecisionsTableName"), caller),
        labels=DynamoLabelStore(dynamodb, pipeline.output("LabelsTableName"), caller),
        ledger=ledger,
        committer=Committer(ledger, budget, clock, jitter),
        entity_events=KinesisEntityEventPublisher(
            pipeline.client("kinesis"), pipeline.output("EntityEventsStreamName"), caller
        ),
        clock=clock,
    )


def rescore_ports(pipeline: Pipeline, tables: Tables) -> RescorePorts:
    dynamodb, clock = pipeline.client("dynamodb"), tables.clock
    caller = patient_caller(clock)
    return RescorePorts(
        to_rescore=DynamoRescoreIndex(dynamodb, pipeline.output("DecisionsTableName"), caller),
        decisions=tables.decisions,
        effects=effect_store(pipeline, clock),
        scorer=SageMakerScorer(
            client(pipeline.run, "sagemaker-runtime", read_timeout_s=ENDPOINT_TIMEOUT_S, tries=1),
            pipeline.output("EndpointName"),
            pipeline.features,
            Caller(Budget(clock, longest_call_ms=0), clock, jitter, tries=2),
        ),
        lists=DynamoListStore(dynamodb, pipeline.output("ListsTableName"), caller),
        publisher=KinesisDecisionPublisher(pipeline.client("kinesis"), pipeline.output("DecisionsStreamName"), caller),
        alerts=SnsAlerts(pipeline.client("sns"), pipeline.output("AlertsTopicArn"), caller),
        clock=clock,
    )


def effect_store(pipeline: Pipeline, clock: SystemClock) -> DynamoEffectStore:
    return DynamoEffectStore(pipeline.client("dynamodb"), pipeline.output("EffectsTableName"), patient_caller(clock))


def patient_caller(clock: SystemClock) -> Caller:
    """Makes the calls of a command that has all the time it needs."""
    return Caller(Budget(clock, longest_call_ms=0), clock, jitter)


def scan(pipeline: Pipeline, table_output: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Every item of the table that an output names, read consistently. Raises PortFailure."""
    table = pipeline.output(table_output)
    pages = pipeline.client("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True, **request)
    try:
        for page in pages:
            yield from page["Items"]
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"table {table}: {error}") from error
