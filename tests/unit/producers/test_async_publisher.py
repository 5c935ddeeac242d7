"""The asyncio publisher: the same promises, without threads of the caller's and with cancellation."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from producers.aggregation import Aggregation
from producers.async_publisher import AsyncRecordPublisher, AsyncTransactionPublisher
from producers.deliveries import Delivered, DeliveryFailed, PublisherFull, Undelivered
from producers.publisher import RetryPolicy
from stream_features.errors import MalformedRecord, UsageError
from tests.unit.producers.aggregates import user_records
from tests.unit.producers.fake_kinesis import (
    FakeKinesis,
    accept_all,
    client_error,
    fail_with,
    gate,
    refuse,
    refuse_by_bits,
)

ROOT = Path(__file__).resolve().parents[3]
AT_ONCE = RetryPolicy(base_s=0.0, max_attempts=100)
TIMEOUT = ReadTimeoutError(endpoint_url="http://127.0.0.1:1")
NEVER = 3_600.0


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await main

    asyncio.run(bounded())


async def until(reached: threading.Event) -> None:
    assert await asyncio.to_thread(reached.wait, 60)


scripts = st.lists(
    st.one_of(
        st.just(accept_all),
        st.integers(0, 2**6 - 1).map(refuse_by_bits),
        st.sampled_from(
            [
                client_error("ProvisionedThroughputExceededException"),
                client_error("AccessDeniedException"),
                EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
                TIMEOUT,
            ]
        ).map(fail_with),
    ),
    max_size=15,
)


@given(
    st.lists(st.integers(0, 4), max_size=30),
    scripts,
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([1, 4, 1_000]),
    st.sampled_from([None, Aggregation(buckets=2, max_records=3)]),
    st.booleans(),
)
def test_nothing_is_lost_doubled_or_reordered(
    cards: list[int],
    script: list[Any],
    max_records: int,
    max_in_flight: int,
    max_waiting: int,
    aggregation: Aggregation | None,
    stored_although: bool,
) -> None:
    kinesis = FakeKinesis(script, stored_although=ReadTimeoutError if stored_although else None)
    delivered, failed = list[Delivered](), list[Undelivered]()

    async def main() -> None:
        async with AsyncRecordPublisher(
            kinesis,
            "s",
            max_records=max_records,
            max_in_flight=max_in_flight,
            max_waiting_records=max_waiting,
            aggregation=aggregation,
            retry=RetryPolicy(base_s=0.0, max_attempts=3),
            on_delivered=delivered.append,
            on_failed=failed.append,
        ) as publisher:
            for number, card in enumerate(cards):
                await publisher.publish_raw(f"card-{card}", b"%d" % number, record_id=str(number))
                assert publisher.waiting <= max_waiting
        assert publisher.waiting == 0

    run(main())
    assert sorted(int(one.record_id) for one in [*delivered, *failed]) == list(range(len(cards)))
    stored = [user_records(data) if aggregation else [(key, data, None)] for key, data in kinesis.stored]
    for one in delivered:
        key, payload, _ = stored[int(one.sequence_number) - 1][one.sub_sequence_number]
        assert (key, payload.decode()) == (one.partition_key, one.record_id)
    arrived = [(key, int(payload)) for entry in stored for key, payload, _ in entry]
    if not stored_although:
        assert len(arrived) == len(set(arrived)) == len(delivered)
    for card in range(5):
        first = list(dict.fromkeys(number for key, number in arrived if key == f"card-{card}"))
        assert first == sorted(first)


def test_deliver_says_where_the_record_lies_and_callers_share_a_request() -> None:
    kinesis = FakeKinesis()

    async def main() -> None:
        async with AsyncRecordPublisher(kinesis, "s") as publisher:
            found = await asyncio.gather(*(publisher.deliver_raw(f"card-{n}", b"%d" % n) for n in range(20)))
        assert [one.partition_key for one in found] == [f"card-{n}" for n in range(20)]
        assert [one.sequence_number for one in found] == [str(n + 1) for n in range(20)]

    run(main())
    assert len(kinesis.requests) == 1


def test_deliver_raises_when_the_record_is_given_up() -> None:
    kinesis = FakeKinesis([fail_with(client_error("AccessDeniedException"))])

    async def main() -> None:
        async with AsyncRecordPublisher(kinesis, "s") as publisher:
            with pytest.raises(DeliveryFailed, match="AccessDenied") as raised:
                await publisher.deliver_raw("a", b"1", record_id="t1")
            assert raised.value.undelivered.payload == b"1"

    run(main())


def test_publish_without_anyone_to_tell_about_failures_is_refused() -> None:
    async def main() -> None:
        async with AsyncRecordPublisher(FakeKinesis(), "s") as publisher:
            with pytest.raises(UsageError, match="on_failed"):
                await publisher.publish_raw("a", b"1")

    run(main())


def test_the_event_loop_goes_on_while_a_request_is_under_way() -> None:
    opened, reached = threading.Event(), threading.Event()
    kinesis = FakeKinesis([gate(opened, reached)])

    async def main() -> None:
        async with AsyncRecordPublisher(kinesis, "s", linger_s=0.0, on_failed=print) as publisher:
            await publisher.publish_raw("a", b"1")
            await until(reached)
            await publisher.publish_raw("b", b"2")  # another card goes out in a second request
            while len(kinesis.stored) < 1:
                await asyncio.sleep(0.001)
            await publisher.publish_raw("a", b"3")  # the same card waits for the first
            assert kinesis.stored == [("b", b"2")]
            opened.set()

    run(main())
    assert kinesis.of_key("a") == [b"1", b"3"]


def test_after_a_flush_records_linger_again() -> None:
    kinesis = FakeKinesis()

    async def main() -> None:
        async with AsyncRecordPublisher(kinesis, "s", linger_s=NEVER, on_failed=print) as publisher:
            await publisher.publish_raw("a", b"1")
            await publisher.flush()
            await publisher.publish_raw("a", b"2")
            await asyncio.sleep(0.01)
            assert kinesis.stored == [("a", b"1")]

    run(main())
    assert len(kinesis.stored) == 2


# --- cancellation


def test_a_caller_cancelled_while_it_waits_for_room_has_queued_nothing() -> None:
    opened, reached = threading.Event(), threading.Event()
    kinesis = FakeKinesis([gate(opened, reached)])

    async def main() -> None:
        async with AsyncRecordPublisher(
            kinesis, "s", linger_s=0.0, max_waiting_records=1, on_failed=print
        ) as publisher:
            await publisher.publish_raw("a", b"1")
            await until(reached)
            blocked = asyncio.create_task(publisher.publish_raw("b", b"2"))
            also_blocked = asyncio.create_task(publisher.publish_raw("c", b"3"))
            await asyncio.sleep(0.01)
            assert not blocked.done()
            blocked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await blocked
            opened.set()
            await also_blocked

    run(main())
    assert kinesis.stored == [("a", b"1"), ("c", b"3")]


def test_a_caller_cancelled_while_it_waits_for_delivery_leaves_the_record_on_its_way_once() -> None:
    opened, reached = threading.Event(), threading.Event()
    kinesis, delivered = FakeKinesis([gate(opened, reached)]), list[Delivered]()

    async def main() -> None:
        async with AsyncRecordPublisher(kinesis, "s", linger_s=0.0, on_delivered=delivered.append) as publisher:
            waiting = asyncio.create_task(publisher.deliver_raw("a", b"1", record_id="t1"))
            await until(reached)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            opened.set()
            await publisher.deliver_raw("a", b"2", record_id="t2")

    run(main())
    assert kinesis.of_key("a") == [b"1", b"2"]
    assert [one.record_id for one in delivered] == ["t1", "t2"]


def test_a_cancelled_caller_whose_record_fails_is_not_the_end_of_the_news(caplog: pytest.LogCaptureFixture) -> None:
    reached = threading.Event()
    opened = threading.Event()

    def refuse_later(entries: list[dict[str, Any]]) -> list[bool]:
        gate(opened, reached)(entries)
        raise client_error("AccessDeniedException")

    async def main() -> None:
        async with AsyncRecordPublisher(FakeKinesis([refuse_later]), "s", linger_s=0.0) as publisher:
            waiting = asyncio.create_task(publisher.deliver_raw("a", b"1", record_id="t1"))
            await until(reached)
            waiting.cancel()
            opened.set()

    run(main())
    assert "record t1 was not delivered" in caplog.text


def test_a_cancelled_flush_loses_nothing_and_can_be_repeated() -> None:
    opened, reached = threading.Event(), threading.Event()
    kinesis = FakeKinesis([gate(opened, reached), refuse(0)])

    async def main() -> None:
        publisher = AsyncRecordPublisher(kinesis, "s", linger_s=NEVER, retry=AT_ONCE, on_failed=print)
        await publisher.publish_raw("a", b"1")
        await publisher.publish_raw("a", b"2")
        flushing = asyncio.create_task(publisher.flush())
        await until(reached)
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        assert publisher.waiting == 2
        opened.set()
        await publisher.close()

    run(main())
    assert kinesis.of_key("a") == [b"1", b"2"]


def test_a_cancelled_block_still_sends_what_it_has_queued() -> None:
    kinesis = FakeKinesis()

    async def main() -> None:
        queued = asyncio.Event()

        async def work() -> None:
            async with AsyncRecordPublisher(kinesis, "s", linger_s=NEVER, on_failed=print) as publisher:
                await publisher.publish_raw("a", b"1")
                queued.set()
                await asyncio.sleep(NEVER)

        task = asyncio.create_task(work())
        await queued.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert kinesis.of_key("a") == [b"1"]


# --- bounds, loops, forks


def test_raise_when_full_queues_nothing() -> None:
    opened, reached = threading.Event(), threading.Event()

    async def main() -> None:
        async with AsyncRecordPublisher(
            FakeKinesis([gate(opened, reached)]), "s", linger_s=0.0, max_waiting_records=1, when_full="raise",
            on_failed=print,
        ) as publisher:  # fmt: skip
            await publisher.publish_raw("a", b"1")
            with pytest.raises(PublisherFull, match="1 records wait"):
                await publisher.publish_raw("b", b"2")
            opened.set()
        with pytest.raises(UsageError, match="closed"):
            await publisher.publish_raw("b", b"2")

    run(main())


def test_one_publisher_serves_one_event_loop_after_the_other() -> None:
    """A function that calls `asyncio.run` for every event."""
    kinesis = FakeKinesis([accept_all, refuse(0)])
    publisher = AsyncRecordPublisher(kinesis, "s", retry=AT_ONCE, on_failed=print)

    async def handle(number: int) -> None:
        await publisher.publish_raw("a", b"%d" % number)
        await publisher.flush()

    for number in range(3):
        run(handle(number))
        assert publisher.waiting == 0
    assert kinesis.of_key("a") == [b"0", b"1", b"2"]


def test_what_a_dead_loop_left_behind_goes_with_the_next() -> None:
    opened, reached = threading.Event(), threading.Event()
    kinesis = FakeKinesis([gate(opened, reached)])
    publisher = AsyncRecordPublisher(kinesis, "s", linger_s=0.0, on_failed=print)

    async def forget_to_flush() -> None:
        await publisher.publish_raw("a", b"1")
        await until(reached)

    async def flush() -> None:
        await publisher.flush()

    run(forget_to_flush())
    opened.set()
    run(flush())
    assert set(kinesis.of_key("a")) == {b"1"}  # twice, perhaps: nobody heard the first answer
    assert publisher.waiting == 0
    assert publisher.counters.unanswered == 1


def test_two_loops_at_once_are_refused() -> None:
    opened, reached = threading.Event(), threading.Event()
    publisher = AsyncRecordPublisher(FakeKinesis([gate(opened, reached)]), "s", linger_s=0.0, on_failed=print)

    async def elsewhere() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await publisher.publish_raw("b", b"2")

    async def main() -> None:
        await publisher.publish_raw("a", b"1")
        await until(reached)
        await asyncio.to_thread(asyncio.run, elsewhere())
        opened.set()
        await publisher.close()

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_empty() -> None:
    program = textwrap.dedent("""
        import asyncio, os
        from producers.async_publisher import AsyncRecordPublisher

        class Kinesis:
            def put_records(self, StreamName, Records):
                os.write(1, b"".join(record["Data"] + b"\\n" for record in Records))
                return {"Records": [{"ShardId": "s", "SequenceNumber": "1"} for _ in Records]}

        publisher = AsyncRecordPublisher(Kinesis, "s", linger_s=3600.0, on_failed=print)

        async def publish(payload, close):
            await publisher.publish_raw("a", payload)
            if close:
                await publisher.close()
        asyncio.run(publish(b"of the parent", False))
        child = os.fork()
        if child == 0:
            assert publisher.waiting == 0
            asyncio.run(publish(b"of the child", True))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        asyncio.run(publisher.close())
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "of the child\nof the parent\n"


def test_transactions_are_checked_and_counted() -> None:
    kinesis = FakeKinesis()
    good = {
        "transaction_id": "t1",
        "event_time_ms": 1_700_000_000_000,
        "card_id": "card",
        "merchant_id": "shop",
        "amount_minor": 1250,
        "currency": "USD",
    }

    async def main() -> None:
        async with AsyncTransactionPublisher(kinesis, "s", on_failed=print) as publisher:
            assert (await publisher.deliver(good)).record_id == "t1"
            await publisher.publish({**good, "transaction_id": "t2"})
            for call in (publisher.publish, publisher.deliver):
                with pytest.raises(MalformedRecord) as raised:
                    await call({**good, "card_id": "4111111111111111"})
                assert (raised.value.field, raised.value.rule) == ("card_id", "card_number")
        assert (publisher.counters.invalid, publisher.counters.published) == (2, 2)

    run(main())
    assert [key for key, _ in kinesis.stored] == ["card", "card"]


def test_an_error_that_nobody_foresaw_is_reported_as_a_failure() -> None:
    async def main() -> None:
        async with AsyncRecordPublisher(FakeKinesis([fail_with(ZeroDivisionError("bug"))]), "s") as publisher:
            with pytest.raises(DeliveryFailed, match="ZeroDivisionError: bug"):
                await publisher.deliver_raw("a", b"1")

    run(main())
