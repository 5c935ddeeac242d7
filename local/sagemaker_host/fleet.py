"""The endpoints' processes: deploy, switch, restart, remove, invoke."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from local.sagemaker_host.artifacts import ArtifactStore
from local.sagemaker_host.errors import AwsError, ServerKilled, StartFailed, unavailable
from local.sagemaker_host.http_client import HttpResponse
from local.sagemaker_host.log import log
from local.sagemaker_host.processes import ServerProcess
from local.sagemaker_host.state import CaptureSpec, Deployment, Endpoint, HostState, VariantSpec
from local.sagemaker_host.variants import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Variant

IN_SERVICE: Final = "InService"
CREATING: Final = "Creating"
UPDATING: Final = "Updating"
SYSTEM_UPDATING: Final = "SystemUpdating"
DELETING: Final = "Deleting"
FAILED: Final = "Failed"


class Fleet:
    """Runs what the endpoints' records say and writes into them how it went."""

    def __init__(self, state: HostState, artifacts: ArtifactStore, *, python: str, log_directory: Path) -> None:
        self._state = state
        self._artifacts = artifacts
        self._python = python
        self._log_directory = log_directory
        self._live: dict[str, Sequence[Variant]] = {}
        self._deployments: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Bring every saved endpoint back up; each is SystemUpdating (or Creating) until it answers."""
        self._artifacts.keep_only(
            {
                Path(spec.artifact)
                for endpoint in self._state.endpoints.values()
                for deployment in (endpoint.live, endpoint.target)
                for spec in (deployment.variants if deployment else ())
                if spec.artifact
            }
        )
        for endpoint in list(self._state.endpoints.values()):
            if endpoint.status == DELETING:
                self.remove(endpoint)
            elif endpoint.live is not None:
                endpoint.status = SYSTEM_UPDATING
                self._deployments[endpoint.name] = asyncio.create_task(self._resume(endpoint, endpoint.live))
            elif endpoint.target is not None:
                self.deploy(endpoint)
        self._state.save()

    def deploy(self, endpoint: Endpoint) -> None:
        """Start on `endpoint.target`; the record's status says when and how it ended."""
        self._deployments[endpoint.name] = asyncio.create_task(self._deploy(endpoint))

    def remove(self, endpoint: Endpoint) -> None:
        """Stop everything of an endpoint, then drop its record."""
        self._in_background(self._remove(endpoint))

    async def close(self) -> None:
        """Stop every process; the records stay, for the next start."""
        deployments = list(self._deployments.values())
        for task in deployments:
            task.cancel()
        await asyncio.gather(*deployments, return_exceptions=True)
        variants = [variant for live in self._live.values() for variant in live]
        self._live.clear()
        await asyncio.gather(*(variant.retire(drain=False) for variant in variants), *self._background)

    async def invoke(
        self, endpoint_name: str, target_variant: str | None, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, HttpResponse]:
        """Forward one invocation; return the variant's name and the container's own answer.

        Raises:
            AwsError: ValidationError (no such endpoint or variant), ServiceUnavailable, ModelError (time-out).
        """
        live = self._live.get(endpoint_name)
        if live is None:
            if endpoint_name not in self._state.endpoints:
                raise AwsError("ValidationError", f"Endpoint {endpoint_name} not found.")
            raise unavailable(f"Endpoint {endpoint_name} is not in service yet")
        variant = _choose(live, target_variant)
        return variant.name, await variant.invoke(headers, body)

    def capture_of(self, endpoint_name: str) -> CaptureSpec | None:
        """What the endpoint's live configuration says about data capture; None where nothing is to be kept."""
        endpoint = self._state.endpoints.get(endpoint_name)
        return endpoint.live.capture if endpoint is not None and endpoint.live is not None else None

    async def _deploy(self, endpoint: Endpoint) -> None:
        target = endpoint.target
        if target is None:
            raise ValueError(f"endpoint {endpoint.name} has nothing to deploy")
        try:
            started = await self._start(endpoint.name, target)
        except StartFailed as error:
            # A failed update leaves the endpoint serving what it served, as SageMaker's rollback does.
            self._settle(endpoint, endpoint.live, FAILED if endpoint.live is None else IN_SERVICE, str(error))
            return
        replaced = self._live.get(endpoint.name, ())
        self._live[endpoint.name] = started  # the switch: invocations that begin from here on go to the new processes
        self._settle(endpoint, target, IN_SERVICE, None)
        for variant in replaced:
            self._in_background(variant.retire())

    async def _resume(self, endpoint: Endpoint, live: Deployment) -> None:
        try:
            self._live[endpoint.name] = await self._start_again(endpoint.name, live)
        except StartFailed as error:
            self._settle(endpoint, live, FAILED, str(error))
            return
        if endpoint.target is not None:  # the host went down in the middle of an update
            endpoint.status = UPDATING
            await self._deploy(endpoint)
        else:
            self._settle(endpoint, live, IN_SERVICE, endpoint.failure_reason)

    async def _start_again(self, endpoint_name: str, live: Deployment) -> list[Variant]:
        """As `_start`, but for as long as servers are killed: what served before needs no verdict on its model."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                return await self._start(endpoint_name, live)
            except ServerKilled as error:
                log("endpoint_resume_failed", endpoint=endpoint_name, reason=str(error))
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    def _settle(self, endpoint: Endpoint, live: Deployment | None, status: str, failure_reason: str | None) -> None:
        endpoint.live, endpoint.target = live, None
        endpoint.status = status
        endpoint.failure_reason = failure_reason
        endpoint.modified_at_s = time.time()
        self._state.save()
        log("endpoint_settled", endpoint=endpoint.name, status=status, reason=failure_reason)

    async def _remove(self, endpoint: Endpoint) -> None:
        deployment = self._deployments.pop(endpoint.name, None)
        if deployment is not None:
            deployment.cancel()
            await asyncio.gather(deployment, return_exceptions=True)
        live = self._live.pop(endpoint.name, ())
        await asyncio.gather(*(variant.retire() for variant in live))
        self._state.endpoints.pop(endpoint.name, None)
        self._state.save()
        log("endpoint_removed", endpoint=endpoint.name)

    async def _start(self, endpoint_name: str, deployment: Deployment) -> list[Variant]:
        """Start all variants; all are healthy on return, none runs if it raises."""
        variants = [self._variant(endpoint_name, spec) for spec in deployment.variants]
        starts = [asyncio.create_task(variant.start()) for variant in variants]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await asyncio.gather(*(variant.retire(drain=False) for variant in variants))
            raise
        return variants

    def _variant(self, endpoint_name: str, spec: VariantSpec) -> Variant:
        async def launch() -> ServerProcess:
            if spec.artifact is None or not Path(spec.artifact).is_dir():
                spec.artifact = str(await asyncio.to_thread(self._artifacts.fetch, spec.model_data_url))
            return await ServerProcess.start(
                python=self._python,
                model_directory=Path(spec.artifact),
                log_path=self._log_directory / f"{endpoint_name}-{spec.name}.log",
                environment=spec.environment,
            )

        return Variant(spec.name, spec.weight, spec.startup_timeout_s, launch)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._background.discard)


def _choose(live: Sequence[Variant], target_variant: str | None) -> Variant:
    if target_variant is not None:
        for variant in live:
            if variant.name == target_variant:
                return variant
        raise AwsError("ValidationError", f"Variant {target_variant} not found.")
    if len(live) == 1:
        return live[0]
    weights = [variant.weight for variant in live]
    return random.choices(live, weights if any(weights) else None)[0]  # noqa: S311  traffic split, not cryptography
