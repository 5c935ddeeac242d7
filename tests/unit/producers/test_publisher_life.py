"""Threads, back-pressure, callbacks, forks and frozen functions."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from producers.aggregation import Aggregation
from producers.deliveries import Delivered, PublisherFull, Undelivered
from producers.publisher import RecordPublisher, RetryPolicy
from stream_features.errors import PortFailure, UsageError
from tests.unit.producers.fake_kinesis import FakeKinesis, client_error, fail_with, gate, refuse

ROOT = Path(__file__).resolve().parents[3]
NEVER = 3_600.0
AT_ONCE = RetryPolicy(base_s=0.0)


def test_delivered_says_where_the_record_lies() -> None:
    kinesis, delivered = FakeKinesis([refuse(0)]), list[Delivered]()
    with RecordPublisher(kinesis, "s", on_delivered=delivered.append, retry=AT_ONCE) as publisher:
        publisher.publish_raw("a", b"1", record_id="t1")
        publisher.publish_raw("b", b"2", record_id="t2")
    assert delivered == [Delivered("t2", "b", "shardId-0", "1", 0), Delivered("t1", "a", "shardId-0", "2", 0)]


def test_failed_hands_the_record_back_with_the_reason_and_the_publisher_goes_on() -> None:
    kinesis, failed = FakeKinesis([fail_with(client_error("AccessDeniedException"))]), list[Undelivered]()
    with RecordPublisher(kinesis, "s", on_failed=failed.append) as publisher:
        publisher.publish_raw("a", b"1", record_id="t1")
        publisher.flush()
        publisher.publish_raw("a", b"2")
    [one] = failed
    assert (one.record_id, one.partition_key, one.payload) == ("t1", "a", b"1")
    assert "AccessDeniedException" in one.reason
    assert kinesis.stored == [("a", b"2")]
    assert (publisher.counters.failed, publisher.counters.published) == (1, 1)


def test_a_callback_that_raises_stops_nothing_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def burst(delivered: Delivered) -> None:
        raise ZeroDivisionError

    kinesis = FakeKinesis()
    with caplog.at_level(logging.ERROR), RecordPublisher(kinesis, "s", on_delivered=burst) as publisher:
        publisher.publish_raw("a", b"1", record_id="t1")
        publisher.publish_raw("a", b"2", record_id="t2")
    assert kinesis.of_key("a") == [b"1", b"2"]
    assert publisher.counters.callback_errors == 2
    assert ["t1" in record.message or "t2" in record.message for record in caplog.records] == [True, True]


def test_a_callback_may_publish() -> None:
    kinesis = FakeKinesis()

    def answer(delivered: Delivered) -> None:
        if delivered.partition_key == "question":
            publisher.publish_raw("answer", b"2")

    publisher = RecordPublisher(kinesis, "s", on_delivered=answer, max_waiting_records=1)
    publisher.publish_raw("question", b"1")
    publisher.flush()
    publisher.flush()
    assert [key for key, _ in kinesis.stored] == ["question", "answer"]


def test_unanswered_requests_are_counted_for_they_may_have_arrived() -> None:
    timeout = ReadTimeoutError(endpoint_url="http://127.0.0.1:1")
    kinesis = FakeKinesis([fail_with(timeout)], stored_although=ReadTimeoutError)
    with RecordPublisher(kinesis, "s", retry=AT_ONCE) as publisher:
        publisher.publish_raw("a", b"1")
    assert kinesis.of_key("a") == [b"1", b"1"]
    assert (publisher.counters.published, publisher.counters.unanswered) == (1, 1)


def test_a_call_that_is_interrupted_leaves_its_records_queued_in_order() -> None:
    kinesis = FakeKinesis([fail_with(KeyboardInterrupt())])  # type: ignore[arg-type]
    publisher = RecordPublisher(kinesis, "s")
    publisher.publish_raw("a", b"1")
    publisher.publish_raw("a", b"2")
    with pytest.raises(KeyboardInterrupt):
        publisher.flush()
    publisher.flush()
    assert kinesis.of_key("a") == [b"1", b"2"]


def test_raise_when_full_queues_nothing_and_works_again_later() -> None:
    kinesis = FakeKinesis([refuse(0)])
    publisher = RecordPublisher(
        kinesis, "s", max_waiting_records=1, when_full="raise", retry=RetryPolicy(base_s=NEVER, cap_s=NEVER),
        chance=lambda: 1.0, clock=(clock := SetClock()),
    )  # fmt: skip
    publisher.publish_raw("a", b"1")
    with pytest.raises(PublisherFull, match="1 records wait for stream s"):
        publisher.publish_raw("b", b"2")
    assert publisher.waiting == 1
    clock.now_s += NEVER
    publisher.publish_raw("b", b"2")
    publisher.flush()
    assert kinesis.stored == [("a", b"1"), ("b", b"2")]


def test_block_when_full_waits_out_the_backoff() -> None:
    slept: list[float] = []
    clock = SetClock()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now_s += seconds

    publisher = RecordPublisher(
        FakeKinesis([refuse(0)]), "s", max_waiting_records=1, retry=RetryPolicy(base_s=2.0), chance=lambda: 1.0,
        clock=clock, sleep=sleep,
    )  # fmt: skip
    publisher.publish_raw("a", b"1")
    publisher.publish_raw("b", b"2")
    assert slept == [2.0]
    assert publisher.counters.published == 1


def test_a_flush_that_may_not_take_longer_says_what_waits() -> None:
    clock = SetClock()

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    publisher = RecordPublisher(
        FakeKinesis([refuse(0)] * 9), "s", retry=RetryPolicy(base_s=1.0), chance=lambda: 1.0, clock=clock, sleep=sleep
    )
    publisher.publish_raw("a", b"1")
    with pytest.raises(PortFailure, match=r"1 records are still waiting after 2\.5 s"):
        publisher.flush(timeout_s=2.5)
    assert clock.now_s == 2.5
    assert publisher.waiting == 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_records": 0},
        {"max_records": 501},
        {"max_request_bytes": 5 * 1024 * 1024 + 1},
        {"max_waiting_records": 0},
        {"max_waiting_bytes": 1_000},
        {"when_full": "drop"},
        {"sender_threads": 1},
        {"sender_threads": -1, "on_failed": print},
        {"aggregation": Aggregation(), "strict_order": False},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        RecordPublisher(FakeKinesis(), "s", **options)


def test_without_strict_order_a_busy_card_fills_requests() -> None:
    kinesis = FakeKinesis()
    with RecordPublisher(kinesis, "s", strict_order=False, max_records=3, linger_s=NEVER) as publisher:
        for number in range(6):
            publisher.publish_raw("busy", b"%d" % number)
    assert [len(request) for request in kinesis.requests] == [3, 3]


# --- threads


def test_a_thread_sends_what_lingers_while_the_caller_does_nothing() -> None:
    sent = threading.Event()
    publisher = RecordPublisher(
        FakeKinesis(), "s", sender_threads=1, linger_s=0.001, on_delivered=lambda _: sent.set(), on_failed=print
    )
    publisher.publish_raw("a", b"1")
    assert sent.wait(60)
    publisher.close()
    assert not [thread for thread in publisher._threads if thread.is_alive()]


def test_a_thread_that_had_nothing_to_do_notices_the_next_record() -> None:
    delivered: queue.Queue[Delivered] = queue.Queue()
    publisher = RecordPublisher(
        FakeKinesis(), "s", sender_threads=1, linger_s=0.0, on_delivered=delivered.put, on_failed=print
    )
    for number in range(50):
        publisher.publish_raw("a", b"%d" % number, record_id=str(number))
        assert delivered.get(timeout=60).record_id == str(number)
    publisher.close()


def test_publishing_does_not_wait_for_a_request_of_a_thread() -> None:
    opened, reached = threading.Event(), threading.Event()
    kinesis = FakeKinesis([gate(opened, reached)])
    publisher = RecordPublisher(kinesis, "s", sender_threads=1, linger_s=0.0, on_failed=print)
    publisher.publish_raw("a", b"1")
    assert reached.wait(60)
    for number in range(2, 50):
        publisher.publish_raw("a", b"%d" % number)
    assert kinesis.stored == []
    opened.set()
    publisher.close()
    assert kinesis.of_key("a") == [b"%d" % number for number in range(1, 50)]


def test_with_threads_full_raises_at_once() -> None:
    opened, reached = threading.Event(), threading.Event()
    publisher = RecordPublisher(
        FakeKinesis([gate(opened, reached)]), "s", sender_threads=1, linger_s=0.0, on_failed=print,
        max_waiting_records=2, when_full="raise",
    )  # fmt: skip
    publisher.publish_raw("a", b"1")
    assert reached.wait(60)
    publisher.publish_raw("b", b"2")
    with pytest.raises(PublisherFull):
        publisher.publish_raw("c", b"3")
    opened.set()
    publisher.close()


def test_a_blocked_caller_goes_on_when_a_thread_has_made_room() -> None:
    opened, reached = threading.Event(), threading.Event()
    kinesis = FakeKinesis([gate(opened, reached)])
    publisher = RecordPublisher(kinesis, "s", sender_threads=1, linger_s=0.0, on_failed=print, max_waiting_records=1)
    publisher.publish_raw("a", b"1")
    assert reached.wait(60)
    caller = threading.Thread(target=publisher.publish_raw, args=("b", b"2"))
    caller.start()
    assert caller.is_alive()
    assert publisher.waiting == 1
    opened.set()
    caller.join(60)
    publisher.close()
    assert kinesis.stored == [("a", b"1"), ("b", b"2")]


@pytest.mark.parametrize("sender_threads", [0, 3])
@pytest.mark.parametrize("aggregation", [None, Aggregation(buckets=4, max_records=5)], ids=["plain", "aggregated"])
def test_many_threads_share_one_publisher(sender_threads: int, aggregation: Aggregation | None) -> None:
    script = [refuse(0, 2), fail_with(client_error("InternalFailure", status=500)), refuse(1)] * 20
    kinesis, delivered, failed = FakeKinesis(script), list[Delivered](), list[Undelivered]()
    publisher = RecordPublisher(
        kinesis,
        "s",
        max_records=7,
        linger_s=0.001,
        retry=RetryPolicy(base_s=0.001, max_attempts=100),
        aggregation=aggregation,
        sender_threads=sender_threads,
        max_waiting_records=50,
        on_delivered=delivered.append,
        on_failed=failed.append,
    )

    def work(worker: int) -> None:
        for number in range(300):
            publisher.publish_raw(f"card-{worker}-{number % 3}", b"%d" % number, record_id=f"{worker}-{number}")
            if number % 100 == 0:
                publisher.flush()

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    publisher.close()
    assert failed == []
    assert sorted(one.record_id for one in delivered) == sorted(f"{w}-{n}" for w in range(6) for n in range(300))
    place = {one.record_id: (int(one.sequence_number), one.sub_sequence_number) for one in delivered}
    for worker_number in range(6):
        for card in range(3):
            of_card = [place[f"{worker_number}-{number}"] for number in range(card, 300, 3)]
            assert of_card == sorted(of_card)
    assert publisher.counters.published == 1_800


def test_an_error_in_a_thread_that_nobody_foresaw_is_reported_as_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    failed = list[Undelivered]()
    kinesis = FakeKinesis([fail_with(ZeroDivisionError("bug"))])
    publisher = RecordPublisher(kinesis, "s", sender_threads=1, linger_s=0.0, on_failed=failed.append)
    publisher.publish_raw("a", b"1")
    while not failed and not kinesis.stored:
        threading.Event().wait(0.001)
    publisher.publish_raw("a", b"2")
    publisher.close()
    assert "ZeroDivisionError: bug" in failed[0].reason
    assert kinesis.of_key("a") == [b"2"]
    assert "sending 1 Kinesis records failed" in caplog.text


PROGRAM = """
    import os, sys
    from producers.publisher import RecordPublisher

    class Kinesis:
        def put_records(self, StreamName, Records):
            os.write(1, b"".join(record["Data"] + b"\\n" for record in Records))
            return {"Records": [{"ShardId": "s", "SequenceNumber": "1"} for _ in Records]}
"""


def run_program(body: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(PROGRAM) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_program_that_ends_without_closing_loses_nothing_that_threads_were_to_send() -> None:
    ended = run_program("""
        publisher = RecordPublisher(Kinesis(), "s", sender_threads=1, linger_s=3600.0, on_failed=print)
        publisher.publish_raw("a", b"last words")
    """)
    assert (ended.returncode, ended.stdout) == (0, "last words\n"), ended.stderr


# --- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("threads", [0, 1])
def test_a_forked_child_starts_empty_with_a_client_of_its_own(threads: int) -> None:
    ended = run_program(f"""
        made = []
        def client():
            made.append(os.getpid())
            return Kinesis()

        publisher = RecordPublisher(client, "s", sender_threads={threads}, linger_s=3600.0, on_failed=print)
        publisher.publish_raw("a", b"before the fork")
        publisher.flush()
        publisher.publish_raw("a", b"of the parent")
        child = os.fork()
        if child == 0:
            assert (publisher.waiting, publisher.counters.published) == (0, 0)
            publisher.publish_raw("a", b"of the child")
            publisher.close()
            assert made[-1] == os.getpid() and len(made) == 2
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0 and publisher.waiting == 1
        publisher.close()
        assert made == [os.getpid()]
    """)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "before the fork\nof the child\nof the parent\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_amid_a_busy_thread_leaves_no_lock_behind() -> None:
    ended = run_program("""
        import threading
        publisher = RecordPublisher(Kinesis, "s", sender_threads=2, linger_s=0.0, on_failed=print)
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                publisher.publish_raw("a", b"parent")
        threading.Thread(target=busy).start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                publisher.publish_raw("b", b"child")
                publisher.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
    """)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("child\n") == 20


def test_a_client_that_was_given_drops_its_connections_in_the_child() -> None:
    class Client(FakeKinesis):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    client = Client()
    publisher = RecordPublisher(client, "s")
    publisher.publish_raw("a", b"1")
    publisher.start_empty_in_child()
    assert (client.closed, publisher.waiting) == (1, 0)


# --- frozen functions


class SetClock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("aggregation", [None, Aggregation()], ids=["plain", "aggregated"])
def test_between_the_calls_of_a_frozen_function_nothing_happens_and_nothing_is_under_way(
    aggregation: Aggregation | None,
) -> None:
    kinesis, clock, before = FakeKinesis([refuse(0)]), SetClock(), threading.active_count()
    publisher = RecordPublisher(kinesis, "s", aggregation=aggregation, clock=clock, retry=AT_ONCE, linger_s=0.02)
    for invocation in range(3):
        publisher.publish_raw("a", b"%d" % invocation)
        publisher.flush()
        assert publisher.waiting == 0
        assert len(kinesis.stored) == invocation + 1
        assert publisher.due_in_s() == float("inf")
        clock.now_s += NEVER
    assert threading.active_count() == before


def test_a_function_frozen_with_records_waiting_sends_them_with_the_next_call() -> None:
    kinesis, clock = FakeKinesis([refuse(0)]), SetClock()
    publisher = RecordPublisher(kinesis, "s", clock=clock, linger_s=0.02)
    publisher.publish_raw("a", b"1")
    clock.now_s += NEVER
    publisher.send_due()  # refused: its retry is due within seconds, but the function is frozen again
    clock.now_s += NEVER
    publisher.publish_raw("b", b"2")
    assert kinesis.stored == [("a", b"1"), ("b", b"2")]


def test_a_publisher_closed_in_the_parent_is_closed_in_the_child() -> None:
    publisher = RecordPublisher(FakeKinesis(), "s")
    publisher.close()
    publisher.start_empty_in_child()
    with pytest.raises(UsageError, match="closed"):
        publisher.publish_raw("a", b"1")
