"""An endpoint that served comes back, whatever kills its servers on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from local.sagemaker_host import fleet as fleet_module
from local.sagemaker_host.artifacts import ArtifactStore
from local.sagemaker_host.errors import ServerKilled, StartFailed
from local.sagemaker_host.fleet import FAILED, IN_SERVICE, SYSTEM_UPDATING, Fleet
from local.sagemaker_host.processes import ServerProcess
from local.sagemaker_host.state import Deployment, Endpoint, HostState, VariantSpec

KILLED = ServerKilled("the container was ended by signal 9")
REFUSED = StartFailed("the container ended with exit code 1: no such model")


class Artifacts:
    def keep_only(self, folders: set[Path]) -> None:
        """Nothing is stored here."""


class FakeServer:
    """A server whose start ends as planned; `running` counts those that nobody has stopped."""

    plan: list[StartFailed | None]
    running = 0
    pid = 1

    @classmethod
    async def start(cls, **options: Any) -> FakeServer:
        cls.running += 1
        return cls()

    async def wait_until_ready(self, timeout_s: float) -> None:
        if (failure := self.plan.pop(0)) is not None:
            raise failure

    async def wait(self) -> int:
        return await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        type(self).running -= 1


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "ServerProcess", FakeServer)
    monkeypatch.setattr(fleet_module, "FIRST_BACKOFF_S", 0.001)


def resumed(folder: Path, *plan: StartFailed | None) -> tuple[list[str], Endpoint]:
    """What the statuses of a saved endpoint are while its host comes back, and the endpoint at the end."""
    artifact = folder / "artifact"
    artifact.mkdir()
    variant = VariantSpec("v", 1.0, 1, "image", "s3://b/k", {}, 5.0, str(artifact))
    endpoint = Endpoint("e", "arn", 0.0, 0.0, IN_SERVICE, live=Deployment("c", [variant]))
    state = HostState.load(folder)
    state.endpoints["e"] = endpoint
    FakeServer.plan, FakeServer.running = list(plan), 0
    seen: list[str] = []

    async def scenario() -> None:
        fleet = Fleet(state, cast(ArtifactStore, Artifacts()), python="python", log_directory=folder)
        fleet.resume()
        while not seen or seen[-1] not in (IN_SERVICE, FAILED):
            if not seen or seen[-1] != endpoint.status:
                seen.append(endpoint.status)
            await asyncio.sleep(0)
        assert FakeServer.running == (endpoint.status == IN_SERVICE)
        await fleet.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert HostState.load(folder).endpoints["e"].status == endpoint.status
    return seen, endpoint


def test_servers_killed_while_an_endpoint_comes_back_are_replaced(tmp_path: Path) -> None:
    """It became Failed, and stayed so for as long as its host lived."""
    assert resumed(tmp_path, KILLED, KILLED, None)[0] == [SYSTEM_UPDATING, IN_SERVICE]


def test_a_model_that_its_server_refuses_fails_the_endpoint_with_the_reason(tmp_path: Path) -> None:
    seen, endpoint = resumed(tmp_path, KILLED, REFUSED)
    assert seen == [SYSTEM_UPDATING, FAILED]
    assert endpoint.failure_reason == str(REFUSED)


def test_a_server_that_a_signal_ends_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    async def ended(python: str) -> ServerProcess:
        return await ServerProcess.start(
            python=python, model_directory=tmp_path, log_path=tmp_path / "log", environment={}
        )

    async def scenario(script: str) -> None:
        program = tmp_path / "server"
        program.write_text(f"#!/bin/sh\necho no such model\n{script}\n")
        program.chmod(0o755)
        server = await ended(str(program))
        try:
            await server.wait_until_ready(20)
        finally:
            await server.stop()

    with pytest.raises(ServerKilled, match="signal 9"):
        asyncio.run(scenario("kill -9 $$"))
    with pytest.raises(StartFailed, match="exit code 3: no such model") as refused:
        asyncio.run(scenario("exit 3"))
    assert not isinstance(refused.value, ServerKilled)
