"""The two ways the ports are filled in, and how a test looks behind each."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import Any, Protocol

import msgspec

from lambdas.adapters.calls import Caller, client_config
from lambdas.adapters.dynamodb import (
    DynamoDecisionStore,
    DynamoEffectStore,
    DynamoEntityStore,
    DynamoLabelStore,
    DynamoLedger,
    DynamoListStore,
    DynamoRescoreIndex,
)
from lambdas.adapters.events import EventBridgeEvents
from lambdas.adapters.quarantine import S3Quarantine
from lambdas.adapters.ssm import SsmPolicySource
from lambdas.adapters.streams import (
    KinesisDecisionPublisher,
    KinesisEntityEventPublisher,
    KinesisLabelPublisher,
    KinesisTransactionPublisher,
    SnsAlerts,
)
from lambdas.budget import Budget
from lambdas.judging import Judge
from lambdas.policy import Policy
from lambdas.ports import (
    Alerts,
    DecisionEvents,
    DecisionPublisher,
    DecisionStore,
    EffectStore,
    EntityEventPublisher,
    EntityStore,
    LabelPublisher,
    LabelStore,
    Ledger,
    ListedEntity,
    ListStore,
    Pointer,
    PolicySource,
    Quarantine,
    RescoreIndex,
    TransactionPublisher,
)
from stream_features.decision_event import DETAIL_TYPE, EVENT_SOURCE, encode_decision_event
from stream_features.entity_event import EntityEvent, decode_entity_event
from stream_features.feature_sets import feature_set
from stream_features.label import Label, parse_label
from stream_features.names import TO_RESCORE_INDEX, counter_key, merchant_key
from stream_features.rejected import Rejected, decode_rejected
from tests.contract.local_aws import client
from tests.unit.lambdas.fakes import (
    FakeAlerts,
    FakeClock,
    FakeDecisionEvents,
    FakeDecisionStore,
    FakeEffectStore,
    FakeEntityEvents,
    FakeEntityStore,
    FakeLabelPublisher,
    FakeLabelStore,
    FakeLedger,
    FakeListStore,
    FakePolicies,
    FakePublisher,
    FakeQuarantine,
    FakeRescoreIndex,
    FakeTransactionPublisher,
    World,
)

COUNTER_SHARD = 7


class Harness(Protocol):
    """Ports on one empty world."""

    decisions: DecisionStore
    entities: EntityStore
    effects: EffectStore
    labels: LabelStore
    ledger: Ledger
    publisher: DecisionPublisher
    entity_events: EntityEventPublisher
    label_publisher: LabelPublisher
    transactions: TransactionPublisher
    alerts: Alerts
    events: DecisionEvents
    quarantine: Quarantine
    policies: PolicySource
    lists: ListStore
    to_rescore: RescoreIndex

    def counters(self) -> Counter[str]: ...
    def published(self) -> list[bytes]: ...
    def told(self) -> list[EntityEvent]: ...
    def sent_labels(self) -> list[Label]: ...
    def sent_transactions(self) -> list[bytes]: ...
    def alerted(self) -> list[str]: ...
    def sent_events(self) -> list[dict[str, Any]]: ...
    def quarantined(self) -> list[Rejected]: ...
    def pointers(self) -> list[Pointer]: ...
    def set_policy(self, policy: Policy) -> None: ...
    def list_entity(self, entry: str, listed: ListedEntity) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.world = World()
        self.decisions = FakeDecisionStore(self.world)
        self.entities = FakeEntityStore(self.world)
        self.effects = FakeEffectStore(self.world)
        self.labels = FakeLabelStore(self.world)
        self.ledger = FakeLedger(self.world)
        self.publisher = FakePublisher(self.world)
        self.entity_events = FakeEntityEvents(self.world)
        self.label_publisher = FakeLabelPublisher(self.world)
        self.transactions = FakeTransactionPublisher(self.world)
        self.alerts = FakeAlerts(self.world)
        self.events = FakeDecisionEvents(self.world)
        self.quarantine = FakeQuarantine(self.world)
        self.policies = FakePolicies(self.world)
        self.lists = FakeListStore(self.world)
        self.to_rescore = FakeRescoreIndex(self.world)

    def counters(self) -> Counter[str]:
        return self.world.counters

    def published(self) -> list[bytes]:
        return [stored.document for stored in self.world.published]

    def told(self) -> list[EntityEvent]:
        return self.world.entity_events

    def sent_labels(self) -> list[Label]:
        return self.world.labels_sent

    def sent_transactions(self) -> list[bytes]:
        return self.world.transactions_sent

    def alerted(self) -> list[str]:
        return [stored.decision.transaction_id for stored in self.world.alerts]

    def sent_events(self) -> list[dict[str, Any]]:
        return [json.loads(encode_decision_event(event)) for event in self.world.events_sent]

    def quarantined(self) -> list[Rejected]:
        return list(self.world.objects.values())

    def pointers(self) -> list[Pointer]:
        return self.world.pointers

    def set_policy(self, policy: Policy) -> None:
        self.world.policy = policy

    def list_entity(self, entry: str, listed: ListedEntity) -> None:
        self.world.listed[entry] = listed


class Aws:
    """Fresh resources under names of their own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.world = World()  # only for its clock
        self.prefix = f"c{uuid.uuid4().hex[:12]}"
        self.config = client_config(connect_timeout_s=2, read_timeout_s=20)
        self.dynamodb = self.client("dynamodb")
        self.kinesis = self.client("kinesis")
        self.sqs = self.client("sqs")
        self.s3 = self.client("s3")
        self.ssm = self.client("ssm")
        sns = self.client("sns")
        create_decisions_table(self.dynamodb, self.name("decisions"))
        for table, key in (
            ("entity_state", "entity"),
            ("effects", "effect"),
            ("labels", "transaction_id"),
            ("lists", "entry"),
        ):
            create_table(self.dynamodb, self.name(table), key)
        for stream in ("decisions", "entity_events", "labels", "transactions"):
            self.kinesis.create_stream(StreamName=self.name(stream), ShardCount=1)
        self.s3.create_bucket(Bucket=self.name("lake"))
        self.s3.create_bucket(Bucket=self.name("artifacts"))
        self.quarantine_url = self.sqs.create_queue(QueueName=self.name("quarantine"))["QueueUrl"]
        self.alerts_url = self.sqs.create_queue(QueueName=self.name("alerts"))["QueueUrl"]
        topic_arn = sns.create_topic(Name=self.name("alerts"))["TopicArn"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.alerts_url, AttributeNames=["QueueArn"])["Attributes"]
        sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=arn["QueueArn"])

        clock = FakeClock(self.world)
        self.caller = Caller(Budget(clock, longest_call_ms=0), clock, lambda seconds: seconds)
        self.decisions = DynamoDecisionStore(self.dynamodb, self.name("decisions"), self.caller)
        self.entities = DynamoEntityStore(self.dynamodb, self.name("entity_state"), self.caller)
        self.effects = DynamoEffectStore(self.dynamodb, self.name("effects"), self.caller)
        self.labels = DynamoLabelStore(self.dynamodb, self.name("labels"), self.caller)
        self.ledger = self.ledger_on(self.dynamodb)
        self.publisher = KinesisDecisionPublisher(self.kinesis, self.name("decisions"), self.caller)
        self.entity_events = KinesisEntityEventPublisher(self.kinesis, self.name("entity_events"), self.caller)
        self.label_publisher = KinesisLabelPublisher(self.kinesis, self.name("labels"), self.caller)
        self.transactions = KinesisTransactionPublisher(self.kinesis, self.name("transactions"), self.caller)
        self.alerts = SnsAlerts(sns, topic_arn, self.caller)
        self.events_url = self.sqs.create_queue(QueueName=self.name("events"))["QueueUrl"]
        self.events = EventBridgeEvents(self.client("events"), self.name("bus"), self.caller)
        self.quarantine = S3Quarantine(
            self.s3, self.sqs, bucket=self.name("lake"), queue_url=self.quarantine_url, caller=self.caller
        )
        self.lists = DynamoListStore(self.dynamodb, self.name("lists"), self.caller)
        self.to_rescore = DynamoRescoreIndex(self.dynamodb, self.name("decisions"), self.caller)
        self.policies = self.policy_source()

    def policy_source(self) -> SsmPolicySource:
        features = feature_set("core")
        parameter = f"/{self.prefix}/policy"
        return SsmPolicySource(
            self.ssm, self.s3, parameter, lambda policy: Judge(policy, features), FakeClock(self.world), self.caller
        )

    def client(self, service: str) -> Any:
        return client(service, self.url, self.config)

    def name(self, what: str) -> str:
        return f"{self.prefix}-{what.replace('_', '-')}"

    def ledger_on(self, dynamodb: Any) -> DynamoLedger:
        return DynamoLedger(
            dynamodb,
            decisions_table=self.name("decisions"),
            entity_state_table=self.name("entity_state"),
            effects_table=self.name("effects"),
            labels_table=self.name("labels"),
            counter_shard=COUNTER_SHARD,
            caller=self.caller,
        )

    def item(self, table: str, key_name: str, key: str) -> dict[str, Any]:
        answer = self.dynamodb.get_item(TableName=self.name(table), Key={key_name: {"S": key}})
        return dict(answer.get("Item", {}))

    def counters(self) -> Counter[str]:
        item = self.item("effects", "effect", counter_key(COUNTER_SHARD))
        return Counter({name: int(value["N"]) for name, value in item.items() if "N" in value})

    def published(self) -> list[bytes]:
        records = self.records("decisions")
        for record in records:
            assert record["PartitionKey"] == json.loads(record["Data"])["transaction_id"]
        return [record["Data"] for record in records]

    def told(self) -> list[EntityEvent]:
        events = []
        for record in self.records("entity_events"):
            events.append(decode_entity_event(record["Data"]))
            assert record["PartitionKey"] == merchant_key(events[-1].merchant_id)
        return events

    def sent_labels(self) -> list[Label]:
        labels = []
        for record in self.records("labels"):
            labels.append(parse_label(record["Data"]))
            assert record["PartitionKey"] == labels[-1].transaction_id
        return labels

    def sent_transactions(self) -> list[bytes]:
        records = self.records("transactions")
        for record in records:
            assert record["PartitionKey"] == json.loads(record["Data"])["card_id"]
        return [record["Data"] for record in records]

    def records(self, stream: str) -> list[dict[str, Any]]:
        name = self.name(stream)
        shard = self.kinesis.list_shards(StreamName=name)["Shards"][0]["ShardId"]
        iterator = self.kinesis.get_shard_iterator(StreamName=name, ShardId=shard, ShardIteratorType="TRIM_HORIZON")[
            "ShardIterator"
        ]
        return list(self.kinesis.get_records(ShardIterator=iterator, Limit=10_000)["Records"])

    def alerted(self) -> list[str]:
        return [json.loads(json.loads(body)["Message"])["transaction_id"] for body in self.messages(self.alerts_url)]

    def sent_events(self) -> list[dict[str, Any]]:
        events = [json.loads(body) for body in self.messages(self.events_url)]
        assert {(event["source"], event["detail-type"]) for event in events} <= {(EVENT_SOURCE, DETAIL_TYPE)}
        return [event["detail"] for event in events]

    def subscribe_to_events(self, detail: dict[str, Any]) -> None:
        """Make the bus, and send its decisions that match `detail` to a queue."""
        bus, bus_name = self.client("events"), self.name("bus")
        bus.create_event_bus(Name=bus_name)
        queue = self.sqs.get_queue_attributes(QueueUrl=self.events_url, AttributeNames=["QueueArn"])["Attributes"]
        pattern = {"source": [EVENT_SOURCE], "detail-type": [DETAIL_TYPE], "detail": detail}
        bus.put_rule(Name="seen", EventBusName=bus_name, EventPattern=json.dumps(pattern))
        bus.put_targets(Rule="seen", EventBusName=bus_name, Targets=[{"Id": "queue", "Arn": queue["QueueArn"]}])

    def quarantined(self) -> list[Rejected]:
        listed = self.s3.list_objects_v2(Bucket=self.name("lake")).get("Contents", [])
        bodies = [self.s3.get_object(Bucket=self.name("lake"), Key=entry["Key"])["Body"].read() for entry in listed]
        return [decode_rejected(body) for body in bodies]

    def pointers(self) -> list[Pointer]:
        """Everything in the quarantine queue, which is empty afterwards; what it points at is there."""
        pointers = [msgspec.json.decode(body, type=Pointer) for body in self.messages(self.quarantine_url)]
        for pointer in pointers:
            self.s3.head_object(Bucket=pointer.bucket, Key=pointer.key)
        return pointers

    def set_policy(self, policy: Policy) -> None:
        self.ssm.put_parameter(
            Name=f"/{self.prefix}/policy", Type="String", Value=msgspec.json.encode(policy).decode(), Overwrite=True
        )

    def list_entity(self, entry: str, listed: ListedEntity) -> None:
        item = {"entry": {"S": entry}, "list": {"S": listed.list_name}, "author": {"S": "a"}, "reason": {"S": "r"}}
        if listed.expires_at_s is not None:
            item["expires_at"] = {"N": str(listed.expires_at_s)}
        self.dynamodb.put_item(TableName=self.name("lists"), Item=item)

    def messages(self, queue_url: str) -> list[str]:
        bodies: list[str] = []
        while received := self.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in received:
                bodies.append(message["Body"])
                self.sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return bodies


def create_decisions_table(dynamodb: Any, name: str) -> None:
    """With the one index that a port reads."""
    keys = [
        {"AttributeName": key, "KeyType": kind}
        for key, kind in (("transaction_id", "HASH"), ("to_rescore_ms", "RANGE"))
    ]
    dynamodb.create_table(
        TableName=name,
        KeySchema=keys[:1],
        AttributeDefinitions=[
            {"AttributeName": "transaction_id", "AttributeType": "S"},
            {"AttributeName": "to_rescore_ms", "AttributeType": "N"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": TO_RESCORE_INDEX,
                "KeySchema": keys,
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["expires_at"]},
            }
        ],
        BillingMode="PAY_PER_REQUEST",
    )


def create_table(dynamodb: Any, name: str, key: str) -> None:
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
