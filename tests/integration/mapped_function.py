"""One stream, one tiny function that notes its calls and fails as its records say, and a mapping between them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.integration.embedded_aws import ROOT


class LocalAws(Protocol):
    """An AWS of this machine."""

    def client(self, service: str) -> Any: ...
    def environment(self) -> Mapping[str, str]: ...


# Notes what it is called with, then fails as its environment says. Only the standard library: functions run on a bare
# interpreter here.
FUNCTION = """
import base64, json, os, time

def note(line):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(json.dumps(line) + "\\n")

def handler(event, context):
    try:
        return answer(event)
    finally:
        note({"ended": os.getpid()})

def answer(event):
    records = [
        (each["sequenceNumber"], each["partitionKey"], base64.b64decode(each["data"]).decode())
        for each in (record["kinesis"] for record in event["Records"])
    ]
    note({"pid": os.getpid(), "shard": event["Records"][0]["eventID"].split(":")[0], "window": event.get("window"),
          "records": records, "arn": event["Records"][0]["eventSourceARN"]})
    print("called")
    failures = []
    for number, key, payload in records:
        if payload.startswith("raises"):
            raise ValueError("poison")
        if payload.startswith("kills"):
            note({"ended": os.getpid()})
            os.kill(os.getpid(), 9)
        if payload.startswith("fails once") and not os.path.exists(os.environ["CALLS"] + payload):
            open(os.environ["CALLS"] + payload, "w").close()
            failures.append({"itemIdentifier": number})
        if payload.startswith("fails always"):
            failures.append({"itemIdentifier": number})
        if payload.startswith("slow"):
            time.sleep(1.0)
        if payload.startswith("answers "):
            return json.loads(payload.removeprefix("answers "))
    return {"batchItemFailures": failures}
"""


def start_runner(aws: LocalAws, folder: Path) -> subprocess.Popen[bytes]:
    """Our mapping runner on every mapping of `aws`, its state in `folder`/state."""
    with (folder / "runner.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "local.event_source_mappings", "--state-dir", str(folder / "state")],
            env=aws.environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


@dataclass
class Deployed:
    """One stream, one function, one mapping between them; a runner that can be started and killed."""

    aws: LocalAws
    folder: Path
    name: str
    queue_arn: str
    uuid: str = ""
    payload_of: dict[str, str] = field(default_factory=dict)  # by sequence number
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def put(self, *records: tuple[str, str]) -> list[str]:
        """Put (key, payload) records; their sequence numbers."""
        answer = self.aws.client("kinesis").put_records(
            StreamName=self.name, Records=[{"PartitionKey": key, "Data": payload.encode()} for key, payload in records]
        )
        numbers = [record["SequenceNumber"] for record in answer["Records"]]
        self.payload_of |= dict(zip(numbers, (payload for _, payload in records), strict=True))
        return numbers

    def calls(self) -> list[dict[str, Any]]:
        """Every call of the function, in the order they began."""
        return [line for line in self._lines() if "records" in line]

    def overlapped(self) -> bool:
        """Whether a call began before another had ended."""
        running = 0
        for line in self._lines():
            running += 1 if "records" in line else -1
            if running > 1:
                return True
        return False

    def _lines(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def batches(self) -> list[list[str]]:
        """The payloads of every call."""
        return [[payload for _number, _key, payload in call["records"]] for call in self.calls()]

    def payloads(self) -> list[str]:
        return [payload for batch in self.batches() for payload in batch]

    def start_runner(self) -> subprocess.Popen[bytes]:
        runner = start_runner(self.aws, self.folder)
        self.processes.append(runner)
        return runner

    def checkpoint(self) -> dict[str, Any]:
        path = self.folder / "state" / f"{self.uuid}.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def messages(self) -> list[dict[str, Any]]:
        """What the on-failure destination was told since the last look."""
        sqs = self.aws.client("sqs")
        url = sqs.get_queue_url(QueueName=self.name)["QueueUrl"]
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
        for message in answer.get("Messages", []):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]

    def map(self, **mapping: Any) -> None:
        """Have the function called for the stream from its start on; `mapping` changes the settings."""
        settings: dict[str, Any] = {
            "StartingPosition": "TRIM_HORIZON",
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "DestinationConfig": {"OnFailure": {"Destination": self.queue_arn}},
        }
        self.uuid = self.aws.client("lambda").create_event_source_mapping(
            EventSourceArn=f"arn:aws:kinesis:us-east-1:000000000000:stream/{self.name}",
            FunctionName=self.name,
            **(settings | mapping),
        )["UUID"]


@contextmanager
def unmapped(aws: LocalAws, folder: Path, name: str, *, shards: int = 1) -> Iterator[Deployed]:
    """Make stream, queue and function; afterwards end every runner and delete the mapping, if one was made."""
    aws.client("kinesis").create_stream(StreamName=name, ShardCount=shards)
    queue_url = aws.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    queue = aws.client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
    found = Deployed(aws, folder, name, queue["QueueArn"])
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("tiny.py", FUNCTION)
    functions = aws.client("lambda")
    functions.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Role="arn:aws:iam::000000000000:role/tiny",
        Handler="tiny.handler",
        Timeout=20,
        Code={"ZipFile": package.getvalue()},
        Environment={"Variables": {"CALLS": str(folder / "calls")}},
    )
    while functions.get_function_configuration(FunctionName=name).get("State", "Active") == "Pending":
        time.sleep(0.05)
    try:
        yield found
    finally:
        if found.uuid:
            functions.delete_event_source_mapping(UUID=found.uuid)
        for process in found.processes:
            process.kill()
            process.wait()
        functions.delete_function(FunctionName=name)  # ends its workers


@contextmanager
def deployed(aws: LocalAws, folder: Path, name: str, *, shards: int = 1, **mapping: Any) -> Iterator[Deployed]:
    """As `unmapped`, and the mapping."""
    with unmapped(aws, folder, name, shards=shards) as found:
        found.map(**mapping)
        yield found


def eventually(holds: Callable[[], bool], of: Deployed, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            pytest.fail(f"it never came true: {of.batches()}\n{(of.folder / 'runner.log').read_text()}")
        time.sleep(0.02)
