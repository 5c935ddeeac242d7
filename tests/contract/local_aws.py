"""A process of the embedded AWS, for as long as a context lasts: free port, own folders, nothing left over."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3

PYTHON = Path(__file__).parents[2] / ".venv-embedded" / "bin" / "python"
READY_WITHIN_S = 60
STOPPED_WITHIN_S = 10
REGION = "us-east-1"


def missing() -> str:
    """Why the embedded AWS cannot be started here; empty when it can."""
    return "" if PYTHON.exists() else "no .venv-embedded (make setup)"


@contextmanager
def running_aws() -> Iterator[str]:
    """Start it, answer its endpoint address, and stop it."""
    folder = Path(tempfile.mkdtemp(prefix="fraudstream-aws-"))
    try:
        for name in ("tmp", "state"):
            (folder / name).mkdir()
        port = free_port()
        environment = {
            **os.environ,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "TMPDIR": str(folder / "tmp"),
            "STATE_DIR": str(folder / "state"),
            "LOG_LEVEL": "WARNING",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [PYTHON, "-c", "from ministack.app import main; main()"],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(url, process, folder / "log")
            yield url
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def client(service: str, url: str, config: Any = None) -> Any:
    """A boto3 client on the endpoint address; credentials that mean nothing."""
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{url}/_ministack/health", timeout=2),
        ):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the embedded AWS did not start: {log.read_text(errors='replace')[-2_000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
