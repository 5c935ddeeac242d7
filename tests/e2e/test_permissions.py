"""One run through every kind of call: its roles allow what the functions do and no more, and its logs name no card."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from console.asking import client_of
from console.running import Pipeline
from local.capabilities import Place
from producers.publisher import TransactionPublisher
from stream_features.decision import StreamPosition
from stream_features.errors import MalformedRecord
from stream_features.feature_record import FeaturesRecord, FeatureStreamRecord, encode_feature_record
from stream_features.feature_sets import feature_set
from stream_features.history import observe_history
from stream_features.kernel import features_json
from stream_features.label import Label, encode_label
from stream_features.transaction import Transaction, encode_transaction
from tests.cloudformation import EVERYTHING, MAIN, NETWORK, decided, resources
from tests.e2e.conftest import Start
from tests.e2e.driver import Installation, stored_decisions
from tests.e2e.noted_calls import Call, note_calls, noted_calls
from tests.e2e.role_policies import Excess, Permission, missing, permissions, unused
from tests.e2e.secrets_in_logs import leaks, logs_of

pytestmark = pytest.mark.e2e

ACCOUNT = "000000000000"
PUBLISHED = 200
CALLED = 2  # records that score_features gets from us and from no stream
NOW_MS = int(time.time() * 1_000)
BAD_CARD, BAD_MERCHANT = "card-in-a-bad-record", "merchant-in-a-bad-record"

# What the roles allow although the functions' code never asks for it in this run, and why.
EXCESS = (
    Excess(
        "the event source mapping reads the function's own stream in its role's name",
        lambda p: p.action.startswith("kinesis:") and p.action != "kinesis:PutRecords" and p.sid.startswith("Read"),
    ),
    Excess(
        "the event source mapping sends what it gives up on in the role's name",
        lambda p: p.action == "sqs:SendMessage" and p.resource.endswith(":discarded-batches"),
    ),
    Excess(
        "streams, tables, bucket, queues and topic decrypt and encrypt in the caller's name",
        lambda p: p.sid == "UseDataKey" and p.action in ("kms:Decrypt", "kms:GenerateDataKey"),
    ),
    Excess(
        "the Lambda service writes what the function prints in its role's name",
        lambda p: p.sid == "Log" and p.action in ("logs:CreateLogStream", "logs:PutLogEvents"),
    ),
    Excess(
        "the Lambda service connects the function to a VPC, where one is asked for",
        lambda p: p.sid in ("Look", "Connect") and p.action.startswith("ec2:"),
    ),
    Excess("the Lambda service traces the function, where that is asked for", lambda p: p.sid == "Trace"),
)


@dataclass(frozen=True)
class Scene:
    installation: Installation
    calls: set[Call]
    allowed: list[Permission]
    secrets: set[str]

    @property
    def pipeline(self) -> Pipeline:
        return self.installation.pipeline()


@pytest.fixture(scope="module")
def installation(target: Place, start: Start) -> Iterator[Installation]:
    """With a bus of events, so that every function is there."""
    if target != "embedded":
        pytest.skip("functions note their calls where only the embedded AWS looks for modules")
    with start(environment={"FRAUDSTREAM_DECISION_EVENTS": "1"}) as installed:
        yield installed


@pytest.fixture(scope="module")
def scene(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("calls")
    note_calls(installation.state_dir, folder)
    installation.run("policy", "activate", _policy_with_lists(folder.parent / "policy.json"))
    pipeline = installation.pipeline()

    installation.run("publish", "--simulate", PUBLISHED, "--seed", 5, "--wait")
    _publish_bad_records(pipeline)
    _report_before_deciding(installation, pipeline)
    _call_the_other_engines_function(pipeline)
    _ask_right_away(pipeline)
    # What score_features was called with has outcomes and is no record of the stream; fewer are not under way.
    _eventually(lambda: installation.status()["in_flight"] == -CALLED)

    region = pipeline.run.region
    template = decided(MAIN, EVERYTHING[MAIN])
    decisions = stored_decisions(pipeline).values()
    assert len(decisions) > PUBLISHED
    return Scene(
        installation,
        noted_calls(folder, region=region, account=ACCOUNT),
        permissions(template, region=region, account=ACCOUNT),
        {BAD_CARD, BAD_MERCHANT, *(d.card_id for d in decisions), *(d.merchant_id for d in decisions)},
    )


def _policy_with_lists(file: Path) -> Path:
    """Everything is an alert and the lists are asked; activated it lies in the bucket of artefacts."""
    file.write_text(
        json.dumps(
            {
                "policy_version": "everything-is-an-alert",
                "review_from": 0.0,
                "decline_from": 1.0,
                "lists": {"block": ["card"]},
            }
        )
    )
    return file


def _publish_bad_records(pipeline: Pipeline) -> None:
    """What every function of this engine has to quarantine."""
    kinesis = pipeline.client("kinesis")
    bad = {"transaction_id": "bad", "card_id": BAD_CARD, "merchant_id": BAD_MERCHANT, "amount_minor": "much"}
    for stream in ("TransactionsStreamName", "LabelsStreamName", "EntityEventsStreamName"):
        kinesis.put_record(StreamName=pipeline.output(stream), PartitionKey=BAD_CARD, Data=json.dumps(bad).encode())


def _report_before_deciding(installation: Installation, pipeline: Pipeline) -> None:
    """A label that names no merchant waits until its transaction is decided, and is sent again then."""
    transactions = [_purchase("reported-first"), _purchase("of-the-job")]
    kinesis, stream = pipeline.client("kinesis"), pipeline.output("LabelsStreamName")
    for one in transactions:
        label = Label(
            transaction_id=one.transaction_id,
            is_fraud=True,
            reported_at_ms=NOW_MS,
            source="chargeback",
        )
        kinesis.put_record(StreamName=stream, PartitionKey=one.transaction_id, Data=encode_label(label))
    _eventually(lambda: installation.status()["labels"].get("labels_waiting", 0) == 2)
    with TransactionPublisher(pipeline.client("kinesis"), pipeline.output("TransactionsStreamName")) as publisher:
        publisher.publish(transactions[0])
    _eventually(lambda: installation.status()["labels"].get("labels_waiting", 0) == 1)


def _call_the_other_engines_function(pipeline: Pipeline) -> None:
    """score_features, as its mapping would call it: a transaction whose label waits, and a conflict with it."""
    features = feature_set("core")
    sent: list[FeatureStreamRecord] = []
    for sequence_number, transaction in enumerate(
        (_purchase("of-the-job"), _purchase("of-the-job", amount_minor=7)), 1
    ):
        [(_, observation)] = observe_history([transaction], features)
        sent.append(
            FeaturesRecord(
                payload=encode_transaction(transaction).decode(),
                position=StreamPosition("shardId-000000000000", str(sequence_number), 0),
                arrival_ms=NOW_MS,
                feature_set_id=features.feature_set_id,
                features=features_json(features, observation.values),
                late=False,
            )
        )
    for number, record in enumerate(sent, 1):
        kinesis = {
            "data": base64.b64encode(encode_feature_record(record)).decode(),
            "sequenceNumber": str(number),
            "partitionKey": "card",
            "approximateArrivalTimestamp": NOW_MS / 1_000,
        }
        event = {
            "kinesis": kinesis,
            "eventID": f"shardId-000000000000:{number}",
            "eventSourceARN": f"arn:aws:kinesis:{pipeline.run.region}:{ACCOUNT}:stream/features",
        }
        answer = pipeline.client("lambda").invoke(
            FunctionName=pipeline.output("ScoreFeaturesFunctionName"), Payload=json.dumps({"Records": [event]})
        )
        assert json.load(answer["Payload"]) == {"batchItemFailures": []}


def _ask_right_away(pipeline: Pipeline) -> None:
    """The score API: a decision that is published as well, asked for again, in conflict, and read."""
    client = client_of(pipeline.run)
    answered = client.score(_purchase("asked"), publish=True)
    assert client.score(_purchase("asked")) == answered  # looks whether its alert is out
    with pytest.raises(MalformedRecord):
        client.score(_purchase("asked", amount_minor=7))
    assert client.decision("asked") == answered


def _purchase(name: str, *, amount_minor: int = 1_250) -> Transaction:
    return Transaction(
        transaction_id=name,
        event_time_ms=NOW_MS - 60_000,
        card_id=f"card-of-{name}",
        merchant_id=f"merchant-of-{name}",
        amount_minor=amount_minor,
        currency="USD",
    )


def _eventually(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    ends_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_at, "it never came true"
        time.sleep(0.2)


# --- permissions -------------------------------------------------------------------------------------------------


def test_every_call_of_every_function_is_allowed(scene: Scene) -> None:
    assert {call.function for call in scene.calls} == {permission.function for permission in scene.allowed}
    assert missing(scene.calls, scene.allowed) == []


def test_nothing_is_allowed_that_no_function_needs(scene: Scene) -> None:
    assert unused(scene.calls, scene.allowed, EXCESS) == []


def test_every_reason_for_more_is_still_one(scene: Scene) -> None:
    left = unused(scene.calls, scene.allowed)
    assert [each.why for each in EXCESS if not any(map(each.covers, left))] == []


def test_a_permission_taken_away_is_missed(scene: Scene) -> None:
    """Every one that a call needs, one after the other."""
    needed = [p for p in scene.allowed if any(p.covers(call) for call in scene.calls)]
    assert len(needed) > 30
    for permission in needed:
        assert missing(scene.calls, [each for each in scene.allowed if each != permission])


def test_a_permission_added_is_noticed(scene: Scene) -> None:
    name, place = "record-labels", "us-east-1:000000000000"
    for added in (
        Permission(name, "Quarantine", "s3:GetObject", "arn:aws:s3:::lake/quarantine/*"),
        Permission(name, "CommitLabels", "dynamodb:DeleteItem", f"arn:aws:dynamodb:{place}:table/labels"),
        Permission(name, "UseDataKey", "kms:CreateGrant", f"arn:aws:kms:{place}:key/DataKey"),
    ):
        assert unused(scene.calls, [*scene.allowed, added], EXCESS) == [added]


def test_the_network_without_a_way_out_leads_to_every_service_that_is_called(scene: Scene) -> None:
    endpoints = {
        endpoint["ServiceName"]["Fn::Sub"].removeprefix("com.amazonaws.${AWS::Region}.")
        for endpoint in resources(NETWORK, "AWS::EC2::VPCEndpoint").values()
    }
    names = {"kinesis": "kinesis-streams", "sagemaker": "sagemaker.runtime"}
    called = {call.action.partition(":")[0] for call in scene.calls}
    assert endpoints == {names.get(service, service) for service in called}


# --- logs --------------------------------------------------------------------------------------------------------


def test_no_log_names_a_card_or_a_merchant(scene: Scene) -> None:
    logs = logs_of(scene.installation)
    assert {name for name in logs if name.startswith("/aws/lambda/")} == {
        f"/aws/lambda/{function}" for function in {permission.function for permission in scene.allowed}
    }
    assert all('"message"' in text for name, text in logs.items() if name.startswith("/aws/lambda/"))
    assert leaks(logs, scene.secrets) == []


def test_one_card_in_one_log_line_is_found(scene: Scene) -> None:
    card = BAD_CARD
    logs, group = scene.pipeline.client("logs"), "/aws/lambda/score-transactions"
    logs.create_log_stream(logGroupName=group, logStreamName="planted")
    line = {"timestamp": NOW_MS, "message": f'{{"message": "decided", "card": "{card}"}}'}
    logs.put_log_events(logGroupName=group, logStreamName="planted", logEvents=[line])
    file = scene.installation.state_dir / "logs" / "planted.log"
    file.write_text(f"decided {base64.b64encode(card.encode()).decode()}\n")
    try:
        assert leaks(logs_of(scene.installation), scene.secrets) == [(group, card), ("planted.log", card)]
    finally:
        logs.delete_log_stream(logGroupName=group, logStreamName="planted")
        file.unlink()


# --- quarantine --------------------------------------------------------------------------------------------------


def test_what_waits_in_the_queue_says_where_a_record_lies_and_nothing_of_it(scene: Scene) -> None:
    sqs, queue = scene.pipeline.client("sqs"), scene.pipeline.output("QuarantineQueueUrl")
    pointers = set()
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        pointers |= {message["Body"] for message in messages}
    assert len(pointers) == 4  # one of each stream of this engine, and the conflict of the other one
    assert all(set(json.loads(pointer)) == {"bucket", "key", "field", "rule"} for pointer in pointers)
    assert leaks({"queue": "\n".join(sorted(pointers))}, scene.secrets) == []
