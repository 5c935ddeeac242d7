"""Writes a Kinesis stream from a list of unsent records: at least once, and what follows another record comes after it.

PutRecords may refuse any record of a request and accept a later one. So a record that must not overtake those of its
key before it (a duplicate's mark) waits until they are out. All others share requests: a hot card would otherwise take
a request for each of its records. They keep their order as long as nothing is refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from stream_features.aws_answers import whole
from stream_features.errors import PortFailure
from stream_features.flink_job.aws_calls import FAILURES, TRIES, Jitter, error_code, is_transient, pause_ms
from stream_features.flink_job.polling_reader import monotonic_ms

MOST_RECORDS: Final = 500
MOST_BYTES: Final = 4_500_000  # the service's limit is 5 MiB with the partition keys
PARTITION_KEY_BYTES: Final = 1_024  # 256 characters of UTF-8 at most


class Entry(NamedTuple):
    """One record to put; `follows` says that it must not overtake earlier ones of its partition key."""

    partition_key: str
    payload: bytes
    follows: bool = False


class PollingWriter:
    """Puts entries on one stream, and keeps those that are not known to be there.

    Args:
        kinesis: boto3 client.
        stream_arn: the stream.
        tries: so many requests in a row may put nothing.
        now_ms: a clock that never goes back.
        jitter: chance, 0..1.
    """

    def __init__(
        self,
        kinesis: Any,
        stream_arn: str,
        *,
        tries: int = TRIES,
        now_ms: Callable[[], float] = monotonic_ms,
        jitter: Jitter = random.random,
    ) -> None:
        self.unsent: list[Entry] = []  # oldest first
        self.refused = 0  # records and whole requests that had to be put again
        self._kinesis = kinesis
        self._stream_arn = stream_arn
        self._stream_name = stream_arn.rpartition("/")[2]
        self._tries = tries
        self._now_ms = now_ms
        self._jitter = jitter
        self._failures = 0  # in a row
        self._not_before_ms = 0.0

    def add(self, entries: Iterable[Entry]) -> None:
        """Take `entries` in behind those that are unsent."""
        self.unsent.extend(entries)

    @property
    def wait_ms(self) -> int:
        """How long `put` shall not be called, since the stream has just refused something."""
        return max(0, int(self._not_before_ms - self._now_ms()))

    def put(self) -> int:
        """Make one request, unless it is too early for one or nothing is unsent; returns how many entries are out.

        Raises:
            PortFailure: an error that does not pass by itself, or the last of `tries` requests put nothing as well.
        """
        chosen = self._chosen() if not self.wait_ms else []
        if not chosen:
            return 0
        try:
            answer = whole(
                self._kinesis.put_records(
                    StreamARN=self._stream_arn,
                    Records=[
                        {"Data": self.unsent[index].payload, "PartitionKey": self.unsent[index].partition_key}
                        for index in chosen
                    ],
                ),
                "Records",
            )
        except FAILURES as error:
            self._refused(1, error_code(error), is_transient(error), nothing_put=True, cause=error)
            return 0
        out = chosen
        if answer.get("FailedRecordCount"):
            codes = [entry.get("ErrorCode") for entry in answer["Records"]]
            out = [index for index, code in zip(chosen, codes, strict=True) if not code]
            reason = next(code for code in codes if code)
            self._refused(len(chosen) - len(out), reason, True, nothing_put=not out)
        if out:
            gone = set(out)
            self.unsent = [entry for index, entry in enumerate(self.unsent) if index not in gone]
        if len(out) == len(chosen):
            self._failures = 0
            self._not_before_ms = 0.0
        return len(out)

    def _chosen(self) -> list[int]:
        """Indexes into `unsent`: the oldest, as many as a request takes, but for those that have to follow."""
        chosen: list[int] = []
        keys: set[str] = set()
        waiting: set[str] = set()
        room = MOST_BYTES
        for index, (partition_key, payload, follows) in enumerate(self.unsent):
            if partition_key in waiting:
                continue
            if follows and partition_key in keys:
                waiting.add(partition_key)
                continue
            room -= len(payload) + PARTITION_KEY_BYTES
            if chosen and room < 0:
                break
            keys.add(partition_key)
            chosen.append(index)
            if len(chosen) == MOST_RECORDS:
                break
        return chosen

    def _refused(
        self, count: int, code: str, transient: bool, *, nothing_put: bool, cause: Exception | None = None
    ) -> None:
        self.refused += count
        self._failures = self._failures + 1 if nothing_put else 1
        if not transient or (nothing_put and self._failures >= self._tries):
            raise PortFailure(f"PutRecords on {self._stream_name}: {code}") from cause
        self._not_before_ms = self._now_ms() + pause_ms(self._failures, self._jitter)
