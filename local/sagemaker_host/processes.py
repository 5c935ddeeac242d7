"""One `endpoint.server` process: started on an inherited loopback socket, watched, stopped."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from local.sagemaker_host.errors import ServerKilled, StartFailed
from local.sagemaker_host.http_client import HttpClient, HttpFailure

# Above the server's own grace for requests under way, so that killing is the exception.
STOP_GRACE_S: Final = 25.0
PING_INTERVAL_S: Final = 0.05
_CHECKOUT: Final = Path(__file__).resolve().parents[2]


class ServerProcess:
    """A started server, in this host's process group. It ends by itself when the host's end of its pipe does."""

    def __init__(self, process: asyncio.subprocess.Process, client: HttpClient, log_path: Path, log_start: int) -> None:
        self._process = process
        self.client = client
        self._log_path = log_path
        self._log_start = log_start

    @classmethod
    async def start(cls, *, python: str, model_directory: Path, log_path: Path, environment: Mapping[str, str]) -> Self:
        """Start a server for the artefact in `model_directory`; it need not be ready yet.

        The socket is bound here and inherited, so no other program can take the port in between.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listening, log_path.open("ab") as output:
            port = listening.getsockname()[1]
            log_start = output.tell()  # before it writes: the process shares the file's position
            process = await asyncio.create_subprocess_exec(
                *(python, "-m", "endpoint.server", "--model-dir", str(model_directory)),
                *("--fd", str(listening.fileno()), "--until-stdin-closes"),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(listening.fileno(),),
                cwd=_CHECKOUT,
                env={**os.environ, **environment},
            )
            return cls(process, HttpClient("127.0.0.1", port), log_path, log_start)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Return once `/ping` answers 200.

        Raises:
            StartFailed: the process ended first (with its last line of output), or time ran out.
            ServerKilled: a signal ended it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._is_healthy(timeout_s):
                    if self._process.returncode is not None:
                        code = self._process.returncode
                        if code < 0:
                            raise ServerKilled(f"the container was ended by signal {-code}")
                        raise StartFailed(f"the container ended with exit code {code}: {self._said()}")
                    await asyncio.sleep(PING_INTERVAL_S)
        except TimeoutError as error:
            raise StartFailed(f"the container did not pass its health check within {timeout_s:g} s") from error

    async def _is_healthy(self, timeout_s: float) -> bool:
        try:
            return (await self.client.request("GET", "/ping", {}, b"", timeout_s)).status == 200
        except HttpFailure:
            return False

    async def wait(self) -> int:
        """Wait for its end; return its exit code (negative: the signal)."""
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, wait for requests under way, SIGKILL as the last resort. Harmless on one that has ended."""
        self.client.close()
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_GRACE_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _said(self) -> str:
        """The last line this process wrote: the server logs its reason last."""
        with self._log_path.open("rb") as output:
            output.seek(self._log_start)
            lines = output.read().decode(errors="replace").splitlines()
        return next((line[:500] for line in reversed(lines) if line.strip()), "it said nothing")
