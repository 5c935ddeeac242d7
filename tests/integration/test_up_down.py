"""The life of a run: up, taken up again, killed, kept, taken down. Every process is the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from console.deployment.build import SAM
from local.activation import activate_model
from local.processes import processes_of_run
from local.run import CHECKOUT, RunFailed, RunRecord, RunState, client, load_run, read_record
from local.starter_model import starter_artifact
from local.up import down, up
from model.artifact import ARTIFACT_NAME, Artifact, Manifest, model_version, pack_artifact, read_artifact
from stream_features.errors import ContractMismatch, UsageError
from stream_features.transaction import Transaction, encode_transaction

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam (make setup)"),
    pytest.mark.skipif(not (CHECKOUT / ".venv-embedded").exists(), reason="no .venv-embedded (make setup)"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A state folder of its own; whatever a test leaves running is ended."""
    yield tmp_path / "state"
    down(state_dir=tmp_path / "state")


def start(folder: Path) -> RunState:
    return up(progress=lambda _message: None, state_dir=folder)


def publish(run: RunState, transaction_id: str) -> None:
    transaction = Transaction(
        transaction_id=transaction_id,
        event_time_ms=time.time_ns() // 1_000_000 - 60_000,
        card_id="card-1",
        merchant_id="merchant-1",
        amount_minor=1_250,
        currency="USD",
    )
    client(run, "kinesis").put_record(
        StreamName=run.outputs["TransactionsStreamName"],
        Data=encode_transaction(transaction),
        PartitionKey=transaction.card_id,
    )


def decided(run: RunState) -> set[str]:
    pages = client(run, "dynamodb").get_paginator("scan").paginate(TableName=run.outputs["DecisionsTableName"])
    return {item["transaction_id"]["S"] for page in pages for item in page["Items"]}


def eventually(holds: Callable[[], bool], folder: Path, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            logs = "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in (folder / "logs").glob("*.log"))
            pytest.fail(f"it never came true\n{logs}")
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_transaction_is_decided_and_down_leaves_nothing(folder: Path) -> None:
    run = start(folder)
    assert load_run(folder) == run
    publish(run, "first")
    eventually(lambda: decided(run) == {"first"}, folder)
    living = processes_of_run(run.run_id, run.supervisor_pid)
    workers = [pid for pid in living if "_worker" in " ".join(psutil.Process(pid).cmdline())]
    assert workers  # the function's own process belongs to the run too
    assert set(run.parts.values()) < set(living)

    again = start(folder)  # nothing to do
    assert (again.run_id, again.started_at_ms) == (run.run_id, run.started_at_ms)

    down(state_dir=folder)
    assert not any(map(is_running, living))
    assert load_run(folder) is None
    assert {path.name for path in folder.iterdir()} == {"logs", "up.lock"}
    down(state_dir=folder)  # nothing left to do


def test_everything_listens_on_loopback_only_and_holds_no_inherited_output(folder: Path) -> None:
    run = start(folder)
    publish(run, "first")
    eventually(lambda: decided(run) == {"first"}, folder)
    living = processes_of_run(run.run_id, run.supervisor_pid)
    listening = set()
    for pid in living:
        process = psutil.Process(pid)
        listening |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        if sys.platform == "linux":
            for descriptor in (0, 1, 2):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                inside = target.startswith((str(folder), "pipe:", "socket:")) or target == os.devnull
                assert inside, (process.cmdline(), descriptor, target)
    assert listening == {"127.0.0.1"}


def test_after_kill_9_of_the_supervisor_nothing_is_left_and_the_next_up_starts_afresh(folder: Path) -> None:
    run = start(folder)
    publish(run, "first")
    eventually(lambda: decided(run) == {"first"}, folder)
    living = processes_of_run(run.run_id, run.supervisor_pid)
    os.kill(run.supervisor_pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_running, living)), folder)
    assert load_run(folder) is None

    run = start(folder)
    assert decided(run) == set()
    publish(run, "second")
    eventually(lambda: decided(run) == {"second"}, folder)


def test_a_kept_run_goes_on_where_it_ended(folder: Path) -> None:
    run = start(folder)
    publish(run, "first")
    eventually(lambda: decided(run) == {"first"}, folder)
    living = processes_of_run(run.run_id, run.supervisor_pid)
    lake = client(run, "s3").list_buckets()["Buckets"]
    down(keep=True, state_dir=folder)
    assert not any(map(is_running, living))
    down(keep=True, state_dir=folder)  # keeping twice keeps
    with pytest.raises(UsageError, match="engine"):
        up(engine="flink", progress=lambda _message: None, state_dir=folder)

    resumed = start(folder)
    assert resumed.started_at_ms == run.started_at_ms
    assert decided(resumed) == {"first"}
    assert [b["Name"] for b in client(resumed, "s3").list_buckets()["Buckets"]] == [b["Name"] for b in lake]
    publish(resumed, "second")
    eventually(lambda: decided(resumed) == {"first", "second"}, folder)
    # The record already decided was not delivered again: the mapping went on from its position.
    record = read_record(folder)
    assert record is not None
    assert effects(resumed) == {"decided": 2}


def effects(run: RunState) -> dict[str, int]:
    """Sums of the counters that are not zero."""
    sums: dict[str, int] = {}
    pages = client(run, "dynamodb").get_paginator("scan").paginate(TableName=run.outputs["EffectsTableName"])
    for item in (item for page in pages for item in page["Items"]):
        if item["effect"]["S"].startswith("counter#"):
            for name, value in item.items():
                if "N" in value and int(value["N"]):
                    sums[name] = sums.get(name, 0) + int(value["N"])
    return {name: count for name, count in sums.items() if name in ("decided", "duplicates", "quarantined")}


def test_parts_that_can_take_over_are_started_again_and_the_aws_is_not(folder: Path) -> None:
    run = start(folder)
    for name in ("mappings", "firehose", "sagemaker"):
        before = run.parts[name]
        os.kill(before, signal.SIGKILL)

        def replaced(name: str = name, before: int = before) -> bool:
            record = read_record(folder)
            return record is not None and record.parts.get(name, before) != before

        eventually(replaced, folder)
    publish(run, "after-restarts")
    eventually(lambda: decided(run) == {"after-restarts"}, folder)
    record = read_record(folder)
    assert record is not None
    assert record.restarts == {"mappings": 1, "firehose": 1, "sagemaker": 1}

    living = processes_of_run(run.run_id, run.supervisor_pid)
    os.kill(run.parts["aws"], signal.SIGKILL)
    eventually(lambda: not any(map(is_running, living)), folder)
    assert load_run(folder) is None
    failed = read_record(folder)
    assert failed is not None
    assert failed.status == "failed"
    assert str(failed.error_log).endswith("logs/aws.log")


def test_a_model_is_served_once_activated_and_a_broken_one_is_not(folder: Path, tmp_path: Path) -> None:
    run = start(folder)
    starter = read_artifact(starter_artifact("core", print))
    policy = client(run, "ssm").get_parameter(Name=run.outputs["PolicyParameterName"])["Parameter"]["Value"]
    assert starter.manifest.model_version in policy

    thresholds = {"review_from": 0.25, "decline_from": 0.75}
    other = tmp_path / "other" / ARTIFACT_NAME
    other.parent.mkdir()
    other.write_bytes(pack_artifact(with_thresholds(starter, **thresholds)))
    version = activate_model(run, other, print)
    assert version != starter.manifest.model_version
    policy = client(run, "ssm").get_parameter(Name=run.outputs["PolicyParameterName"])["Parameter"]["Value"]
    assert version in policy
    publish(run, "by-the-second-model")
    eventually(lambda: decided(run) == {"by-the-second-model"}, folder)

    broken = tmp_path / "broken" / ARTIFACT_NAME
    broken.parent.mkdir()
    broken.write_bytes(other.read_bytes()[:-40])
    with pytest.raises(ContractMismatch):
        activate_model(run, broken, print)
    models = client(run, "sagemaker").list_models()["Models"]
    assert len(models) == 1  # the replaced one is gone


def with_thresholds(artifact: Artifact, *, review_from: float, decline_from: float) -> Artifact:
    """The same booster under another version."""
    manifest = artifact.manifest
    changed = Manifest(
        model_version="",
        feature_set=manifest.feature_set,
        feature_set_id=manifest.feature_set_id,
        columns=manifest.columns,
        definitions=manifest.definitions,
        thresholds=type(manifest.thresholds)(review_from=review_from, decline_from=decline_from),
    )
    versioned = Manifest(
        **{name: getattr(changed, name) for name in changed.__struct_fields__ if name != "model_version"},
        model_version=model_version(artifact.booster_ubj, changed),
    )
    return Artifact(
        booster_ubj=artifact.booster_ubj,
        manifest=versioned,
        metrics=artifact.metrics,
        provenance=artifact.provenance,
    )


def test_a_model_that_cannot_be_served_fails_up_with_the_reason(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / ARTIFACT_NAME
    broken.write_bytes(b"not an archive")
    with pytest.raises(RunFailed, match="not a model artefact"):
        up(progress=lambda _message: None, model_artifact=broken, state_dir=folder)
    assert load_run(folder) is None


def begin(folder: Path, *arguments: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A Python of its own that brings a run up in `folder`."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "FRAUDSTREAM_STATE": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def record_once_it_starts(folder: Path) -> RunRecord:
    """The record of a run whose AWS has been started and that is not up yet."""

    def started() -> bool:
        record = read_record(folder)
        return record is not None and "aws" in record.parts

    eventually(started, folder)
    record = read_record(folder)
    assert record is not None
    return record


def test_ctrl_c_while_it_starts_leaves_nothing(folder: Path) -> None:
    starting = begin(folder, "-c", "from local.up import up; up()")
    record = record_once_it_starts(folder)
    living = processes_of_run(record.run_id, record.supervisor_pid)
    starting.send_signal(signal.SIGINT)
    assert starting.wait(60) != 0
    assert not any(map(is_running, living))
    assert not (folder / "aws").exists()


def test_ctrl_c_in_the_foreground_takes_the_run_down(folder: Path) -> None:
    staying = begin(folder, "-m", "console", "up", "--foreground")
    eventually(lambda: load_run(folder) is not None, folder, timeout_s=300.0)
    run = load_run(folder)
    assert run is not None
    living = processes_of_run(run.run_id, run.supervisor_pid)
    assert staying.poll() is None
    staying.send_signal(signal.SIGINT)
    staying.wait(60)
    assert not any(map(is_running, living))
    assert not (folder / "aws").exists()


def test_down_stops_a_run_that_is_still_starting(folder: Path) -> None:
    starting = begin(folder, "-c", "from local.up import up; up()", stderr=subprocess.PIPE)
    record = record_once_it_starts(folder)
    down(state_dir=folder)
    _, said = starting.communicate(timeout=60)
    assert starting.returncode != 0
    assert b"stopped while it started" in said
    assert processes_of_run(record.run_id, record.supervisor_pid) == []
