"""One mapping at work, on a stream and a function in memory: order, restarts, splits, lanes, shards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.mappings.outcome import Rules
from local.mappings.runner import MappingRunner, eligible_shards
from local.mappings.settings import MappingSettings
from local.mappings.shard import Clients
from tests.unit.local.fake_streams import FakeFunctions, FakeKinesis, FakeQueue, eventually, settings


@contextmanager
def running(
    kinesis: FakeKinesis,
    functions: FakeFunctions,
    state_dir: Path,
    mapping: MappingSettings,
    queue: FakeQueue | None = None,
) -> Iterator[MappingRunner]:
    """The mapping, refreshed as its owner would, until the block ends."""
    runner = MappingRunner(mapping, Clients(kinesis, functions, queue or FakeQueue()), state_dir)
    ending = threading.Event()

    def refresh() -> None:
        while not ending.wait(0.005):
            runner.refresh()

    refreshing = threading.Thread(target=refresh)
    refreshing.start()
    try:
        yield runner
    finally:
        ending.set()
        refreshing.join()
        runner.stop()
        assert runner.join(20.0)


def done(_payloads: list[str]) -> dict[str, Any]:
    return {"batchItemFailures": []}


def raising_at(poison: str) -> Callable[[list[str]], dict[str, Any]]:
    def handler(batch: list[str]) -> dict[str, Any]:
        if poison in batch:
            raise ValueError("poison")
        return {}

    return handler


@pytest.fixture
def kinesis() -> FakeKinesis:
    stream = FakeKinesis()
    stream.add_shard("shard-0")
    return stream


def everything(functions: FakeFunctions) -> list[str]:
    return [payload for batch in functions.batches for payload in batch]


def test_records_come_in_order_in_batches_of_at_most_the_size(kinesis: FakeKinesis, tmp_path: Path) -> None:
    sent = [str(number) for number in range(95)]
    for payload in sent:
        kinesis.put("shard-0", "key", payload.encode())
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings()):
        eventually(lambda: len(everything(functions)) == 95)
    assert everything(functions) == sent
    assert max(map(len, functions.batches)) == 10


def test_a_restart_goes_on_after_the_last_batch_that_was_done(kinesis: FakeKinesis, tmp_path: Path) -> None:
    for number in range(20):
        kinesis.put("shard-0", "key", str(number).encode())
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings()):
        eventually(lambda: len(everything(functions)) == 20)
    for number in range(20, 30):
        kinesis.put("shard-0", "key", str(number).encode())
    again = FakeFunctions(done)
    with running(kinesis, again, tmp_path, settings()):
        eventually(lambda: len(everything(again)) == 10)
    assert everything(again) == [str(number) for number in range(20, 30)]


def test_a_runner_stopped_while_a_batch_fails_delivers_it_again(kinesis: FakeKinesis, tmp_path: Path) -> None:
    for payload in ("0", "1", "bad", "3"):
        kinesis.put("shard-0", "key", payload.encode())
    failing = FakeFunctions(raising_at("bad"))
    with running(kinesis, failing, tmp_path, settings(batch_size=2)):
        eventually(lambda: len(failing.batches) >= 3)
    again = FakeFunctions(done)
    with running(kinesis, again, tmp_path, settings(batch_size=2)):
        eventually(lambda: len(everything(again)) == 2)
    assert everything(again) == ["bad", "3"]


def test_a_reported_failure_is_retried_from_there_and_nothing_before_it_comes_again(
    kinesis: FakeKinesis, tmp_path: Path
) -> None:
    numbers = {payload: kinesis.put("shard-0", "key", payload.encode()) for payload in "abcdef"}
    failures = iter(["d"])

    def handler(batch: list[str]) -> dict[str, Any]:
        failed = next(failures, None)
        return {"batchItemFailures": [{"itemIdentifier": numbers[failed]}] if failed else []}

    functions = FakeFunctions(handler)
    with running(kinesis, functions, tmp_path, settings()):
        eventually(lambda: len(functions.batches) == 2)
    assert functions.batches == [list("abcdef"), list("def")]


def test_without_report_batch_item_failures_an_answer_is_not_read(kinesis: FakeKinesis, tmp_path: Path) -> None:
    number = kinesis.put("shard-0", "key", b"a")
    functions = FakeFunctions(lambda _batch: {"batchItemFailures": [{"itemIdentifier": number}]})
    with running(kinesis, functions, tmp_path, settings(reports_item_failures=False)):
        eventually(lambda: functions.batches == [["a"]])
        kinesis.put("shard-0", "key", b"b")
        eventually(lambda: functions.batches == [["a"], ["b"]])


def test_a_poison_record_is_isolated_given_up_and_announced(kinesis: FakeKinesis, tmp_path: Path) -> None:
    numbers = {payload: kinesis.put("shard-0", "key", payload.encode()) for payload in "abcdefgh"}
    functions, queue = FakeFunctions(raising_at("f")), FakeQueue()
    mapping = settings(
        rules=Rules(bisects=True, max_retries=1, max_age_s=None),
        failure_queue_arn="arn:aws:sqs:us-east-1:000000000000:discarded",
    )
    queue.errors = ["ServiceUnavailable"]  # a notice that cannot be sent is sent again
    with running(kinesis, functions, tmp_path, mapping, queue) as runner:
        eventually(lambda: everything(functions)[-1:] == ["h"] and runner.status()["shards"]["shard-0"].open == 0)
        status = runner.status()["shards"]["shard-0"]
        assert (status.delivered, status.discarded) == (7, 1)
    delivered = [batch for batch in functions.batches if "f" not in batch]
    assert [payload for batch in delivered for payload in batch] == list("abcdegh")
    assert functions.batches.count(["f"]) == 2
    (notice,) = queue.messages
    assert notice["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert notice["requestContext"]["approximateInvokeCount"] == 2
    assert notice["KinesisBatchInfo"]["startSequenceNumber"] == numbers["f"]
    assert notice["KinesisBatchInfo"]["endSequenceNumber"] == numbers["f"]
    assert notice["KinesisBatchInfo"]["batchSize"] == 1


def test_records_older_than_allowed_are_given_up_without_a_call(kinesis: FakeKinesis, tmp_path: Path) -> None:
    kinesis.put("shard-0", "key", b"old", datetime.now(UTC) - timedelta(hours=2))
    kinesis.put("shard-0", "key", b"new")
    functions, queue = FakeFunctions(done), FakeQueue()
    mapping = settings(
        rules=Rules(bisects=False, max_retries=None, max_age_s=3600),
        failure_queue_arn="arn:aws:sqs:us-east-1:000000000000:discarded",
    )
    with running(kinesis, functions, tmp_path, mapping, queue):
        eventually(lambda: functions.batches == [["new"]])
    (notice,) = queue.messages
    assert notice["requestContext"]["condition"] == "RecordAgeExceeded"
    assert notice["KinesisBatchInfo"]["batchSize"] == 1


def test_lambda_not_answering_costs_no_retry(kinesis: FakeKinesis, tmp_path: Path) -> None:
    kinesis.put("shard-0", "key", b"a")
    functions, queue = FakeFunctions(done), FakeQueue()
    functions.errors = ["TooManyRequestsException", "ServiceException"]
    mapping = settings(
        rules=Rules(bisects=False, max_retries=0, max_age_s=None),
        failure_queue_arn="arn:aws:sqs:us-east-1:000000000000:discarded",
    )
    with running(kinesis, functions, tmp_path, mapping, queue):
        eventually(lambda: functions.batches == [["a"]])
    assert queue.messages == []


def test_reading_survives_throttling_and_an_expired_iterator(kinesis: FakeKinesis, tmp_path: Path) -> None:
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings()):
        kinesis.put("shard-0", "key", b"a")
        eventually(lambda: everything(functions) == ["a"])
        kinesis.errors = ["ProvisionedThroughputExceededException", "ExpiredIteratorException", "InternalFailure"]
        kinesis.put("shard-0", "key", b"b")
        eventually(lambda: everything(functions) == ["a", "b"])


def test_a_window_collects_what_comes_within_it(kinesis: FakeKinesis, tmp_path: Path) -> None:
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings(window_s=60.0, batch_size=3)) as runner:
        eventually(lambda: "shard-0" in runner.status()["shards"])
        for payload in "ab":
            kinesis.put("shard-0", "key", payload.encode())
            eventually(lambda: runner.status()["shards"]["shard-0"].open == kinesis.count)
        assert functions.batches == []
        kinesis.put("shard-0", "key", b"c")  # full before the window is over
        eventually(lambda: functions.batches == [["a", "b", "c"]])


def test_a_batch_stays_below_the_largest_event(kinesis: FakeKinesis, tmp_path: Path) -> None:
    for number in range(8):
        kinesis.put("shard-0", "key", bytes([97 + number]) * 1_000_000)
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings(batch_size=100)):
        eventually(lambda: len(everything(functions)) == 8)
    assert [len(batch) for batch in functions.batches] == [4, 4]


def test_lanes_keep_the_order_of_every_key_and_overlap(kinesis: FakeKinesis, tmp_path: Path) -> None:
    for number in range(40):
        kinesis.put("shard-0", f"key-{number % 8}", f"{number % 8}:{number}".encode())
    both = threading.Barrier(2, timeout=20)
    overlapped = threading.Event()

    def handler(batch: list[str]) -> dict[str, Any]:
        if not overlapped.is_set():
            both.wait()  # returns only if two calls are under way at once
            overlapped.set()
        return {}

    functions = FakeFunctions(handler)
    with running(kinesis, functions, tmp_path, settings(lanes_per_shard=4, batch_size=3)):
        eventually(lambda: len(everything(functions)) == 40)
    for key in range(8):
        mine = [int(payload.split(":")[1]) for payload in everything(functions) if payload.startswith(f"{key}:")]
        assert mine == sorted(mine)
        assert len(mine) == 5


def test_with_lanes_a_restart_redelivers_from_the_oldest_open_record(kinesis: FakeKinesis, tmp_path: Path) -> None:
    stuck = kinesis.put("shard-0", "stuck", b"stuck")
    for number in range(20):
        kinesis.put("shard-0", f"key-{number}", str(number).encode())
    functions = FakeFunctions(raising_at("stuck"))
    with running(kinesis, functions, tmp_path, settings(lanes_per_shard=8, batch_size=1)):
        eventually(lambda: "0" in everything(functions) or "1" in everything(functions))
    again = FakeFunctions(done)
    with running(kinesis, again, tmp_path, settings(batch_size=100)):
        eventually(lambda: len(everything(again)) >= 21)
    assert again.events[0]["Records"][0]["kinesis"]["sequenceNumber"] == stuck
    assert set(everything(again)) == {"stuck", *map(str, range(20))}


def test_children_wait_until_the_parent_is_drained(kinesis: FakeKinesis, tmp_path: Path) -> None:
    kinesis.add_shard("shard-1", parent="shard-0")
    kinesis.put("shard-0", "key", b"parent")
    kinesis.put("shard-1", "key", b"child")
    kinesis.closed.add("shard-0")
    released = threading.Event()

    def handler(batch: list[str]) -> dict[str, Any]:
        if batch == ["parent"] and not released.is_set():
            raise ValueError("not yet")
        return {}

    functions = FakeFunctions(handler)
    with running(kinesis, functions, tmp_path, settings()):
        eventually(lambda: functions.batches.count(["parent"]) >= 2)
        assert ["child"] not in functions.batches
        released.set()
        eventually(lambda: ["child"] in functions.batches)
    assert functions.batches[-1] == ["child"]


def test_parents_that_are_gone_hold_nothing_back() -> None:
    shards = [
        {"ShardId": "b", "ParentShardId": "gone"},
        {"ShardId": "c", "ParentShardId": "b", "AdjacentParentShardId": "a"},
        {"ShardId": "a"},
    ]
    assert [shard["ShardId"] for shard in eligible_shards(shards, set())] == ["b", "a"]
    assert [shard["ShardId"] for shard in eligible_shards(shards, {"b"})] == ["a"]
    assert [shard["ShardId"] for shard in eligible_shards(shards, {"a", "b"})] == ["c"]


def test_latest_skips_the_past_and_a_restart_does_not_skip_what_came_meanwhile(
    kinesis: FakeKinesis, tmp_path: Path
) -> None:
    kinesis.put("shard-0", "key", b"past", datetime.now(UTC) - timedelta(minutes=1))
    mapping = settings(starting_position="LATEST")
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, mapping) as runner:
        eventually(lambda: runner.is_polling and bool(kinesis.iterators))
    kinesis.put("shard-0", "key", b"meanwhile")
    with running(kinesis, functions, tmp_path, mapping):
        eventually(lambda: everything(functions) == ["meanwhile"])
    assert [asked["ShardIteratorType"] for asked in kinesis.iterators] == ["LATEST", "AT_TIMESTAMP"]


def test_latest_reads_all_of_a_shard_that_was_split_off_later(kinesis: FakeKinesis, tmp_path: Path) -> None:
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings(starting_position="LATEST")) as runner:
        eventually(lambda: runner.is_polling and bool(kinesis.iterators))
        kinesis.add_shard("shard-1", parent="shard-0")
        kinesis.put("shard-1", "key", b"first of the child")
        kinesis.closed.add("shard-0")
        eventually(lambda: everything(functions) == ["first of the child"])


def test_latest_skips_shards_that_were_split_before_it_started(kinesis: FakeKinesis, tmp_path: Path) -> None:
    """The child starts when its parent is drained, but counts from when the mapping did."""
    kinesis.put("shard-0", "key", b"parent", datetime.now(UTC) - timedelta(minutes=2))
    kinesis.closed.add("shard-0")
    kinesis.add_shard("shard-1", parent="shard-0")
    kinesis.put("shard-1", "key", b"past", datetime.now(UTC) - timedelta(minutes=1))
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings(starting_position="LATEST")) as runner:
        eventually(lambda: "shard-1" in runner.status()["shards"])
        kinesis.put("shard-1", "key", b"new")
        eventually(lambda: everything(functions) == ["new"])


def test_at_timestamp_starts_there(kinesis: FakeKinesis, tmp_path: Path) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    kinesis.put("shard-0", "key", b"morning", noon - timedelta(hours=1))
    kinesis.put("shard-0", "key", b"noon", noon)
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, settings(starting_position="AT_TIMESTAMP", starting_timestamp=noon)):
        eventually(lambda: everything(functions) == ["noon"])


def test_the_event_has_the_fields_lambda_sends(kinesis: FakeKinesis, tmp_path: Path) -> None:
    arrived_at = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    number = kinesis.put("shard-0", "schlüssel", b"\xff\x00", arrived_at)
    functions = FakeFunctions(lambda _batch: {})
    with running(kinesis, functions, tmp_path, settings()):
        eventually(lambda: len(functions.events) == 1)
    (record,) = functions.events[0]["Records"]
    assert record == {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "schlüssel",
            "sequenceNumber": number,
            "data": "/wA=",
            "approximateArrivalTimestamp": arrived_at.timestamp(),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"shard-0:{number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": "arn:aws:iam::000000000000:role/function",
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/stream",
    }


def test_records_that_no_filter_lets_through_are_done_without_a_call(kinesis: FakeKinesis, tmp_path: Path) -> None:
    for number in range(20):
        kinesis.put("shard-0", "key", b'{"kind": "%s", "n": %d}' % (b"sell" if number % 4 else b"buy", number))
    functions = FakeFunctions(done)
    mapping = replace(settings(), filters=('{"data": {"kind": ["buy"]}}',))
    with running(kinesis, functions, tmp_path, mapping) as runner:
        eventually(lambda: len(everything(functions)) == 5 and runner.status()["shards"]["shard-0"].open == 0)
        shard = runner.status()["shards"]["shard-0"]
        assert (shard.read, shard.filtered, shard.delivered) == (20, 15, 5)
    assert everything(functions) == [f'{{"kind": "buy", "n": {number}}}' for number in range(0, 20, 4)]
    functions = FakeFunctions(done)
    with running(kinesis, functions, tmp_path, mapping):  # those at the end, which were never delivered, count as done
        kinesis.put("shard-0", "key", b'{"kind": "buy"}')
        eventually(lambda: len(everything(functions)) == 1)
