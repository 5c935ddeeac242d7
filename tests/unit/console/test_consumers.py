"""Waiting until the functions behind the streams have finished: a model of the pipeline moves while we look."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.consumers import Consumers, NotAtRest
from console.publishing import lockstep_bucket_ms
from tests.unit.local_firehose.fakes import FakeKinesis

SHARDS = ("shardId-000000000000", "shardId-000000000001")
STREAMS = ("transactions", "labels", "entity-events")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class ModelPipeline:
    """Three streams and a function on each; `step` lets one function finish one record.

    The functions on transactions and labels publish an entity event for each record, the one on entity events
    publishes a label for some: as late as possible, that is in the step that moves their checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.streams = {stream: FakeKinesis(SHARDS) for stream in STREAMS}
        self.done = {(stream, shard): 0 for stream in STREAMS for shard in SHARDS}
        self.relabels = 0

    def get_shard_iterator(self, StreamName: str, **request: Any) -> dict[str, Any]:
        iterator = self.streams[StreamName].get_shard_iterator(StreamName, **request)["ShardIterator"]
        return {"ShardIterator": f"{StreamName}!{iterator}"}

    def get_records(self, ShardIterator: str, Limit: int) -> dict[str, Any]:
        stream, iterator = ShardIterator.split("!")
        answer = self.streams[stream].get_records(iterator, Limit)
        return answer | {"NextShardIterator": f"{stream}!{answer['NextShardIterator']}"}

    def list_shards(self, StreamName: str) -> dict[str, Any]:
        return self.streams[StreamName].list_shards()

    def step(self, choice: int) -> None:
        """Let one function finish one record, if any has something to do."""
        busy = [key for key in sorted(self.done) if self.done[key] < len(self.streams[key[0]].records[key[1]])]
        if not busy:
            return
        stream, shard = busy[choice % len(busy)]
        record = self.streams[stream].records[shard][self.done[stream, shard]]
        if stream == "entity-events":
            if self.relabels:
                self.relabels -= 1
                self.streams["labels"].put(b"{}", shard=SHARDS[choice % 2])
        else:
            self.streams["entity-events"].put(b"{}", shard=SHARDS[choice % 2])
        self.done[stream, shard] += 1
        path = self.folder / f"{stream}.json"
        committed = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(committed | {shard: {"sequence_number": record["SequenceNumber"]}}))

    @property
    def is_at_rest(self) -> bool:
        return all(
            self.done[stream, shard] == len(self.streams[stream].records[shard])
            for stream in STREAMS
            for shard in SHARDS
        )

    def consumers(self, **options: Any) -> Consumers:
        return Consumers(self, [(stream, f"{stream}-function", stream) for stream in STREAMS], self.folder, **options)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.tuples(st.sampled_from(STREAMS[:2]), st.sampled_from(SHARDS)), max_size=8),
    moves=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    relabels=st.integers(0, 3),
)
def test_it_returns_only_when_nothing_can_follow_any_more(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]], moves: list[int], relabels: int
) -> None:
    """Whatever the functions do between any two calls of ours."""
    pipeline = ModelPipeline(tmp_path_factory.mktemp("checkpoints"))
    pipeline.relabels = relabels
    for stream, shard in records:
        pipeline.streams[stream].put(b"{}", shard=shard)
    calls = 0

    def moving(**request: Any) -> dict[str, Any]:
        nonlocal calls
        pipeline.step(moves[calls % len(moves)])
        calls += 1
        return ModelPipeline.get_records(pipeline, **request)

    pipeline.get_records = moving  # type: ignore[method-assign]
    pipeline.consumers(sleep=lambda seconds: pipeline.step(0)).wait_until_at_rest()
    assert pipeline.is_at_rest


def test_a_function_that_stands_still_is_named(tmp_path: Path) -> None:
    pipeline = ModelPipeline(tmp_path)
    pipeline.streams["labels"].put(b"{}", shard=SHARDS[1])
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += 10

    said: list[str] = []
    with pytest.raises(NotAtRest, match=f"labels-function/{SHARDS[1]} at the start of"):
        pipeline.consumers(clock=lambda: now, sleep=sleep).wait_until_at_rest(progress=said.append)
    assert said


def test_what_is_committed_is_not_read_again(tmp_path: Path) -> None:
    pipeline = ModelPipeline(tmp_path)
    for _ in range(5):
        pipeline.streams["labels"].put(b"{}")
    for _ in range(20):
        pipeline.step(0)
    asked: list[str] = []
    of_pipeline = pipeline.get_shard_iterator

    def noted(StreamName: str, **request: Any) -> dict[str, Any]:
        if StreamName == "labels" and request["ShardId"] == SHARDS[0]:
            asked.append(request["ShardIteratorType"])
        return of_pipeline(StreamName, **request)

    pipeline.get_shard_iterator = noted  # type: ignore[method-assign]
    pipeline.consumers().wait_until_at_rest()
    assert asked == ["AFTER_SEQUENCE_NUMBER"]


@pytest.mark.parametrize(
    ("delay_ms", "label_delay_ms", "bucket_ms"),
    [
        (None, None, DAY_MS),
        (None, 5 * DAY_MS, DAY_MS),
        (7 * DAY_MS, None, 7 * DAY_MS),
        (7 * DAY_MS, 5 * DAY_MS, 2 * DAY_MS),
        (7 * DAY_MS, 7 * DAY_MS, 120_000),
        (7 * DAY_MS, 9 * DAY_MS, 120_000),
        (7 * DAY_MS, 0, 7 * DAY_MS),
        (120_000, 5 * DAY_MS, 120_000),
        (120_000, None, 120_000),
    ],
)
def test_the_bucket_is_the_longest_that_no_value_can_notice(
    delay_ms: int | None, label_delay_ms: int | None, bucket_ms: int
) -> None:
    features: Any = SimpleNamespace(smallest_merchant_delay_ms=delay_ms)
    assert lockstep_bucket_ms(features, label_delay_ms) == bucket_ms
