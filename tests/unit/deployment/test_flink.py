"""The Flink job's part of a deployment, against a service in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.deployment.failures import DeploymentFailed
from console.deployment.flink import require_connector, start_application
from console.deployment.stacks import Waiting
from console.deployment.wish import Talk


class Service:
    """An application that goes through `states`, one a look, from the moment it is started."""

    def __init__(self, before: str, *states: str) -> None:
        self._status = before
        self._states = list(states)
        self.starts = 0
        self.now_s = 0.0

    def describe_application(self, *, ApplicationName: str) -> dict[str, dict[str, str]]:
        status = self._status
        if self.starts and self._states:
            self._status = self._states.pop(0)
        return {"ApplicationDetail": {"ApplicationStatus": status}}

    def start_application(self, *, ApplicationName: str) -> None:
        self.starts += 1

    def start(self) -> None:
        def sleep(seconds: float) -> None:
            self.now_s += seconds

        waiting = Waiting(clock=lambda: self.now_s, sleep=sleep)
        start_application(self, "job", waiting, Talk(progress=lambda line: None, confirm=lambda question: True))


def test_an_application_that_waits_is_started_once() -> None:
    service = Service("READY", "STARTING", "STARTING", "RUNNING")
    service.start()
    assert service.starts == 1


def test_one_that_runs_is_left_alone() -> None:
    service = Service("RUNNING")
    service.start()
    assert service.starts == 0


def test_one_that_comes_to_nothing_is_no_success() -> None:
    with pytest.raises(DeploymentFailed, match="job is READY after"):
        Service("READY", "STARTING", "READY").start()
    with pytest.raises(DeploymentFailed, match="job is DELETING; its log"):
        Service("DELETING").start()


def test_a_package_that_the_service_cannot_run_is_not_begun(tmp_path: Path) -> None:
    jar = tmp_path / "connector.jar"
    with pytest.raises(DeploymentFailed, match=r"make setup-flink.*FlinkCodeKey="):
        require_connector(jar)
    jar.touch()
    require_connector(jar)
