"""The real Flink job while its stream is split and merged under load, on a Kinesis that does both as AWS does."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from producers.simulator import simulate
from stream_features.codec import pack
from stream_features.feature_record import FeaturesRecord, decode_feature_record
from stream_features.feature_sets import CORE
from stream_features.history import HistoryStates, observe_history
from stream_features.kernel import features_json
from stream_features.transaction import Transaction, encode_transaction, parse_transaction
from tests.integration import flink_cluster
from tests.integration.flink_cluster import STREAMS, flink_job
from tests.integration.kinesis_mock import KinesisMock, kinesis_mock, missing
from tests.oracle import bits

if lacks := flink_cluster.missing() or missing():
    pytest.skip(lacks, allow_module_level=True)

pytestmark = pytest.mark.timeout(600)

RATE = 80  # the emulator takes at most about a hundred a second
BEFORE, BETWEEN, AFTER = 400, 500, 500
HALF = 2**127


@dataclass
class Resharded:
    """What was sent, in order, and what came out."""

    sent: list[Transaction]
    records: list[FeaturesRecord]
    shards: int
    closed: int


def active(kinesis: Any, stream: str) -> None:
    ends_at = time.monotonic() + 60
    while kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
        assert time.monotonic() < ends_at, stream
        time.sleep(0.1)


def put(kinesis: Any, transactions: list[Transaction]) -> None:
    """One after the other, so that each card's order is the order of this list."""
    began = time.monotonic()
    for number, transaction in enumerate(transactions):
        time.sleep(max(0.0, number / RATE - (time.monotonic() - began)))
        kinesis.put_record(
            StreamName="transactions", PartitionKey=transaction.card_id, Data=encode_transaction(transaction)
        )


def open_shards(kinesis: Any) -> list[dict[str, Any]]:
    shards = kinesis.list_shards(StreamName="transactions")["Shards"]
    return [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]


def split(kinesis: Any) -> None:
    (shard,) = open_shards(kinesis)
    kinesis.split_shard(StreamName="transactions", ShardToSplit=shard["ShardId"], NewStartingHashKey=str(HALF))


def merge(kinesis: Any) -> None:
    active(kinesis, "transactions")
    one, other = open_shards(kinesis)
    kinesis.merge_shards(StreamName="transactions", ShardToMerge=one["ShardId"], AdjacentShardToMerge=other["ShardId"])


def feature_records(kinesis: Any) -> list[FeaturesRecord]:
    found = []
    for shard in kinesis.list_shards(StreamName="features")["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName="features", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            page = kinesis.get_records(ShardIterator=iterator, Limit=500)
            for record in page["Records"]:
                decoded = decode_feature_record(record["Data"])
                assert isinstance(decoded, FeaturesRecord)
                found.append(decoded)
            if not page["Records"]:
                break
            iterator = page["NextShardIterator"]
    return found


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KinesisMock]:
    with kinesis_mock(tmp_path_factory.mktemp("mock")) as running:
        yield running


@pytest.fixture(scope="module")
def resharded(mock: KinesisMock, tmp_path_factory: pytest.TempPathFactory) -> Resharded:
    """One shard, split into two, merged into one, while records come; the job reads from before the first."""
    kinesis = mock.client()
    for stream in STREAMS:
        kinesis.create_stream(StreamName=stream, ShardCount=1)
        active(kinesis, stream)
    arns = {
        stream: kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
        for stream in STREAMS
    }
    count = BEFORE + BETWEEN + AFTER
    sent = [row.transaction for row in simulate(count, seed=31, end_ms=int(time.time() * 1_000) - 1_000, days=20)]
    folder: Path = tmp_path_factory.mktemp("job")
    with flink_job(folder, mock.environment(), arns) as job:
        put(kinesis, sent[:BEFORE])
        split(kinesis)
        put(kinesis, sent[BEFORE : BEFORE + BETWEEN])
        merge(kinesis)
        put(kinesis, sent[BEFORE + BETWEEN :])
        job.wait_until(count)
        shards = kinesis.list_shards(StreamName="transactions")["Shards"]
        return Resharded(sent, feature_records(kinesis), len(shards), len(shards) - len(open_shards(kinesis)))


def test_the_stream_was_really_resharded(resharded: Resharded) -> None:
    assert (resharded.shards, resharded.closed) == (4, 3)
    assert len({record.position.shard_id for record in resharded.records}) == 4


def test_every_transaction_comes_out_once(resharded: Resharded, record_property: Callable[[str, object], None]) -> None:
    ids = [transaction_of(record).transaction_id for record in resharded.records]
    record_property("redelivered", len(ids) - len(set(ids)))
    print(f"{len(ids) - len(set(ids))} of {len(ids)} records were redelivered")
    assert sorted(ids) == sorted(transaction.transaction_id for transaction in resharded.sent)


def test_each_card_keeps_its_order(resharded: Resharded) -> None:
    place = {transaction.transaction_id: at for at, transaction in enumerate(resharded.sent)}
    last: dict[str, int] = {}
    for record in resharded.records:
        transaction = transaction_of(record)
        assert last.get(transaction.card_id, -1) < place[transaction.transaction_id], transaction.card_id
        last[transaction.card_id] = place[transaction.transaction_id]


def test_features_of_cards_and_their_states_are_the_histories(resharded: Resharded) -> None:
    """Those of merchants would need lockstep: the simulated days pass in seconds."""
    of_cards = [feature.name for feature in CORE.features if feature.entity != "merchant"]
    states = HistoryStates()
    expected = {
        transaction.transaction_id: features_json(CORE, observation.values)
        for transaction, observation in observe_history(resharded.sent, CORE, states=states)
    }
    held = {}
    for record in resharded.records:
        transaction = transaction_of(record)
        for name in of_cards:
            assert bits(record.features[name]) == bits(expected[transaction.transaction_id][name]), name
        held[transaction.card_id] = base64.b64decode(record.state)
    assert held == {card_id: pack(state) for card_id, state in states.cards.items() if card_id in held}


def test_the_emulator_listens_on_loopback_only(mock: KinesisMock) -> None:
    port = int(mock.url.rpartition(":")[2])
    listening = [
        one.laddr.ip
        for one in psutil.net_connections("inet")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    ]
    assert listening == ["127.0.0.1"]


def transaction_of(record: FeaturesRecord) -> Transaction:
    return parse_transaction(record.payload.encode(), arrival_ms=record.arrival_ms)
