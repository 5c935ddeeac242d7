"""What the Flink part of a run consists of, without any process: snapshots, progress, properties, what is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from local import parts
from local.flink import install
from local.flink.job_process import job_environment
from local.flink.layout import FlinkFolder
from local.flink.progress import read_progress
from local.flink.properties import job_properties, read_start
from local.flink.snapshots import newest_snapshot, remove_others
from local.up import up
from stream_features.errors import UsageError
from stream_features.flink_job.properties import read_properties
from tests.unit.local.test_flink_launcher import settings
from tests.unit.local.test_up import a_record, silent


def snapshot(path: Path, at_s: int, *, finished: bool = True) -> Path:
    path.mkdir(parents=True)
    if finished:
        (path / "_metadata").touch()
        os.utime(path / "_metadata", (at_s, at_s))
    return path


def test_the_snapshot_that_was_finished_last_is_taken_whichever_job_made_it(tmp_path: Path) -> None:
    folder = FlinkFolder(tmp_path)
    assert newest_snapshot(folder) is None
    old = snapshot(folder.checkpoints / "job-b" / "chk-90", 100)
    new = snapshot(folder.checkpoints / "job-a" / "chk-2", 200)
    snapshot(folder.checkpoints / "job-a" / "chk-3", 300, finished=False)
    assert newest_snapshot(folder) == new
    savepoint = snapshot(folder.savepoints / "savepoint-job-a-1", 250)
    assert newest_snapshot(folder) == savepoint
    after = snapshot(folder.checkpoints / "job-c" / "chk-1", 260)
    assert newest_snapshot(folder) == after
    remove_others(folder, "job-c")
    assert newest_snapshot(folder) == after
    assert not old.exists()
    assert not savepoint.exists()


def test_of_two_checkpoints_of_one_instant_the_later_number_is_taken(tmp_path: Path) -> None:
    folder = FlinkFolder(tmp_path)
    snapshot(folder.checkpoints / "job" / "chk-9", 100)
    later = snapshot(folder.checkpoints / "job" / "chk-10", 100)
    assert newest_snapshot(folder) == later


def say(folder: FlinkFolder, name: str, **content: Any) -> None:
    folder.progress.mkdir(exist_ok=True)
    (folder.progress / f"{name}.json").write_bytes(msgspec.json.encode(content))


def test_progress_adds_up_over_both_streams(tmp_path: Path) -> None:
    folder = FlinkFolder(tmp_path)
    nothing = read_progress(folder)
    assert (nothing.under_way, nothing.at("t", "s").sequence_number) == (0, None)
    shard = {"s": {"sequence_number": "5", "drained": False, "millis_behind": None}}
    say(folder, "read-t", stream="t", taken=7, positions=shard)
    say(folder, "read-e", stream="e", taken=3, positions={})
    assert read_progress(folder).under_way == 10  # not a word of what is finished
    say(folder, "written", finished=6)
    say(folder, "labelled", finished=3)
    found = read_progress(folder)
    assert (found.under_way, found.at("t", "s").sequence_number) == (1, "5")


def test_what_is_taken_in_and_finished_while_we_look_is_never_taken_for_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job always has a record under way; only a look at what was taken in before what is finished can miss it."""
    folder = FlinkFolder(tmp_path)
    turns = 0

    def move() -> None:
        nonlocal turns
        turns += 1
        say(folder, "read-t", stream="t", taken=turns + 1, positions={})
        say(folder, "written", finished=turns)

    move()
    read_bytes = Path.read_bytes

    def moving(path: Path) -> bytes:
        move()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", moving)
    for _ in range(5):
        assert read_progress(folder).under_way > 0


def test_the_job_understands_its_properties(tmp_path: Path) -> None:
    folder = FlinkFolder(tmp_path / "a run")
    start = {"Transactions": {"shardId-000000000000": "17"}}
    given = settings(include_state=True, rest_port=8099)
    read = read_properties(job_properties(given, folder, start, tmp_path / "chk-1"))
    assert (read.connector, read.feature_set, read.include_state) == ("polling", "core", True)
    assert read.transactions.start_positions == start["Transactions"]
    assert read.entity_events.start_positions == {}
    assert (read.entity_state_table, read.effects_table, read.lake_bucket) == ("entity_state", "effects", "lake")
    assert read.progress_dir == folder.progress
    assert read.flink["execution.state-recovery.path"] == (tmp_path / "chk-1").as_uri()
    assert read.flink["execution.checkpointing.dir"] == folder.checkpoints.as_uri()
    hosts = [value for name, value in read.flink.items() if name.endswith(("host", "address"))]
    assert set(hosts) == {"127.0.0.1"}
    assert read.flink["rest.port"] == "8099"
    fresh = read_properties(job_properties(given, folder, {}, None))
    assert "execution.state-recovery.path" not in fresh.flink


def test_start_positions_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = FlinkFolder(tmp_path)
    assert read_start(folder) == {}
    folder.start.write_text('{"Transactions": 3}')
    with pytest.raises(UsageError, match=r"start\.json"):
        read_start(folder)


def test_the_job_inherits_addresses_and_not_the_callers_flink(tmp_path: Path) -> None:
    caller = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "FLINK_HOME": "/elsewhere", "VIRTUAL_ENV": "/ours"}
    environment = job_environment(FlinkFolder(tmp_path), caller)
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert environment["IS_LOCAL"] == "true"
    assert environment["FRAUDSTREAM_FLINK_PROPERTIES"] == str(tmp_path / "properties.json")
    assert not {"FLINK_HOME", "VIRTUAL_ENV"} & environment.keys()


def test_the_job_is_a_part_of_runs_of_its_engine_only(tmp_path: Path) -> None:
    of_lambda = parts.run_spec(a_record(), tmp_path, None, resumes=False)
    assert "flink" not in [part.name for part in of_lambda.parts]
    record = a_record(engine="flink", ports={"aws": 1, "sagemaker": 2, "flink": 3})
    part = parts.run_spec(record, tmp_path, None, resumes=False).parts[-1]  # the last one, so the first that stops
    assert (part.name, part.restarts, part.starts) == ("flink", True, "after_preparation")
    assert part.ready_file == str(tmp_path / "flink" / "status.json")
    assert part.environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4577"


def a_java(folder: Path, version: str) -> None:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True, exist_ok=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    java.chmod(0o755)


@pytest.mark.parametrize(("version", "release"), [("17.0.15", 17), ("1.8.0_392", 8), ("21", 21)])
def test_the_release_of_java_is_read(version: str, release: int, tmp_path: Path) -> None:
    a_java(tmp_path, version)
    assert install.java_version(str(tmp_path / "bin" / "java")) == release


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "READY", tmp_path / ".ready")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "none on JAVA_HOME" in str(install.missing())
    a_java(tmp_path, "11.0.2")
    assert "is Java 11" in str(install.missing())
    a_java(tmp_path, "17.0.15")
    assert "make setup-flink" in str(install.missing())
    (tmp_path / ".ready").touch()
    assert install.missing() is None
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"Java 17 or newer.*make setup-flink"):
        up(engine="flink", progress=silent, state_dir=tmp_path / "state")
    assert not (tmp_path / "state").exists()
