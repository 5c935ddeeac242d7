"""A real server process for tests, on a loopback socket of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx

from model.artifact import Artifact, pack_artifact

CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass
class RunningServer:
    process: subprocess.Popen[bytes]
    url: str

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while httpx.get(f"{self.url}/ping", timeout=30).status_code != 200:
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.02)


def unpack(artifact: Artifact, directory: Path) -> Path:
    """The artefact as SageMaker leaves it in /opt/ml/model."""
    with tarfile.open(fileobj=BytesIO(pack_artifact(artifact))) as archive:
        archive.extractall(directory, filter="data")
    return directory


@contextmanager
def running_server(model_directory: Path, *options: str) -> Iterator[RunningServer]:
    """The server's process, perhaps still loading; ended at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        inherited = ("--fd", str(listening.fileno()))
        process = subprocess.Popen(
            [sys.executable, *("-m", "endpoint.server", "--model-dir", model_directory), *inherited, *options],
            pass_fds=(listening.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=CHECKOUT,
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield RunningServer(process, url)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
