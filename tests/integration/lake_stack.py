"""The lake's part of the deployed stack, made call by call from the settings in template.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stream_features.decision import Decision, Reason, StreamPosition
from tests.integration.embedded_aws import ROOT, EmbeddedAws

BUCKET = "lake"
ACCOUNT_ARN = "us-east-1:000000000000"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their argument: `!Ref X` is "X"."""


def _argument(loader: yaml.Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _argument)


@cache
def template_resources() -> dict[str, Any]:
    """Resources of template.yaml by logical id."""
    resources: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), _Loader)["Resources"]  # noqa: S506 - a SafeLoader
    return resources


@dataclass(frozen=True)
class LakeStack:
    """Names of what was made; every test has its own."""

    aws: EmbeddedAws
    prefix: str

    @property
    def transactions(self) -> str:
        return f"{self.prefix}-transactions"

    @property
    def decisions(self) -> str:
        return f"{self.prefix}-decisions"

    @property
    def bucket(self) -> str:
        return f"{self.prefix}-{BUCKET}"

    @property
    def database(self) -> str:
        return f"{self.prefix}_fraudstream".replace("-", "_")

    @property
    def workgroup(self) -> str:
        return f"{self.prefix}-fraudstream"

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Key to content below a prefix of the lake."""
        s3 = self.aws.client("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


def create_lake_stack(aws: EmbeddedAws, prefix: str, *, interval_s: int = 60, shards: int = 2) -> LakeStack:
    """Streams, bucket, Glue tables, workgroup and both delivery streams, with the template's settings."""
    stack = LakeStack(aws, prefix)
    kinesis, s3, glue, firehose = (aws.client(name) for name in ("kinesis", "s3", "glue", "firehose"))
    resources = template_resources()
    for stream in (stack.transactions, stack.decisions):
        kinesis.create_stream(StreamName=stream, ShardCount=shards)
    s3.create_bucket(Bucket=stack.bucket)
    glue.create_database(DatabaseInput={"Name": stack.database})
    for logical_id in ("RawTransactionsTable", "DecisionsLakeTable"):
        table = json.loads(json.dumps(resources[logical_id]["Properties"]["TableInput"]))
        folder = "raw" if table["Name"] == "raw_transactions" else "decisions"
        table["StorageDescriptor"]["Location"] = f"s3://{stack.bucket}/{folder}/"
        glue.create_table(DatabaseName=stack.database, TableInput=table)
    aws.client("athena").create_work_group(
        Name=stack.workgroup,
        Configuration={"ResultConfiguration": {"OutputLocation": f"s3://{stack.bucket}/athena-results/"}},
    )
    for logical_id, name, stream in (
        ("RawDelivery", "raw", stack.transactions),
        ("DecisionsDelivery", "decisions", stack.decisions),
    ):
        s3_settings = json.loads(json.dumps(resources[logical_id]["Properties"]["ExtendedS3DestinationConfiguration"]))
        s3_settings.pop("CloudWatchLoggingOptions")
        s3_settings |= {
            "BucketARN": f"arn:aws:s3:::{stack.bucket}",
            "RoleARN": "arn:aws:iam::000000000000:role/firehose",
            "BufferingHints": {"SizeInMBs": 64, "IntervalInSeconds": interval_s},
        }
        if "DataFormatConversionConfiguration" in s3_settings:
            s3_settings["DataFormatConversionConfiguration"]["SchemaConfiguration"] = {
                "DatabaseName": stack.database,
                "TableName": "decisions",
                "RoleARN": "arn:aws:iam::000000000000:role/firehose",
                "Region": "us-east-1",
                "VersionId": "LATEST",
            }
        firehose.create_delivery_stream(
            DeliveryStreamName=f"{prefix}-{name}",
            DeliveryStreamType="KinesisStreamAsSource",
            KinesisStreamSourceConfiguration={
                "KinesisStreamARN": f"arn:aws:kinesis:{ACCOUNT_ARN}:stream/{stream}",
                "RoleARN": "arn:aws:iam::000000000000:role/firehose",
            },
            ExtendedS3DestinationConfiguration=s3_settings,
        )
    return stack


@contextmanager
def firehose_worker(
    aws: EmbeddedAws, state_dir: Path, module: str = "local.firehose"
) -> Iterator[subprocess.Popen[bytes]]:
    """The real worker as a process; ended, if the test has not ended it."""
    with (aws.folder / f"firehose-{time.monotonic_ns()}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--state-dir", state_dir, "--poll-seconds", "0.1"],
            env=aws.environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def put(aws: EmbeddedAws, stream: str, payloads: list[bytes]) -> None:
    """Publish payloads over the shards of a stream."""
    kinesis = aws.client("kinesis")
    for start in range(0, len(payloads), 400):
        records = [
            {"Data": payload, "PartitionKey": f"key-{start + number}"}
            for number, payload in enumerate(payloads[start : start + 400])
        ]
        assert kinesis.put_records(StreamName=stream, Records=records)["FailedRecordCount"] == 0


def a_decision(number: int, *, arrival_ms: int = 1_795_176_000_000) -> Decision:
    """A decision that differs from its neighbours in every way the queries look at."""
    verdict = ("approve", "review", "decline")[0 if number % 10 < 7 else 1 if number % 10 < 9 else 2]
    reasons = [] if verdict == "approve" else [Reason(("amount", "card_count_1h")[number % 2], 1.5 + number % 7)]
    return Decision(
        transaction_id=f"t-{number}",
        event_time_ms=arrival_ms - 250,
        card_id=f"card-{number % 37}",
        merchant_id=f"merchant-{number % 5}",
        amount_minor=100 + number * 7,
        currency=("USD", "EUR")[number % 2],
        channel="pos",
        latitude=51.5,
        score=round((number % 101) / 100, 2),
        decision=verdict,  # type: ignore[arg-type]
        reasons=reasons,
        rules=[],
        features={"amount": number / 3, "card_count_1h": None},
        feature_set_id="core-1",
        model_version="core-abc",
        variant="A",
        policy_version="1",
        engine="lambda",
        stream_position=StreamPosition("shardId-000000000000", str(10**20 + number), 0),
        arrival_ms=arrival_ms + number * 9_000,
        scored_at_ms=arrival_ms + number * 9_000 + 40 + number % 50,
        late=number % 11 == 0,
        degraded=False,
        payload_sha256="0" * 64,
    )


def missing_and_extra(expected: list[bytes], found: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Payloads that are not there as often as they should be, and those that are there more often."""
    wanted, there = Counter(expected), Counter(found)
    return sorted((wanted - there).elements()), sorted((there - wanted).elements())
