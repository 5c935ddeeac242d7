"""Both ways of the Flink job to Kinesis are held to one contract: the whole job between streams of the embedded AWS.

Behind `official` stands a jar that may not be had: then these tests run for `polling` only, and one skip says why.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from local.run import addresses
from stream_features.entity_event import EntityEvent, FraudEntry, encode_entity_event
from stream_features.feature_record import (
    DuplicateRecord,
    FeaturesRecord,
    FeatureStreamRecord,
    RejectedMark,
    decode_feature_record,
)
from stream_features.flink_job.polling_reader import PollingReader
from stream_features.flink_job.polling_writer import Entry, PollingWriter
from stream_features.names import merchant_key
from stream_features.rejected import decode_rejected
from stream_features.transaction import Transaction, encode_transaction
from tests.contract.local_aws import client
from tests.integration.flink_cluster import CONNECTOR_JAR, STREAMS, FlinkJob, flink_job, missing

pytestmark = pytest.mark.timeout(600)

CARDS = 40
PER_CARD = 5
POISON = b"\xff\xfe\x00\x80 no UTF-8"
BASE_MS = int(time.time() * 1000) - 86_400_000


@dataclass
class World:
    """Streams and a bucket of their own in the embedded AWS."""

    url: str
    shards: int = 2
    prefix: str = field(default_factory=lambda: f"io{uuid.uuid4().hex[:10]}")

    def __post_init__(self) -> None:
        self.kinesis = client("kinesis", self.url)
        self.s3 = client("s3", self.url)
        self.bucket = f"{self.prefix}-lake"
        self.s3.create_bucket(Bucket=self.bucket)
        for stream in STREAMS:
            self.kinesis.create_stream(StreamName=self.name(stream), ShardCount=self.shards)

    def name(self, stream: str) -> str:
        return f"{self.prefix}-{stream}"

    def arn(self, stream: str) -> str:
        summary = self.kinesis.describe_stream_summary(StreamName=self.name(stream))
        return str(summary["StreamDescriptionSummary"]["StreamARN"])

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        # The connector's SDK speaks CBOR unless told otherwise; the emulator does not.
        return inherited | addresses(self.url, self.url, "us-east-1") | {"CBOR_ENABLED": "false"}

    def put(self, stream: str, partition_key: str, payload: bytes) -> tuple[str, str]:
        """Returns shard id and sequence number."""
        answer = self.kinesis.put_record(StreamName=self.name(stream), PartitionKey=partition_key, Data=payload)
        return answer["ShardId"], answer["SequenceNumber"]

    def records(self, stream: str) -> list[dict[str, Any]]:
        """Everything in the stream, shard by shard."""
        found = []
        for shard in self.kinesis.list_shards(StreamName=self.name(stream))["Shards"]:
            iterator = self.kinesis.get_shard_iterator(
                StreamName=self.name(stream), ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while True:
                page = self.kinesis.get_records(ShardIterator=iterator, Limit=1_000)
                if not page["Records"]:
                    break
                found += page["Records"]
                iterator = page["NextShardIterator"]
        return found


def a_transaction(card: int, number: int) -> Transaction:
    return Transaction(
        transaction_id=f"t-{card}-{number}",
        event_time_ms=BASE_MS + number * 1_000,
        card_id=f"card-{card}",
        merchant_id="m-1",
        amount_minor=100 + number,
        currency="USD",
    )


Position = tuple[str, str, int]


@dataclass
class Ran:
    """What was published where, and what the job made of it."""

    world: World
    job: FlinkJob
    published: dict[str, Position] = field(default_factory=dict)  # transaction id -> position
    poison: list[Position] = field(default_factory=list)
    said: list[tuple[str, FeatureStreamRecord]] = field(default_factory=list)

    def publish(self, numbers: range) -> None:
        for number in numbers:
            for card in range(CARDS):
                transaction = a_transaction(card, number)
                shard_id, sequence_number = self.world.put(
                    "transactions", transaction.card_id, encode_transaction(transaction)
                )
                self.published[transaction.transaction_id] = (shard_id, sequence_number, 0)

    def listen(self, records: int) -> None:
        """Wait until so many different records are on the features stream; official writes no progress files."""
        ends_at = time.monotonic() + 180
        while True:
            self.said = [
                (record["PartitionKey"], decode_feature_record(record["Data"]))
                for record in self.world.records("features")
            ]
            if len({(said.kind_of, said.at) for said in map(Said.of, self.said)}) >= records:
                return
            if time.monotonic() > ends_at:
                raise RuntimeError(f"{len(self.said)} of {records} records on the features stream")
            time.sleep(0.2)


@dataclass(frozen=True)
class Said:
    kind_of: str
    at: Position

    @classmethod
    def of(cls, said: tuple[str, FeatureStreamRecord]) -> Said:
        position = said[1].position
        stream = said[1].stream if isinstance(said[1], RejectedMark) else ""
        return cls(
            f"{type(said[1]).__name__} {stream}",
            (position.shard_id, position.sequence_number, position.sub_sequence_number),
        )


@pytest.fixture(scope="module", params=["polling", *(["official"] if CONNECTOR_JAR.exists() else [])])
def ran(request: pytest.FixtureRequest, aws_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """One run: load, a kill, more load after it."""
    if reason := missing():
        pytest.skip(reason)
    connector = request.param
    world = World(aws_url)
    arns = {stream: world.arn(stream) for stream in STREAMS}
    folder = tmp_path_factory.mktemp("flink")
    properties = {"connector": connector, "lake.bucket": world.bucket, "include.state": "false"}
    with flink_job(folder, world.environment(), arns, aws_url=aws_url, **properties) as job:
        ran = Ran(world, job)
        ran.publish(range(2))
        ran.poison.append((*world.put("transactions", "poison", POISON), 0))
        ran.listen(2 * CARDS + 1)
        time_limit = time.monotonic() + 60
        while job.newest_checkpoint() is None and time.monotonic() < time_limit:
            time.sleep(0.1)
        ran.publish(range(2, 3))
        job.kill()
        ran.publish(range(3, PER_CARD))
        _publish_aggregate(ran)
        label = EntityEvent(
            kind="label",
            merchant_id="m-1",
            transaction_id="t-0-0",
            event_time_ms=BASE_MS,
            revision=1,
            frauds=[FraudEntry(BASE_MS, BASE_MS + 120_000, 1)],
        )
        world.put("entity-events", merchant_key("m-1"), encode_entity_event(label))
        world.put("entity-events", "poison", POISON)
        again = encode_transaction(a_transaction(0, 0))
        world.put("transactions", "card-0", again)
        job.start()
        ran.listen(len(ran.published) + 3)
        yield ran


def _publish_aggregate(ran: Ran) -> None:
    from aws_kinesis_agg.aggregator import RecordAggregator

    aggregator = RecordAggregator()
    transactions = [a_transaction(CARDS, number) for number in range(3)]
    for transaction in transactions:
        aggregator.add_user_record(transaction.card_id, encode_transaction(transaction).decode())
    key, _, aggregate = aggregator.clear_and_get().get_contents()
    shard_id, sequence_number = ran.world.put("transactions", key, aggregate)
    for index, transaction in enumerate(transactions):
        ran.published[transaction.transaction_id] = (shard_id, sequence_number, index)


def features_said(ran: Ran) -> list[tuple[str, str, Position]]:
    """Partition key, transaction id and position of every features record, in the order of its shard."""
    return [
        (key, json.loads(record.payload)["transaction_id"], Said.of((key, record)).at)
        for key, record in ran.said
        if isinstance(record, FeaturesRecord)
    ]


def test_every_record_arrives_with_its_own_position_before_and_after_a_kill(ran: Ran) -> None:
    assert {transaction_id: position for _, transaction_id, position in features_said(ran)} == ran.published


def test_records_go_out_under_their_cards_key_in_their_cards_order(ran: Ran) -> None:
    first: dict[str, list[str]] = {}
    for key, transaction_id, _ in features_said(ran):
        assert key == f"card-{transaction_id.split('-')[1]}"
        if transaction_id not in first.setdefault(key, []):
            first[key].append(transaction_id)
    assert all(ids == sorted(ids) for ids in first.values())
    assert len(first) == CARDS + 1


def test_bytes_that_are_no_text_reach_quarantine_as_they_came(ran: Ran) -> None:
    marks = {record.key: record for _, record in ran.said if isinstance(record, RejectedMark)}
    at = {record.stream: Said.of(("", record)).at for record in marks.values()}
    assert set(at) == {ran.world.name("transactions"), ran.world.name("entity-events")}
    assert at[ran.world.name("transactions")] == ran.poison[0]
    for key in marks:
        stored = ran.world.s3.get_object(Bucket=ran.world.bucket, Key=key)["Body"].read()
        assert decode_rejected(stored).payload == POISON


def test_a_duplicate_is_told_apart_across_the_kill(ran: Ran) -> None:
    duplicates = {Said.of(said).at: said[1] for said in ran.said if isinstance(said[1], DuplicateRecord)}
    (duplicate,) = duplicates.values()
    assert isinstance(duplicate, DuplicateRecord)
    assert json.loads(duplicate.payload)["transaction_id"] == "t-0-0"


def test_arrival_times_are_the_streams_own(ran: Ran) -> None:
    arrivals = {
        record["SequenceNumber"]: round(record["ApproximateArrivalTimestamp"].timestamp() * 1000)
        for record in ran.world.records("transactions")
    }
    for _, record in ran.said:
        if isinstance(record, FeaturesRecord):
            assert record.arrival_ms == arrivals[record.position.sequence_number]


@pytest.mark.skipif(
    not CONNECTOR_JAR.exists(),
    reason="connector official is untested: Maven did not resolve Apache's Kinesis connector for Flink 2.x",
)
def test_the_official_connector_is_held_to_the_same_contract(request: pytest.FixtureRequest) -> None:
    """The tests above have run for it too."""
    ran_for = {item.callspec.params["ran"] for item in request.session.items if hasattr(item, "callspec")}
    assert "official" in ran_for


def test_the_polling_reader_finds_what_the_polling_writer_put_and_goes_on_from_a_snapshot(aws_url: str) -> None:
    """Without Flink: the two classes against the service itself."""
    world = World(aws_url)
    writer = PollingWriter(world.kinesis, world.arn("features"))
    entries = [Entry(f"k-{number % 7}", b"%d \xff" % number) for number in range(1_200)]

    def put_all() -> None:
        while writer.unsent:
            writer.put()

    def read(reader: PollingReader, count: int) -> list[bytes]:
        found: list[bytes] = []
        ends_at = time.monotonic() + 60
        while len(found) < count and time.monotonic() < ends_at:
            turn = reader.turn()
            found += [record.payload for record in turn.records]
            time.sleep(turn.wait_ms / 1000)
        return found

    writer.add(entries[:800])
    put_all()
    reader = PollingReader(world.kinesis, world.arn("features"), poll_ms=10, records_a_turn=100)
    first = read(reader, 300)
    snapshot = reader.snapshot()
    writer.add(entries[800:])
    put_all()
    read(reader, 100)
    restored = PollingReader(world.kinesis, world.arn("features"), poll_ms=10, records_a_turn=100)
    restored.restore(snapshot)
    found = first + read(restored, len(entries) - len(first))
    assert sorted(found) == sorted(entry.payload for entry in entries)
    for key in range(7):
        numbers = [int(payload.split()[0]) for payload in found if int(payload.split()[0]) % 7 == key]
        assert numbers == sorted(numbers)
    assert set(restored.millis_behind.values()) == {0}
