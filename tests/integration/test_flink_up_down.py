"""The life of a run whose engine is the Flink job: up, kept, taken up, crashed, taken down. Every process is real."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from console.deployment.build import SAM
from console.flink import flink_folder, job_report, job_state
from console.running import Pipeline
from console.status import read_status
from local.flink import install
from local.flink.status import read_status_file
from local.processes import processes_of_run
from local.run import CHECKOUT, RunState, client, read_record
from local.up import down, up
from stream_features.decision import decode_decision
from stream_features.feature_record import FeaturesRecord, decode_feature_record
from tests.integration.test_up_down import decided, effects, eventually, folder, is_running, publish

__all__ = ["folder"]  # the fixture

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam (make setup)"),
    pytest.mark.skipif(not (CHECKOUT / ".venv-embedded").exists(), reason="no .venv-embedded (make setup)"),
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]


def start(folder: Path) -> RunState:
    return up(engine="flink", progress=lambda _message: None, state_dir=folder)


def living_job(run: RunState) -> list[int]:
    """The job's Python and its JVM."""
    status = read_status_file(flink_folder(run))
    assert status is not None
    assert status.job_pid is not None
    return [status.job_pid, *(child.pid for child in psutil.Process(status.job_pid).children(recursive=True))]


def test_a_kept_run_resumes_from_its_savepoint_and_a_crashed_job_from_its_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_FLINK_INCLUDE_STATE", "1")
    run = start(folder)
    publish(run, "first")
    eventually(lambda: decided(run) == {"first"}, folder)
    assert engines(run) == {"flink"}
    (record,) = feature_records(run)
    assert record.state  # asked for by the environment
    assert {where.split("/")[0] for where in read_status(run).lag} == {"flink", "record-labels", "score-features"}
    living = processes_of_run(run.run_id, run.supervisor_pid)
    job = living_job(run)
    assert len(job) > 1
    assert set(job) < set(living)
    down(keep=True, state_dir=folder)
    assert not any(map(is_running, living))

    resumed = start(folder)
    report = job_report(resumed)
    assert "/savepoints/savepoint-" in str(report["restored_from"])
    assert report["restarts"] == 0
    publish(resumed, "second")
    eventually(lambda: decided(resumed) == {"first", "second"}, folder)
    assert effects(resumed) == {"decided": 2}
    assert len(feature_records(resumed)) == 2  # the first was not read again

    eventually(lambda: job_report(resumed)["checkpoints"]["completed"] > 0, folder)
    before = living_job(resumed)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: job_state(resumed) == "RUNNING" and living_job(resumed)[0] != before[0], folder, 120)
    report = job_report(resumed)
    assert "/chk-" in str(report["restored_from"])
    assert report["restarts"] == 1
    record_of_run = read_record(folder)
    assert record_of_run is not None
    assert record_of_run.restarts == {"flink": 1}
    publish(resumed, "third")
    eventually(lambda: decided(resumed) == {"first", "second", "third"}, folder)
    assert effects(resumed) == {"decided": 3}

    living = processes_of_run(resumed.run_id, resumed.supervisor_pid)
    down(state_dir=folder)
    assert not any(map(is_running, living))
    assert {path.name for path in folder.iterdir()} == {"logs", "up.lock"}


def test_everything_listens_on_loopback_only_and_nothing_outlives_a_killed_supervisor(folder: Path) -> None:
    run = start(folder)
    living = processes_of_run(run.run_id, run.supervisor_pid)
    listening = set()
    for pid in living:
        connections = psutil.Process(pid).net_connections("inet")
        listening |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}

    os.kill(run.supervisor_pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_running, living)), folder)


def engines(run: RunState) -> set[str]:
    pages = client(run, "dynamodb").get_paginator("scan").paginate(TableName=run.outputs["DecisionsTableName"])
    return {decode_decision(item["document"]["S"]).engine for page in pages for item in page["Items"]}


def feature_records(run: RunState) -> list[FeaturesRecord]:
    """Everything in the features stream."""
    pipeline = Pipeline(run)
    kinesis, stream = pipeline.client("kinesis"), pipeline.output("FeaturesStreamName")
    found = []
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        for raw in kinesis.get_records(ShardIterator=iterator)["Records"]:
            decoded = decode_feature_record(raw["Data"])
            assert isinstance(decoded, FeaturesRecord)
            found.append(decoded)
    return found
