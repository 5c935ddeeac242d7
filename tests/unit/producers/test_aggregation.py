"""Aggregates hold exactly what was sent, stay in bounds and go where their cards' records would have gone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers import aggregation as adapter
from producers.aggregation import Aggregation, aggregate
from producers.deliveries import Delivered
from producers.publisher import MAX_RECORD_BYTES, RecordPublisher, TransactionPublisher
from producers.simulator import simulate
from stream_features.errors import ContractMismatch, MalformedRecord
from stream_features.transaction import encode_transaction
from tests.unit.producers.aggregates import user_records
from tests.unit.producers.fake_kinesis import FakeKinesis

SPACE = 2**128
MAGIC = b"\xf3\x89\x9a\xc2"


def hash_of(key: str) -> int:
    """Kinesis' own hash of a partition key."""
    return int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16)


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=60), st.binary(max_size=300)), max_size=80),
    st.sampled_from([1, 4, 64]),
    st.integers(1, 20),
    st.integers(1, 3_000),
)
def test_aggregates_come_apart_into_exactly_what_was_sent(
    sent: list[tuple[str, bytes]], buckets: int, max_records: int, max_bytes: int
) -> None:
    sent = [(key, payload) for key, payload in sent if key.isprintable()]
    policy = Aggregation(buckets=buckets, max_records=max_records, max_bytes=max_bytes)
    kinesis, delivered = FakeKinesis(), list[Delivered]()
    with RecordPublisher(kinesis, "s", aggregation=policy, on_delivered=delivered.append) as publisher:
        for key, payload in sent:
            publisher.publish_raw(key, payload)
    arrived: dict[str | None, list[tuple[str, bytes]]] = {}
    for (_, data), outer in zip(kinesis.stored, kinesis.hash_keys, strict=True):
        assert data.startswith(MAGIC)  # also a record that is alone: a stream is aggregated or it is not
        records = user_records(data)
        assert 1 <= len(records) <= max_records
        assert len(records) == 1 or len(data) <= max_bytes
        for key, payload, inner in records:
            assert inner == outer == policy.hash_key_of(key)
            arrived.setdefault(outer, []).append((key, payload))
    expected: dict[str | None, list[tuple[str, bytes]]] = {}
    for key, payload in sent:
        expected.setdefault(policy.hash_key_of(key), []).append((key, payload))
    assert arrived == expected  # each bucket in the order of sending, so each card too
    assert len(delivered) == len(sent)


@given(st.text(min_size=1, max_size=40), st.sampled_from([1, 2, 64, 4096]))
def test_a_bucket_is_a_fixed_range_of_kinesis_own_hashes(key: str, buckets: int) -> None:
    hash_key = int(Aggregation(buckets=buckets).hash_key_of(key))
    assert hash_key <= hash_of(key) < hash_key + SPACE // buckets
    assert hash_key % (SPACE // buckets) == 0


def test_a_card_lands_on_the_shard_it_would_have_without_aggregation() -> None:
    for card in (f"card-{number}" for number in range(500)):
        for shards in (1, 2, 4, 8):
            shard = SPACE // shards
            assert int(Aggregation().hash_key_of(card)) // shard == hash_of(card) // shard


def test_the_bucket_of_a_card_never_changes() -> None:
    """Publishers of different versions must agree; these keys are a contract with what is already in streams."""
    policy = Aggregation()
    assert policy.hash_key_of("card-1") == "212676479325586539664609129644855132160"
    assert policy.hash_key_of("c-7-42") == "170141183460469231731687303715884105728"


def test_simulated_transactions_take_few_kinesis_records() -> None:
    transactions = [row.transaction for row in simulate(5_000, seed=3, end_ms=1_750_000_000_000)]
    kinesis = FakeKinesis()
    with TransactionPublisher(kinesis, "s", aggregation=Aggregation(), linger_s=3_600.0) as publisher:
        for transaction in transactions:
            publisher.publish(transaction)
    arrived = [(key, payload) for _, data in kinesis.stored for key, payload, _ in user_records(data)]
    assert sorted(arrived) == sorted((one.card_id, encode_transaction(one)) for one in transactions)
    buckets = {Aggregation().hash_key_of(one.card_id) for one in transactions}
    assert [key for key, _ in kinesis.stored] == kinesis.hash_keys  # what parallel readers of a shard go by
    assert {key for key, _ in kinesis.stored} == buckets
    assert len(kinesis.stored) < 2 * len(buckets)  # a busy bucket may fill more than one
    assert publisher.counters.published == 5_000


def test_requests_of_large_aggregates_stay_under_5_mb() -> None:
    kinesis = FakeKinesis()
    with RecordPublisher(kinesis, "s", aggregation=Aggregation(max_bytes=500_000), linger_s=3_600.0) as publisher:
        for number in range(90):
            publisher.publish_raw(f"card-{number}", bytes(200_000))
    assert sum(len(user_records(data)) for _, data in kinesis.stored) == 90
    for request in kinesis.requests:
        assert sum(len(key.encode()) + len(data) for key, data in request) <= 5 * 1024 * 1024


@pytest.mark.parametrize("key", ["k", "k" * 256, "\N{GRINNING FACE}" * 256], ids=["short", "long", "long in UTF-8"])
def test_the_largest_record_that_is_taken_still_fits_into_kinesis(key: str) -> None:
    kinesis = FakeKinesis()
    publisher = RecordPublisher(kinesis, "s", aggregation=Aggregation())
    size = MAX_RECORD_BYTES
    while publisher.waiting == 0:
        try:
            publisher.publish_raw(key, bytes(size))
        except MalformedRecord:
            size -= 100
    publisher.flush()
    [(outer_key, data)] = kinesis.stored
    assert len(data) + len(outer_key.encode()) <= MAX_RECORD_BYTES
    assert size > MAX_RECORD_BYTES - 2_000
    assert [payload for _, payload, _ in user_records(data)] == [bytes(size)]
    with pytest.raises(MalformedRecord, match="size"):
        publisher.publish_raw(key, bytes(size + 100))


def test_an_aggregate_that_lost_a_record_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    library = adapter._library()

    def forgetful(message: bytes) -> Any:
        parsed = library.parse(message)
        del parsed.records[0]
        return parsed

    monkeypatch.setattr(adapter, "_library", lambda: library._replace(parse=forgetful))
    kinesis = FakeKinesis()
    publisher = RecordPublisher(kinesis, "s", aggregation=Aggregation())
    publisher.publish_raw("a", b"1")
    with pytest.raises(ContractMismatch, match="of 1 records holds 0"):
        publisher.flush()
    assert (kinesis.stored, publisher.waiting) == ([], 1)


@pytest.mark.parametrize(
    "options",
    [{"buckets": 0}, {"buckets": 3}, {"buckets": 8192}, {"max_bytes": 0}, {"max_bytes": 10**6}, {"max_records": 0}],
    ids=str,
)
def test_aggregation_that_cannot_work_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|holds at most"):
        Aggregation(**options)


def test_the_library_leaves_the_import_path_as_it_was_and_loads_on_first_use_only() -> None:
    program = (
        "import sys\n"
        "from producers.aggregation import Aggregation, _library\n"
        "import producers.publisher\n"
        "assert not [name for name in sys.modules if 'protobuf' in name or 'aws_kinesis_agg' in name]\n"
        "before = list(sys.path)\n"
        "_library()\n"
        "assert sys.path == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_aggregate_takes_the_lane_as_its_hash_key() -> None:
    from producers.deliveries import PublishCounters
    from producers.outbox import Limits, Outbox
    from producers.retries import RetryPolicy

    limits = Limits(request_records=1, request_bytes=10_000, entry_records=9, waiting_records=9, waiting_bytes=9_999)
    outbox = Outbox(limits, linger_s=0, retry=RetryPolicy(), keep_given_up=True, counters=PublishCounters())
    outbox.add("123", "a", b"1", 2, "", 0.0)
    entries = outbox.take(1.0)
    assert entries is not None
    assert user_records(aggregate(entries[0], "123")) == [("a", b"1", "123")]
