"""The launcher with a job that stands in for Flink: real processes, a real REST interface, real folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from local.flink import launcher as launcher_module
from local.flink.job_process import end_job
from local.flink.launcher import Launcher
from local.flink.layout import FlinkFolder
from local.flink.properties import STREAM_OUTPUTS, JobSettings
from local.flink.snapshots import newest_snapshot
from local.flink.status import DOWN, STOPPED, FlinkStatus, read_status_file

FAKE_JOB = str(Path(__file__).with_name("fake_flink_job.py"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(**changes: Any) -> JobSettings:
    given: dict[str, Any] = {
        "feature_set": "core",
        "region": "us-east-1",
        "endpoint_url": "http://127.0.0.1:1",
        "outputs": {"EntityStateTableName": "entity_state", "EffectsTableName": "effects", "LakeBucketName": "lake"},
        "stream_arns": {
            group: f"arn:aws:kinesis:us-east-1:000000000000:stream/{group.lower()}" for group in STREAM_OUTPUTS
        },
        "rest_port": free_port(),
        "include_state": False,
        "failpoint_file": Path("/nowhere/failpoint"),
    }
    return JobSettings(**(given | changes))


class Launched:
    """One launcher in a thread, which must live as long as the job: the kernel ends the job with it."""

    def __init__(self, path: Path) -> None:
        self.folder = FlinkFolder(path)
        self.said: list[str] = []
        self.codes: list[int] = []
        self.thread: threading.Thread | None = None

    def behave(self, **behaviour: Any) -> None:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        (self.folder.path / "behaviour.json").write_text(json.dumps(behaviour))

    def start(self, run_id: str = "run") -> None:
        self.launcher = Launcher(
            self.folder,
            settings(),
            run_id=run_id,
            inherited=os.environ,
            pid=os.getpid(),
            command=(sys.executable, FAKE_JOB),
            say=self.said.append,
        )
        self.thread = threading.Thread(target=lambda: self.codes.append(self.launcher.run()))
        self.thread.start()

    def status(self) -> FlinkStatus:
        found = read_status_file(self.folder)
        assert found is not None
        return found

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline_s, self.said
            time.sleep(0.02)

    def until_state(self, state: str) -> FlinkStatus:
        self.until(lambda: self.folder.status.exists() and self.status().state == state)
        return self.status()

    def until_checkpoint(self) -> None:
        self.until_state("RUNNING")
        self.until(lambda: self.status().checkpoints.completed > 0)

    def stop(self) -> int:
        self.launcher.stop()
        return self.ended()

    def ended(self) -> int:
        assert self.thread is not None
        self.thread.join(30)
        assert not self.thread.is_alive(), self.said
        return self.codes[-1]

    def lives(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder.path / "lives").read_text().splitlines()]


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    made = Launched(tmp_path / "a run" / "flink")  # a folder with a space in its name
    yield made
    if made.thread is not None and made.thread.is_alive():
        made.launcher.stop()
        made.thread.join(30)
    end_job(made.folder)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_is_ready_only_once_every_vertex_runs(launched: Launched) -> None:
    launched.behave(vertices_start_late=5)
    launched.start()
    launched.until(lambda: (launched.folder.path / "lives").exists())
    time.sleep(0.15)
    assert not launched.folder.status.exists()
    status = launched.until_state("RUNNING")
    assert status.job_pid == launched.lives()[0]["pid"]
    assert (status.restarts, status.restored_from) == (0, None)
    launched.until_checkpoint()
    checkpoints = launched.status().checkpoints
    assert (checkpoints.failed, checkpoints.consecutive_failed, checkpoints.latest_size_bytes) == (1, 0, 1000)


def test_a_stop_makes_a_savepoint_and_the_next_start_goes_on_from_it(launched: Launched) -> None:
    launched.start("first run")
    launched.until_checkpoint()
    assert launched.stop() == 0
    (savepoint,) = launched.folder.savepoints.iterdir()
    assert launched.status().state == STOPPED
    launched.start("second run")
    status = launched.until_state("RUNNING")
    assert status.restored_from == str(savepoint)
    assert launched.lives()[1]["restored"] == savepoint.as_uri()
    assert status.restarts == 0  # another run


def test_a_job_that_goes_away_without_an_answer_has_stopped_with_its_savepoint(launched: Launched) -> None:
    launched.behave(goes_away_silently=True)
    launched.start()
    launched.until_checkpoint()
    assert launched.stop() == 0
    (savepoint,) = launched.folder.savepoints.iterdir()
    assert f"stopped with savepoint {savepoint}" in launched.said
    assert newest_snapshot(launched.folder) == savepoint


def test_without_a_savepoint_the_newest_checkpoint_is_what_is_kept(launched: Launched) -> None:
    launched.behave(savepoint_fails=True)
    launched.start()
    launched.until_checkpoint()
    assert launched.stop() == 0
    assert any("savepoint failed: CheckpointException" in line for line in launched.said)
    found = newest_snapshot(launched.folder)
    assert found is not None
    assert found.name.startswith("chk-")


def test_after_a_crash_it_goes_on_from_the_newest_checkpoint_and_forgets_older_jobs(launched: Launched) -> None:
    launched.behave(leaves_a_child=True)
    launched.start()
    launched.until_checkpoint()
    pid = launched.lives()[0]["pid"]
    (child,) = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    assert launched.ended() == 1
    assert "the job ended with exit code -9" in launched.said
    assert launched.status().state == DOWN
    assert not is_running(child.pid)  # a JVM left behind would keep the port and write beside the next job
    newest = newest_snapshot(launched.folder)
    (launched.folder.progress / "written.json").write_text('{"finished": 9}')

    launched.start()
    launched.until_checkpoint()
    assert newest is not None
    assert launched.lives()[1]["restored"] == newest.as_uri()
    assert launched.status().restarts == 1
    assert not list(launched.folder.progress.iterdir())  # what a job said that had come further
    job_id = launched.status().job_id
    launched.until(lambda: [path.name for path in launched.folder.checkpoints.iterdir()] == [job_id])


def test_a_job_that_never_runs_is_given_up_with_its_reason(launched: Launched) -> None:
    launched.behave(fails=True)
    launched.start()
    assert launched.ended() == 1
    assert any("the table is gone" in line for line in launched.said)
    assert not launched.folder.status.exists()


def test_a_job_that_ends_before_it_runs_is_given_up(launched: Launched) -> None:
    launched.behave(vertices_start_late=10**6, dies_after=0.3)
    launched.start()
    assert launched.ended() == 1
    assert "the job did not start: exit code 3" in launched.said


def test_a_job_that_does_not_get_to_run_in_time_is_given_up(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_module, "START_DEADLINE_S", 1.0)
    launched.behave(vertices_start_late=10**6)
    launched.start()
    assert launched.ended() == 1
    assert not is_running(launched.lives()[0]["pid"])


def test_while_the_request_stands_the_job_rests_and_then_goes_on(launched: Launched) -> None:
    launched.start()
    launched.until_checkpoint()
    launched.folder.stop_request.touch()
    status = launched.until_state(STOPPED)
    launched.until(lambda: launched.status().job_pid is None)
    (savepoint,) = launched.folder.savepoints.iterdir()
    assert not is_running(launched.lives()[0]["pid"])
    launched.folder.stop_request.unlink()
    status = launched.until_state("RUNNING")
    assert status.restored_from == str(savepoint)


def test_a_launcher_that_finds_the_request_starts_nothing_and_is_ready(launched: Launched) -> None:
    launched.behave()
    launched.folder.stop_request.touch()
    launched.start()
    launched.until_state(STOPPED)
    assert launched.stop() == 0
    assert not (launched.folder.path / "lives").exists()


def test_a_job_without_a_snapshot_begins_where_it_is_told(launched: Launched) -> None:
    launched.behave()
    launched.folder.start.write_text('{"Transactions": {"shardId-000000000000": "17"}}')
    launched.start()
    launched.until_state("RUNNING")
    assert launched.lives()[0]["starts"] == {"Transactions": {"shardId-000000000000": "17"}, "EntityEvents": {}}


def test_a_job_that_stops_answering_is_down_and_not_running(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched.start()
    launched.until_checkpoint()
    monkeypatch.setattr(launched.launcher._rest, "_timeout_s", 0.2)
    pid = launched.lives()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    launched.until_state(DOWN)
    os.kill(pid, signal.SIGCONT)
    launched.until_state("RUNNING")
