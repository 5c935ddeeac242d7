"""The supervisor as a real process with small parts: order, restarts, failures, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from local.processes import MARKER, end_processes, processes_of_run
from local.run import CHECKOUT, RunRecord, read_record, record_path
from local.supervisor import Part, Preparation, RunSpec

# Notes its life in `events`; with a grandchild if asked. SIGTERM ends it with 0.
PART = """
import os, signal, subprocess, sys, time
name, behaviour = sys.argv[1:3]
def note(what):
    with open("events", "a") as events:
        events.write(f"{name} {what}\\n")
def stop(*_):
    note("stops")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("starts")
if "grandchild" in behaviour:
    environment = {} if "unmarked" in behaviour else None
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environment)
if "dies" in behaviour:
    sys.exit(7)
open(f"{name}.ready", "w").close()
while True:
    time.sleep(60)
"""


@dataclass
class Supervised:
    """A run of small parts in a folder of its own."""

    folder: Path
    parts: list[Part] = field(default_factory=list)
    run_id: str = field(default_factory=lambda: secrets.token_hex(16))
    process: subprocess.Popen[bytes] | None = None

    def add(self, name: str, behaviour: str = "lives", **changes: Any) -> None:
        given: dict[str, Any] = {
            "name": name,
            "command": [sys.executable, "-c", PART, name, behaviour],
            "environment": dict(os.environ),
            "log": str(self.folder / f"{name}.log"),
            "folder": str(self.folder),
            "starts": "first",
            "restarts": False,
            "ready_file": str(self.folder / f"{name}.ready"),
        }
        self.parts.append(Part(**(given | changes)))

    def start(self, preparation: str = "pass") -> subprocess.Popen[bytes]:
        """`preparation` is Python; it finds `note(what)` and must not write the outputs itself."""
        source = (
            "def note(what):\n    with open('events', 'a') as events: events.write(what + '\\n')\n"
            f"note('preparation')\n{preparation}\nopen('outputs.json', 'w').write('{{\"Stream\": \"s\"}}')\n"
        )
        spec = RunSpec(
            record=RunRecord(
                run_id=self.run_id,
                status="starting",
                target="embedded",
                engine="lambda",
                feature_set="core",
                endpoint_url="http://127.0.0.1:1",
                sagemaker_url="http://127.0.0.1:2",
                region="us-east-1",
                ports={},
                started_at_ms=1,
            ),
            state_dir=str(self.folder),
            parts=self.parts,
            preparation=Preparation(
                command=[sys.executable, "-c", source],
                environment=dict(os.environ),
                log=str(self.folder / "preparation.log"),
                folder=str(self.folder),
                outputs_file=str(self.folder / "outputs.json"),
            ),
        )
        (self.folder / "spec.json").write_bytes(msgspec.json.encode(spec))
        with (self.folder / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local.supervisor", str(self.folder / "spec.json")],
                env={**os.environ, MARKER: self.run_id},
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def record(self) -> RunRecord:
        record = read_record(self.folder)
        assert record is not None
        return record

    def reaches(self, status: str) -> None:
        self.eventually(lambda: record_path(self.folder).exists() and self.record().status == status)

    def events(self) -> list[str]:
        path = self.folder / "events"
        return path.read_text().splitlines() if path.exists() else []

    def living(self) -> list[int]:
        assert self.process is not None
        return processes_of_run(self.run_id, self.process.pid)

    def eventually(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                pytest.fail(f"it never came true: {self.events()}\n{(self.folder / 'supervisor.log').read_text()}")
            time.sleep(0.02)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    run = Supervised(tmp_path)
    yield run
    if run.process is not None:
        end_processes(run.run_id, run.process.pid)
        run.process.wait()


def test_parts_start_around_the_preparation_and_stop_in_reverse(supervised: Supervised) -> None:
    supervised.add("one")
    supervised.add("two", starts="after_preparation")
    supervised.add("three", starts="after_preparation")
    process = supervised.start("import os, time\nwhile not os.path.exists('one.ready'): time.sleep(0.01)")
    supervised.reaches("ready")
    record = supervised.record()
    assert record.outputs == {"Stream": "s"}
    assert set(record.parts) == {"one", "two", "three"}
    assert record.supervisor_pid == process.pid
    assert {os.getpgid(pid) for pid in record.parts.values()} == {process.pid}
    process.terminate()
    assert process.wait(30) == 0
    events = supervised.events()
    assert events.index("preparation") < events.index("two starts")
    assert [event for event in events if event.endswith("stops")] == ["three stops", "two stops", "one stops"]
    assert supervised.record().status == "stopped"
    assert supervised.record().parts == {}
    supervised.eventually(lambda: supervised.living() == [])


def test_a_part_that_can_take_over_is_started_again(supervised: Supervised) -> None:
    supervised.add("one", restarts=True)
    supervised.start()
    supervised.reaches("ready")
    first = supervised.record().parts["one"]
    os.kill(first, signal.SIGKILL)
    supervised.eventually(lambda: supervised.record().parts.get("one", first) != first)
    assert supervised.record().status == "ready"
    assert supervised.record().restarts == {"one": 1}


def test_a_part_whose_state_is_lost_ends_the_run(supervised: Supervised) -> None:
    supervised.add("one")
    supervised.add("two", starts="after_preparation", restarts=True)
    process = supervised.start()
    supervised.reaches("ready")
    os.kill(supervised.record().parts["one"], signal.SIGKILL)
    assert process.wait(30) == 1
    record = supervised.record()
    assert record.status == "failed"
    assert record.error == "one ended (signal SIGKILL) and its state with it"
    assert record.error_log == str(supervised.folder / "one.log")
    assert "two stops" in supervised.events()
    supervised.eventually(lambda: supervised.living() == [])


def test_a_part_that_never_starts_fails_the_run_with_its_log(supervised: Supervised) -> None:
    supervised.add("one", "dies", restarts=True)
    process = supervised.start("import time; time.sleep(600)")
    assert process.wait(60) == 1
    assert supervised.record().error == "one does not start (exit code 7)"
    assert supervised.record().error_log == str(supervised.folder / "one.log")
    assert supervised.events().count("one starts") > 1


def test_a_command_that_does_not_exist_fails_the_run(supervised: Supervised) -> None:
    supervised.add("one", command=["/nonexistent/program"])
    process = supervised.start()
    assert process.wait(30) == 1
    assert "/nonexistent/program" in str(supervised.record().error)


def test_what_the_preparation_said_last_is_the_error(supervised: Supervised) -> None:
    supervised.add("one")
    process = supervised.start("print('the stack was refused'); raise SystemExit(1)")
    assert process.wait(30) == 1
    assert supervised.record().error == "the stack was refused"
    assert supervised.record().error_log == str(supervised.folder / "preparation.log")


def test_stopping_while_it_prepares_ends_the_preparation_too(supervised: Supervised) -> None:
    supervised.add("one")
    process = supervised.start("import time; time.sleep(600)")
    supervised.eventually(lambda: "preparation" in supervised.events())
    process.terminate()
    assert process.wait(30) == 0
    supervised.eventually(lambda: supervised.living() == [])


@pytest.mark.parametrize("behaviour", ["grandchild", "grandchild unmarked"])
def test_kill_9_of_the_supervisor_ends_parts_and_their_children(supervised: Supervised, behaviour: str) -> None:
    supervised.add("one", behaviour)
    process = supervised.start()
    supervised.reaches("ready")
    living = supervised.living()
    assert len(living) == 4  # supervisor, guard, part, its child
    process.kill()
    process.wait()
    supervised.eventually(lambda: not any(map(_is_running, living)))


def test_what_survives_is_found_and_ended_by_its_mark(supervised: Supervised) -> None:
    """A child that left the group and the session still carries the run's mark."""
    supervised.add("one")
    process = supervised.start()
    supervised.reaches("ready")
    stray = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, MARKER: supervised.run_id},
        start_new_session=True,
    )
    process.kill()
    process.wait()
    supervised.eventually(lambda: supervised.living() == [stray.pid])
    assert stray.pid in end_processes(supervised.run_id, process.pid)
    assert stray.wait(10) == -signal.SIGKILL


def test_a_stranger_with_a_recorded_number_is_left_alone() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        assert end_processes(secrets.token_hex(16), stranger.pid) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_discarding_kills_what_would_only_save(supervised: Supervised) -> None:
    supervised.add("one", killed_on_discard=True)
    supervised.add("two")
    process = supervised.start()
    supervised.reaches("ready")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert [event for event in supervised.events() if event.endswith("stops")] == ["two stops"]


def test_its_files_are_whole_json_at_any_moment(supervised: Supervised) -> None:
    supervised.add("one", restarts=True)
    supervised.start()
    deadline_s = time.monotonic() + 1.0
    while time.monotonic() < deadline_s:
        if record_path(supervised.folder).exists():
            json.loads(record_path(supervised.folder).read_bytes())
    supervised.reaches("ready")


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
