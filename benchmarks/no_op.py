"""Deploys the no-op function beside the pipeline: its own two streams, and a mapping with the real one's settings."""

from __future__ import annotations

import io
import json
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from msgspec import Struct

from console.running import Pipeline
from stream_features.errors import PipelineError

SOURCE_STREAM = "benchmark-no-op-source"
RESULT_STREAM = "benchmark-no-op-result"
FUNCTION = "benchmark-no-op"
_MODULE = Path(__file__).with_name("no_op_function.py")
_STARTED_WITHIN_S = 30.0


class MappingCounts(Struct):
    """What the mapping runner has done for one stream since it started, over all shards."""

    shards: int = 0
    delivered: int = 0
    calls: int = 0
    failed_calls: int = 0


def deploy_no_op(pipeline: Pipeline) -> None:
    """Create streams, function and mapping; return when the mapping runner reads the new stream.

    Raises:
        PipelineError: the runner did not take the mapping up.
    """
    kinesis, functions = pipeline.client("kinesis"), pipeline.client("lambda")
    scoring = functions.get_function(FunctionName=pipeline.output("ScoreTransactionsFunctionName"))
    shards = _shard_count(kinesis, pipeline.output("TransactionsStreamName"))
    for stream in (SOURCE_STREAM, RESULT_STREAM):
        kinesis.create_stream(StreamName=stream, ShardCount=shards)
        kinesis.get_waiter("stream_exists").wait(StreamName=stream)
    settings = scoring["Configuration"]
    functions.create_function(
        FunctionName=FUNCTION,
        Runtime=settings["Runtime"],
        Role=settings["Role"],
        Handler=f"{_MODULE.stem}.lambda_handler",
        Code={"ZipFile": _with_no_op(scoring["Code"]["Location"])},
        Timeout=settings["Timeout"],
        MemorySize=settings["MemorySize"],
        Environment={"Variables": {"RESULT_STREAM": RESULT_STREAM}},
    )
    functions.get_waiter("function_active_v2").wait(FunctionName=FUNCTION)
    real = _mapping_of(functions, pipeline.output("TransactionsStreamName"))
    functions.create_event_source_mapping(
        FunctionName=FUNCTION,
        EventSourceArn=kinesis.describe_stream_summary(StreamName=SOURCE_STREAM)["StreamDescriptionSummary"][
            "StreamARN"
        ],
        StartingPosition="TRIM_HORIZON",
        FunctionResponseTypes=["ReportBatchItemFailures"],
        **{
            name: real[name]
            for name in ("BatchSize", "MaximumBatchingWindowInSeconds", "ParallelizationFactor")
            if real.get(name) is not None
        },
    )
    ends_at_s = time.monotonic() + _STARTED_WITHIN_S
    while mapping_counts(pipeline, SOURCE_STREAM).shards < shards:
        if time.monotonic() > ends_at_s:
            raise PipelineError(f"the mapping runner did not read {SOURCE_STREAM} within {_STARTED_WITHIN_S:.0f} s")
        time.sleep(0.1)


def mapping_counts(pipeline: Pipeline, stream: str) -> MappingCounts:
    """What `status.json` of the mapping runner says about a stream: half a second old, and free of AWS calls."""
    status = json.loads((pipeline.state_dir / "mappings" / "status.json").read_bytes())
    counts = MappingCounts()
    for mapping in status["mappings"].values():
        if mapping["stream"] == stream:
            for shard in mapping["shards"].values():
                counts.shards += 1
                counts.delivered += shard["delivered"]
                counts.calls += shard["calls"]
                counts.failed_calls += shard["failed_calls"] + shard["undelivered_calls"]
    return counts


def _with_no_op(package_url: str) -> bytes:
    """The scoring function's package with the no-op's module beside its own."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(package_url, timeout=30) as answer:
        package = io.BytesIO(answer.read())
    with zipfile.ZipFile(package, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.write(_MODULE, _MODULE.name)
    return package.getvalue()


def _shard_count(kinesis: Any, stream: str) -> int:
    return int(kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["OpenShardCount"])


def _mapping_of(functions: Any, stream: str) -> dict[str, Any]:
    for page in functions.get_paginator("list_event_source_mappings").paginate():
        for mapping in page["EventSourceMappings"]:
            if mapping["EventSourceArn"].endswith(f":stream/{stream}"):
                found: dict[str, Any] = mapping
                return found
    raise PipelineError(f"no event source mapping reads {stream}")
