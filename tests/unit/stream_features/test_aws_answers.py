"""Answers that break off, at every reader: botocore hands them on as answers without members.

Taken as they stand they meant: nothing was refused, this shard is at its end, no such item, no further shards.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lambdas.adapters.dynamodb import DynamoDecisionStore
from lambdas.adapters.sagemaker import SageMakerScorer
from lambdas.adapters.ssm import SsmPolicySource
from lambdas.adapters.streams import KinesisDecisionPublisher
from local.firehose.stream_reader import ShardReader, list_shard_ids
from local.mappings.runner import list_shards
from producers.publisher import RecordPublisher
from producers.retries import RetryPolicy
from stream_features.aws_answers import HalfAnswer, whole, whole_json
from stream_features.errors import PortFailure
from stream_features.feature_sets import feature_set
from stream_features.flink_job.history_source import DynamoHistory
from stream_features.flink_job.polling_reader import PollingReader
from stream_features.flink_job.polling_writer import Entry, PollingWriter
from tests.unit.flink_job import fake_kinesis as flink_fakes
from tests.unit.lambdas.test_adapters import ScriptedClient, a_caller, batch_answer, decisions, endpoint_answer, rows
from tests.unit.local import fake_streams
from tests.unit.local.test_mapping_shard import done, running
from tests.unit.local_firehose import fakes as firehose_fakes
from tests.unit.producers.fake_kinesis import FakeKinesis


class Halving:
    """A client whose calls take effect, and whose first answer of every operation has lost its members."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.halved: list[str] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            answer = getattr(self._client, operation)(**request)
            if operation in self.halved or not isinstance(answer, dict):
                return answer
            self.halved.append(operation)
            return {"ResponseMetadata": {"HTTPStatusCode": 200}}

        return call


def test_an_answer_with_its_members_is_whole() -> None:
    answer = {"Records": [], "FailedRecordCount": 0}
    assert whole(answer, "Records") == answer
    with pytest.raises(HalfAnswer, match="an answer without Shards"):
        whole(answer, "Records", "Shards")
    assert whole_json(b'{"a": [1]}') == b'{"a": [1]}'
    for text in (b"", b'{"a": [1', b"<html>"):
        with pytest.raises(PortFailure, match="no JSON"):
            whole_json(text)


def test_a_publisher_sends_again_what_it_has_no_answer_for() -> None:
    """It raised KeyError, and its records stayed in the air."""
    kinesis = FakeKinesis()
    publisher = RecordPublisher(Halving(kinesis), "s", retry=RetryPolicy(base_s=0.0))
    publisher.publish_raw("a", b"1")
    publisher.flush()
    publisher.publish_raw("a", b"2")
    publisher.flush()
    assert kinesis.of_key("a") == [b"1", b"1", b"2"]
    assert (publisher.counters.published, publisher.waiting) == (2, 0)


def test_a_function_publishes_again_what_it_has_no_answer_for() -> None:
    """No count of refused records was taken for none refused."""
    kinesis = FakeKinesis()
    stored = decisions(3)
    KinesisDecisionPublisher(Halving(kinesis), "decisions", a_caller()).publish(stored)
    assert [key for key, _ in kinesis.stored] == [one.decision.transaction_id for one in stored] * 2


def test_a_function_reads_again_what_it_has_no_answer_for() -> None:
    client = Halving(ScriptedClient(batch_answer(["a"], []), batch_answer(["a"], [])))
    assert DynamoDecisionStore(client, "table", a_caller()).get(["a", "b"]) == {"a": b"A"}


def test_a_function_asks_again_for_its_policy() -> None:
    answer = {"Parameter": {"Value": '{"policy_version": "p", "review_from": 0.5, "decline_from": 0.9}'}}
    caller = a_caller()
    source = SsmPolicySource(Halving(ScriptedClient(answer, answer)), None, "p", lambda _: None, caller._clock, caller)
    assert source.current().policy_version == "p"


@pytest.mark.parametrize("arrived", [0, 20, -1], ids=["nothing arrives", "a part", "all but a byte"])
def test_a_score_whose_answer_breaks_off_is_asked_for_again(arrived: int) -> None:
    """It was taken for a model of another make, which is nobody's to try again."""
    broken = endpoint_answer([0.5])
    broken["Body"] = io.BytesIO(broken["Body"].read()[:arrived])
    client = ScriptedClient(broken, endpoint_answer([0.5]))
    [prediction] = SageMakerScorer(client, "e", feature_set("core"), a_caller()).score(rows(1), explain_from=0.5)
    assert prediction.score == 0.5
    assert len(client.requests) == 2


def test_a_mapping_reads_on_where_it_stood(tmp_path: Path) -> None:
    """A page without records or iterator is not the end of a shard."""
    kinesis, functions = fake_streams.FakeKinesis(), fake_streams.FakeFunctions(done)
    kinesis.add_shard("s-0")
    for number in range(5):
        kinesis.put("s-0", "key", b"%d" % number)
    halving = Halving(kinesis)
    with pytest.raises(HalfAnswer):
        list_shards(halving, "stream")
    with running(halving, functions, tmp_path, fake_streams.settings()) as runner:  # type: ignore[arg-type]
        fake_streams.eventually(lambda: sum(map(len, functions.batches)) == 5)
        assert "an answer without" in str(runner.status()["shards"]["s-0"].last_error)
    assert [payload for batch in functions.batches for payload in batch] == ["0", "1", "2", "3", "4"]
    assert {"get_records", "get_shard_iterator"} <= set(halving.halved)


def test_firehose_reads_on_where_it_stood() -> None:
    kinesis = firehose_fakes.FakeKinesis()
    reader_of = Halving(kinesis)
    with pytest.raises(HalfAnswer):
        list_shard_ids(reader_of, "stream")
    shard_id = list_shard_ids(reader_of, "stream")[0]
    reader = ShardReader(reader_of, "stream", shard_id, position=None)
    for _ in range(2):  # the iterator, the page
        with pytest.raises(HalfAnswer):
            reader.read_page()
    assert not reader.drained
    reader.read_page()
    assert not reader.drained


def test_the_job_reads_on_where_it_stood() -> None:
    kinesis, clock = flink_fakes.FakeKinesis("shard-0"), flink_fakes.Clock()
    kinesis.put("shard-0", b"one")
    reader = PollingReader(Halving(kinesis), flink_fakes.ARN, now_ms=clock, jitter=lambda: 1.0)
    read: list[bytes] = []
    for _ in range(12):
        read += [record.payload for record in reader.turn().records]
        clock.now += 10_000.0
    assert read == [b"one"]
    assert reader.failed_calls == 3  # the shards, the iterator, the page
    assert not reader.positions["shard-0"].drained


def test_the_job_writes_again_what_it_has_no_answer_for() -> None:
    sink, clock = flink_fakes.FakeSink(), flink_fakes.Clock()
    writer = PollingWriter(Halving(sink), flink_fakes.ARN, now_ms=clock, jitter=lambda: 1.0)
    writer.add([Entry("a", b"1"), Entry("b", b"2")])
    for _ in range(3):
        writer.put()
        clock.now += 60_000.0
    assert sink.records == [("a", b"1"), ("b", b"2")] * 2
    assert writer.unsent == []


def test_a_history_whose_answer_breaks_off_is_not_taken_for_none() -> None:
    """The card would have started without its past."""
    item = {"entity": {"S": "card#c"}, "layout": {"S": "l"}, "state": {"B": b"packed"}}
    answers = [
        {"Responses": {"states": [item]}},
        {"Responses": {}, "UnprocessedKeys": {"states": {"Keys": [{}]}}},
        {"Responses": {"states": [item]}},
    ]
    history = DynamoHistory(Halving(ScriptedClient(*answers)), "states", "effects", pause=lambda seconds: None)
    found = history.card("c")
    assert found is not None
    assert (found.layout_id, found.state.packed) == ("l", b"packed")
    assert DynamoHistory(ScriptedClient({"Responses": {}}), "states", "effects").card("c") is None
