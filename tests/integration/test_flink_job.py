"""The real Flink job between the embedded AWS's streams: every feature is the history's, whatever happens to it."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from producers.simulator import SimulatedTransaction, simulate
from stream_features.codec import pack
from stream_features.entity_event import EntityEvent, encode_entity_event
from stream_features.feature_record import (
    DuplicateRecord,
    FeaturesRecord,
    FeatureStreamRecord,
    RejectedMark,
    decode_feature_record,
)
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.history import HistoryStates, observe_history
from stream_features.kernel import features_json
from stream_features.label import Label
from stream_features.label_history import LabelReport, fraud_entries
from stream_features.names import merchant_key
from stream_features.rejected import decode_rejected
from stream_features.transaction import Transaction, encode_transaction, parse_transaction
from tests.integration.embedded_aws import INTERPRETER, EmbeddedAws, embedded_aws
from tests.integration.flink_cluster import STREAMS, flink_job, missing
from tests.oracle import bits

if lacks := missing() or ("" if INTERPRETER.exists() else "no .venv-embedded (make setup)"):
    pytest.skip(lacks, allow_module_level=True)

pytestmark = pytest.mark.timeout(900)

DAY_MS = 86_400_000
LABEL_DELAY_MS = 5 * DAY_MS


class Streams:
    """The three streams and the bucket of one test, under names of their own."""

    def __init__(self, aws: EmbeddedAws, prefix: str, shards: int) -> None:
        self.aws = aws
        self.prefix = prefix
        self.bucket = f"{prefix}-lake"
        self._kinesis = aws.client("kinesis")
        self._s3 = aws.client("s3")
        for stream in STREAMS:
            self._kinesis.create_stream(StreamName=self.name(stream), ShardCount=shards)
        self._s3.create_bucket(Bucket=self.bucket)

    def name(self, stream: str) -> str:
        return f"{self.prefix}-{stream}"

    @property
    def arns(self) -> dict[str, str]:
        found = {}
        for stream in STREAMS:
            summary = self._kinesis.describe_stream_summary(StreamName=self.name(stream))
            found[stream] = summary["StreamDescriptionSummary"]["StreamARN"]
        return found

    def put(self, stream: str, records: Iterable[tuple[str, bytes]]) -> int:
        """Put (partition key, payload) one after the other; returns how many."""
        entries = [{"PartitionKey": key, "Data": payload} for key, payload in records]
        for start in range(0, len(entries), 500):
            answer = self._kinesis.put_records(StreamName=self.name(stream), Records=entries[start : start + 500])
            assert not answer["FailedRecordCount"]
        return len(entries)

    def features(self) -> list[tuple[str, FeatureStreamRecord]]:
        """Partition key and record, shard by shard in their order."""
        found = []
        for shard in self._kinesis.list_shards(StreamName=self.name("features"))["Shards"]:
            iterator = self._kinesis.get_shard_iterator(
                StreamName=self.name("features"), ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while True:
                page = self._kinesis.get_records(ShardIterator=iterator, Limit=1_000)
                if not page["Records"]:
                    break
                found += [(record["PartitionKey"], decode_feature_record(record["Data"])) for record in page["Records"]]
                iterator = page["NextShardIterator"]
        return found

    def stored(self, key: str) -> bytes:
        body: bytes = self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    with embedded_aws(tmp_path_factory.mktemp("aws")) as running:
        yield running


def simulated(count: int, *, seed: int, days: float) -> list[SimulatedTransaction]:
    return list(simulate(count, seed=seed, end_ms=int(time.time() * 1000) - 3_600_000, days=days))


def in_order_of_arrival(history: Sequence[SimulatedTransaction], *, seed: int) -> list[SimulatedTransaction]:
    """Every fifth transaction moves to one hot card; one in twenty arrives up to two days late."""
    source = random.Random(seed)
    arrivals = []
    for number, one in enumerate(history):
        if number % 5 == 0:
            document = json.loads(encode_transaction(one.transaction)) | {"card_id": "hot"}
            transaction = parse_transaction(json.dumps(document).encode(), arrival_ms=2**45)
            one = replace(one, transaction=transaction)
        behind_ms = source.randrange(2 * DAY_MS) if source.random() < 0.05 else 0
        arrivals.append((one.transaction.event_time_ms + behind_ms, number, one))
    return [one for _, _, one in sorted(arrivals)]


def labels_of(history: Iterable[SimulatedTransaction]) -> list[Label]:
    """Each fraud reported five days later; every third report is withdrawn a day after."""
    labels = []
    for number, one in enumerate(each for each in history if each.is_fraud and each.transaction.type == "purchase"):
        said = [(True, LABEL_DELAY_MS)] + ([(False, LABEL_DELAY_MS + DAY_MS)] if number % 3 == 0 else [])
        labels += [
            Label(
                transaction_id=one.transaction.transaction_id,
                is_fraud=is_fraud,
                reported_at_ms=one.transaction.event_time_ms + delay_ms,
                source="chargeback",
                merchant_id=one.transaction.merchant_id,
                event_time_ms=one.transaction.event_time_ms,
            )
            for is_fraud, delay_ms in said
        ]
    return sorted(labels, key=lambda label: label.reported_at_ms)


def entity_events(labels: Iterable[Label]) -> list[EntityEvent]:
    """What record_labels says of `labels`: a revision for each, with all entries that then stand."""
    events = []
    known: dict[str, list[LabelReport]] = {}
    for label in labels:
        assert label.merchant_id is not None
        assert label.event_time_ms is not None
        reports = known.setdefault(label.transaction_id, [])
        reports.append(
            LabelReport(
                reported_at_ms=label.reported_at_ms,
                arrival_ms=label.reported_at_ms,
                sequence_number="1",
                is_fraud=label.is_fraud,
                source=label.source,
            )
        )
        events.append(
            EntityEvent(
                kind="label",
                merchant_id=label.merchant_id,
                transaction_id=label.transaction_id,
                event_time_ms=label.event_time_ms,
                revision=len(reports),
                frauds=fraud_entries(reports, label.event_time_ms),
            )
        )
    return events


def keyed(events: Iterable[EntityEvent]) -> list[tuple[str, bytes]]:
    return [(merchant_key(event.merchant_id), encode_entity_event(event)) for event in events]


def published(transactions: Iterable[Transaction]) -> list[tuple[str, bytes]]:
    return [(transaction.card_id, encode_transaction(transaction)) for transaction in transactions]


class Expected:
    """What the history says of every transaction: features, lateness, packed card state afterwards."""

    def __init__(self, features: FeatureSet, arrivals: Sequence[SimulatedTransaction], labels: list[Label]) -> None:
        states = HistoryStates()
        self.features = features
        self.order = [one.transaction.transaction_id for one in arrivals]
        self.rows: dict[str, tuple[dict[str, str | None], bool, bytes]] = {}
        transactions = (one.transaction for one in arrivals)
        for transaction, seen in observe_history(transactions, features, labels, states=states):
            values = {name: bits(value) for name, value in features_json(features, seen.values).items()}
            card = states.cards[transaction.card_id]
            state = pack(card) if card.times or card.merged is not None else b""
            self.rows[transaction.transaction_id] = values, seen.late, state

    def judge(self, said: Sequence[tuple[str, FeatureStreamRecord]]) -> int:
        """Hold every record of the features stream to it; returns how many were said more than once."""
        first: dict[str, list[str]] = {}
        repeats = 0
        seen: set[str] = set()
        for key, record in said:
            if not isinstance(record, FeaturesRecord):
                continue
            transaction = json.loads(record.payload)
            transaction_id = transaction["transaction_id"]
            assert key == transaction["card_id"]
            values, late, state = self.rows[transaction_id]
            assert record.feature_set_id == self.features.feature_set_id
            assert {name: bits(value) for name, value in record.features.items()} == values, transaction_id
            assert list(record.features) == list(self.features.names)
            assert record.late == late
            assert base64.b64decode(record.state) == state
            repeats += transaction_id in seen
            if transaction_id not in seen:
                seen.add(transaction_id)
                first.setdefault(key, []).append(transaction_id)
        assert seen == set(self.rows)
        place = {transaction_id: number for number, transaction_id in enumerate(self.order)}
        for card, ids in first.items():
            assert ids == sorted(ids, key=place.__getitem__), f"the records of {card} are out of order"
        return repeats


BAD = [
    (b"\xff\xfe\x00 no UTF-8", "$"),
    (b'{"transaction_id": "cut', "$"),
    (b"[]", "$"),
    (b'{"transaction_id": "no-card"}', "event_time_ms"),
]


def test_every_feature_is_the_historys_over_duplicates_bad_and_late_records_a_hot_card_and_two_kills(
    aws: EmbeddedAws, tmp_path: Path
) -> None:
    """One shard, so that transactions reach the job in the order of the history."""
    from aws_kinesis_agg.aggregator import RecordAggregator

    streams = Streams(aws, "crash", shards=1)
    arrivals = in_order_of_arrival(simulated(3_000, seed=11, days=45), seed=12)
    labels = labels_of(arrivals)
    assert len(labels) > 10
    expected = Expected(feature_set("core"), arrivals, labels)
    assert sum(late for _, late, _ in expected.rows.values()) > 50
    transactions = [one.transaction for one in arrivals]

    with flink_job(
        tmp_path / "flink", aws.environment(), streams.arns, **{"lake.bucket": streams.bucket, "feature.set": "core"}
    ) as job:
        events = entity_events(labels)
        records = streams.put("entity-events", [*keyed(events), *keyed(events[:5]), ("x", b"no event")])
        records += streams.put("transactions", published(transactions[:1_000]))
        records += streams.put("transactions", [("bad", payload) for payload, _ in BAD])
        job.wait_until(300)
        job.kill()

        conflict = json.loads(encode_transaction(transactions[1])) | {"amount_minor": 7}
        again = [*published(transactions[:3]), (conflict["card_id"], json.dumps(conflict).encode())]
        records += streams.put("transactions", again)
        aggregator = RecordAggregator()
        for transaction in transactions[1_000:1_020]:
            aggregator.add_user_record("aggregate", encode_transaction(transaction).decode(), "1")
        key, _, aggregate = aggregator.clear_and_get().get_contents()
        streams.put("transactions", [(key, aggregate)])
        records += 20
        records += streams.put("transactions", published(transactions[1_020:]))
        job.start()
        assert job.restored_from is not None
        job.wait_until(2_000)
        job.kill()
        job.start()
        job.wait_until(records)

        said = streams.features()
        repeats = expected.judge(said)
        assert repeats < 2 * len(arrivals)
        marks = {record.position: record for _, record in said if isinstance(record, RejectedMark)}
        by_stream = [(mark.stream, mark.field) for mark in marks.values()]
        assert sorted(by_stream) == sorted(
            [(streams.name("transactions"), field) for _, field in BAD] + [(streams.name("entity-events"), "$")]
        )
        kept = {decode_rejected(streams.stored(mark.key)).payload for mark in marks.values()}
        assert kept == {payload for payload, _ in BAD} | {b"no event"}
        duplicates = {record.position: record.payload for _, record in said if isinstance(record, DuplicateRecord)}
        assert sorted(duplicates.values()) == sorted(payload.decode() for _, payload in again)
        assert_where_it_stands(job.progress(f"read-{streams.name('transactions')}"), streams, records, said)
        assert job.checkpoints()["restored"] == 1


def assert_where_it_stands(
    progress: dict[str, Any], streams: Streams, records: int, said: Sequence[tuple[str, FeatureStreamRecord]]
) -> None:
    """The reader says how many records it has taken and that it is at the end; positions say which record was which."""
    taken = {
        (record.position.sequence_number, record.position.sub_sequence_number)
        for _, record in said
        if not (isinstance(record, RejectedMark) and record.stream != streams.name("transactions"))
    }
    assert progress["taken"] == len(taken)
    (position,) = progress["positions"].values()
    assert int(position["sequence_number"]) == max(int(number) for number, _ in taken)
    assert position["millis_behind"] == 0
    assert sum(sub > 0 for _, sub in taken) == 19


def test_two_shards_in_lockstep_with_the_handbook_set_and_a_savepoint_in_between(
    aws: EmbeddedAws, tmp_path: Path
) -> None:
    """Buckets of two days: not more than the set's merchant delay less the labels' own."""
    streams = Streams(aws, "lockstep", shards=2)
    history = simulated(1_500, seed=21, days=30)
    labels = labels_of(history)
    expected = Expected(feature_set("handbook"), history, labels)
    start_ms = history[0].transaction.event_time_ms

    def bucket(time_ms: int) -> int:
        return (time_ms - start_ms) // (2 * DAY_MS)

    with flink_job(
        tmp_path / "flink",
        aws.environment(),
        streams.arns,
        **{"lake.bucket": streams.bucket, "feature.set": "handbook", "state.ttl.days": "60"},
    ) as job:
        records = 0
        events = entity_events(labels)
        for number, bucketful in groupby(history, key=lambda one: bucket(one.transaction.event_time_ms)):
            records += streams.put("transactions", published(one.transaction for one in bucketful))
            reported = [
                event for event, label in zip(events, labels, strict=True) if bucket(label.reported_at_ms) == number
            ]
            records += streams.put("entity-events", keyed(reported))
            job.wait_until(records)
            if number == 6:
                job.stop()
                job.start()
                assert "savepoint" in str(job.restored_from)
        assert expected.judge(streams.features()) == 0
        assert job.java_processes() == 1  # the default clean-up of expired state would start another
        positions = job.progress(f"read-{streams.name('transactions')}")["positions"]
        assert [position["millis_behind"] for position in positions.values()] == [0, 0]
        last = bucket(history[-1].transaction.event_time_ms)
        since = [one for one in history if bucket(one.transaction.event_time_ms) > 6]
        job.wait_for_metric("transactions", len(since))  # counters begin anew with the process
        job.wait_for_metric("labelsApplied", sum(6 < bucket(label.reported_at_ms) <= last for label in labels))
        job.wait_for_metric("millisBehindLatest", 0)
