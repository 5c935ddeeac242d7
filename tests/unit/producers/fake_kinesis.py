"""A Kinesis client that accepts, refuses or fails as it is told, and remembers every request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from botocore.exceptions import ClientError

Answer = Callable[[list[dict[str, Any]]], list[bool]]  # the entries → which of them are accepted; may raise


def accept_all(entries: list[dict[str, Any]]) -> list[bool]:
    return [True] * len(entries)


def refuse(*positions: int) -> Answer:
    """Refuse the entries at these positions of the request."""
    return lambda entries: [position not in positions for position in range(len(entries))]


def refuse_by_bits(bits: int) -> Answer:
    return lambda entries: [not bits >> position & 1 for position in range(len(entries))]


def gate(opened: threading.Event, reached: threading.Event | None = None) -> Answer:
    """Accept everything, but not before `opened` is set; `reached` tells that the request has come."""

    def answer(entries: list[dict[str, Any]]) -> list[bool]:
        if reached is not None:
            reached.set()
        assert opened.wait(60)
        return accept_all(entries)

    return answer


def fail_with(error: Exception) -> Answer:
    def answer(entries: list[dict[str, Any]]) -> list[bool]:
        raise error

    return answer


def client_error(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "said no"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutRecords"
    )


class FakeKinesis:
    """Answers requests by `answers` in turn, then accepts everything.

    Attributes:
        requests: (key, payload) of every entry of every request.
        stored: (key, payload) of accepted entries in the order of their acceptance; their sequence numbers count up
            from 1 in that order.
        hash_keys: the explicit hash key of every stored entry, None where there was none.
    """

    def __init__(self, answers: Iterable[Answer] = (), stored_although: type[Exception] | None = None) -> None:
        self.requests: list[list[tuple[str, bytes]]] = []
        self.stored: list[tuple[str, bytes]] = []
        self.hash_keys: list[str | None] = []
        self._answers = iter(answers)
        self._stored_although = stored_although
        self._lock = threading.Lock()

    def put_records(self, *, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        entries = [(record["PartitionKey"], record["Data"]) for record in Records]
        with self._lock:
            self.requests.append(entries)
            answer = next(self._answers, accept_all)
        try:
            accepted = answer(Records)
        except Exception as error:
            if self._stored_although is not None and isinstance(error, self._stored_although):
                with self._lock:
                    for record in Records:
                        self._store(record)
            raise
        results = []
        with self._lock:
            for record, is_accepted in zip(Records, accepted, strict=True):
                if is_accepted:
                    self._store(record)
                    results.append({"SequenceNumber": str(len(self.stored)), "ShardId": "shardId-0"})
                else:
                    error_code = "ProvisionedThroughputExceededException"
                    results.append({"ErrorCode": error_code, "ErrorMessage": "slow down"})
        return {"FailedRecordCount": accepted.count(False), "Records": results}

    def _store(self, record: dict[str, Any]) -> None:
        self.stored.append((record["PartitionKey"], record["Data"]))
        self.hash_keys.append(record.get("ExplicitHashKey"))

    def of_key(self, key: str) -> list[bytes]:
        return [payload for stored_key, payload in self.stored if stored_key == key]
