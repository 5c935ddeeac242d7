"""Reading, buffering, flushing and crashing, against in-memory AWS."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.firehose.checkpoint import load_checkpoint
from local.firehose.delivery import Delivery
from local.firehose.destination import read_destination
from stream_features.aggregation import user_payloads
from tests.unit.local_firehose.fakes import FakeClock, FakeKinesis, FakeS3, description, fake_clients

SHARDS = ("shardId-000000000000", "shardId-000000000001", "shardId-000000000002")


def a_delivery(
    kinesis: FakeKinesis, s3: FakeS3, folder: Path, *, clock: FakeClock | None = None, size_mb: float = 1
) -> Delivery:
    hints = {"SizeInMBs": size_mb, "IntervalInSeconds": 60}
    destination = read_destination(description(BufferingHints=hints))
    return Delivery(destination, fake_clients(kinesis, s3), folder, monotonic=clock or FakeClock())


def lines_in(s3: FakeS3) -> Counter[bytes]:
    """How often each line stands in the raw objects."""
    return Counter(
        line
        for key, body in s3.objects.items()
        if key.startswith("raw/")
        for line in gzip.decompress(body).splitlines()
    )


def put_numbers(kinesis: FakeKinesis, numbers: range) -> None:
    for number in numbers:
        kinesis.put(b'{"n":%d}' % number, shard=SHARDS[number % len(kinesis.records)])


def numbers_once(numbers: range) -> Counter[bytes]:
    return Counter(b'{"n":%d}' % number for number in numbers)


def test_records_wait_until_the_oldest_has_waited_for_the_interval(tmp_path: Path) -> None:
    #  0 s      1 s     59 s      60 s
    #   | first  | second | nothing | flush
    kinesis, s3, clock = FakeKinesis(), FakeS3(), FakeClock()
    delivery = a_delivery(kinesis, s3, tmp_path, clock=clock)
    put_numbers(kinesis, range(1))
    delivery.poll()
    clock.now += 1
    put_numbers(kinesis, range(1, 2))
    delivery.poll()
    clock.now += 58
    delivery.poll()
    assert not s3.objects
    clock.now += 1
    delivery.poll()
    assert lines_in(s3) == numbers_once(range(2))
    assert len(s3.objects) == 1


def test_a_full_buffer_is_flushed_at_once(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    kinesis.page_limit = 10
    delivery = a_delivery(kinesis, s3, tmp_path, size_mb=100 / 1024 / 1024)  # 100 bytes
    put_numbers(kinesis, range(100))
    delivery.poll()
    assert len(s3.objects) > 3
    delivery.poll(flush=True)
    assert lines_in(s3) == numbers_once(range(100))


def test_a_flush_on_request_delivers_what_no_hint_asks_for_yet(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(SHARDS), FakeS3()
    delivery = a_delivery(kinesis, s3, tmp_path)
    put_numbers(kinesis, range(20))
    assert delivery.poll(flush=True)
    assert lines_in(s3) == numbers_once(range(20))
    assert delivery.poll(flush=True)  # nothing new: nothing written
    assert len(s3.puts) == 1


def test_the_next_worker_continues_where_the_last_one_delivered(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(SHARDS), FakeS3()
    put_numbers(kinesis, range(10))
    a_delivery(kinesis, s3, tmp_path).poll(flush=True)
    put_numbers(kinesis, range(10, 20))
    a_delivery(kinesis, s3, tmp_path).poll()  # read, never flushed: dies
    put_numbers(kinesis, range(20, 30))
    last = a_delivery(kinesis, s3, tmp_path)
    last.poll(flush=True)
    assert lines_in(s3) == numbers_once(range(30))
    assert last.status()["delivered_records"] == 30


def test_while_s3_fails_nothing_is_dropped_and_the_worker_backs_off(tmp_path: Path) -> None:
    kinesis, s3, clock = FakeKinesis(), FakeS3(), FakeClock()
    delivery = a_delivery(kinesis, s3, tmp_path, clock=clock)
    put_numbers(kinesis, range(5))
    s3.failures = 2
    assert not delivery.poll(flush=True)
    assert delivery.status()["error"]
    put_numbers(kinesis, range(5, 8))
    assert not delivery.poll(flush=True)  # still waiting: S3 is not asked
    assert s3.failures == 1
    for _ in range(2):
        clock.now += 60
        delivered = delivery.poll(flush=True)
    assert delivered
    assert delivery.status()["error"] is None
    assert lines_in(s3) == numbers_once(range(8))


class Killed(Exception):
    """The process dies here."""


@given(
    batches=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    kill_at_put=st.integers(1, 5),
    page_limit=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_worker_killed_after_any_put_leaves_every_record_in_the_lake_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], kill_at_put: int, page_limit: int
) -> None:
    """The flush under way is repeated with the same records under the same keys, though more have arrived since."""
    folder = tmp_path_factory.mktemp("state")
    kinesis, s3 = FakeKinesis(SHARDS), FakeS3()
    kinesis.page_limit = page_limit
    put = s3.put_object

    def put_then_die(**request: object) -> None:
        put(**request)  # type: ignore[arg-type]
        if len(s3.puts) == kill_at_put:
            raise Killed

    s3.put_object = put_then_die  # type: ignore[method-assign]
    total = 0
    delivery = a_delivery(kinesis, s3, folder)
    for size in batches:
        put_numbers(kinesis, range(total, total + size))
        kinesis.put(b"garbage %d" % total, shard=SHARDS[0])  # a second object in every flush
        total += size
        try:
            delivery.poll(flush=True)
        except Killed:
            put_numbers(kinesis, range(total, total + 3))
            total += 3
            delivery = a_delivery(kinesis, s3, folder)
    delivery.poll(flush=True)
    assert lines_in(s3) == numbers_once(range(total))
    garbage = [json.loads(line) for key, body in s3.objects.items() if "errors/" in key for line in body.splitlines()]
    assert len(garbage) == len(batches)
    assert delivery.status()["delivered_records"] == total
    assert delivery.status()["failed_records"] == len(batches)


def test_the_exactly_once_check_sees_a_lost_record_and_a_doubled_one(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    put_numbers(kinesis, range(4))
    a_delivery(kinesis, s3, tmp_path).poll(flush=True)
    (key,) = s3.objects
    whole = gzip.decompress(s3.objects[key])
    s3.objects[key] = gzip.compress(whole.split(b"\n", 1)[1])
    assert lines_in(s3) != numbers_once(range(4))
    s3.objects[key] = gzip.compress(whole + whole)
    assert lines_in(s3) != numbers_once(range(4))


def test_an_expired_iterator_is_replaced_and_nothing_is_read_twice(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    delivery = a_delivery(kinesis, s3, tmp_path)
    put_numbers(kinesis, range(3))
    delivery.poll()
    put_numbers(kinesis, range(3, 6))
    kinesis.expire_iterators = True
    assert delivery.poll(flush=True)
    assert lines_in(s3) == numbers_once(range(6))


def test_a_reshard_is_followed_and_a_drained_parent_is_not_read_again(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(SHARDS[:1]), FakeS3()
    delivery = a_delivery(kinesis, s3, tmp_path)
    put_numbers(kinesis, range(3))
    delivery.poll()
    kinesis.closed.add(SHARDS[0])
    kinesis.records[SHARDS[1]] = []
    kinesis.put(b'{"n":3}', shard=SHARDS[1])
    delivery.find_shards()
    assert delivery.poll(flush=True)
    assert lines_in(s3) == numbers_once(range(4))
    saved = load_checkpoint(tmp_path / "raw.json", "arn:aws:kinesis:us-east-1:1:stream/t@1795132800")
    assert saved.drained == [SHARDS[0]]
    assert a_delivery(kinesis, s3, tmp_path).poll(flush=True)
    assert len(s3.puts) == 1


def test_positions_of_a_stream_that_was_made_again_are_forgotten(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    put_numbers(kinesis, range(3))
    a_delivery(kinesis, s3, tmp_path).poll(flush=True)
    reborn = FakeKinesis()
    reborn.created = kinesis.created + timedelta(seconds=90)
    put_numbers(reborn, range(3, 5))
    a_delivery(reborn, s3, tmp_path).poll(flush=True)
    assert lines_in(s3) == numbers_once(range(5))


def test_aggregated_records_are_archived_one_by_one(tmp_path: Path) -> None:
    from aws_kinesis_agg.aggregator import RecordAggregator

    aggregator = RecordAggregator()
    payloads = [b'{"n":%d}' % number for number in range(5)]
    for payload in payloads:
        aggregator.add_user_record("card", payload.decode())
    _, _, aggregate = aggregator.clear_and_get().get_contents()
    assert user_payloads(bytes(aggregate)) == payloads
    kinesis, s3 = FakeKinesis(), FakeS3()
    kinesis.put(bytes(aggregate))
    a_delivery(kinesis, s3, tmp_path).poll(flush=True)
    assert lines_in(s3) == numbers_once(range(5))


@pytest.mark.parametrize("tail", [b"", b"x" * 15, b"x" * 40])
def test_what_only_starts_like_an_aggregate_is_one_record(tail: bytes) -> None:
    payload = b"\xf3\x89\x9a\xc2" + tail
    assert user_payloads(payload) == [payload]
