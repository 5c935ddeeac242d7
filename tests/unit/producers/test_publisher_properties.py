"""What holds whatever Kinesis does: a script of refusals, throttling, failures and timeouts, and a clock that jumps."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from hypothesis import example, given
from hypothesis import strategies as st

from producers.aggregation import Aggregation
from producers.deliveries import Delivered, PublisherFull, Undelivered
from producers.publisher import RecordPublisher, RetryPolicy
from stream_features.errors import PortFailure
from tests.unit.producers.aggregates import user_records
from tests.unit.producers.fake_kinesis import FakeKinesis, accept_all, client_error, fail_with, refuse_by_bits

TIMEOUT = ReadTimeoutError(endpoint_url="http://127.0.0.1:1")

scripts = st.lists(
    st.one_of(
        st.just(accept_all),
        st.integers(0, 2**6 - 1).map(refuse_by_bits),
        st.sampled_from(
            [
                client_error("ProvisionedThroughputExceededException"),
                client_error("InternalFailure", status=500),
                client_error("AccessDeniedException"),
                EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
                TIMEOUT,
            ]
        ).map(fail_with),
    ),
    max_size=30,
)
# publish to a card, flush, or let time pass (an hour: a function that was frozen)
steps = st.lists(st.one_of(st.integers(0, 4), st.just("flush"), st.sampled_from([0.005, 0.05, 3600.0])), max_size=40)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Run:
    """A publisher driven through `steps`, with everything it said."""

    def __init__(self, kinesis: FakeKinesis, **options: Any) -> None:
        self.kinesis = kinesis
        self.clock = Clock()
        self.delivered: list[Delivered] = []
        self.failed: list[Undelivered] = []
        self.sent: list[tuple[str, bytes]] = []
        self.refused = 0
        self.max_waiting = 0
        self.publisher = RecordPublisher(
            kinesis,
            "transactions",
            sleep=self.clock.sleep,
            clock=self.clock,
            on_delivered=self.delivered.append,
            on_failed=self.failed.append,
            **options,
        )

    def drive(self, steps: list[Any]) -> None:
        for number, step in enumerate(steps):
            if step == "flush":
                self.publisher.flush()
                assert self.publisher.waiting == 0
            elif isinstance(step, float):
                self.clock.sleep(step)
            else:
                try:
                    self.publisher.publish_raw(f"card-{step}", b"%d" % number, record_id=str(number))
                    self.sent.append((f"card-{step}", b"%d" % number))
                except PublisherFull:
                    self.refused += 1
            self.max_waiting = max(self.max_waiting, self.publisher.waiting)
        self.publisher.close()


@given(
    steps,
    scripts,
    st.integers(1, 6),
    st.sampled_from([None, Aggregation(buckets=1), Aggregation(buckets=4, max_records=3)]),
    st.booleans(),
    st.sampled_from([RetryPolicy(max_attempts=100), RetryPolicy(max_attempts=2, max_refusals=3)]),
    st.sampled_from([1, 3, 1_000]),
    st.sampled_from(["block", "raise"]),
)
@example([0, 0, "flush"], [fail_with(TIMEOUT)], 6, Aggregation(buckets=1), True, RetryPolicy(), 1_000, "block")
def test_nothing_is_lost_doubled_or_reordered(
    steps: list[Any],
    script: list[Any],
    max_records: int,
    aggregation: Aggregation | None,
    stored_although: bool,
    retry: RetryPolicy,
    max_waiting: int,
    when_full: str,
) -> None:
    kinesis = FakeKinesis(script, stored_although=ReadTimeoutError if stored_although else None)
    run = Run(
        kinesis,
        max_records=max_records,
        aggregation=aggregation,
        retry=retry,
        max_waiting_records=max_waiting,
        when_full=when_full,
    )
    run.drive(steps)

    # every record has exactly one outcome
    outcomes = [(one.partition_key, one.record_id) for one in [*run.delivered, *run.failed]]
    assert sorted(outcomes) == sorted((key, payload.decode()) for key, payload in run.sent)
    assert run.refused + len(run.sent) == sum(isinstance(step, int) for step in steps)
    assert run.refused == 0 or when_full == "raise"

    # what was delivered lies where the publisher says, and nothing lies there that was not sent
    stored = [user_records(data) if aggregation else [(key, data, None)] for key, data in kinesis.stored]
    for one in run.delivered:
        key, payload, _ = stored[int(one.sequence_number) - 1][one.sub_sequence_number]
        assert (key, payload.decode()) == (one.partition_key, one.record_id)
    arrived = [(key, payload) for entry in stored for key, payload, _ in entry]
    assert set(arrived) <= set(run.sent)

    # nothing twice but after a timeout, and never behind a later record of its card
    if not stored_although:
        assert len(arrived) == len(set(arrived)) == len(run.delivered)
    for card in {key for key, _ in arrived}:
        of_card = [int(payload) for key, payload in arrived if key == card]
        first = list(dict.fromkeys(of_card))  # an aggregate sent twice repeats all of its records: 1 2 1 2
        assert first == sorted(first)
        assert aggregation or of_card == sorted(of_card)

    # bounds
    assert run.max_waiting <= max_waiting
    for request in kinesis.requests:
        assert 1 <= len(request) <= max_records
        if aggregation is None:
            assert len({key for key, _ in request}) == len(request)
        else:
            cards = [{key for key, _, _ in user_records(data)} for _, data in request]
            assert sum(map(len, cards)) == len(set().union(*cards))
            assert all(len(user_records(data)) <= aggregation.max_records for _, data in request)

    counters = run.publisher.counters
    assert (counters.published, counters.failed) == (len(run.delivered), len(run.failed))
    assert counters.requests == len(kinesis.requests)
    outbox = run.publisher._outbox
    assert (outbox.waiting, outbox.waiting_bytes, outbox.in_flight) == (0, 0, 0)
    assert (outbox._ready_records, outbox._ready_bytes, outbox._lanes, outbox._of_epoch) == (0, 0, {}, {})


@given(steps, scripts, st.integers(1, 6))
def test_without_on_failed_every_record_stays_until_the_stream_has_it(
    steps: list[Any], script: list[Any], max_records: int
) -> None:
    kinesis, clock = FakeKinesis(script), Clock()
    publisher = RecordPublisher(
        kinesis,
        "transactions",
        max_records=max_records,
        retry=RetryPolicy(max_attempts=2),
        sleep=clock.sleep,
        clock=clock,
    )
    sent: list[bytes] = []
    for number, step in enumerate(steps):
        try:
            if step == "flush":
                publisher.flush()
            elif isinstance(step, float):
                clock.sleep(step)
            else:
                sent.append(b"%d" % number)
                publisher.publish_raw(f"card-{step}", b"%d" % number)
        except PortFailure:
            continue  # the record is queued nevertheless
    while publisher.waiting:
        try:
            publisher.close()
        except PortFailure:
            continue
    assert sorted(payload for _, payload in kinesis.stored) == sorted(sent)
    for card in range(5):
        of_card = [int(payload) for payload in kinesis.of_key(f"card-{card}")]
        assert of_card == sorted(of_card)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60), st.integers(0, 2**30))
def test_bounded_in_bytes_too(records: list[tuple[int, bool]], bits: int) -> None:
    """One-megabyte records among small ones, a stream that refuses at random: never more than the bound is held."""
    bound = 3 * 1024 * 1024
    kinesis = FakeKinesis([refuse_by_bits(bits >> place & 7) for place in range(30)])
    run = Run(kinesis, max_waiting_bytes=bound, retry=RetryPolicy(max_attempts=100))
    held = 0
    for card, is_large in records:
        payload = bytes(1_000_000 if is_large else 10)
        run.publisher.publish_raw(f"card-{card}", payload)
        held = max(held, run.publisher._outbox.waiting_bytes)
        assert held <= bound
    run.publisher.close()
    assert len(kinesis.stored) == len(records)
    assert run.publisher._outbox.waiting_bytes == 0
