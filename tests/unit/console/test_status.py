"""Counters, the status as text and JSON, waiting, lag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from console.lag import MappingLag
from console.status import Status, read_counters
from console.wait import NotSettled, wait_until_settled
from stream_features.errors import PortFailure
from stream_features.names import COUNTER_SHARDS, COUNTERS
from tests.unit.local_firehose.fakes import FakeKinesis, client_error

SHARDS = ("shardId-000000000000", "shardId-000000000001")


def a_status(**replaced: Any) -> Status:
    counts = dict.fromkeys(
        ("published", "decided", "quarantined", "duplicates", "in_flight", "late", "degraded", "alerts"), 0
    )
    return Status(**(counts | {"lag": {}, "latency": {}, "lake": {}} | replaced))


class FakeTable:
    """Answers BatchGetItem; leaves `unprocessed` keys over in the first answers."""

    def __init__(self, items: dict[str, dict[str, int]], unprocessed: int = 0) -> None:
        self.items = items
        self.unprocessed = unprocessed
        self.asked: list[int] = []

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
        ((table, request),) = RequestItems.items()
        assert request["ConsistentRead"] is True
        keys = request["Keys"]
        self.asked.append(len(keys))
        left = keys[: self.unprocessed]
        self.unprocessed //= 2
        found = [
            {"effect": key["effect"]} | {n: {"N": str(v)} for n, v in self.items[key["effect"]["S"]].items()}
            for key in keys[len(left) :]
            if key["effect"]["S"] in self.items
        ]
        answer: dict[str, Any] = {"Responses": {table: found}}
        if left:
            answer["UnprocessedKeys"] = {table: {"Keys": left}}
        return answer


def test_counters_are_summed_over_all_their_items() -> None:
    items = {f"counter#{shard:02d}": {"decided": shard, "late": 1} for shard in range(0, COUNTER_SHARDS, 2)}
    totals = read_counters(FakeTable(items), "effects")
    assert totals == dict.fromkeys(COUNTERS, 0) | {
        "decided": sum(range(0, COUNTER_SHARDS, 2)),
        "late": COUNTER_SHARDS // 2,
    }


def test_keys_that_dynamodb_left_over_are_asked_for_again() -> None:
    table = FakeTable({f"counter#{shard:02d}": {"decided": 1} for shard in range(COUNTER_SHARDS)}, unprocessed=10)
    assert read_counters(table, "effects")["decided"] == COUNTER_SHARDS
    assert table.asked[:3] == [COUNTER_SHARDS, 10, 5]


def test_a_table_that_never_answers_fully_is_a_port_failure() -> None:
    class Stuck(FakeTable):
        def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
            self.unprocessed = 1
            return super().batch_get_item(RequestItems)

    with pytest.raises(PortFailure, match="1 counter items stay unprocessed"):
        read_counters(Stuck({}), "effects")

    class Refusing:
        def batch_get_item(self, **_request: Any) -> None:
            raise client_error("ResourceNotFoundException", "BatchGetItem")

    with pytest.raises(PortFailure, match="ResourceNotFoundException"):
        read_counters(Refusing(), "effects")


def test_the_same_status_is_the_same_json_whatever_order_it_was_made_in() -> None:
    one = a_status(published=3, lag={"f/a": 1, "f/b": 2}, latency={"x": {"p50": 1, "p99": 2}})
    two = a_status(lag={"f/b": 2, "f/a": 1}, latency={"x": {"p99": 2, "p50": 1}}, published=3)
    assert one.as_json() == two.as_json()
    document = json.loads(one.as_json())
    assert {name for name, value in document.items() if isinstance(value, int)} == {
        *("published", "decided", "quarantined", "duplicates", "in_flight", "late", "degraded", "alerts")
    }
    assert document["published"] == 3
    assert document["lag"] == {"f/a": 1, "f/b": 2}


API = {"decided": 5, "awaiting_record": 2}


def test_the_text_names_every_count() -> None:
    text = a_status(published=12345, lag={"score/shard": 7}, labels={"published": 9, "labels": 8}, api=API).as_text()
    for word in (
        "score api decided 5, awaiting record 2",
        "labels published 9, labels 8",
        "12,345",
        "quarantined",
        "duplicates",
        "in flight",
        "late",
        "degraded",
        "alerts",
        "score/shard: 7 ms",
    ):
        assert word in text


def test_waiting_ends_with_the_first_status_that_is_at_rest_and_complete() -> None:
    statuses = [
        a_status(published=5, decided=5),
        a_status(published=9, decided=8, in_flight=1),
        a_status(published=10, decided=9, in_flight=1),
        a_status(published=10, decided=9, quarantined=1),
    ]
    seen = iter(statuses)
    run: Any = None
    assert wait_until_settled(run, 5, expect_published=10, read=lambda _: next(seen), poll_s=0) is statuses[-1]


def test_a_wait_that_fails_says_what_is_missing() -> None:
    run: Any = None
    stuck = a_status(published=90, decided=70, duplicates=5, in_flight=15, lag={"score/s-1": 1200, "score/s-2": 0})
    with pytest.raises(NotSettled) as failure:
        wait_until_settled(run, 0, expect_published=100, read=lambda _: stuck, poll_s=0)
    message = str(failure.value)
    assert "10 of 100 records were never published" in message
    assert "15 of 90 published records have no outcome (70 decided, 5 duplicates, 0 quarantined)" in message
    assert "score/s-1 1200 ms" in message
    assert "s-2" not in message
    assert failure.value.status is stuck


def test_more_outcomes_than_records_are_an_error_at_once() -> None:
    run: Any = None
    with pytest.raises(NotSettled, match="2 more records have an outcome than were published"):
        wait_until_settled(run, 60, read=lambda _: a_status(published=5, decided=7, in_flight=-2), poll_s=0)


class FakeFunctions:
    """One Kinesis mapping, a disabled one, and one of another kind."""

    def list_event_source_mappings(self, **request: Any) -> dict[str, Any]:
        if "Marker" not in request:
            return {
                "EventSourceMappings": [
                    {
                        "UUID": "queue-mapping",
                        "FunctionArn": "arn:aws:lambda:us-east-1:1:function:other",
                        "EventSourceArn": "arn:aws:sqs:us-east-1:1:queue",
                    }
                ],
                "NextMarker": "more",
            }
        return {
            "EventSourceMappings": [
                {
                    "UUID": "u",
                    "FunctionArn": "arn:aws:lambda:us-east-1:1:function:score",
                    "EventSourceArn": "arn:aws:kinesis:us-east-1:1:stream/t",
                    "State": "Enabled",
                },
                {
                    "UUID": "of-the-other-engine",
                    "FunctionArn": "arn:aws:lambda:us-east-1:1:function:score-features",
                    "EventSourceArn": "arn:aws:kinesis:us-east-1:1:stream/t",
                    "State": "Disabled",
                },
            ]
        }


def test_lag_is_how_long_the_oldest_uncommitted_record_has_waited(tmp_path: Path) -> None:
    kinesis = FakeKinesis(SHARDS)
    now_ms = 1_795_000_000_000
    committed = kinesis.put(b"{}", arrival_ms=now_ms - 5000)
    kinesis.put(b"{}", arrival_ms=now_ms - 3000)
    kinesis.put(b"{}", arrival_ms=now_ms - 1000)
    lag = MappingLag(FakeFunctions(), kinesis, tmp_path, wall_ms=lambda: now_ms)
    assert lag.read({}) == {f"score/{SHARDS[0]}": 5000, f"score/{SHARDS[1]}": 0}  # no checkpoint yet
    (tmp_path / "u.json").write_text(json.dumps({SHARDS[0]: {"sequence_number": committed, "drained": False}}))
    assert lag.read({})[f"score/{SHARDS[0]}"] == 3000
    (tmp_path / "u.json").write_text(json.dumps({SHARDS[0]: {"sequence_number": committed, "drained": True}}))
    assert lag.read({})[f"score/{SHARDS[0]}"] == 0


def test_a_mapping_at_the_known_end_needs_no_look_into_its_shard(tmp_path: Path) -> None:
    kinesis = FakeKinesis(SHARDS[:1])
    last = kinesis.put(b"{}")
    (tmp_path / "u.json").write_text(json.dumps({SHARDS[0]: {"sequence_number": last}}))

    def no_look(**_request: Any) -> dict[str, Any]:
        raise AssertionError("looked into the stream")

    kinesis.get_shard_iterator = no_look  # type: ignore[method-assign]
    assert MappingLag(FakeFunctions(), kinesis, tmp_path).read({"t": {SHARDS[0]: last}}) == {f"score/{SHARDS[0]}": 0}
