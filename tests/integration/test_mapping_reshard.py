"""Our mapping runner over splits and merges: what a parent holds is done before its children are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.embedded_aws import INTERPRETER, EmbeddedAws, embedded_aws
from tests.integration.kinesis_mock import KinesisMock, kinesis_mock, missing
from tests.integration.mapped_function import Deployed, deployed, eventually

pytestmark = pytest.mark.skipif(not INTERPRETER.exists(), reason="no .venv-embedded (make setup)")

KEYS = [f"key-{number}" for number in range(12)]


@dataclass(frozen=True)
class ReshardingAws:
    """The embedded AWS with a Kinesis beside it that can split and merge shards."""

    embedded: EmbeddedAws
    kinesis: KinesisMock

    def client(self, service: str) -> Any:
        return self.kinesis.client() if service == "kinesis" else self.embedded.client(service)

    def environment(self) -> Mapping[str, str]:
        return self.embedded.environment() | {"AWS_ENDPOINT_URL_KINESIS": self.kinesis.url}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReshardingAws]:
    if lacks := missing():
        pytest.skip(lacks)
    folder = tmp_path_factory.mktemp("reshard")
    with embedded_aws(folder) as embedded, kinesis_mock(folder) as kinesis:
        yield ReshardingAws(embedded, kinesis)


def put_round(it: Deployed, number: int) -> None:
    it.put(*((key, f"{key}:{number}") for key in KEYS))


def reshard(it: Deployed, aws: ReshardingAws, **call: Any) -> None:
    """Split or merge, and wait until the stream takes the next one."""
    kinesis = aws.client("kinesis")
    if "NewStartingHashKey" in call:
        kinesis.split_shard(StreamName=it.name, **call)
    else:
        kinesis.merge_shards(StreamName=it.name, **call)
    kinesis.get_waiter("stream_exists").wait(StreamName=it.name, WaiterConfig={"Delay": 1})


@pytest.mark.parametrize("started", ["before", "after"])
def test_a_parent_is_done_before_its_children_are_read(aws: ReshardingAws, tmp_path: Path, started: str) -> None:
    #  0 ──split──▶ 1, 2 ──merge──▶ 3
    with deployed(aws, tmp_path, f"reshard-{started}-{os.getpid()}", BatchSize=5, ParallelizationFactor=2) as it:
        if started == "before":
            it.start_runner()
        put_round(it, 0)
        reshard(it, aws, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
        put_round(it, 1)
        reshard(it, aws, ShardToMerge="shardId-000000000001", AdjacentShardToMerge="shardId-000000000002")
        put_round(it, 2)
        if started == "after":
            it.start_runner()
        eventually(lambda: len(it.payloads()) >= 3 * len(KEYS), it)
        assert sorted(it.payloads()) == sorted(f"{key}:{number}" for key in KEYS for number in range(3))
        shards = [call["shard"] for call in it.calls()]
        first = {shard: shards.index(shard) for shard in set(shards)}
        last = {shard: len(shards) - 1 - shards[::-1].index(shard) for shard in set(shards)}
        parent, left, right, child = (f"shardId-{number:012d}" for number in range(4))
        assert last[parent] < min(first[left], first[right])
        assert max(last[left], last[right]) < first[child]
        for key in KEYS:
            assert [payload for payload in it.payloads() if payload.startswith(f"{key}:")] == [
                f"{key}:{number}" for number in range(3)
            ]
