"""Drives the deployed pipeline as a user does: through the `fraudstream` command and the AWS APIs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from console.publishing import Replay, publish
from console.quarantine import rejected_records
from console.running import Pipeline
from lambdas.adapters.items import stored_label
from lambdas.adapters.ssm import KEPT_FOR_S
from lambdas.writes import StoredLabel
from local.capabilities import Capability, Place, why_not
from local.run import load_run
from producers.publisher import TransactionPublisher
from stream_features.decision import Decision, decode_decision
from stream_features.label import Label
from stream_features.rejected import Rejected
from stream_features.transaction import Transaction

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("FRAUDSTREAM_DATA", ROOT.parent / "shared" / "data"))
COMMAND = [sys.executable, "-m", "console"]


@dataclass(frozen=True)
class Before:
    """What a pipeline that several modules share held when a module began: left out of what its tests see."""

    status: dict[str, Any] = field(default_factory=dict)
    decided: frozenset[str] = frozenset()
    quarantined: frozenset[str] = frozenset()  # keys of quarantine objects


@dataclass
class SeenPipeline(Pipeline):
    """A pipeline of which `stored_decisions` and `quarantined` show what came since `before`."""

    before: Before = Before()


@dataclass
class Installation:
    """One checkout's command with a state folder of its own, on one target."""

    state_dir: Path
    extra_environment: dict[str, str]
    place: Place = "embedded"
    before: Before = Before()

    def shared(self) -> Installation:
        """The same pipeline for a next module, whose tests see what comes from now on."""
        time.sleep(KEPT_FOR_S + 1)  # functions may still hold the policy of the module before
        now = Installation(self.state_dir, self.extra_environment, self.place)
        pipeline = now.pipeline()
        keys = frozenset(key for key, _ in rejected_records(pipeline))
        return replace(now, before=Before(now.status(), frozenset(stored_decisions(pipeline)), keys))

    def needs(self, *capabilities: Capability) -> None:
        """Skip the test with the reason why its target lacks one of these."""
        for capability in capabilities:
            if reason := why_not(self.place, capability):
                pytest.skip(reason)

    def has(self, capability: Capability) -> bool:
        return why_not(self.place, capability) is None

    def run(self, *arguments: str | Path | int, expect: int = 0, timeout_s: float = 300) -> str:
        """Run `fraudstream ARGUMENTS`; returns stdout, fails the test on another exit code."""
        # A tester's own LocalStack is not what `up --target localstack` shall attach to.
        inherited = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
        environment = {**inherited, "FRAUDSTREAM_STATE": str(self.state_dir), **self.extra_environment}
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != expect:
            pytest.fail(
                f"fraudstream {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout

    def status(self) -> dict[str, Any]:
        """The status; counts of a shared pipeline are those since `before`."""
        answer: dict[str, Any] = json.loads(self.run("status", "--json"))
        return _since(answer, self.before.status)

    def pipeline(self) -> SeenPipeline:
        run = load_run(self.state_dir)
        assert run is not None
        return SeenPipeline(run, self.before)


# Of the status: counts that only grow.
COUNTS: Final = ("published", "decided", "quarantined", "duplicates", "late", "alerts")


def _since(status: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    if not before:
        return status
    counts = {name: status[name] - before[name] for name in COUNTS}
    labels = {name: value - before["labels"][name] for name, value in status["labels"].items()}
    return status | counts | {"labels": labels}


def quarantined(pipeline: Pipeline) -> list[tuple[str, Rejected]]:
    """Key and content of what is in quarantine."""
    before = pipeline.before.quarantined if isinstance(pipeline, SeenPipeline) else frozenset()
    return [(key, rejected) for key, rejected in rejected_records(pipeline) if key not in before]


def stored_decisions(pipeline: Pipeline) -> dict[str, Decision]:
    """Every decision of the table by transaction id, read consistently."""
    pages = (
        pipeline.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=pipeline.output("DecisionsTableName"), ConsistentRead=True)
    )
    items = [item for page in pages for item in page["Items"]]
    decisions = {item["transaction_id"]["S"]: decode_decision(item["document"]["S"]) for item in items}
    assert len(decisions) == len(items)
    before = pipeline.before.decided if isinstance(pipeline, SeenPipeline) else frozenset()
    return {key: decision for key, decision in decisions.items() if key not in before}


def stored_states(pipeline: Pipeline, kind: str = "") -> dict[str, bytes]:
    """Packed state of every entity by its key, read consistently; of one kind only for `card#` or `merchant#`."""
    pages = (
        pipeline.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=pipeline.output("EntityStateTableName"), ConsistentRead=True)
    )
    return {
        item["entity"]["S"]: item["state"]["B"]
        for page in pages
        for item in page["Items"]
        if item["entity"]["S"].startswith(kind)
    }


def stored_labels(pipeline: Pipeline) -> dict[str, StoredLabel]:
    """Every item of the labels table by transaction id, read consistently."""
    pages = (
        pipeline.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=pipeline.output("LabelsTableName"), ConsistentRead=True)
    )
    return {item["transaction_id"]["S"]: stored_label(item) for page in pages for item in page["Items"]}


def publish_all(installed: Installation, transactions: Iterable[Transaction]) -> None:
    """Publish in the order given, as fast as it goes; returns when the stream has them."""
    pipeline = installed.pipeline()
    with TransactionPublisher(pipeline.client("kinesis"), pipeline.output("TransactionsStreamName")) as publisher:
        for transaction in transactions:
            publisher.publish(transaction)


def settled(installed: Installation, published: int, timeout_s: float = 150) -> dict[str, Any]:
    """The status once nothing is in flight and `published` records were counted."""
    ends_at = time.monotonic() + timeout_s
    while True:
        status = installed.status()
        if status["in_flight"] == 0 and status["published"] >= published:
            return status
        assert time.monotonic() < ends_at, f"not settled after {timeout_s} s: {status}"
        time.sleep(0.3)


def publish_in_lockstep(
    pipeline: Pipeline, items: Iterable[Transaction | Label], *, label_delay_ms: int | None = None
) -> None:
    """Publish `items`, which stand in the order of their times, bucket by bucket, and wait for the last one as well."""
    how = Replay(lockstep=True, wait=True, progress=lambda line: None)
    publish(pipeline, items, how, label_delay_ms)


def needs_data(name: str) -> Path:
    """The data file `name`, or a skip that says where it was looked for."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA} (set FRAUDSTREAM_DATA)")
    return path
