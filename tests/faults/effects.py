"""What can be done to one call: each effect gets the call and the way to AWS, and says whether it really happened.

An effect answers `Fate(answer, happened)`. No answer means: the connection breaks after `hold_s`, or when the caller
has given up before. `happened` is False where the effect had nothing to act on (AWS itself refused the call, say); then
the caller got what AWS said and nothing is counted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from tests.faults.aws_wire import Answer, Call, refusal

Forward = Callable[[Call], Awaitable[Answer]]

THROUGHPUT_EXCEEDED: Final = "ProvisionedThroughputExceededException"
_WORTH_HALVING: Final = 3  # "{}" says nothing, and neither does its half
_PARTLY_ALLOWED: Final = (THROUGHPUT_EXCEEDED, "InternalFailure")


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a call. With `cut`, the answer's head arrives and half of its body."""

    answer: Answer | None
    happened: bool
    hold_s: float = 0.0
    cut: bool = False


class Effect(Protocol):
    """Does something to a call. `chance` is the call's own: the same plan does the same to the n-th call."""

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate: ...


@dataclass(frozen=True, slots=True)
class Refuse:
    """The service says no at once, one of `errors` at random: (HTTP status, error code). AWS sees nothing."""

    errors: tuple[tuple[int, str], ...]

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        status, code = chance.choice(self.errors)
        return Fate(refusal(call, status, code, "injected by the fault test"), happened=True)


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer, and AWS sees nothing. The connection breaks after `hold_s`."""

    hold_s: float

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        return Fate(None, happened=True, hold_s=self.hold_s)


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The call takes effect, its answer never arrives. The connection breaks after `hold_s`."""

    hold_s: float = 0.0

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        answer = await forward(call)
        return Fate(None, happened=True, hold_s=self.hold_s) if answer.is_success else Fate(answer, happened=False)


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """The call takes effect, its answer breaks off in the middle of the body."""

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        answer = await forward(call)
        return Fate(answer, happened=answer.is_success, cut=answer.is_success)


@dataclass(frozen=True, slots=True)
class HalveAnswer:
    """The call takes effect; half of its answer's body arrives as if it were all: something between lost the rest."""

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        answer = await forward(call)
        half = answer.body[: len(answer.body) // 2]
        if not answer.is_success or len(answer.body) < _WORTH_HALVING:
            return Fate(answer, happened=False)
        return Fate(answer.with_body(half), happened=True)


@dataclass(frozen=True, slots=True)
class Abandon:
    """The connection breaks after `after_s` while the call still runs, to its end: whoever repeats it races with it."""

    after_s: float

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        running = asyncio.ensure_future(forward(call))
        done, _ = await asyncio.wait([running], timeout=self.after_s)
        if done:
            return Fate(running.result(), happened=False)
        running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return Fate(None, happened=True)


@dataclass(frozen=True, slots=True)
class Delay:
    """AWS sees the call `seconds` later. Not an error, unless the caller's patience is shorter."""

    seconds: float

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        await asyncio.sleep(self.seconds)
        return Fate(await forward(call), happened=True)


@dataclass(frozen=True, slots=True)
class Twice:
    """The call is made twice, `at_once` or one after the other; the caller gets the answer that came last."""

    at_once: bool

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        if self.at_once:
            last: list[Answer] = []

            async def make() -> None:
                last.append(await forward(call))

            await asyncio.gather(make(), make())
            first, second = last
        else:
            first, second = await forward(call), await forward(call)
        return Fate(second, happened=first.is_success and second.is_success)


@dataclass(frozen=True, slots=True)
class RefuseEntries:
    """PutRecords takes some entries and refuses the others, at least one, as if their shards were full."""

    share: float

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        entries: list[Any] = call.document.get("Records", [])
        if not entries:
            return Fate(await forward(call), happened=False)
        refused = {index for index in range(len(entries)) if chance.random() < self.share}
        refused = refused or {chance.randrange(len(entries))}
        taken = [entry for index, entry in enumerate(entries) if index not in refused]
        said = Answer(200, b"{}", {"content-type": "application/x-amz-json-1.1"})
        if taken:
            said = await forward(_with_document(call, {**call.document, "Records": taken}))
            if not said.is_success:
                return Fate(said, happened=False)
        document = Call("", "", {}, said.body).document
        results = iter(document.get("Records", []))
        merged = [_refused_entry(chance) if index in refused else next(results) for index in range(len(entries))]
        failed = sum("ErrorCode" in result for result in merged)
        return Fate(
            said.with_document({**document, "FailedRecordCount": failed, "Records": merged}), happened=failed > 0
        )


@dataclass(frozen=True, slots=True)
class LeaveUnprocessed:
    """BatchGetItem answers for some keys and returns the others, at least one, as unprocessed."""

    share: float

    async def __call__(self, call: Call, forward: Forward, chance: Random) -> Fate:
        asked: dict[str, Any] = call.document.get("RequestItems", {})
        left: dict[str, Any] = {}
        done: dict[str, Any] = {}
        for table, request in asked.items():
            keys = list(request.get("Keys", []))
            chance.shuffle(keys)
            cut = max(1, round(len(keys) * self.share))
            if keys[:cut]:
                left[table] = {**request, "Keys": keys[:cut]}
            if keys[cut:]:
                done[table] = {**request, "Keys": keys[cut:]}
        if not left:
            return Fate(await forward(call), happened=False)
        said = Answer(200, b"{}", {"content-type": "application/x-amz-json-1.0"})
        if done:
            said = await forward(_with_document(call, {**call.document, "RequestItems": done}))
            if not said.is_success:
                return Fate(said, happened=False)
        document = Call("", "", {}, said.body).document
        unprocessed = dict(document.get("UnprocessedKeys", {}))
        for table, request in left.items():
            more = unprocessed.get(table, {}).get("Keys", [])
            unprocessed[table] = {**request, "Keys": [*request["Keys"], *more]}
        responses = {**{table: [] for table in asked}, **document.get("Responses", {})}
        return Fate(
            said.with_document({**document, "Responses": responses, "UnprocessedKeys": unprocessed}), happened=True
        )


def _with_document(call: Call, document: dict[str, Any]) -> Call:
    return Call(call.method, call.path, call.headers, json.dumps(document).encode())


def _refused_entry(chance: Random) -> dict[str, str]:
    return {"ErrorCode": chance.choice(_PARTLY_ALLOWED), "ErrorMessage": "injected by the fault test"}
