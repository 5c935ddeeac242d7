"""The reader against a scripted Kinesis: order, positions, back-off, reshards, and any crash."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_features.decision import StreamPosition
from stream_features.errors import PortFailure, StateCorrupt
from stream_features.flink_job.intake import Arrived
from stream_features.flink_job.polling_reader import TURN_MS, PollingReader, ShardPosition
from tests.unit.flink_job.fake_kinesis import (
    ARN,
    ARRIVAL_MS,
    BROKEN,
    EXPIRED,
    FORBIDDEN,
    NO_ANSWER,
    THROTTLED,
    Clock,
    FakeKinesis,
    client_error,
)


def a_reader(kinesis: FakeKinesis, clock: Clock | None = None, **options: Any) -> PollingReader:
    return PollingReader(kinesis, ARN, now_ms=clock or Clock(), jitter=lambda: 1.0, **options)


def payloads(records: list[Arrived]) -> list[bytes]:
    return [record.payload for record in records]


def read_all(reader: PollingReader, clock: Clock) -> list[bytes]:
    """Come again as asked until twenty turns in a row brought nothing."""
    read: list[bytes] = []
    quiet = 0
    while quiet < 20:
        turn = reader.turn()
        read += payloads(turn.records)
        quiet = 0 if turn.records else quiet + 1
        clock.now += min(turn.wait_ms, 1_000)
    return read


def test_records_come_with_their_positions_and_arrivals() -> None:
    kinesis = FakeKinesis("s-0")
    number = kinesis.put("s-0", b"\xff\x00 not text")
    turn = a_reader(kinesis).turn()
    position = StreamPosition("s-0", number, 0)
    assert turn.records == [Arrived("transactions", position, ARRIVAL_MS, b"\xff\x00 not text")]


def test_aggregates_are_taken_apart_and_broken_ones_stay_whole() -> None:
    from aws_kinesis_agg.aggregator import RecordAggregator

    aggregator = RecordAggregator()
    for payload in ("one", "two"):
        aggregator.add_user_record("card", payload, "1")
    _, _, aggregate = aggregator.clear_and_get().get_contents()
    broken = aggregate[:-1] + bytes([aggregate[-1] ^ 1])
    undecodable = b"\xff\xff\xff"
    nonsense = aggregate[:4] + undecodable + hashlib.md5(undecodable, usedforsecurity=False).digest()
    kinesis = FakeKinesis("s-0")
    number = kinesis.put("s-0", aggregate)
    kinesis.put("s-0", broken)
    kinesis.put("s-0", nonsense)
    reader = a_reader(kinesis)
    records = reader.turn().records
    assert payloads(records) == [b"one", b"two", broken, nonsense]
    assert [record.position for record in records[:2]] == [StreamPosition("s-0", number, sub) for sub in (0, 1)]
    assert reader.taken == 4


def test_a_turn_hands_out_no_more_than_its_bound_and_the_rest_next() -> None:
    kinesis = FakeKinesis("s-0", "s-1")
    for number in range(7):
        kinesis.put("s-0", b"a%d" % number)
        kinesis.put("s-1", b"b%d" % number)
    clock = Clock()
    reader = a_reader(kinesis, clock, records_a_turn=4)
    turns = [reader.turn() for _ in range(2)]
    assert [payloads(turn.records) for turn in turns] == [[b"a0", b"a1", b"a2", b"a3"], [b"b0", b"b1", b"b2", b"b3"]]
    assert reader.positions["s-1"].sequence_number is not None
    assert sorted(read_all(reader, clock)) == [b"a4", b"a5", b"a6", b"b4", b"b5", b"b6"]


def test_what_was_fetched_and_not_handed_out_is_not_behind_the_position() -> None:
    kinesis = FakeKinesis("s-0", "s-1")
    for number in range(3):
        kinesis.put("s-0", b"a%d" % number)
    for number in range(3):
        kinesis.put("s-1", b"b%d" % number)
    clock = Clock()
    reader = a_reader(kinesis, clock, records_a_turn=4)
    assert payloads(reader.turn().records) == [b"a0", b"a1", b"a2", b"b0"]
    other = a_reader(kinesis, clock)
    other.restore(reader.snapshot())
    assert read_all(other, clock) == [b"b1", b"b2"]
    assert other.taken == 6


def test_a_shard_is_asked_again_only_after_the_poll_interval() -> None:
    kinesis = FakeKinesis("s-0")
    clock = Clock()
    reader = a_reader(kinesis, clock, poll_ms=250)
    assert reader.turn().wait_ms == 250
    clock.now = 249
    assert reader.turn().wait_ms == 1
    assert kinesis.calls.count("get_records") == 1
    clock.now = 250
    reader.turn()
    assert kinesis.calls.count("get_records") == 2


@pytest.mark.parametrize("error", [THROTTLED, BROKEN, NO_ANSWER])
def test_transient_errors_make_the_shard_wait_longer_each_time_and_the_others_go_on(error: Exception) -> None:
    kinesis = FakeKinesis("s-0", "s-1")
    kinesis.put("s-0", b"a")
    kinesis.put("s-1", b"b")
    kinesis.fail("get_records", error)
    clock = Clock()
    reader = a_reader(kinesis, clock, poll_ms=1_000_000)
    turn = reader.turn()
    assert payloads(turn.records) == [b"b"]
    assert turn.wait_ms == 50
    kinesis.fail("get_records", error)
    clock.now = 50
    assert reader.turn().wait_ms == 100
    clock.now = 149
    assert reader.turn().records == []
    clock.now = 150
    assert payloads(reader.turn().records) == [b"a"]
    assert reader.failed_calls == 2


def test_an_expired_iterator_is_replaced_at_the_position() -> None:
    kinesis = FakeKinesis("s-0")
    kinesis.put("s-0", b"a")
    clock = Clock()
    reader = a_reader(kinesis, clock, poll_ms=10)
    assert payloads(reader.turn().records) == [b"a"]
    kinesis.put("s-0", b"b")
    kinesis.fail("get_records", EXPIRED)
    clock.now = 10
    assert reader.turn().records == []
    assert read_all(reader, clock) == [b"b"]


@pytest.mark.parametrize("operation", ["get_records", "list_shards", "get_shard_iterator"])
def test_an_error_that_stays_fails_the_job(operation: str) -> None:
    kinesis = FakeKinesis("s-0")
    kinesis.fail(operation, FORBIDDEN)
    with pytest.raises(PortFailure, match="transactions"):
        a_reader(kinesis).turn()


def test_listing_backs_off_and_nothing_is_read_before_it_works() -> None:
    kinesis = FakeKinesis("s-0")
    kinesis.put("s-0", b"a")
    kinesis.fail("list_shards", THROTTLED)
    clock = Clock()
    reader = a_reader(kinesis, clock)
    assert reader.turn() == ([], 50)
    clock.now = 50
    assert payloads(reader.turn().records) == [b"a"]


def test_every_page_of_shards_is_listed() -> None:
    kinesis = FakeKinesis("s-0", "s-1", "s-2")
    kinesis.list_page = 1
    kinesis.put("s-2", b"c")
    assert payloads(a_reader(kinesis).turn().records) == [b"c"]
    assert [set(request) for request in kinesis.list_requests] == [{"StreamARN"}, {"NextToken"}, {"NextToken"}]


def test_children_wait_for_all_their_parents() -> None:
    kinesis = FakeKinesis("s-0", "s-1")
    for parent in ("s-0", "s-1"):
        kinesis.put(parent, b"first of " + parent.encode())
        kinesis.put(parent, b"last of " + parent.encode())
    kinesis.reshard(("s-0", "s-1"), "s-2")
    kinesis.put("s-2", b"child")
    kinesis.page = 1
    clock = Clock()
    reader = a_reader(kinesis, clock, poll_ms=10)
    read = read_all(reader, clock)
    assert read[-1] == b"child"
    assert len(read) == 5
    assert [position.drained for position in reader.positions.values()] == [True, True, False]


def test_children_are_found_as_soon_as_their_parent_ends() -> None:
    kinesis = FakeKinesis("s-0")
    clock = Clock()
    reader = a_reader(kinesis, clock, poll_ms=10)
    reader.turn()
    kinesis.reshard(("s-0",), "s-1", "s-2")
    kinesis.put("s-1", b"child")
    clock.now = 10
    assert reader.turn().wait_ms == 1
    assert payloads(reader.turn().records) == [b"child"]


def test_a_trimmed_parent_does_not_hold_its_children_up() -> None:
    kinesis = FakeKinesis("s-0")
    kinesis.reshard(("s-0",), "s-1")
    del kinesis.shards["s-0"]
    kinesis.put("s-1", b"child")
    assert payloads(a_reader(kinesis).turn().records) == [b"child"]


def test_a_shard_that_is_gone_before_its_end_is_counted_and_its_children_start() -> None:
    kinesis = FakeKinesis("s-0")
    clock = Clock()
    reader = a_reader(kinesis, clock, poll_ms=10)
    reader.turn()
    kinesis.reshard(("s-0",), "s-1")
    kinesis.put("s-1", b"child")
    del kinesis.shards["s-0"]
    clock.now = 10
    assert read_all(reader, clock) == [b"child"]
    assert reader.lost_shards == 1
    assert set(reader.positions) == {"s-1"}


def test_a_stream_that_is_gone_fails_the_job() -> None:
    kinesis = FakeKinesis("s-0")
    clock = Clock()
    reader = a_reader(kinesis, clock, poll_ms=10)
    reader.turn()
    kinesis.shards.clear()
    kinesis.fail("list_shards", client_error("ResourceNotFoundException"))
    clock.now = 10
    with pytest.raises(PortFailure):
        [reader.turn() for _ in range(2)]


def test_start_positions_count_for_their_shards_and_their_ancestors() -> None:
    kinesis = FakeKinesis("s-0", "s-9")
    kinesis.put("s-0", b"done by another engine")
    kinesis.reshard(("s-0",), "s-1")
    done = kinesis.put("s-1", b"done too")
    kinesis.put("s-1", b"next")
    kinesis.put("s-9", b"from the start")
    clock = Clock()
    reader = a_reader(kinesis, clock, start_positions={"s-1": done})
    assert sorted(read_all(reader, clock)) == [b"from the start", b"next"]
    assert reader.positions["s-0"] == ShardPosition(drained=True)


def test_start_positions_do_not_count_after_a_restore() -> None:
    kinesis = FakeKinesis("s-0")
    kinesis.put("s-0", b"a")
    kinesis.put("s-0", b"b")
    clock = Clock()
    first = a_reader(kinesis, clock, records_a_turn=1)
    first.turn()
    reader = a_reader(kinesis, clock, start_positions={"s-0": "999999"})
    reader.restore(first.snapshot())
    assert read_all(reader, clock) == [b"b"]


def test_no_shard_starves_when_calls_are_slow() -> None:
    kinesis = FakeKinesis("s-0", "s-1", "s-2")
    clock = Clock()
    answered = kinesis.get_records
    asked: list[str] = []

    def slow(**request: Any) -> dict[str, Any]:
        clock.now += TURN_MS
        asked.append(request["ShardIterator"].partition("/")[0])
        return answered(**request)

    kinesis.get_records = slow  # type: ignore[method-assign]
    reader = a_reader(kinesis, clock, poll_ms=1)
    for _ in range(6):
        reader.turn()
        clock.now += 1
    assert set(asked) == {"s-0", "s-1", "s-2"}


@pytest.mark.parametrize("snapshot", [b"", b"[]", b'{"version":2,"taken":0,"shards":{}}'])
def test_a_snapshot_that_cannot_be_read_is_refused(snapshot: bytes) -> None:
    with pytest.raises(StateCorrupt):
        a_reader(FakeKinesis()).restore(snapshot)


STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 3)),
    st.tuples(st.just("turn"), st.integers(0, 60)),
    st.tuples(st.just("fail"), st.sampled_from([THROTTLED, BROKEN, EXPIRED, NO_ANSWER])),
    st.tuples(st.just("fail list"), st.sampled_from([THROTTLED, NO_ANSWER])),
    st.tuples(st.just("split"), st.integers(0, 7)),
    st.tuples(st.just("merge"), st.integers(0, 7)),
    st.tuples(st.just("snapshot"), st.just(0)),
    st.tuples(st.just("crash"), st.integers(0, 20)),
)


@given(st.lists(STEPS, max_size=60), st.integers(1, 3), st.integers(1, 3))
def test_from_any_snapshot_every_card_is_read_on_without_gap_repeat_or_swap(
    steps: list[tuple[str, Any]], records_a_turn: int, page: int
) -> None:
    """The oracle: what was handed out up to a snapshot, and after a restore from it, is what each card published."""
    kinesis = FakeKinesis("shard-000", "shard-001")
    kinesis.page = page
    routes = {0: "shard-000", 1: "shard-000", 2: "shard-001", 3: "shard-001"}  # card -> the shard it is put on
    clock = Clock()

    def new_reader() -> PollingReader:
        return a_reader(kinesis, clock, poll_ms=10, records_a_turn=records_a_turn)

    reader = new_reader()
    published: dict[int, list[bytes]] = {card: [] for card in routes}
    handed_out: list[bytes] = []
    snapshots = [(reader.snapshot(), 0)]
    made = 2
    for step, value in steps:
        if step == "put":
            payload = b"%d:%d" % (value, len(published[value]))
            published[value].append(payload)
            kinesis.put(routes[value], payload)
        elif step == "turn":
            clock.now += value
            handed_out += payloads(reader.turn().records)
        elif step == "fail":
            kinesis.fail("get_records", value)
        elif step == "fail list":
            kinesis.fail("list_shards", value)
        elif step == "snapshot":
            snapshots.append((reader.snapshot(), len(handed_out)))
        elif step == "crash":
            snapshot, length = snapshots[value % len(snapshots)]
            snapshots = [entry for entry in snapshots if entry[1] <= length]
            del handed_out[length:]
            reader = new_reader()
            reader.restore(snapshot)
        else:
            open_shards = sorted(set(routes.values()))
            if step == "split":
                parent = open_shards[value % len(open_shards)]
                children = [f"shard-{made:03d}", f"shard-{made + 1:03d}"]
                cards = [card for card, shard_id in routes.items() if shard_id == parent]
                kinesis.reshard((parent,), *children)
                routes |= {card: children[index % 2] for index, card in enumerate(cards)}
                made += 2
            elif len(open_shards) > 1:
                parents = (open_shards[0], open_shards[1 + value % (len(open_shards) - 1)])
                child = f"shard-{made:03d}"
                kinesis.reshard(parents, child)
                routes |= {card: child for card, shard_id in routes.items() if shard_id in parents}
                made += 1
    clock.now += 10_000
    handed_out += read_all(reader, clock)
    assert {
        card: [payload for payload in handed_out if payload.startswith(b"%d:" % card)] for card in routes
    } == published
    assert reader.taken == len(handed_out)
    assert reader.lost_shards == 0
