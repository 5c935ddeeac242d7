"""The package of Managed Flink on a standalone cluster: `flink run` takes the very zip, and its features are ours.

The cluster's interpreter is .venv-flink's, or the one that FRAUDSTREAM_FLINK_PYTHON names; the zip is built for its
version, since msgspec is compiled code. With a Python 3.12 it is, byte for byte, the zip for the service.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from aws_kinesis_agg.aggregator import RecordAggregator

from console.packaging import build_flink_package, upload_flink_package
from producers.simulator import simulate
from stream_features.entity_event import EntityEvent, encode_entity_event
from stream_features.feature_record import (
    DuplicateRecord,
    FeaturesRecord,
    RejectedMark,
    decode_feature_record,
    values_of,
)
from stream_features.feature_sets import CORE, DAY_MS
from stream_features.history import observe_history
from stream_features.label import Label
from stream_features.label_history import fraud_entry
from stream_features.transaction import Transaction, encode_transaction
from tests.integration.embedded_aws import REGION, EmbeddedAws, embedded_aws
from tests.integration.standalone_flink import FlinkCluster, flink_cluster, flink_python

ROOT = Path(__file__).resolve().parents[2]
INTERPRETER = Path(os.environ.get("FRAUDSTREAM_FLINK_PYTHON", ROOT / ".venv-flink" / "bin" / "python"))
STREAMS = {"transactions": 2, "entity-events": 1, "features": 2}
BUCKET = "package-lake"
START_MS = 1_767_225_600_000  # 2026-01-01
DAYS = 24
A_DAY = 15  # transactions, seconds apart
PARALLELISM = 2

pytestmark = [
    pytest.mark.skipif(not INTERPRETER.exists(), reason="no .venv-flink: run `make setup-flink`"),
    pytest.mark.skipif(shutil.which("java") is None, reason="no java on the PATH: Flink needs a Java 17 runtime"),
]


@dataclass(frozen=True)
class Days:
    """A history in bursts: what one day holds is one burst of event time, shorter than every merchant's delay."""

    transactions: list[list[Transaction]]
    labels: list[list[Label]]

    def all_transactions(self) -> list[Transaction]:
        return [transaction for day in self.transactions for transaction in day]

    def all_labels(self) -> list[Label]:
        return [label for day in self.labels for label in day]


@dataclass
class Ran:
    """What is left of a run of the package."""

    cluster: FlinkCluster
    package: Path
    records: list[Any]
    listening: set[str]
    native: set[str]
    python_of: str


@pytest.fixture(scope="module")
def days() -> Days:
    return some_days()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, days: Days) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("package")
    python = flink_python(INTERPRETER)
    package = build_flink_package(folder / "app.zip", python_version=python.version)
    unpacked = folder / "unpacked"
    with embedded_aws(folder / "aws") as aws:
        arns = make_streams(aws)
        key = upload_flink_package(aws.client("s3"), BUCKET, package)
        stored = aws.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            archive.extractall(unpacked)
        reaches = {name: value for name, value in aws.environment().items() if name != "PYTHONPATH"}
        with flink_cluster(python, folder / "flink", reaches) as cluster:
            properties = folder / "properties.json"
            properties.write_text(json.dumps(job_properties(folder, arns)))
            cluster.run(
                [
                    *(
                        "-p",
                        str(PARALLELISM),
                        "-pyclientexec",
                        str(python.executable),
                        "-pyexec",
                        str(python.executable),
                    ),
                    *("-py", "main.py", "-pyfs", "dep"),
                ],
                {"IS_LOCAL": "true", "FRAUDSTREAM_FLINK_PROPERTIES": str(properties)},
                unpacked,
            )
            cluster.wait_for("the job", lambda: is_running(cluster))
            records = publish_day_by_day(aws, cluster, folder / "progress", days)
            yield Ran(cluster, package.path, records, listening(cluster), native_code(cluster), python.version)


def test_every_feature_of_every_transaction_is_the_history_s(ran: Ran, days: Days) -> None:
    computed = [record for record in ran.records if isinstance(record, FeaturesRecord)]
    got = {msgspec.json.decode(record.payload)["transaction_id"]: values_of(record, CORE) for record in computed}
    wanted = {
        transaction.transaction_id: observation.values
        for transaction, observation in observe_history(days.all_transactions(), CORE, days.all_labels())
    }
    assert len(computed) == len(got) == DAYS * A_DAY
    # repr tells all float64 apart, and NaN is itself
    assert {key: tuple(map(repr, row)) for key, row in got.items()} == {
        key: tuple(map(repr, row)) for key, row in wanted.items()
    }
    risks = [value for row in wanted.values() for name, value in zip(CORE.names, row, strict=True) if "risk" in name]
    assert any(value > 0 for value in risks)


def test_a_duplicate_and_a_record_that_is_none_are_told_apart(ran: Ran) -> None:
    duplicates = [record for record in ran.records if isinstance(record, DuplicateRecord)]
    assert len(duplicates) == 1
    rejected = [record for record in ran.records if isinstance(record, RejectedMark)]
    assert [(mark.field, mark.rule) for mark in rejected] == [("$", "not_json")]


def test_the_code_that_ran_is_the_zip_s(ran: Ran) -> None:
    # The virtual environment has a msgspec too; each TaskManager unpacks the zip's for itself.
    assert len(ran.native) == PARALLELISM
    (inside,) = {library.partition("/dep/")[1][1:] + library.partition("/dep/")[2] for library in ran.native}
    with zipfile.ZipFile(ran.package) as archive:
        assert inside in archive.namelist()
    assert f"cpython-{ran.python_of.replace('.', '')}-" in inside


def test_the_cluster_listens_on_loopback_only(ran: Ran) -> None:
    assert ran.listening
    assert ran.listening <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_both_task_managers_take_part_and_checkpoints_are_made(ran: Ran) -> None:
    (job,) = ran.cluster.rest("/jobs/overview")["jobs"]
    assert ran.cluster.rest("/overview")["slots-available"] == 0
    vertices = ran.cluster.rest(f"/jobs/{job['jid']}")["vertices"]
    assert {vertex["parallelism"] for vertex in vertices if vertex["name"].startswith("cards")} == {PARALLELISM}
    ran.cluster.wait_for(
        "a checkpoint", lambda: ran.cluster.rest(f"/jobs/{job['jid']}/checkpoints")["counts"]["completed"] > 0
    )


def some_days() -> Days:
    """Simulated payments, dated anew; the frauds among them are reported a day later."""
    simulated = list(simulate(DAYS * A_DAY, seed=11, end_ms=START_MS, days=3, customers=25))
    transactions: list[list[Transaction]] = []
    labels: list[list[Label]] = []
    for day in range(DAYS):
        begins_ms = START_MS - (DAYS - day) * DAY_MS
        of_day = [
            msgspec.structs.replace(row.transaction, event_time_ms=begins_ms + 1_000 * second)
            for second, row in enumerate(simulated[day * A_DAY : (day + 1) * A_DAY])
        ]
        transactions.append(of_day)
        # Every fifth is fraud, whatever the simulator says: so few payments hold too few of its own.
        yesterday = transactions[day - 1][::5] if day else []
        labels.append([a_label(transaction, begins_ms - 3_600_000) for transaction in yesterday])
    return Days(transactions, labels)


def a_label(transaction: Transaction, reported_at_ms: int) -> Label:
    return Label(
        transaction_id=transaction.transaction_id,
        is_fraud=True,
        reported_at_ms=reported_at_ms,
        source="chargeback",
        merchant_id=transaction.merchant_id,
        event_time_ms=transaction.event_time_ms,
    )


def make_streams(aws: EmbeddedAws) -> dict[str, str]:
    """ARNs by stream name."""
    kinesis = aws.client("kinesis")
    aws.client("s3").create_bucket(Bucket=BUCKET)
    for name, shards in STREAMS.items():
        kinesis.create_stream(StreamName=name, ShardCount=shards)
    arns = {}
    for name in STREAMS:
        kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
        arns[name] = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    return arns


def job_properties(folder: Path, arns: dict[str, str]) -> list[dict[str, Any]]:
    groups = {
        "Job": {
            "connector": "polling",
            "feature.set": CORE.name,
            "execution.mode": "thread",
            "state.ttl.days": "90",
            "label.ttl.days": "180",
            "entity.state.table": "",
            "effects.table": "",
            "lake.bucket": BUCKET,
            "progress.dir": str(folder / "progress"),
            "seed.dir": str(folder / "seed"),
        },
        "Transactions": {"stream.arn": arns["transactions"], "aws.region": REGION, "poll.ms": "20"},
        "EntityEvents": {"stream.arn": arns["entity-events"], "aws.region": REGION, "poll.ms": "20"},
        "Features": {"stream.arn": arns["features"], "aws.region": REGION, "sink.max-buffer-ms": "5"},
    }
    return [{"PropertyGroupId": name, "PropertyMap": values} for name, values in groups.items()]


def is_running(cluster: FlinkCluster) -> bool:
    jobs = cluster.rest("/jobs/overview")["jobs"]
    if not jobs:
        return False
    job = cluster.rest(f"/jobs/{jobs[0]['jid']}")
    return job["state"] == "RUNNING" and all(vertex["status"] == "RUNNING" for vertex in job["vertices"])


def publish_day_by_day(aws: EmbeddedAws, cluster: FlinkCluster, progress: Path, days: Days) -> list[Any]:
    """Publish each day when the one before has come out: merchants hear of a day in any order, of days in theirs."""
    kinesis = aws.client("kinesis")
    records: list[Any] = []
    reader = FeaturesReader(kinesis)
    labelled = transactions = 0
    for day, (labels, burst) in enumerate(zip(days.labels, days.transactions, strict=True)):
        for label in labels:
            event = label_event(label)
            kinesis.put_record(StreamName="entity-events", Data=encode_entity_event(event), PartitionKey="merchant")
        labelled += len(labels)
        cluster.wait_for("labels", lambda wanted=labelled: finished(progress / "labelled.json") >= wanted)
        entries = [
            {"Data": encode_transaction(transaction), "PartitionKey": transaction.card_id} for transaction in burst
        ]
        if day == 1:
            entries += [entries[0], {"Data": b'{"transaction_id": ', "PartitionKey": "nobody"}]
        transactions += len(entries)
        if day == 2:
            entries = [aggregated(entries)]
        assert kinesis.put_records(StreamName="transactions", Records=entries)["FailedRecordCount"] == 0

        def out(wanted: int = transactions) -> bool:
            records.extend(reader.new())
            return len(records) >= wanted

        cluster.wait_for(f"the features of day {day}", out)
    return records


def aggregated(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One Kinesis record as the producer library packs several."""
    aggregator = RecordAggregator()
    for entry in entries:
        assert aggregator.add_user_record(entry["PartitionKey"], entry["Data"].decode()) is None
    partition_key, _, payload = aggregator.clear_and_get().get_contents()
    return {"Data": payload, "PartitionKey": partition_key}


def label_event(label: Label) -> EntityEvent:
    assert label.merchant_id is not None
    assert label.event_time_ms is not None
    return EntityEvent(
        kind="label",
        merchant_id=label.merchant_id,
        transaction_id=label.transaction_id,
        event_time_ms=label.event_time_ms,
        revision=1,
        frauds=[fraud_entry(label.event_time_ms, label.reported_at_ms, label.is_fraud)],
    )


def finished(path: Path) -> int:
    return int(json.loads(path.read_bytes())["finished"])


class FeaturesReader:
    """Reads the stream `features` from its beginning."""

    def __init__(self, kinesis: Any) -> None:
        self._kinesis = kinesis
        shards = kinesis.list_shards(StreamName="features")["Shards"]
        self._iterators = [
            kinesis.get_shard_iterator(
                StreamName="features", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            for shard in shards
        ]

    def new(self) -> list[Any]:
        """What has come since the last call."""
        found = []
        for index, iterator in enumerate(self._iterators):
            page = self._kinesis.get_records(ShardIterator=iterator)
            found += [decode_feature_record(record["Data"]) for record in page["Records"]]
            self._iterators[index] = page["NextShardIterator"]
        return found


def listening(cluster: FlinkCluster) -> set[str]:
    """Addresses on which the cluster's processes take connections."""
    return {
        connection.laddr.ip
        for leader in cluster.processes.values()
        for process in (psutil.Process(leader.pid), *psutil.Process(leader.pid).children(recursive=True))
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def native_code(cluster: FlinkCluster) -> set[str]:
    """The files from which the TaskManagers have loaded msgspec, by name without the folder of the run."""
    found = set()
    for name, leader in cluster.processes.items():
        if name.startswith("taskmanager"):
            for process in (psutil.Process(leader.pid), *psutil.Process(leader.pid).children(recursive=True)):
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                found |= set(re.findall(r"(/\S*/msgspec/_core\S*\.so)", maps))
    return found
