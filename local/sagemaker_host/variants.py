"""One production variant: a server process that is kept alive until it is retired."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from local.sagemaker_host.errors import AwsError, StartFailed, unavailable
from local.sagemaker_host.http_client import HttpFailure, HttpResponse
from local.sagemaker_host.log import log
from local.sagemaker_host.processes import ServerProcess

INVOCATION_TIMEOUT_S: Final = 60.0  # SageMaker's own
FIRST_BACKOFF_S: Final = 0.25
LONGEST_BACKOFF_S: Final = 10.0
STEADY_AFTER_S: Final = 60.0  # a process that lived this long is restarted without delay growing


class Variant:
    """A running variant. `start` before anything else; one event loop only."""

    def __init__(
        self, name: str, weight: float, startup_timeout_s: float, launch: Callable[[], Awaitable[ServerProcess]]
    ) -> None:
        self.name = name
        self.weight = weight
        self._startup_timeout_s = startup_timeout_s
        self._launch = launch
        self._process: ServerProcess | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pid(self) -> int | None:
        """Of the process that serves now; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Return once the first process is healthy. Raises StartFailed."""
        self._process = await self._launch_healthy()
        self._supervision = asyncio.create_task(self._keep_alive(self._process))

    async def invoke(self, headers: Mapping[str, str], body: bytes) -> HttpResponse:
        """Forward one invocation and return whatever the container answered.

        Raises:
            AwsError: ServiceUnavailable (no process, or it died), ModelError (it took more than 60 s).
        """
        process = self._process
        if process is None:
            raise unavailable(f"variant {self.name} is being restarted")
        self._in_flight += 1
        self._idle.clear()
        try:
            return await process.client.request("POST", "/invocations", headers, body, INVOCATION_TIMEOUT_S)
        except HttpFailure as error:
            raise unavailable(f"variant {self.name} did not answer: {error}") from error
        except TimeoutError as error:
            message = f"Your invocation timed out while waiting for a response from variant {self.name}"
            extra = {"OriginalStatusCode": 0, "OriginalMessage": message}
            raise AwsError("ModelError", message, status=424, extra=extra) from error
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def retire(self, *, drain: bool = True) -> None:
        """Let invocations under way finish (unless `drain` is false), then stop the process."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        if drain:
            await self._idle.wait()  # bounded: every invocation has a timeout
        if self._process is not None:
            await self._process.stop()
            self._process = None

    async def _launch_healthy(self) -> ServerProcess:
        process = await self._launch()
        try:
            await process.wait_until_ready(self._startup_timeout_s)
        except BaseException:  # cancelled included: nobody else knows this process
            await process.stop()
            raise
        return process

    async def _keep_alive(self, process: ServerProcess) -> None:
        clock = asyncio.get_running_loop().time
        backoff_s = FIRST_BACKOFF_S
        while True:
            started_s = clock()
            exit_code = await process.wait()
            self._process = None
            log("variant_ended", variant=self.name, pid=process.pid, exit_code=exit_code)
            await process.stop()  # gives up its connections and its pipe
            if clock() - started_s > STEADY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            process = await self._restart(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            self._process = process
            log("variant_restarted", variant=self.name, pid=process.pid)

    async def _restart(self, backoff_s: float) -> ServerProcess:
        while True:
            await asyncio.sleep(backoff_s)
            try:
                return await self._launch_healthy()
            except StartFailed as error:
                log("variant_restart_failed", variant=self.name, reason=str(error))
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
