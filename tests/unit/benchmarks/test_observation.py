"""When a record was due, when its outcome was first seen, and that none is left out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks import observation
from benchmarks.observation import StreamTail, Unfinished, first_arrivals, publish_at, wait_until, waits_ms
from producers.publisher import TransactionPublisher
from producers.simulator import simulate

NOW_MS = 1_767_225_600_000


class FakeStream:
    """Kinesis as far as a publisher and a tail use it: two shards in memory."""

    def __init__(self) -> None:
        self.shards: dict[str, list[dict[str, Any]]] = {"shard-0": [], "shard-1": []}
        self.pages = 0

    def put_records(self, *, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        for record in Records:
            self.put(f"shard-{len(record['PartitionKey']) % 2}", record["Data"], 0)
        return {"FailedRecordCount": 0, "Records": [{} for _ in Records]}

    def put(self, shard: str, payload: bytes, arrival_ms: int) -> None:
        records = self.shards[shard]
        arrived_at = datetime.fromtimestamp(arrival_ms / 1000, UTC)
        records.append(
            {"SequenceNumber": str(len(records)), "Data": payload, "ApproximateArrivalTimestamp": arrived_at}
        )

    def list_shards(self, **request: Any) -> dict[str, Any]:
        return {"Shards": [{"ShardId": shard} for shard in self.shards]}

    def get_shard_iterator(self, *, ShardId: str, **request: Any) -> dict[str, str]:
        return {"ShardIterator": f"{ShardId}|0"}

    def get_records(self, *, ShardIterator: str, Limit: int) -> dict[str, Any]:
        self.pages += 1
        shard, _, start = ShardIterator.partition("|")
        page = self.shards[shard][int(start) : int(start) + 2]
        end = int(start) + len(page)
        behind = 0 if end == len(self.shards[shard]) else 1
        return {"Records": page, "NextShardIterator": f"{shard}|{end}", "MillisBehindLatest": behind}


def test_a_record_counts_from_when_it_was_due_not_from_when_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher is held up for ever longer; the due times keep the rate."""
    transactions = [row.transaction for row in simulate(40, seed=3, end_ms=NOW_MS)]
    clock = Clock(1_000.0)
    monkeypatch.setattr(observation, "time", clock)
    monkeypatch.setattr("producers.pacing.Pacer.wait_for", lambda *_: clock.sleep(0.5))
    stream = FakeStream()
    published = publish_at(TransactionPublisher(stream, "s"), transactions, rate=10.0)
    assert list(published.due_ms.values()) == pytest.approx([1_000_000 + 100 * place for place in range(40)])
    assert list(published.due_ms) == [transaction.transaction_id for transaction in transactions]
    assert published.per_second == pytest.approx(2.0)
    assert sum(len(records) for records in stream.shards.values()) == 40


class Clock:
    """Wall clock and monotonic clock in one, moved by sleeping."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_tail_reads_every_record_of_every_shard_once() -> None:
    stream = FakeStream()
    for number in range(5):
        stream.put("shard-0", b"a%d" % number, 1_000 + number)
    stream.put("shard-1", b"b0", 2_000)
    tail = StreamTail(stream, "s")
    assert [(one.shard_id, one.payload, one.arrival_ms) for one in tail.read()] == [
        *(("shard-0", b"a%d" % number, 1_000 + number) for number in range(5)),
        ("shard-1", b"b0", 2_000),
    ]
    assert tail.read() == []
    stream.put("shard-1", b"b1", 3_000)
    assert [one.payload for one in tail.read()] == [b"b1"]


def test_a_decision_that_is_put_again_counts_from_the_first_time() -> None:
    assert first_arrivals([("a", 30), ("b", 20), ("a", 10), ("b", 40)]) == {"a": 10, "b": 20}


def test_waits_follow_the_due_order_and_other_records_do_not_matter() -> None:
    assert waits_ms({"b": 1.5, "a": 2.0}, {"a": 12, "b": 4, "warm-up": 1}) == [2.5, 10.0]


def test_one_transaction_without_outcome_fails_the_measurement() -> None:
    with pytest.raises(Unfinished, match="1 of 2 published"):
        waits_ms({"a": 1.0, "b": 2.0}, {"a": 5})


def test_waiting_ends_when_all_is_there_or_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "time", Clock(0.0))

    def counting(values: list[int]) -> Iterator[int]:
        yield from values
        while True:
            yield values[-1]

    whole = counting([0, 3, 7, 10])
    wait_until(lambda: next(whole), 10)
    stuck = counting([0, 4])
    wait_until(lambda: next(stuck), 10, stalled_after_s=5.0)
    assert next(stuck) == 4
