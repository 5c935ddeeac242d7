"""The embedded AWS without the rest of a run: one process on a free loopback port, its files in one folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from local.run import addresses

ROOT = Path(__file__).resolve().parents[2]
INTERPRETER = ROOT / ".venv-embedded" / "bin" / "python"
REGION = "us-east-1"


@dataclass(frozen=True)
class EmbeddedAws:
    """Where it listens and how a process reaches it."""

    url: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """For processes that shall talk to it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | addresses(self.url, self.url, REGION) | {"PYTHONPATH": str(ROOT)}

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}, retries={"mode": "standard", "max_attempts": 3}),
        )


@contextmanager
def embedded_aws(folder: Path, sagemaker_url: str | None = None) -> Iterator[EmbeddedAws]:
    """Start it, wait until it answers, and end it with everything it started.

    `sagemaker_url` is where its CloudFormation and its functions find SageMaker; it has none of its own.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("tmp", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = inherited | {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "TMPDIR": str(folder / "tmp"),
        "STATE_DIR": str(folder / "state"),
    }
    if sagemaker_url is not None:
        environment |= addresses(url, sagemaker_url, REGION)
    with (folder / "aws.log").open("wb") as log:
        process = subprocess.Popen(
            [INTERPRETER, ROOT / "local" / "embedded" / "launcher.py"],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_healthy(url, process, folder / "aws.log")
            yield EmbeddedAws(url, folder)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        if process.poll() is not None:
            raise RuntimeError(f"the embedded AWS ended: {log.read_text()[-2000:]}")
        try:
            with opener.open(f"{url}/_ministack/health", timeout=2) as answer:
                json.load(answer)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the embedded AWS did not answer: {log.read_text()[-2000:]}")
