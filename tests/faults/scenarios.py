"""How each kind of fault is met. A scenario publishes its rows, settles the stage, and says how often it happened."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import psutil

from console.running import Pipeline
from producers.injection import GARBAGE
from stream_features.transaction import Transaction, encode_transaction
from tests.faults import victims
from tests.faults.effects import Delay, Refuse
from tests.faults.injector import Injection
from tests.faults.stage import Stage, between
from tests.faults.truth import decisions_of

Scenario = Callable[[Stage, list[Transaction]], int]

HOUR_MS: Final = 3_600_000
AHEAD: Final = 6  # records an hour ahead of the clock
BAD_WHILE_FAILING: Final = 8
FAILPOINT_DEADLINE_S: Final = 60.0
LOG_DEADLINE_S: Final = 15.0


def wire(*injections: Injection, by_publisher: bool = False) -> Scenario:
    """The calls of functions and runner, or of the publisher, meet these; each must have happened."""

    def meet(stage: Stage, rows: list[Transaction]) -> int:
        before = stage.injector.happened
        with stage.injector.injecting(*injections):
            stage.publish(rows, at_aws_directly=not by_publisher)
            stage.settle()
        return stage.injector.require(injections, since=before)

    return meet


def racing(injection: Injection) -> Scenario:
    """Calls overlap, and at least one transaction must have lost a race for real: its condition failed in the table."""

    def meet(stage: Stage, rows: list[Transaction]) -> int:
        before = stage.injector.refused_by_aws
        happened = wire(injection)(stage, rows)
        lost = stage.injector.refused_by_aws - before
        assert lost["dynamodb:TransactWriteItems:TransactionCanceledException"] > 0, (happened, lost)
        return happened

    return meet


def shards_apart(stage: Stage, rows: list[Transaction]) -> int:
    """One shard is held back while the other runs on: what arrived first is decided last."""
    held = Injection(
        name="shards_apart",
        effect=Delay(seconds=1.5),
        service="lambda",
        operations=frozenset({"Invoke"}),
        resources=frozenset({stage.setting.scorer}),
        holding=b'"eventID":"shardId-000000000001:',
        most=3,
    )
    happened = wire(held)(stage, rows)
    decided = sorted(
        decisions_of(stage.pipeline, [one.transaction_id for one in rows]).values(), key=lambda one: one.arrival_ms
    )
    overtaken = sum(
        earlier.scored_at_ms > later.scored_at_ms
        for place, earlier in enumerate(decided)
        for later in decided[place + 1 :]
        if later.stream_position.shard_id != earlier.stream_position.shard_id
    )
    assert overtaken > 0, "no transaction overtook one of the other shard"
    return happened


def duplicates(stage: Stage, rows: list[Transaction]) -> int:
    """Every second transaction is published twice."""
    stage.publish(rows)
    stage.publish(rows[::2])
    stage.settle()
    return len(rows[::2])


def garbage(stage: Stage, rows: list[Transaction]) -> int:
    """A tenth of the records is garbage of every kind, under the keys of good ones."""
    kinds = list(GARBAGE.values())
    bad = [kinds[number % len(kinds)](number) for number in range(max(len(kinds), len(rows) // 9))]
    stage.publish_bytes(between(rows, bad))
    stage.settle()
    return len(bad)


def garbage_under(*injections: Injection) -> Scenario:
    """Some records are garbage, and quarantine does not work at first."""

    def meet(stage: Stage, rows: list[Transaction]) -> int:
        bad = [GARBAGE["missing_field"](number) for number in range(BAD_WHILE_FAILING)]
        before = stage.injector.happened
        with stage.injector.injecting(*injections):
            stage.publish_bytes(between(rows, bad))
            stage.settle()
        return stage.injector.require(injections, since=before)

    return meet


def clock_skew(stage: Stage, rows: list[Transaction]) -> int:
    """`rows` are of publishers with wrong clocks; some records are more than five minutes ahead, and are refused."""
    now_ms = time.time_ns() // 1_000_000
    ahead = [
        encode_transaction(
            msgspec.structs.replace(one, transaction_id=f"ahead-{number}", event_time_ms=now_ms + HOUR_MS)
        )
        for number, one in enumerate(rows[:AHEAD])
    ]
    stage.publish_bytes(between(rows, ahead))
    stage.settle()
    return len(rows) // 3 * 2 + len(ahead)


def piled_up(is_hot: Callable[[Transaction, Sequence[Transaction]], bool]) -> Scenario:
    """Nothing is taken until all is published, so that a batch holds as much of what is hot as it ever can."""

    def meet(stage: Stage, rows: list[Transaction]) -> int:
        held = Injection(
            name="piled_up",
            effect=Refuse(((429, "TooManyRequestsException"),)),
            service="lambda",
            operations=frozenset({"Invoke"}),
            resources=frozenset({stage.setting.scorer}),
        )
        with stage.injecting(held):
            stage.publish(rows, max_records=100)
        stage.settle()
        return sum(is_hot(one, rows) for one in rows)

    return meet


def dies_at(failpoint: str) -> Scenario:
    """The scorer's process kills itself at a named place of its code, twice; what it had committed is found again."""

    def meet(stage: Stage, rows: list[Transaction]) -> int:
        redelivered = _redelivered(stage)
        file = stage.pipeline.state_dir / "failpoint"
        file.write_text(f"{stage.setting.scorer_failpoint}{failpoint} 2")
        stage.publish(rows)
        ends_at = time.monotonic() + FAILPOINT_DEADLINE_S
        while file.exists():
            assert time.monotonic() < ends_at, f"the function never died at {failpoint}"
            time.sleep(0.02)
        stage.fault_ended()
        stage.settle()
        ends_at = time.monotonic() + LOG_DEADLINE_S
        while not (found_again := _redelivered(stage) - redelivered) and failpoint != "before_commit":
            assert time.monotonic() < ends_at, "no record was found committed"
            time.sleep(0.2)  # LocalStack writes logs in its own time
        assert bool(found_again) is (failpoint != "before_commit"), f"{found_again} records were found committed"
        return 2

    return meet


def killed(
    find: Callable[[Pipeline], list[psutil.Process]], slowly: Injection | None = None, *, times: int = 2
) -> Scenario:
    """SIGKILL whatever `find` finds while calls are under way; `slowly` makes calls long enough to be hit."""

    def meet(stage: Stage, rows: list[Transaction]) -> int:
        part = -(-len(rows) // (times + 1))
        stage.injector.set_plan(*([slowly] if slowly else []))
        dead = 0
        try:
            for number in range(times):
                stage.publish(rows[number * part : (number + 1) * part])
                dead += victims.kill(_found(find, stage.pipeline))
                stage.fault_ended()
        finally:
            stage.injector.set_plan()
        stage.publish(rows[times * part :])
        stage.settle()
        assert dead >= times, f"{dead} processes died"
        return dead

    return meet


def hangs(find: Callable[[Pipeline], list[psutil.Process]], seconds: float) -> Scenario:
    """Whatever `find` finds is stopped for a while: its port is open and nobody answers."""

    def meet(stage: Stage, rows: list[Transaction]) -> int:
        found = _found(find, stage.pipeline)
        with victims.stopped(found):
            stage.publish(rows)
            time.sleep(seconds)
        stage.fault_ended()
        stage.settle()
        return len(found)

    return meet


def _redelivered(stage: Stage) -> int:
    """How many records the scorer has found committed so far, as its log says."""
    pages = (
        stage.pipeline.client("logs")
        .get_paginator("filter_log_events")
        .paginate(logGroupName=f"/aws/lambda/{stage.setting.scorer}")
    )
    lines = [event["message"] for page in pages for event in page["events"]]
    return sum(json.loads(line).get("redelivered", 0) for line in lines if '"redelivered"' in line)


def _found(find: Callable[[Pipeline], list[psutil.Process]], pipeline: Pipeline) -> list[psutil.Process]:
    """The victims, once there are any: what was killed before has to come back first."""
    ends_at = time.monotonic() + FAILPOINT_DEADLINE_S
    while not (found := find(pipeline)):
        assert time.monotonic() < ends_at, "there is nothing to kill"
        time.sleep(0.02)
    return found
