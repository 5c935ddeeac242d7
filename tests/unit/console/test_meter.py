"""Counting and tailing streams, against an in-memory Kinesis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.meter import ALERTS_KEPT, DecisionTail, PublishedMeter, percentiles
from stream_features.decision import Decision, Reason, StreamPosition, encode_decision
from stream_features.errors import PortFailure
from tests.unit.local_firehose.fakes import NOON_MS, FakeKinesis, client_error

SHARDS = ("shardId-000000000000", "shardId-000000000001", "shardId-000000000002")


def a_decision(number: int, **replaced: Any) -> Decision:
    """Arrived at noon plus `number` ms and scored 20 ms later."""
    decision = Decision(
        transaction_id=f"t-{number}",
        event_time_ms=NOON_MS,
        card_id="c",
        merchant_id="m",
        amount_minor=1,
        currency="USD",
        score=0.25,
        decision="approve",
        reasons=[Reason("amount", 1.5)],
        rules=[],
        features={"amount": 1.0},
        feature_set_id="core-1",
        model_version="m",
        variant="A",
        policy_version="1",
        engine="lambda",
        stream_position=StreamPosition(SHARDS[0], str(number), 0),
        arrival_ms=NOON_MS + number,
        scored_at_ms=NOON_MS + number + 20,
        late=False,
        degraded=False,
        payload_sha256="0" * 64,
    )
    return msgspec.structs.replace(decision, **replaced)


def publish(kinesis: FakeKinesis, decision: Decision, *, after_ms: int) -> None:
    """Put a decision that reached the stream `after_ms` after its transaction's arrival."""
    kinesis.put(encode_decision(decision), arrival_ms=decision.arrival_ms + after_ms)


def counted(kinesis: FakeKinesis, folder: Path) -> int:
    """The count as a process that has just started sees it."""
    return PublishedMeter(kinesis, "t", folder / "published.msgpack").read()


@given(steps=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=8), page_limit=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_every_record_is_counted_once_whoever_asks_and_however_often(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool]], page_limit: int
) -> None:
    folder = tmp_path_factory.mktemp("meter")
    kinesis = FakeKinesis(SHARDS)
    kinesis.page_limit = page_limit
    standing = PublishedMeter(kinesis, "t", folder / "published.msgpack")
    total = 0
    for more, fresh in steps:
        for number in range(more):
            kinesis.put(b"{}", shard=SHARDS[(total + number) % 3])
        total += more
        assert (counted(kinesis, folder) if fresh else standing.read()) == total
    assert standing.read() == counted(kinesis, folder) == total


def test_processes_that_ask_at_the_same_time_agree(tmp_path: Path) -> None:
    kinesis = FakeKinesis(SHARDS)
    kinesis.page_limit = 3
    for number in range(200):
        kinesis.put(b"{}", shard=SHARDS[number % 3])
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: counted(kinesis, tmp_path), range(12))) == {200}


def test_a_failure_half_way_counts_nothing_twice(tmp_path: Path) -> None:
    kinesis = FakeKinesis(SHARDS)
    kinesis.page_limit = 2
    meter = PublishedMeter(kinesis, "t", tmp_path / "m")
    for number in range(30):
        kinesis.put(b"{}", shard=SHARDS[number % 3])
    get_records = kinesis.get_records
    calls = 0

    def failing(ShardIterator: str, Limit: int) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise client_error("InternalFailure", "GetRecords")
        return get_records(ShardIterator, Limit)

    kinesis.get_records = failing  # type: ignore[method-assign]
    with pytest.raises(PortFailure, match="InternalFailure"):
        meter.read()
    assert meter.read() == 30
    assert meter.read() == 30


def test_an_idle_stream_is_asked_once_a_shard(tmp_path: Path) -> None:
    kinesis = FakeKinesis(SHARDS)
    for number in range(50):
        kinesis.put(b"{}", shard=SHARDS[number % 3])
    meter = PublishedMeter(kinesis, "t", tmp_path / "m")
    meter.read()
    calls = 0
    get_records = kinesis.get_records

    def counting(ShardIterator: str, Limit: int) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return get_records(ShardIterator, Limit)

    kinesis.get_records = counting  # type: ignore[method-assign]
    meter.read()
    assert calls == len(SHARDS)


def test_latency_ends_where_the_decision_was_scored_and_where_it_was_published(tmp_path: Path) -> None:
    kinesis = FakeKinesis()
    tail = DecisionTail(kinesis, "d", tmp_path / "d")
    tail.advance()
    assert tail.latency() == {}
    for number in range(100):
        publish(kinesis, a_decision(number), after_ms=number + 1)
    tail.advance()
    assert tail.latency() == {
        "arrival_to_scored": {"p50": 20, "p90": 20, "p99": 20},
        "arrival_to_decided": {"p50": 50, "p90": 90, "p99": 99},
    }


def test_a_rescored_decision_takes_the_place_of_the_alert_that_it_was(tmp_path: Path) -> None:
    kinesis = FakeKinesis()
    tail = DecisionTail(kinesis, "d", tmp_path / "d")
    degraded = [
        a_decision(n, score=None, degraded=True, decision=v) for n, v in enumerate(["review"] * 2 + ["approve"] * 2)
    ]
    for decision in degraded:
        publish(kinesis, decision, after_ms=30)
    tail.advance()
    assert tail.newest_alerts() == degraded[:2]
    latency = tail.latency()
    rescored = [
        msgspec.structs.replace(one, score=0.5, degraded=False, decision=verdict, rescored_at_ms=NOON_MS + 9_000 + n)
        for n, (one, verdict) in enumerate(zip(degraded, ["approve", "decline", "decline", "approve"], strict=True))
    ]
    for decision in (*rescored, degraded[0], rescored[1]):  # republished after a redelivery, the first one stale
        publish(kinesis, decision, after_ms=60_000)
    tail.advance()
    assert tail.newest_alerts() == rescored[1:3]
    assert tail.latency() == latency


def test_a_decision_published_again_is_no_second_sample_not_even_for_the_next_process(tmp_path: Path) -> None:
    kinesis = FakeKinesis()
    publish(kinesis, a_decision(1, decision="decline"), after_ms=30)
    DecisionTail(kinesis, "d", tmp_path / "d").advance()
    publish(kinesis, a_decision(1, decision="decline"), after_ms=3_600_000)
    tail = DecisionTail(kinesis, "d", tmp_path / "d")
    tail.advance()
    assert tail.latency()["arrival_to_decided"] == {"p50": 30, "p90": 30, "p99": 30}
    assert [alert.transaction_id for alert in tail.newest_alerts()] == ["t-1"]


def test_the_newest_alerts_are_kept_in_order_whatever_shard_they_came_by(tmp_path: Path) -> None:
    kinesis = FakeKinesis(SHARDS)
    numbers = [5, 40, 3, 22, *range(60, 60 + ALERTS_KEPT - 2), 1]
    for place, number in enumerate(numbers):
        decision = a_decision(number, decision="review" if number % 2 else "decline")
        kinesis.put(encode_decision(decision), arrival_ms=decision.arrival_ms, shard=SHARDS[place % 3])
        publish(kinesis, a_decision(1000 + number), after_ms=1)
    tail = DecisionTail(kinesis, "d", tmp_path / "d")
    tail.advance()
    newest = [alert.transaction_id for alert in tail.newest_alerts()]
    assert newest == [f"t-{number}" for number in sorted(numbers)[-ALERTS_KEPT:]]
    assert tail.newest_alerts()[-1].reasons == [Reason("amount", 1.5)]


def test_a_foreign_record_among_the_decisions_does_not_stop_the_tail(tmp_path: Path) -> None:
    kinesis = FakeKinesis()
    for payload in (b"\xff", b"{}", b"[]"):
        kinesis.put(payload)
    publish(kinesis, a_decision(1), after_ms=30)
    tail = DecisionTail(kinesis, "d", tmp_path / "d")
    tail.advance()
    assert tail.latency()["arrival_to_decided"]["p50"] == 30


@given(st.lists(st.integers(-5, 10**6), min_size=1, max_size=300))
@settings(max_examples=150)
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(samples: list[int]) -> None:
    for name, value in percentiles(samples).items():
        share = int(name[1:])
        enough = [v for v in sorted(samples) if 100 * sum(s <= v for s in samples) >= share * len(samples)]
        assert value == enough[0]


def test_nothing_has_no_percentiles() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentiles([])
