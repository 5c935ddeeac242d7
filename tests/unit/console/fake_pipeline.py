"""A decided history behind the few AWS calls that looking at it takes: tables, lake and policy in memory."""

from __future__ import annotations

import dataclasses
import gzip
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from botocore.exceptions import ClientError

from console.bootstrap import BOOTSTRAPS_PREFIX, Bootstrap, file_sha256
from endpoint.messages import ScoringRequest
from endpoint.predictor import Predictor
from lambdas.policy import Policy, encode_policy
from model.artifact import Artifact, pack_artifact
from model.registry import artifact_key
from producers.file_writer import write_transactions
from producers.labels import labels_of
from producers.simulator import SimulatedTransaction, simulate
from stream_features.decision import Decision, Reason, StreamPosition, encode_decision
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.history import history_states, observe_history
from stream_features.kernel import features_json
from stream_features.label_history import LabelReport
from stream_features.names import RAW_PREFIX
from stream_features.transaction import FIELDS, Transaction, encode_transaction, payload_sha256

END_MS = 1_767_225_600_000
DAY_MS = 86_400_000
DELAY_MS = 3 * DAY_MS
ARRIVED_MS = END_MS + 60_000
LATE_BY_MS = 3_600_000


def a_client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "GetObject")


class FakeS3:
    """Objects by key, in one bucket."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise a_client_error("NoSuchKey")
        return {"Body": io.BytesIO(self.objects[Key])}

    def get_paginator(self, name: str) -> Any:
        assert name == "list_objects_v2"
        return Pages(
            lambda request: [
                {"Contents": [{"Key": key} for key in sorted(self.objects) if key.startswith(request["Prefix"])]}
            ]
        )


@dataclass
class Pages:
    """A paginator."""

    answer: Callable[[dict[str, Any]], list[dict[str, Any]]]

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        return iter(self.answer(request))


class FakeDynamoDB:
    """Decisions by id, and label items."""

    def __init__(self) -> None:
        self.decisions: dict[str, Decision] = {}
        self.labels: list[dict[str, Any]] = []

    def _item(self, transaction_id: str) -> dict[str, Any]:
        document = encode_decision(self.decisions[transaction_id]).decode()
        return {"transaction_id": {"S": transaction_id}, "document": {"S": document}}

    def get_item(self, *, Key: dict[str, Any], **_: Any) -> dict[str, Any]:
        wanted = Key["transaction_id"]["S"]
        return {"Item": self._item(wanted)} if wanted in self.decisions else {}

    def batch_get_item(self, *, RequestItems: dict[str, Any], **_: Any) -> dict[str, Any]:
        ((table, asked),) = RequestItems.items()
        keys = [key["transaction_id"]["S"] for key in asked["Keys"]]
        return {"Responses": {table: [self._item(key) for key in keys if key in self.decisions]}}

    def get_paginator(self, name: str) -> Pages:
        return Pages({"query": self._by_card, "scan": self._labels}[name])

    def _by_card(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        values = request["ExpressionAttributeValues"]
        first, last = int(values[":from"]["N"]), int(values[":until"]["N"])
        found = [
            one
            for one in self.decisions.values()
            if one.card_id == values[":card"]["S"] and first <= one.event_time_ms <= last
        ]
        found.sort(key=lambda one: one.event_time_ms, reverse=True)
        return [{"Items": [self._item(one.transaction_id)]} for one in found]

    def _labels(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        merchant = request["ExpressionAttributeValues"][":merchant"]["S"]
        return [{"Items": [item for item in self.labels if item["merchant_id"]["S"] == merchant]}]


class FakeSsm:
    def __init__(self) -> None:
        self.value = ""

    def get_parameter(self, *, Name: str) -> dict[str, Any]:
        return {"Parameter": {"Value": self.value}}


class FakeFirehose:
    def list_delivery_streams(self) -> dict[str, Any]:
        return {"DeliveryStreamNames": ["raw"]}

    def describe_delivery_stream(self, **_: Any) -> dict[str, Any]:
        source = {"KinesisStreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/transactions"}
        destination = {"ExtendedS3DestinationDescription": {"BufferingHints": {"IntervalInSeconds": 77}}}
        return {
            "DeliveryStreamDescription": {
                "Source": {"KinesisStreamSourceDescription": source},
                "Destinations": [destination],
            }
        }


@dataclass
class FakePipeline:
    """Has what the console asks of a Pipeline."""

    features: FeatureSet
    state_dir: Path
    s3: FakeS3 = field(default_factory=FakeS3)
    dynamodb: FakeDynamoDB = field(default_factory=FakeDynamoDB)
    ssm: FakeSsm = field(default_factory=FakeSsm)
    firehose: FakeFirehose = field(default_factory=FakeFirehose)
    kinesis: object = None

    def client(self, service: str) -> Any:
        return getattr(self, service)

    def output(self, name: str) -> str:
        return "transactions" if name == "TransactionsStreamName" else name


@dataclass
class Scene:
    """A pipeline that loaded the first part of a simulated history and decided the rest, in order of event time."""

    pipeline: FakePipeline
    transactions: list[Transaction]  # decided, in order of arrival
    artifact: Artifact
    folder: Path

    @cached_property
    def decisions(self) -> dict[str, Decision]:
        return self.pipeline.dynamodb.decisions

    def archive(self, records: Sequence[bytes]) -> None:
        self.pipeline.s3.objects[f"{RAW_PREFIX}dt=2026-01-01/hour=00/one.gz"] = gzip.compress(b"\n".join(records))

    def archived(self) -> list[bytes]:
        return [encode_transaction(one) for one in self.transactions]


def decided_history(folder: Path, set_name: str, artifact: Artifact, *, count: int = 900, loaded: int = 300) -> Scene:
    """Serve `count` simulated transactions: the first `loaded` by a bootstrap, the others one by one.

    One purchase arrives an hour late and one transaction is a refund; frauds are labelled three days on.
    """
    features = feature_set(set_name)
    rows = _rows(count, loaded)
    before, after = rows[:loaded], rows[loaded:]
    until_ms = after[0].transaction.event_time_ms
    file = folder / f"{set_name}.parquet"
    write_transactions(file, before)
    known = [one for one in labels_of(before, label_delay_ms=DELAY_MS) if one.reported_at_ms < until_ms]
    states = history_states([row.transaction for row in before], features, known, before_ms=until_ms)
    for state in (*states.cards.values(), *states.merchants.values()):
        state.complete_from_ms = until_ms
    rest = [one for one in labels_of(rows, label_delay_ms=DELAY_MS) if one.reported_at_ms >= until_ms]
    arriving = _one_late([row.transaction for row in after])
    observed = list(observe_history(arriving, features, rest, states=states))
    scene = Scene(FakePipeline(features, folder), arriving, artifact, folder)
    predictor = Predictor(artifact)
    policy = Policy(policy_version="p-1", review_from=0.02, decline_from=0.3)
    for number, (one, observation) in enumerate(observed):
        values = np.array([observation.values], dtype=np.float32)
        request = ScoringRequest(
            values=values, columns=features.names, definitions=features.definitions, explain_from=policy.review_from
        )
        (prediction,) = predictor.predict(request).predictions
        scene.decisions[one.transaction_id] = Decision(
            **{name: getattr(one, name) for name in FIELDS},
            score=prediction.score,
            decision=policy.decide(prediction.score),
            reasons=[Reason(reason.feature, reason.contribution) for reason in prediction.reasons],
            rules=[],
            features=features_json(features, observation.values),
            feature_set_id=features.feature_set_id,
            model_version=artifact.manifest.model_version,
            variant="primary",
            policy_version=policy.policy_version,
            engine="lambda",
            stream_position=StreamPosition("shard-0", str(9_990 + number)),
            arrival_ms=ARRIVED_MS + number,
            scored_at_ms=ARRIVED_MS + number + 40,
            late=observation.late,
            degraded=False,
            payload_sha256=payload_sha256(one),
        )
    scene.archive(scene.archived())
    scene.pipeline.ssm.value = encode_policy(policy).decode()
    scene.pipeline.dynamodb.labels = [_label_item(row) for row in rows if row.is_fraud]
    note = Bootstrap(
        file=str(file),
        sha256=file_sha256(file),
        mapping=None,
        until_ms=until_ms,
        label_delay_ms=DELAY_MS,
        started_at_ms=ARRIVED_MS - 2_000,
        finished_at_ms=ARRIVED_MS - 1_000,
    )
    objects = scene.pipeline.s3.objects
    objects[f"{BOOTSTRAPS_PREFIX}one.json"] = msgspec.json.encode(note)
    objects[artifact_key(artifact.manifest.model_version)] = pack_artifact(artifact)
    return scene


def _rows(count: int, loaded: int) -> list[SimulatedTransaction]:
    rows = list(simulate(count, seed=11, end_ms=END_MS, days=30))
    for number in range(loaded + 5, count, 97):
        row = rows[number]
        refund = msgspec.structs.replace(row.transaction, type="refund")
        rows[number] = dataclasses.replace(row, transaction=refund, is_fraud=False)
    return rows


def _one_late(transactions: list[Transaction]) -> list[Transaction]:
    """The same transactions with one purchase of a busy card arriving after that card's next one."""
    last: dict[str, int] = {}
    for place, one in enumerate(transactions):
        if one.type != "purchase":
            continue
        before = last.get(one.card_id)
        if before is not None and before > 50:
            moved = list(transactions)
            moved.insert(place, moved.pop(before))
            return moved
        last[one.card_id] = place
    raise AssertionError("no card has two purchases")


def _label_item(row: SimulatedTransaction) -> dict[str, Any]:
    one = row.transaction
    report = LabelReport(
        reported_at_ms=one.event_time_ms + DELAY_MS,
        arrival_ms=ARRIVED_MS,
        sequence_number="1",
        is_fraud=True,
        source="chargeback",
    )
    return {
        "transaction_id": {"S": one.transaction_id},
        "merchant_id": {"S": one.merchant_id},
        "event_time_ms": {"N": str(one.event_time_ms)},
        "waiting": {"BOOL": False},
        "history": {"S": msgspec.json.encode([report]).decode()},
    }


def changed(of: Decision, /, **fields: Any) -> Decision:
    return msgspec.structs.replace(of, **fields)


def by_one_bit(value: float | None) -> float:
    return math.nextafter(value or 0.0, math.inf)
