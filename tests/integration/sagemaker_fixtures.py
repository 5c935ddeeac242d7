"""A real SageMaker host for the tests that drive it with boto3."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from botocore.config import Config

from tests.integration.embedded_aws import EmbeddedAws

CHECKOUT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def until(holds: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """The first true value of `holds`; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := holds():
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {timeout_s:g} s for {what}")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(command: list[str], environment: dict[str, str], log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, ended gracefully at the end and hard if it does not listen."""
    with log_path.open("ab") as output:
        process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Host:
    """A SageMaker host that can be killed and started again on the same state."""

    def __init__(self, directory: Path, aws: EmbeddedAws, port: int | None = None) -> None:
        self.state_directory = directory / "sagemaker"
        self.log_path = directory / "sagemaker.log"
        self._aws = aws
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.sagemaker = self._client("sagemaker")
        self.runtime = self._client("sagemaker-runtime")

    def _client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}, retries={"total_max_attempts": 1}, max_pool_connections=32, read_timeout=60),
        )

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "local.sagemaker_host", "--port", str(self.port)]
        command += ["--state-dir", str(self.state_directory)]
        with running(command, self._aws.environment(), self.log_path) as process:
            until(lambda: answers(f"{self.url}/health"), "the SageMaker host")
            yield process

    def status(self, endpoint_name: str) -> str:
        return str(self.sagemaker.describe_endpoint(EndpointName=endpoint_name)["EndpointStatus"])

    def until_in_service(self, endpoint_name: str) -> None:
        until(lambda: self.status(endpoint_name) == "InService", f"endpoint {endpoint_name}")


def servers_below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The endpoint servers a host runs."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "endpoint.server" in child.cmdline()]


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
