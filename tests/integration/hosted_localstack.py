"""LocalStack without the rest of a run: one process on a free loopback port, its files in one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.config import Config
from localstack_client.session import Session

from local.bring_up import wait_until_healthy
from local.localstack import host
from local.run import REGION, addresses

NO_SAGEMAKER = "http://127.0.0.1:9"  # nobody listens there


def localstack_client(url: str, service: str) -> Any:
    """A client of LocalStack's own client library for the LocalStack at `url`; AWS_ENDPOINT_URL would win over it."""
    session = Session(localstack_host=url.removeprefix("http://"), region_name=REGION)
    retries = {"mode": "standard", "max_attempts": 3}
    return session.client(service, config=Config(proxies={}, retries=retries, read_timeout=70))


@dataclass(frozen=True)
class HostedLocalStack:
    """Where it listens and how a process reaches it."""

    url: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """For processes that shall talk to it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | addresses(self.url, self.url, REGION)

    def client(self, service: str) -> Any:
        return localstack_client(self.url, service)


@contextmanager
def hosted_localstack(
    folder: Path, *, sagemaker_url: str = NO_SAGEMAKER, settings: Mapping[str, str] | None = None
) -> Iterator[HostedLocalStack]:
    """Start it as `up` does, `settings` changed in its environment; end it with everything it started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    environment = host.environment(folder, port, sagemaker_url, REGION) | dict(settings or {})
    with (folder / "localstack.log").open("wb") as log:
        process = subprocess.Popen(
            host.command(),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its backends stay in its group
        )
    try:
        wait_until_healthy(f"{url}{host.HEALTH_PATH}", "LocalStack")
        yield HostedLocalStack(url, folder)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # nothing of it is kept; its Java and functions would outlive it alone
        process.wait()
