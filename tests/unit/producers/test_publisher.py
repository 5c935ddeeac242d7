from __future__ import annotations

from typing import Any

import msgspec
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from producers.deliveries import Undelivered
from producers.publisher import MAX_RECORD_BYTES, RecordPublisher, RetryPolicy, TransactionPublisher
from stream_features.errors import MalformedRecord, PortFailure, UsageError
from stream_features.transaction import Transaction, parse_transaction
from tests.unit.producers.fake_kinesis import (
    FakeKinesis,
    accept_all,
    client_error,
    fail_with,
    refuse,
    refuse_by_bits,
)

TIMEOUT = ReadTimeoutError(endpoint_url="http://127.0.0.1:1")
TRANSACTION = Transaction(
    transaction_id="t1",
    event_time_ms=1_700_000_000_000,
    card_id="card",
    merchant_id="shop",
    amount_minor=1250,
    currency="USD",
    latitude=48.1,
    longitude=11.6,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


def a_publisher(kinesis: FakeKinesis, clock: Clock | None = None, **options: Any) -> RecordPublisher:
    clock = clock or Clock()
    return RecordPublisher(kinesis, "transactions", sleep=clock.sleep, clock=clock, chance=lambda: 1.0, **options)


answers = st.lists(
    st.one_of(
        st.just(accept_all),
        st.integers(0, 2**6 - 1).map(refuse_by_bits),
        st.sampled_from(
            [
                client_error("ProvisionedThroughputExceededException"),
                client_error("InternalFailure", status=500),
                EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
                TIMEOUT,
            ]
        ).map(fail_with),
    ),
    max_size=30,
)


@given(st.lists(st.integers(0, 4), max_size=40), answers, st.integers(1, 6), st.booleans())
def test_under_any_failures_each_card_arrives_whole_and_in_order(
    cards: list[int], script: list[Any], max_records: int, stored_although: bool
) -> None:
    kinesis = FakeKinesis(script, stored_although=ReadTimeoutError if stored_although else None)
    publisher = a_publisher(kinesis, max_records=max_records, retry=RetryPolicy(max_attempts=100))
    sent: dict[str, list[bytes]] = {}
    for number, card in enumerate(cards):
        sent.setdefault(f"card-{card}", []).append(b"%d" % number)
        publisher.publish_raw(f"card-{card}", b"%d" % number)
    publisher.flush()
    for card, payloads in sent.items():
        arrived = kinesis.of_key(card)
        if not stored_although:
            assert arrived == payloads
        # after a timeout a record may be there twice, but never behind a later one of its card
        assert list(dict.fromkeys(arrived)) == payloads
        assert arrived == sorted(arrived, key=int)
    for request in kinesis.requests:
        assert len({key for key, _ in request}) == len(request) <= max_records
    assert publisher.counters.published == len(cards)
    assert publisher.counters.requests == len(kinesis.requests)
    assert publisher.counters.retried == sum(map(len, kinesis.requests)) - len(cards)
    assert publisher.waiting == 0


def test_exactly_the_refused_records_are_sent_again() -> None:
    kinesis = FakeKinesis([refuse(1, 3), refuse(0)])
    publisher = a_publisher(kinesis)
    for number in range(5):
        publisher.publish_raw(f"card-{number}", b"%d" % number)
    publisher.flush()
    assert [[key for key, _ in request] for request in kinesis.requests] == [
        ["card-0", "card-1", "card-2", "card-3", "card-4"],
        ["card-1", "card-3"],
        ["card-1"],
    ]
    assert publisher.counters.retried == 3


def test_a_busy_card_waits_for_its_own_records_only() -> None:
    kinesis = FakeKinesis()
    publisher = a_publisher(kinesis)
    for number in range(3):
        publisher.publish_raw("busy", b"busy %d" % number)
    for number in range(3):
        publisher.publish_raw(f"other-{number}", b"other")
    publisher.flush()
    assert [[key for key, _ in request] for request in kinesis.requests] == [
        ["busy", "other-0", "other-1", "other-2"],
        ["busy"],
        ["busy"],
    ]


def test_requests_hold_at_most_500_records_and_go_out_when_full() -> None:
    kinesis = FakeKinesis()
    publisher = a_publisher(kinesis)
    for number in range(1_250):
        publisher.publish_raw(f"card-{number}", b"x")
    assert [len(request) for request in kinesis.requests] == [500, 500]
    publisher.flush()
    assert len(kinesis.requests[2]) == 250


def test_requests_stay_under_5_mb() -> None:
    kinesis = FakeKinesis()
    publisher = a_publisher(kinesis)
    for number in range(12):
        publisher.publish_raw(f"card-{number}", bytes(1_000_000))
    publisher.flush()
    sizes = [sum(len(key) + len(payload) for key, payload in request) for request in kinesis.requests]
    assert max(sizes) <= 5 * 1024 * 1024
    assert [len(request) for request in kinesis.requests] == [5, 5, 2]


def test_few_cards_do_not_pile_up() -> None:
    kinesis = FakeKinesis()
    publisher = a_publisher(kinesis)
    for number in range(5_000):
        publisher.publish_raw(f"card-{number % 7}", b"%d" % number)
        assert publisher.waiting < 1_000
    publisher.flush()
    assert len(kinesis.stored) == 5_000


def test_a_record_lingers_no_longer_than_asked() -> None:
    clock, kinesis = Clock(), FakeKinesis()
    publisher = a_publisher(kinesis, clock, linger_s=0.02)
    assert publisher.due_in_s() == float("inf")
    publisher.publish_raw("a", b"1")
    clock.now_s = 0.019
    publisher.publish_raw("b", b"2")
    assert kinesis.requests == []
    assert publisher.due_in_s() == pytest.approx(0.001)
    clock.now_s = 0.02
    publisher.send_due()
    assert [[key for key, _ in request] for request in kinesis.requests] == [["a", "b"]]


def test_a_late_publish_sends_what_lingered() -> None:
    clock, kinesis = Clock(), FakeKinesis()
    publisher = a_publisher(kinesis, clock, linger_s=0.02)
    publisher.publish_raw("a", b"1")
    clock.now_s = 5.0
    publisher.publish_raw("b", b"2")
    assert len(kinesis.stored) == 2


def test_the_waits_of_a_record_double_up_to_their_cap() -> None:
    clock = Clock()
    kinesis = FakeKinesis([refuse(0, 1), refuse(0, 1), refuse(0, 1), refuse(0), refuse(0)])
    publisher = a_publisher(kinesis, clock, retry=RetryPolicy(base_s=0.1, cap_s=0.3))
    publisher.publish_raw("a", b"1")
    publisher.publish_raw("b", b"2")
    publisher.flush()
    assert clock.slept_s == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


def test_a_hot_shard_holds_back_its_own_cards_only() -> None:
    clock = Clock()
    kinesis = FakeKinesis([refuse(0)])
    publisher = a_publisher(kinesis, clock, max_records=2, retry=RetryPolicy(base_s=10.0, cap_s=10.0))
    publisher.publish_raw("hot", b"1")
    publisher.publish_raw("cold", b"2")  # fills the first request
    publisher.publish_raw("hot", b"3")
    publisher.publish_raw("cold", b"4")
    publisher.publish_raw("cool", b"5")
    assert [[payload for _, payload in request] for request in kinesis.requests] == [[b"1", b"2"], [b"4", b"5"]]
    assert clock.slept_s == []
    publisher.flush()
    assert kinesis.of_key("hot") == [b"1", b"3"]
    assert clock.slept_s == pytest.approx([10.0])


def test_a_stream_that_takes_nothing_gets_no_other_records_meanwhile() -> None:
    clock = Clock()
    kinesis = FakeKinesis([fail_with(client_error("InternalFailure", status=500))])
    publisher = a_publisher(kinesis, clock, max_records=1, retry=RetryPolicy(base_s=10.0))
    publisher.publish_raw("a", b"1")
    publisher.publish_raw("b", b"2")
    assert len(kinesis.requests) == 1
    assert publisher.due_in_s() == pytest.approx(5.0)  # the cap


def test_patience_starts_again_whenever_something_gets_through() -> None:
    clock, kinesis = Clock(), FakeKinesis([refuse(0)] * 30)
    publisher = a_publisher(kinesis, clock, max_records=2, retry=RetryPolicy(max_attempts=3))
    publisher.publish_raw("hot", b"1")
    for number in range(30):
        clock.now_s += 10.0
        publisher.publish_raw(f"cold-{number}", b"2")  # company for each attempt
    publisher.flush()
    assert len(kinesis.stored) == 31
    assert publisher.counters.retried == 30


def test_a_record_refused_forever_while_others_pass_is_given_up_in_the_end() -> None:
    kinesis = FakeKinesis([refuse(0)] * 1_000)
    failed: list[Undelivered] = []
    publisher = a_publisher(
        kinesis,
        retry=RetryPolicy(max_attempts=1_000, max_refusals=7, base_s=0.001),
        on_failed=failed.append,
    )
    publisher.publish_raw("hot", b"1")
    publisher.flush()
    assert len(kinesis.requests) == 7
    assert [one.payload for one in failed] == [b"1"]
    assert "after 7 refusals" in failed[0].reason


def test_jitter_spreads_the_wait_from_nothing_to_all_of_it() -> None:
    policy = RetryPolicy(base_s=0.1, cap_s=10.0)
    assert [policy.delay_s(3, chance) for chance in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.2, 0.4])


def test_giving_up_says_how_many_and_a_later_flush_resumes_in_order() -> None:
    kinesis = FakeKinesis([refuse(1), refuse(0), refuse(0), refuse(0)])
    publisher = a_publisher(kinesis, retry=RetryPolicy(max_attempts=4))
    publisher.publish_raw("a", b"1")
    publisher.publish_raw("b", b"2")
    publisher.publish_raw("b", b"3")
    with pytest.raises(
        PortFailure, match=r"transactions did not take 1 records after 4 .*slow down.*1 published, 2 wait"
    ):
        publisher.flush()
    assert (publisher.counters.published, publisher.counters.failed, publisher.waiting) == (1, 1, 2)
    publisher.flush()
    assert kinesis.stored == [("a", b"1"), ("b", b"2"), ("b", b"3")]


@pytest.mark.parametrize(
    "error",
    [client_error("ResourceNotFoundException"), client_error("AccessDeniedException"), NoCredentialsError()],
    ids=["no stream", "no permission", "no credentials"],
)
def test_an_error_that_stays_is_not_tried_again(error: Exception) -> None:
    kinesis = FakeKinesis([fail_with(error)])
    publisher = a_publisher(kinesis)
    publisher.publish_raw("a", b"1")
    with pytest.raises(PortFailure, match="1 waiting") as raised:
        publisher.flush()
    assert raised.value.__cause__ is error
    assert len(kinesis.requests) == 1


def test_the_with_block_closes_also_when_it_failed() -> None:
    kinesis = FakeKinesis()
    with a_publisher(kinesis) as publisher:
        publisher.publish_raw("a", b"1")
    assert len(kinesis.stored) == 1

    def fail_midway() -> None:
        with a_publisher(kinesis) as publisher:
            publisher.publish_raw("a", b"2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert kinesis.of_key("a") == [b"1", b"2"]


def test_what_went_wrong_first_is_raised_and_what_was_left_behind_is_noted() -> None:
    kinesis = FakeKinesis([fail_with(client_error("AccessDeniedException"))])

    def fail_midway() -> None:
        with a_publisher(kinesis) as publisher:
            publisher.publish_raw("a", b"2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        fail_midway()
    assert "did not take 1 records" in raised.value.__notes__[0]


def test_a_closed_publisher_takes_nothing_more() -> None:
    publisher = a_publisher(FakeKinesis())
    publisher.close()
    with pytest.raises(UsageError, match="closed"):
        publisher.publish_raw("a", b"1")


@pytest.mark.parametrize(
    ("key", "payload", "field"),
    [("", b"1", "partition_key"), ("k" * 257, b"1", "partition_key"), ("k", bytes(MAX_RECORD_BYTES), "$")],
    ids=["no key", "long key", "too large with its key"],
)
def test_what_kinesis_never_takes_is_refused_before_it_is_queued(key: str, payload: bytes, field: str) -> None:
    publisher = a_publisher(FakeKinesis())
    with pytest.raises(MalformedRecord) as raised:
        publisher.publish_raw(key, payload)
    assert raised.value.field == field
    assert publisher.waiting == 0


def test_transactions_go_out_under_their_card_and_parse_back() -> None:
    kinesis = FakeKinesis()
    with TransactionPublisher(kinesis, "transactions") as publisher:
        publisher.publish(TRANSACTION)
    [(key, payload)] = kinesis.stored
    assert key == "card"
    assert parse_transaction(payload, arrival_ms=TRANSACTION.event_time_ms) == TRANSACTION


def test_a_transaction_that_would_be_quarantined_is_refused() -> None:
    kinesis = FakeKinesis()
    card_number = msgspec.structs.replace(TRANSACTION, card_id="4111111111111111")
    with TransactionPublisher(kinesis, "transactions") as publisher, pytest.raises(MalformedRecord) as raised:
        publisher.publish(card_number)
    assert (raised.value.field, raised.value.rule) == ("card_id", "card_number")
    assert kinesis.stored == []
