"""A Kinesis stream and a Lambda function in memory: only what an event source mapping asks of them."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from local.mappings.outcome import Rules
from local.mappings.settings import MappingSettings


def settings(**changes: Any) -> MappingSettings:
    """A mapping of `stream` to `function`, one lane, batches of 10, no limits."""
    given: dict[str, Any] = {
        "uuid": "mapping",
        "stream_arn": "arn:aws:kinesis:us-east-1:000000000000:stream/stream",
        "function_arn": "arn:aws:lambda:us-east-1:000000000000:function:function",
        "batch_size": 10,
        "window_s": 0.0,
        "lanes_per_shard": 1,
        "starting_position": "TRIM_HORIZON",
        "starting_timestamp": None,
        "reports_item_failures": True,
        "rules": Rules(bisects=False, max_retries=None, max_age_s=None),
        "failure_queue_arn": None,
    }
    return MappingSettings(**(given | changes))


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "operation")


class FakeKinesis:
    """Shards are lists of records; a closed shard ends with its last record."""

    def __init__(self) -> None:
        self.shards: dict[str, list[dict[str, Any]]] = {}
        self.parents: dict[str, str] = {}
        self.closed: set[str] = set()
        self.errors: list[str] = []  # codes, raised by the next calls of get_records
        self.iterators: list[dict[str, Any]] = []  # as they were asked for
        self._sequence = 0

    def add_shard(self, shard_id: str, parent: str | None = None) -> None:
        self.shards[shard_id] = []
        if parent is not None:
            self.parents[shard_id] = parent

    @property
    def count(self) -> int:
        """Records put so far."""
        return self._sequence

    def put(self, shard_id: str, key: str, payload: bytes, arrived_at: datetime | None = None) -> str:
        self._sequence += 1
        self.shards[shard_id].append(
            {
                "SequenceNumber": f"{self._sequence:020}",
                "PartitionKey": key,
                "Data": payload,
                "ApproximateArrivalTimestamp": arrived_at or datetime.now(UTC),
            }
        )
        return f"{self._sequence:020}"

    def list_shards(self, StreamName: str) -> dict[str, Any]:
        return {
            "Shards": [
                {"ShardId": shard} | ({"ParentShardId": self.parents[shard]} if shard in self.parents else {})
                for shard in self.shards
            ]
        }

    def get_shard_iterator(self, **request: Any) -> dict[str, str]:
        self.iterators.append(request)
        records = self.shards[request["ShardId"]]
        kind = request["ShardIteratorType"]
        place = 0
        if kind == "LATEST":
            place = len(records)
        elif kind == "AFTER_SEQUENCE_NUMBER":
            place = sum(record["SequenceNumber"] <= request["StartingSequenceNumber"] for record in records)
        elif kind == "AT_TIMESTAMP":
            place = sum(record["ApproximateArrivalTimestamp"] < request["Timestamp"] for record in records)
        return {"ShardIterator": f"{request['ShardId']}@{place}"}

    def get_records(self, ShardIterator: str, Limit: int) -> dict[str, Any]:
        if self.errors:
            raise client_error(self.errors.pop(0))
        shard, _, start = ShardIterator.partition("@")
        records = self.shards[shard][int(start) : int(start) + Limit]
        place = int(start) + len(records)
        ends = shard in self.closed and place == len(self.shards[shard])
        answer: dict[str, Any] = {"Records": records, "MillisBehindLatest": 0}
        return answer if ends else answer | {"NextShardIterator": f"{shard}@{place}"}


class FakeFunctions:
    """One function: `handler` gets the payloads of a batch, and returns the answer or raises."""

    def __init__(self, handler: Callable[[list[str]], Any]) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self.events: list[dict[str, Any]] = []
        self.errors: list[str] = []  # codes, raised by the next calls

    @property
    def batches(self) -> list[list[str]]:
        """Payloads of every call, in the order the calls began."""
        with self._lock:
            return [payloads(event) for event in self.events]

    def get_function_configuration(self, FunctionName: str) -> dict[str, str]:
        return {"Role": "arn:aws:iam::000000000000:role/function"}

    def invoke(self, FunctionName: str, InvocationType: str, Payload: bytes) -> dict[str, Any]:
        assert InvocationType == "RequestResponse"
        event = json.loads(Payload)
        with self._lock:
            if self.errors:
                raise client_error(self.errors.pop(0))
            self.events.append(event)
        try:
            answer = json.dumps(self._handler(payloads(event))).encode()
        except ValueError as error:
            return {
                "FunctionError": "Unhandled",
                "Payload": io.BytesIO(json.dumps({"errorMessage": str(error)}).encode()),
            }
        return {"Payload": io.BytesIO(answer)}


class FakeQueue:
    """SQS, as far as an on-failure destination is concerned."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def get_queue_url(self, QueueName: str, QueueOwnerAWSAccountId: str) -> dict[str, str]:
        return {"QueueUrl": f"https://queue/{QueueName}"}

    def send_message(self, QueueUrl: str, MessageBody: str) -> None:
        if self.errors:
            raise client_error(self.errors.pop(0))
        self.messages.append(json.loads(MessageBody))


def payloads(event: dict[str, Any]) -> list[str]:
    return [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]


def eventually(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Return once `holds`; fail the test if it never does."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.005)
