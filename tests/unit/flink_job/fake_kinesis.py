"""A Kinesis of lists, with everything that a reader and a writer must live with told to it beforehand."""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/transactions"
ARRIVAL = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ARRIVAL_MS = 1_767_225_600_000


def client_error(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Operation")


THROTTLED = client_error("ProvisionedThroughputExceededException")
BROKEN = client_error("InternalFailure", 500)
EXPIRED = client_error("ExpiredIteratorException")
FORBIDDEN = client_error("AccessDeniedException")
NO_ANSWER = ReadTimeoutError(endpoint_url="kinesis")


class Clock:
    """Ms that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shard:
    parents: tuple[str, ...] = ()
    records: list[tuple[int, bytes]] = field(default_factory=list)  # sequence number, data
    closed: bool = False


class FakeKinesis:
    """Shards are read as Kinesis has them read. `failures` holds, by operation, what its next calls raise."""

    def __init__(self, *shard_ids: str) -> None:
        self.shards: dict[str, Shard] = {shard_id: Shard() for shard_id in shard_ids}
        self.failures: dict[str, deque[Exception]] = {}
        self.calls: list[str] = []
        self.page = 1_000  # records that GetRecords answers at most
        self.list_page = 100
        self.list_requests: list[dict[str, Any]] = []
        self._sequence_number = 100

    def put(self, shard_id: str, data: bytes) -> str:
        """Add a record; returns its sequence number."""
        shard = self.shards[shard_id]
        assert not shard.closed
        self._sequence_number += 1
        shard.records.append((self._sequence_number, data))
        return str(self._sequence_number)

    def reshard(self, parents: tuple[str, ...], *children: str) -> None:
        """Close `parents` and open `children` behind them."""
        for parent in parents:
            self.shards[parent].closed = True
        for child in children:
            self.shards[child] = Shard(parents)

    def fail(self, operation: str, *errors: Exception) -> None:
        self.failures.setdefault(operation, deque()).extend(errors)

    def list_shards(self, **request: Any) -> dict[str, Any]:
        self._called("list_shards")
        self.list_requests.append(request)
        if "NextToken" in request:
            assert set(request) == {"NextToken"}
        start = int(request.get("NextToken", 0))
        listed = []
        for shard_id, shard in list(self.shards.items())[start : start + self.list_page]:
            entry: dict[str, Any] = {"ShardId": shard_id}
            for name, parent in zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False):
                entry[name] = parent
            listed.append(entry)
        more = start + self.list_page < len(self.shards)
        return {"Shards": listed} | ({"NextToken": str(start + self.list_page)} if more else {})

    def get_shard_iterator(self, **request: Any) -> dict[str, Any]:
        self._called("get_shard_iterator")
        shard_id = request["ShardId"]
        if shard_id not in self.shards:
            raise client_error("ResourceNotFoundException")
        after = int(request["StartingSequenceNumber"]) if "StartingSequenceNumber" in request else 0
        assert (request["ShardIteratorType"] == "TRIM_HORIZON") == (after == 0)
        return {"ShardIterator": f"{shard_id}/{after}"}

    def get_records(self, **request: Any) -> dict[str, Any]:
        self._called("get_records")
        shard_id, _, after = request["ShardIterator"].partition("/")
        if shard_id not in self.shards:
            raise client_error("ResourceNotFoundException")
        shard = self.shards[shard_id]
        left = [record for record in shard.records if record[0] > int(after)]
        page = left[: min(request["Limit"], self.page)]
        answer: dict[str, Any] = {
            "Records": [
                {"SequenceNumber": str(number), "Data": data, "ApproximateArrivalTimestamp": ARRIVAL}
                for number, data in page
            ],
            "MillisBehindLatest": 1_000 * (len(left) - len(page)),
        }
        if not shard.closed or len(page) < len(left):
            answer["NextShardIterator"] = f"{shard_id}/{page[-1][0] if page else after}"
        return answer

    def _called(self, operation: str) -> None:
        self.calls.append(operation)
        waiting = self.failures.get(operation)
        if waiting:
            raise waiting.popleft()


@dataclass
class Refusal:
    """What happens to one PutRecords: entries refused by index, or an error before or after all were taken."""

    entries: tuple[int, ...] = ()
    error: Exception | None = None
    taken: bool = False


class FakeSink:
    """PutRecords into one list. `script` says what happens to the next requests; then all goes well."""

    def __init__(self, *script: Refusal) -> None:
        self.script = deque(script)
        self.records: list[tuple[str, bytes]] = []
        self.requests: list[list[tuple[str, bytes]]] = []

    def put_records(self, StreamARN: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        entries = [(record["PartitionKey"], record["Data"]) for record in Records]
        self.requests.append(entries)
        refusal = self.script.popleft() if self.script else Refusal()
        if refusal.error is not None:
            if refusal.taken:
                self.records += entries
            raise refusal.error
        answers: list[dict[str, Any]] = []
        for index, entry in enumerate(entries):
            if index in refusal.entries:
                answers.append({"ErrorCode": "ProvisionedThroughputExceededException"})
            else:
                self.records.append(entry)
                answers.append({"SequenceNumber": str(len(self.records))})
        return {"FailedRecordCount": sum("ErrorCode" in answer for answer in answers), "Records": answers}
