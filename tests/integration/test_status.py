"""Status, waiting and export on the embedded AWS, with the tables and streams filled by hand."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from console.export import export_decisions
from console.meter import LiveTail
from console.status import read_status
from console.wait import NotSettled, wait_until_settled
from local.run import RunState
from stream_features.decision import Decision, encode_decision
from stream_features.feature_sets import feature_set
from stream_features.names import counter_key
from tests.integration.embedded_aws import REGION, ROOT, EmbeddedAws, embedded_aws
from tests.integration.lake_stack import a_decision, put


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    with embedded_aws(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture
def run(aws: EmbeddedAws, tmp_path: Path) -> RunState:
    """Streams and tables of their own for every test, and the run that names them."""
    name = uuid.uuid4().hex[:8]
    kinesis, dynamodb = aws.client("kinesis"), aws.client("dynamodb")
    for stream in ("transactions", "labels", "decisions"):
        kinesis.create_stream(StreamName=f"{name}-{stream}", ShardCount=2)
    for table, key in (("effects", "effect"), ("decisions", "transaction_id")):
        dynamodb.create_table(
            TableName=f"{name}-{table}",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        )
    return RunState(
        target="embedded",
        engine="lambda",
        feature_set="core",
        endpoint_url=aws.url,
        sagemaker_url=aws.url,
        region=REGION,
        ports={},
        outputs={
            "TransactionsStreamName": f"{name}-transactions",
            "LabelsStreamName": f"{name}-labels",
            "DecisionsStreamName": f"{name}-decisions",
            "EffectsTableName": f"{name}-effects",
            "DecisionsTableName": f"{name}-decisions",
        },
        started_at_ms=0,
        supervisor_pid=0,
        parts={},
        run_id=name,
        state_dir=tmp_path,
    )


def count(aws: EmbeddedAws, run: RunState, shard: int, **counts: int) -> None:
    """Add to a counter item as the function does, inside a transaction."""
    update = {
        "TableName": run.outputs["EffectsTableName"],
        "Key": {"effect": {"S": counter_key(shard)}},
        "UpdateExpression": "ADD " + ", ".join(f"#{name} :{name}" for name in counts),
        "ExpressionAttributeNames": {f"#{name}": name for name in counts},
        "ExpressionAttributeValues": {f":{name}": {"N": str(value)} for name, value in counts.items()},
    }
    aws.client("dynamodb").transact_write_items(TransactItems=[{"Update": update}])


def test_counts_conserve_records_while_they_move_and_at_rest(aws: EmbeddedAws, run: RunState) -> None:
    stream = run.outputs["TransactionsStreamName"]
    assert read_status(run).published == 0
    put(aws, stream, [b'{"n":%d}' % number for number in range(700)])
    count(aws, run, 0, decided=300, late=7, alerts=3)
    count(aws, run, 63, decided=200, duplicates=20, degraded=2)
    moving = read_status(run)
    assert (moving.published, moving.decided, moving.duplicates, moving.in_flight) == (700, 500, 20, 180)
    assert (moving.late, moving.alerts, moving.degraded) == (7, 3, 2)
    with pytest.raises(NotSettled, match="180 of 700 published records have no outcome"):
        wait_until_settled(run, 0, expect_published=700)
    count(aws, run, 7, decided=150, quarantined=30)
    assert wait_until_settled(run, 10, expect_published=700).in_flight == 0
    with pytest.raises(NotSettled, match="1 of 701 records were never published"):
        wait_until_settled(run, 0, expect_published=701)


def test_a_lost_count_or_record_is_seen(aws: EmbeddedAws, run: RunState) -> None:
    put(aws, run.outputs["TransactionsStreamName"], [b"{}"] * 10)
    count(aws, run, 1, decided=6)
    count(aws, run, 2, decided=4)
    assert read_status(run).in_flight == 0
    aws.client("dynamodb").delete_item(TableName=run.outputs["EffectsTableName"], Key={"effect": {"S": counter_key(2)}})
    assert read_status(run).in_flight == 4
    count(aws, run, 3, decided=5)
    with pytest.raises(NotSettled, match="1 more records have an outcome"):
        wait_until_settled(run, 10)


def test_two_processes_and_a_live_view_count_the_same_stream_together(aws: EmbeddedAws, run: RunState) -> None:
    script = (
        "import json, sys; from pathlib import Path; from local.run import RunState; "
        "from console.status import read_status; fields = json.loads(sys.argv[1]); "
        "fields['state_dir'] = Path(fields['state_dir']); print(read_status(RunState(**fields)).published)"
    )
    fields = {name: getattr(run, name) for name in RunState.__slots__} | {"state_dir": str(run.state_dir)}
    total = 0
    tail = LiveTail(run)
    for more in (1300, 17):
        put(aws, run.outputs["TransactionsStreamName"], [b"{}"] * more)
        total += more
        others = [
            subprocess.Popen(
                [sys.executable, "-c", script, json.dumps(fields)], stdout=subprocess.PIPE, cwd=ROOT, text=True
            )
            for _ in range(2)
        ]
        assert read_status(run, tail=tail).published == total
        assert [int(other.communicate(timeout=60)[0]) for other in others] == [total, total]


def test_latency_and_alerts_come_from_the_decisions_stream(aws: EmbeddedAws, run: RunState) -> None:
    now_ms = time.time_ns() // 1_000_000
    decisions = [a_decision(number, arrival_ms=now_ms - 9_000 * number - 60_000) for number in range(120)]
    put(aws, run.outputs["DecisionsStreamName"], [encode_decision(d) for d in decisions])
    tail = LiveTail(run)
    status = read_status(run, tail=tail)
    scored = sorted(d.scored_at_ms - d.arrival_ms for d in decisions)
    assert status.latency["arrival_to_scored"] == {"p50": scored[59], "p90": scored[107], "p99": scored[118]}
    assert 60_000 <= status.latency["arrival_to_decided"]["p50"] < 120_000
    alerts = tail.newest_alerts()
    assert {alert.decision for alert in alerts} == {"review", "decline"}
    assert alerts == sorted(alerts, key=lambda alert: alert.scored_at_ms)
    again = read_status(run)
    assert json.loads(again.as_json())["latency"] == status.latency


def test_lag_of_a_deployed_mapping_falls_to_zero_at_its_checkpoint(aws: EmbeddedAws, run: RunState) -> None:
    functions, kinesis = aws.client("lambda"), aws.client("kinesis")
    stream = run.outputs["TransactionsStreamName"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("handler.py", "def handle(event, context):\n    return None\n")
    functions.create_function(
        FunctionName=f"score-{run.run_id}",
        Runtime="python3.11",
        Role="arn:aws:iam::000000000000:role/any",
        Handler="handler.handle",
        Code={"ZipFile": archive.getvalue()},
    )
    mapping = functions.create_event_source_mapping(
        FunctionName=f"score-{run.run_id}",
        EventSourceArn=kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"],
        StartingPosition="TRIM_HORIZON",
    )
    first = kinesis.put_record(StreamName=stream, Data=b"{}", PartitionKey="k")
    where = f"score-{run.run_id}/{first['ShardId']}"
    status = read_status(run)
    assert set(status.lag) == {f"score-{run.run_id}/shardId-00000000000{n}" for n in (0, 1)}
    waited = status.lag[where]
    time.sleep(0.05)
    assert read_status(run).lag[where] > waited
    (run.state_dir / "mappings").mkdir()
    checkpoint = {first["ShardId"]: {"sequence_number": first["SequenceNumber"], "drained": False}}
    (run.state_dir / "mappings" / f"{mapping['UUID']}.json").write_text(json.dumps(checkpoint))
    assert set(read_status(run).lag.values()) == {0}


def test_export_writes_the_whole_table(aws: EmbeddedAws, run: RunState, tmp_path: Path) -> None:
    dynamodb = aws.client("dynamodb")
    decisions: dict[str, Decision] = {}
    for start in range(0, 1500, 25):
        batch = [a_decision(number) for number in range(start, start + 25)]
        decisions |= {decision.transaction_id: decision for decision in batch}
        items = [
            {
                "transaction_id": {"S": decision.transaction_id},
                "padding": {"S": "x" * 3000},  # several pages a segment
                "document": {"S": encode_decision(decision).decode()},
            }
            for decision in batch
        ]
        requests = [{"PutRequest": {"Item": item}} for item in items]
        dynamodb.batch_write_item(RequestItems={run.outputs["DecisionsTableName"]: requests})
    out = tmp_path / "decisions.parquet"
    assert export_decisions(dynamodb, run.outputs["DecisionsTableName"], feature_set("core"), out) == len(decisions)
    rows = pq.read_table(out).to_pylist()
    assert [row["arrival_ms"] for row in rows] == sorted(d.arrival_ms for d in decisions.values())
    assert len({row["transaction_id"] for row in rows}) == len(decisions)
    for row in rows:
        decision = decisions[row["transaction_id"]]
        assert (row["score"], row["late"], row["amount_minor"]) == (
            decision.score,
            decision.late,
            decision.amount_minor,
        )
        assert row["f_amount"] == decision.features["amount"]
        assert row["f_card_count_1h"] is None
