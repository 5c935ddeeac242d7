"""A Kinesis that splits and merges shards as AWS does: kinesis-mock from npm, on loopback only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from local.run import addresses

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / ".venv-flink" / "node" / "node_modules" / "kinesis-local"
LOOPBACK = Path(__file__).with_name("node") / "loopback.js"
REGION = "us-east-1"
STARTED_WITHIN_S = 60.0


def missing() -> str:
    """Why it cannot run here; empty when it can."""
    if not shutil.which("node"):
        return "no node on the PATH"
    return "" if PACKAGE.exists() else "kinesis-mock is not installed: make setup-flink, where npm exists"


class KinesisMock:
    """Where it listens, and how a process reaches it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | addresses(self.url, self.url, REGION)

    def client(self) -> Any:
        return boto3.client(
            "kinesis",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}, retries={"mode": "standard", "max_attempts": 5}),
        )


@contextmanager
def kinesis_mock(folder: Path) -> Iterator[KinesisMock]:
    """Start it, wait until it answers, and end it."""
    port, tls_port = _free_ports(2)
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "AWS_ACCOUNT_ID": "000000000000",
        "KINESIS_MOCK_PLAIN_PORT": str(port),
        "KINESIS_MOCK_TLS_PORT": str(tls_port),
        "LOG_LEVEL": "WARN",
    }
    with open(folder / "kinesis-mock.log", "wb") as log:
        # It looks for its certificate in its own folder.
        server = subprocess.Popen(
            ["node", "--require", str(LOOPBACK), "main.js"],
            cwd=PACKAGE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        mock = KinesisMock(port)
        kinesis, ends_at = mock.client(), time.monotonic() + STARTED_WITHIN_S
        while True:
            try:
                kinesis.list_streams()
                break
            except BotoCoreError:
                assert server.poll() is None, (folder / "kinesis-mock.log").read_text()
                assert time.monotonic() < ends_at, "kinesis-mock does not answer"
                time.sleep(0.2)
        yield mock
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
