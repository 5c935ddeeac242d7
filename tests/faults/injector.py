"""The fault injector: an HTTP proxy on loopback between our programs and the AWS endpoint.

Why a proxy and not a hook in botocore: the functions, the mapping runner and the job are other processes with packages
of their own. The proxy judges what is really on the wire, works for every one of them (a Java connector included)
without a line of theirs being changed or a library patched, and can do what no hook can: break a connection after the
call took effect, answer half a body, let a call run on that nobody waits for. Only the endpoint's address differs, and
that is what an address is for (FRAUDSTREAM_FAULT_PROXY, local/parts.py).

What it does to which calls is a list of `Injection`s. For every injection the n-th matching call meets the same fate
under the same seed, however calls of different kinds interleave. It counts what really happened, not what was meant to.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import httpx
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from local.run import read_record
from tests.faults.aws_wire import Answer, Call
from tests.faults.effects import Effect, Fate

_SAGEMAKER: Final = "sagemaker"
_KINESIS: Final = "kinesis"
_NOT_FORWARDED: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "expect"})
_NOT_RETURNED: Final = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})
_READY_DEADLINE_S: Final = 10.0
_LONGEST_EFFECT_S: Final = 60.0
_TRANSPORT: Final = "transport"


class _BreakableConnection(HttpToolsProtocol):
    """uvicorn's protocol, with the connection itself within the application's reach: ASGI cannot hang up."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {_TRANSPORT: self.transport}
        self.scope["extensions"] = extensions


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Base URLs of the AWS behind the proxy.

    Attributes:
        aws: whatever is not named here.
        sagemaker: its runtime.
        kinesis: where the streams are, if not with the rest.
    """

    aws: str
    sagemaker: str
    kinesis: str | None = None

    def of(self, service: str) -> str:
        """Where a service is, named as in signatures."""
        if service == _SAGEMAKER:
            return self.sagemaker
        return self.kinesis if service == _KINESIS and self.kinesis is not None else self.aws


def upstream_of_run(state_dir: Path, *, kinesis: str | None = None) -> Callable[[], Upstream]:
    """The addresses of the run in `state_dir`, once it has written them down: the proxy is there before the run.

    Args:
        state_dir: of the run.
        kinesis: a Kinesis that is not the run's own, for whoever goes through the proxy.
    """

    def look_up() -> Upstream:
        record = read_record(state_dir)
        if record is None:
            raise LookupError(f"no run in {state_dir}")
        return Upstream(aws=record.endpoint_url, sagemaker=record.sagemaker_url, kinesis=kinesis)

    return look_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Which calls meet which effect.

    Attributes:
        name: under which it is counted.
        effect: what happens to a call.
        service: as in signatures: kinesis, dynamodb, lambda, sagemaker, s3, sqs, sns, ssm.
        operations: names of the API; empty for all.
        resources: only calls about one of these streams, functions or endpoints; empty for all.
        holding: only calls whose body holds these bytes.
        share: of the matching calls, drawn from the seed; the first one is always met, however few there are.
        most: so many times at most; None for as long as it is in the plan.
    """

    name: str
    effect: Effect
    service: str
    operations: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    holding: bytes = b""
    share: float = 1.0
    most: int | None = None

    def matches(self, call: Call) -> bool:
        """Whether `call` is one it is about."""
        return (
            call.service == self.service
            and (not self.operations or call.operation in self.operations)
            and (not self.resources or call.resource in self.resources)
            and self.holding in call.body
        )


class NothingInjected(AssertionError):
    """A fault that was planned never happened, so nothing was tested; the message names it."""


class FaultInjector:
    """The proxy, in a thread of its own. As a context manager it listens; `url` is its address.

    Args:
        upstream: finds the AWS behind it; asked until it answers, then no more.
        seed: of every decision.
    """

    def __init__(self, upstream: Callable[[], Upstream], *, seed: int = 0) -> None:
        self._look_up = upstream
        self._seed = seed
        self._upstream: Upstream | None = None
        self._plan: tuple[Injection, ...] = ()
        self._lock = threading.Condition()
        self._under_way: Counter[str] = Counter()
        self._matched: Counter[str] = Counter()
        self._started: Counter[str] = Counter()
        self._happened: Counter[str] = Counter()
        self._passed: Counter[str] = Counter()
        self._refused_by_aws: Counter[str] = Counter()
        self._port = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """Where programs reach AWS through it."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def happened(self) -> Counter[str]:
        """How often each injection really happened so far."""
        with self._lock:
            return Counter(self._happened)

    @property
    def passed(self) -> Counter[str]:
        """Calls that went through untouched, as `service:Operation`."""
        with self._lock:
            return Counter(self._passed)

    @property
    def refused_by_aws(self) -> Counter[str]:
        """Errors of AWS itself, as `service:Operation:Code`: conditions that failed, above all."""
        with self._lock:
            return Counter(self._refused_by_aws)

    def set_plan(self, *injections: Injection) -> None:
        """Inject these from now on, and no others. Of several that match a call the first one acts."""
        with self._lock:
            self._plan = injections
            for injection in injections:
                self._started[injection.name] = 0

    @contextmanager
    def injecting(self, *injections: Injection) -> Iterator[None]:
        """Inject these within the block; at its end each must have happened.

        Raises:
            NothingInjected: one did not; not if the block itself failed.
        """
        before = self.happened
        self.set_plan(*injections)
        try:
            yield
        finally:
            self.set_plan()
        self.require(injections, since=before)

    def require(self, injections: Sequence[Injection], *, since: Counter[str]) -> int:
        """How often `injections` happened since the counts `since`; each at least once. Waits for those under way.

        Raises:
            NothingInjected: names those that did not.
        """
        with self._lock:
            self._lock.wait_for(lambda: not any(self._under_way[one.name] for one in injections), _LONGEST_EFFECT_S)
            counts = {one.name: self._happened[one.name] - since[one.name] for one in injections}
        if missing := [name for name, count in counts.items() if count < 1]:
            raise NothingInjected(f"never happened: {', '.join(missing)}")
        return sum(counts.values())

    def __enter__(self) -> Self:
        config = uvicorn.Config(
            self._answer,
            host="127.0.0.1",
            port=0,
            http=_BreakableConnection,
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            access_log=False,
            log_level="critical",
            timeout_keep_alive=75,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(server)), name="fault-injector", daemon=True
        )
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(_READY_DEADLINE_S / 0.01)):
            if server.started:
                self._port = server.servers[0].sockets[0].getsockname()[1]
                return self
            waiting.wait(0.01)
        raise TimeoutError("the fault injector does not listen")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True  # calls that are held need not end
            self._thread.join(_READY_DEADLINE_S)

    # ------------------------------------------------------------------------------------- in the server's event loop

    async def _serve(self, server: uvicorn.Server) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=5.0)
        # How long to wait is the caller's business: a function may run for minutes.
        async with httpx.AsyncClient(timeout=httpx.Timeout(None), limits=limits, trust_env=False) as self._client:
            await server.serve()
            for connection in list(server.server_state.connections):
                if isinstance(connection, _BreakableConnection):
                    connection.transport.abort()
            for task in list(self._background):
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        call = await _read_call(scope, receive)
        fate = await self._fate(call)
        if fate.answer is not None and not fate.cut:
            await _send(send, fate.answer)
            return
        if fate.answer is not None:
            await _send_head(send, fate.answer, promised=max(len(fate.answer.body), 2))
            half = fate.answer.body[: len(fate.answer.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            return  # begun and not ended: the server closes the connection
        if fate.hold_s:
            await _until_disconnected(receive, fate.hold_s)
        scope["extensions"][_TRANSPORT].abort()
        await _until_disconnected(receive, _READY_DEADLINE_S)

    async def _fate(self, call: Call) -> Fate:
        injection, chance = self._choose(call)
        away = Fate(None, happened=False)  # AWS is: the caller meets what it would have met without us
        if injection is None:
            try:
                return Fate(await self._forward(call), happened=False)
            except (httpx.HTTPError, LookupError):
                return away
        fate = away
        try:
            fate = await injection.effect(call, self._forward, chance)
        except (httpx.HTTPError, LookupError):
            return away
        finally:
            with self._lock:
                self._under_way[injection.name] -= 1
                if fate.happened:
                    self._happened[injection.name] += 1
                else:
                    self._started[injection.name] -= 1
                self._lock.notify_all()
        return fate

    def _choose(self, call: Call) -> tuple[Injection | None, Random]:
        with self._lock:
            for injection in self._plan:
                if not injection.matches(call):
                    continue
                self._matched[injection.name] += 1
                if injection.most is not None and self._started[injection.name] >= injection.most:
                    continue
                chance = Random(f"{self._seed}/{injection.name}/{self._matched[injection.name]}")
                if chance.random() < injection.share or not self._started[injection.name]:
                    self._started[injection.name] += 1
                    self._under_way[injection.name] += 1
                    return injection, chance
            self._passed[f"{call.service}:{call.operation}"] += 1
        return None, Random(0)

    async def _forward(self, call: Call) -> Answer:
        if self._upstream is None:
            self._upstream = self._look_up()
        base = self._upstream.of(call.service)
        # Sent even if the caller goes away: what it asked for takes effect all the same.
        sending = asyncio.ensure_future(_sent(self._client, base, call))
        self._background.add(sending)
        sending.add_done_callback(self._background.discard)
        answer = await asyncio.shield(sending)
        if not answer.is_success:
            with self._lock:
                self._refused_by_aws[f"{call.service}:{call.operation}:{answer.error_code}"] += 1
        return answer


async def _sent(client: httpx.AsyncClient, base: str, call: Call) -> Answer:
    url = httpx.URL(base).copy_with(raw_path=call.path.encode("ascii"))
    headers = {name: value for name, value in call.headers.items() if name not in _NOT_FORWARDED}
    async with client.stream(call.method, url, headers=headers, content=call.body) as response:
        body = b"".join([part async for part in response.aiter_raw()])
        returned = {name.lower(): value for name, value in response.headers.items()}
    return Answer(
        response.status_code, body, {name: value for name, value in returned.items() if name not in _NOT_RETURNED}
    )


async def _read_call(scope: Any, receive: Any) -> Call:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    path = scope["raw_path"].decode("ascii")
    if scope["query_string"]:
        path += "?" + scope["query_string"].decode("ascii")
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    return Call(scope["method"], path, headers, b"".join(parts))


async def _until_disconnected(receive: Any, at_most_s: float) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(gone(), at_most_s)
    except TimeoutError:
        return


async def _send(send: Any, answer: Answer) -> None:
    await _send_head(send, answer, promised=len(answer.body))
    await send({"type": "http.response.body", "body": answer.body})


async def _send_head(send: Any, answer: Answer, *, promised: int) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(promised).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
