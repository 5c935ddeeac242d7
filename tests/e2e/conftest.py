"""Pipelines for the end-to-end tests, which run on every target; all serve the checkout's starter model.

On the embedded AWS each module starts its own. LocalStack takes a minute to start, so modules share one there, and each
sees what has come since it began; tests that start a pipeline of a kind of their own run there when asked to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from local.capabilities import Place
from local.flink.install import missing as flink_lacks
from local.localstack.host import missing as localstack_lacks
from local.processes import processes_of_run
from tests.e2e.driver import ROOT, Installation

TARGETS: tuple[Place, ...] = ("embedded", "localstack")
EVERYTHING = "FRAUDSTREAM_E2E_LOCALSTACK"


class Start(Protocol):
    """Starts a pipeline of a feature set and an engine; `environment` is added to every command's."""

    def __call__(
        self, feature_set: str = "core", engine: str = "lambda", environment: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Installation]: ...


@pytest.fixture(scope="session", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Place:
    """Where the tests run; all of one target one after the other."""
    place: Place = request.param
    if place == "embedded" and not (ROOT / ".venv-embedded" / "bin" / "python").exists():
        pytest.skip("the embedded AWS is not installed (.venv-embedded): make setup")
    if place == "localstack" and (lacks := localstack_lacks()):
        pytest.skip(lacks)
    return place


@pytest.fixture(scope="session")
def start(target: Place, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start a pipeline with fresh streams, tables and lake; it is stopped at the end, whatever happened."""

    @contextmanager
    def started(
        feature_set: str = "core", engine: str = "lambda", environment: Mapping[str, str] | None = None
    ) -> Iterator[Installation]:
        if target == "localstack" and not os.environ.get(EVERYTHING):
            pytest.skip(f"minutes on LocalStack, for its own pipeline: {EVERYTHING}=1 runs it there too")
        if engine == "flink" and (lacks := flink_lacks()):
            pytest.skip(lacks)
        with _up(tmp_path_factory.mktemp("pipeline") / "state", target, feature_set, engine, environment) as installed:
            yield installed

    return started


@contextmanager
def _up(
    state_dir: Path, target: Place, feature_set: str, engine: str, environment: Mapping[str, str] | None
) -> Iterator[Installation]:
    installed = Installation(state_dir, dict(environment or {}), target)
    try:
        installed.run("up", "--target", target, "--feature-set", feature_set, "--engine", engine, timeout_s=450)
        yield installed
    finally:
        installed.run("down")


@pytest.fixture(scope="package")
def hosted(target: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The pipeline on LocalStack that modules share; afterwards none of its processes is left."""
    assert target == "localstack"
    with _up(tmp_path_factory.mktemp("localstack") / "state", target, "core", "lambda", None) as installed:
        run = installed.pipeline().run
        yield installed
        living = processes_of_run(run.run_id, run.supervisor_pid)
    assert living
    assert not processes_of_run(run.run_id, run.supervisor_pid)


@pytest.fixture(scope="module")
def installation(target: Place, start: Start, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """This module's own pipeline, or its view of a shared one."""
    if target == "localstack":
        hosted: Installation = request.getfixturevalue("hosted")
        yield hosted.shared()
        return
    with start() as installed:
        yield installed


@pytest.fixture(scope="module")
def own_installation(start: Start) -> Iterator[Installation]:
    """This module's own pipeline on every target, with nothing in it."""
    with start() as installed:
        yield installed
