"""The writer against a scripted PutRecords: nothing is lost, and what follows another record comes after it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_features.errors import PortFailure
from stream_features.flink_job.polling_writer import MOST_BYTES, MOST_RECORDS, Entry, PollingWriter
from tests.unit.flink_job.fake_kinesis import ARN, BROKEN, FORBIDDEN, NO_ANSWER, THROTTLED, Clock, FakeSink, Refusal


def a_writer(sink: FakeSink, clock: Clock | None = None, **options: Any) -> PollingWriter:
    return PollingWriter(sink, ARN, now_ms=clock or Clock(), jitter=lambda: 1.0, **options)


def entries(*texts: str) -> list[Entry]:
    """Of `card:payload`; one that ends in an exclamation mark follows."""
    return [Entry(text.partition(":")[0], text.encode(), text.endswith("!")) for text in texts]


def put_all(writer: PollingWriter, clock: Clock) -> None:
    while writer.unsent:
        clock.now += writer.wait_ms
        writer.put()


def test_records_go_out_under_their_partition_keys() -> None:
    sink = FakeSink()
    writer = a_writer(sink)
    writer.add(entries("a:1", "b:1"))
    assert writer.put() == 2
    assert sink.records == [("a", b"a:1"), ("b", b"b:1")]
    assert writer.put() == 0
    assert len(sink.requests) == 1


def test_a_record_that_follows_never_shares_a_request_with_an_earlier_one_of_its_card() -> None:
    sink = FakeSink()
    writer = a_writer(sink)
    writer.add(entries("a:1", "a:2", "a:3!", "b:1!", "a:4", "c:1", "a:5!"))
    put_all(writer, Clock())
    assert [[payload.decode() for _, payload in request] for request in sink.requests] == [
        ["a:1", "a:2", "b:1!", "c:1"],
        ["a:3!", "a:4"],
        ["a:5!"],
    ]


def test_only_what_was_refused_goes_again_and_before_what_follows_on_its_card() -> None:
    sink = FakeSink(Refusal(entries=(1,)))
    clock = Clock()
    writer = a_writer(sink, clock)
    writer.add(entries("a:1", "b:1", "c:1", "b:2", "b:3!"))
    assert writer.put() == 3
    assert writer.wait_ms == 50
    assert writer.put() == 0  # too early
    put_all(writer, clock)
    assert [payload for _, payload in sink.records] == [b"a:1", b"c:1", b"b:2", b"b:1", b"b:3!"]
    assert writer.refused == 1


@pytest.mark.parametrize("error", [THROTTLED, BROKEN, NO_ANSWER])
@pytest.mark.parametrize("taken", [False, True])
def test_a_request_without_an_answer_goes_again_whole(error: Exception, taken: bool) -> None:
    sink = FakeSink(Refusal(error=error, taken=taken))
    clock = Clock()
    writer = a_writer(sink, clock)
    writer.add(entries("a:1", "b:1", "a:2!"))
    assert writer.put() == 0
    put_all(writer, clock)
    again = [b"a:1", b"b:1", b"a:2!"]
    assert [payload for _, payload in sink.records] == [*again[:2], *again] if taken else again


def test_pauses_grow_and_a_request_that_went_through_ends_them() -> None:
    clock = Clock()
    writer = a_writer(FakeSink(*[Refusal(error=THROTTLED)] * 3), clock, tries=10)
    writer.add(entries("a:1", "a:2!"))
    waits = []
    for _ in range(4):
        writer.put()
        waits.append(writer.wait_ms)
        clock.now += writer.wait_ms
    assert waits == [50, 100, 200, 0]


def test_the_job_fails_after_so_many_requests_that_put_nothing() -> None:
    clock = Clock()
    writer = a_writer(FakeSink(*[Refusal(error=THROTTLED)] * 3), clock, tries=3)
    writer.add(entries("a:1"))
    with pytest.raises(PortFailure, match="ProvisionedThroughputExceeded"):
        put_all(writer, clock)
    assert writer.unsent == entries("a:1")


def test_a_request_that_put_something_is_progress() -> None:
    clock = Clock()
    sink = FakeSink(*[Refusal(entries=(0,))] * 5)
    writer = a_writer(sink, clock, tries=2)
    writer.add(entries("a:1"))
    for number in range(5):
        writer.add(entries(f"b{number}:1"))
        clock.now += writer.wait_ms
        assert writer.put() == 1
    put_all(writer, clock)
    assert len(sink.records) == 6


def test_an_error_that_stays_fails_the_job_at_once() -> None:
    writer = a_writer(FakeSink(Refusal(error=FORBIDDEN)))
    writer.add(entries("a:1"))
    with pytest.raises(PortFailure, match="AccessDenied"):
        writer.put()


def test_requests_stay_under_the_limits_of_the_service() -> None:
    sink = FakeSink()
    writer = a_writer(sink)
    writer.add(Entry(str(number), b"x") for number in range(MOST_RECORDS + 1))
    writer.add([Entry(f"big {number}", bytes(MOST_BYTES // 3)) for number in range(4)])
    put_all(writer, Clock())
    assert max(map(len, sink.requests)) == MOST_RECORDS
    assert max(sum(len(payload) for _, payload in request) for request in sink.requests) <= MOST_BYTES
    assert len(sink.records) == MOST_RECORDS + 5


REFUSALS = st.builds(
    Refusal,
    entries=st.lists(st.integers(0, 5), max_size=5).map(tuple),
    error=st.sampled_from([None, None, THROTTLED, NO_ANSWER]),
    taken=st.booleans(),
)
STEPS = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=6)),
    st.tuples(st.just("put"), REFUSALS),
    st.tuples(st.just("snapshot"), st.just(0)),
    st.tuples(st.just("crash"), st.integers(0, 20)),
)


@given(st.lists(STEPS, max_size=50))
def test_whatever_is_refused_and_whenever_it_crashes_nothing_is_lost_and_followers_follow(
    steps: list[tuple[str, Any]],
) -> None:
    """The oracle: the operators before hand on a fixed sequence; a restore repeats it from the snapshot on."""
    sequence: list[Entry] = []
    sink, clock = FakeSink(), Clock()
    writer = a_writer(sink, clock, tries=1_000)
    handed_on = 0
    refused_in_part = False
    snapshots: list[tuple[list[Entry], int]] = [([], 0)]
    for step, value in steps:
        if step == "add":
            sequence += [
                Entry(str(card), b"%d:%d" % (card, len(sequence) + at), follows)
                for at, (card, follows) in enumerate(value)
            ]
            writer.add(sequence[handed_on:])
            handed_on = len(sequence)
        elif step == "put":
            clock.now += writer.wait_ms
            sink.script.append(value)
            refused_in_part = refused_in_part or bool(value.entries)
            writer.put()
        elif step == "snapshot":
            snapshots.append((list(writer.unsent), handed_on))
        else:
            unsent, handed_on = snapshots[value % len(snapshots)]
            writer = a_writer(sink, clock, tries=1_000)
            writer.add(unsent)
    writer.add(sequence[handed_on:])
    sink.script.clear()
    put_all(writer, clock)
    assert set(sink.records) == {entry[:2] for entry in sequence}
    first_sights = {payload: at for at, (_, payload) in reversed(list(enumerate(sink.records)))}
    for card in {entry.partition_key for entry in sequence}:
        of_card = [entry for entry in sequence if entry.partition_key == card]
        seen = [first_sights[entry.payload] for entry in of_card]
        assert all(max(seen[:at], default=-1) < seen[at] for at, entry in enumerate(of_card) if entry.follows), card
        assert refused_in_part or seen == sorted(seen), card
