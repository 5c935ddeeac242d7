"""Processes of a run that a fault kills or stops, found by what they are, never by a name that others may bear."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from console.running import Pipeline
from local.run import load_run


def part(pipeline: Pipeline, name: str) -> list[psutil.Process]:
    """The process of a part of the run, as it is now: a part that died has another process."""
    run = load_run(pipeline.state_dir)
    if run is None or name not in run.parts:
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(run.parts[name])]
    return []


def endpoint_servers(pipeline: Pipeline) -> list[psutil.Process]:
    """The inference servers behind the SageMaker host."""
    return _children(pipeline, "sagemaker", "endpoint.server")


def workers(pipeline: Pipeline, function: str = "") -> list[psutil.Process]:
    """The execution environments of a function, or of all; LocalStack's do not say whose they are."""
    if pipeline.run.target == "localstack":
        return _children(pipeline, "aws", "awslambdaric")
    return _children(pipeline, "aws", f"ministack-lambda-{function}")


def kill(victims: Sequence[psutil.Process]) -> int:
    """SIGKILL them; returns how many were alive."""
    killed = 0
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            killed += 1
    return killed


@contextmanager
def stopped(victims: Sequence[psutil.Process]) -> Iterator[None]:
    """They answer nothing within the block, although their ports are open."""
    for victim in victims:
        os.kill(victim.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for victim in victims:
            if victim.is_running():
                os.kill(victim.pid, signal.SIGCONT)


def _children(pipeline: Pipeline, of_part: str, marked: str) -> list[psutil.Process]:
    found = []
    for parent in part(pipeline, of_part):
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(marked in word for word in child.cmdline()):
                    found.append(child)
    return found
