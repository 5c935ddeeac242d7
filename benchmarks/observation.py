"""When records were due and when their outcome was seen: publishing at a rate, and reading arrival times afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from local.firehose.stream_reader import ShardReader, arrival_ms, list_shard_ids
from producers.pacing import Pacer
from producers.publisher import TransactionPublisher
from stream_features.errors import PipelineError
from stream_features.transaction import Transaction

_POLL_S = 0.2


class Identified(msgspec.Struct):
    """What a transaction or a decision is known by."""

    transaction_id: str


class DecidedAt(msgspec.Struct, frozen=True):
    """The times a decision carries, epoch ms: its record's arrival in `transactions`, and its scoring."""

    transaction_id: str
    arrival_ms: int
    scored_at_ms: int


class Arrived(msgspec.Struct, frozen=True):
    """A record with the stream's own time stamp."""

    shard_id: str
    sequence_number: str
    arrival_ms: int
    payload: bytes


class Unfinished(PipelineError):
    """Some published transactions have no outcome; the message says how many."""


class Published(msgspec.Struct, frozen=True):
    """What went out: per transaction id the epoch ms at which it was due, and how long all of it took."""

    due_ms: dict[str, float]
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.due_ms) / self.seconds


def publish_at(publisher: TransactionPublisher, transactions: Sequence[Transaction], rate: float) -> Published:
    """Publish at `rate` per second and flush.

    A record's clock starts when it was due, not when its request began: a publisher that is held up by one slow call
    must not hide from the figures how long the records behind it waited.
    """
    pacer = Pacer(rate=rate)
    due_ms: dict[str, float] = {}
    began_ms = time.time() * 1_000
    began_s = time.monotonic()
    for place, transaction in enumerate(transactions):
        pacer.wait_for(transaction.event_time_ms, (publisher,))
        due_ms[transaction.transaction_id] = began_ms + place * 1_000 / rate
        publisher.publish(transaction)
    publisher.flush()
    return Published(due_ms, time.monotonic() - began_s)


class StreamTail:
    """Reads what has been put on a stream since it was last asked; the first time, everything."""

    def __init__(self, kinesis: Any, stream_name: str) -> None:
        self._readers = [
            ShardReader(kinesis, stream_name, shard_id, position=None)
            for shard_id in list_shard_ids(kinesis, stream_name)
        ]

    def read(self) -> list[Arrived]:
        """All new records, shard by shard, in order within a shard."""
        found: list[Arrived] = []
        for reader in self._readers:
            while True:
                page = reader.read_page()
                found += [
                    Arrived(reader.shard_id, record["SequenceNumber"], arrival_ms(record), record["Data"])
                    for record in page
                ]
                if not page and reader.caught_up:
                    break
        return found


def first_arrivals(arrived: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Per id the first of its arrivals: a redelivered batch puts a decision again that has been stored before."""
    first: dict[str, int] = {}
    for transaction_id, at_ms in arrived:
        first[transaction_id] = min(at_ms, first.get(transaction_id, at_ms))
    return first


def waits_ms(due_ms: Mapping[str, float], seen_ms: Mapping[str, int]) -> list[float]:
    """How long each transaction took, in the order they were due.

    Raises:
        Unfinished: one that was published was never seen. None is left out of a figure.
    """
    if missing := due_ms.keys() - seen_ms.keys():
        raise Unfinished(f"{len(missing)} of {len(due_ms)} published transactions have no outcome")
    return [seen_ms[transaction_id] - due for transaction_id, due in due_ms.items()]


def wait_until(done: Callable[[], int], expected: int, *, stalled_after_s: float = 60.0) -> None:
    """Return when `done()` reaches `expected`, or has not moved for `stalled_after_s`; the reading then sees it."""
    last, moved_at_s = done(), time.monotonic()
    while last < expected and time.monotonic() - moved_at_s < stalled_after_s:
        time.sleep(_POLL_S)
        now = done()
        if now != last:
            last, moved_at_s = now, time.monotonic()
