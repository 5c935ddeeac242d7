"""Aggregation: many transactions in one Kinesis record, in the producer library's format. The one user of its package.

The whole aggregate goes to one shard, so what is aggregated together must belong together for good: a card belongs to
a fixed bucket, and a bucket has its own explicit hash key. Buckets divide the hash space evenly in Kinesis' own
order, so a card lands on the shard it would have without aggregation, except where a bucket lies across two shards.

    bucket of a card = top bits of md5(card_id); explicit hash key of a bucket = the first hash of its range
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from producers.outbox import Entry
from stream_features.errors import ContractMismatch

ENTRY_OVERHEAD: Final = 160  # magic, digest, and the hash key: in the aggregate, beside it, and as partition key
RECORD_OVERHEAD: Final = 64  # what the library reckons with, which is more than it writes
_HASH_BITS: Final = 128
_MAGIC_BYTES: Final = 4
_DIGEST_BYTES: Final = 16
_MAX_BUCKETS: Final = 4_096
_MAX_AGGREGATE_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """How records are put together. One choice for the life of a stream, and the same for all its publishers.

    Attributes:
        buckets: a power of two, at least the number of shards. Another number later moves cards to other shards, and
            records of a card that are then still unread on the old shard may be read after newer ones.
        max_bytes: of an aggregate of several records; a lone record may be larger.
        max_records: of an aggregate. All of them are redelivered when one of them fails.
    """

    buckets: int = 64
    max_bytes: int = 51_200
    max_records: int = 500

    def __post_init__(self) -> None:
        if not (1 <= self.buckets <= _MAX_BUCKETS and self.buckets & (self.buckets - 1) == 0):
            raise ValueError(f"buckets must be a power of two of at most {_MAX_BUCKETS}")
        if not 1 <= self.max_bytes <= _MAX_AGGREGATE_BYTES or not 1 <= self.max_records <= 10_000:
            raise ValueError(f"an aggregate holds at most {_MAX_AGGREGATE_BYTES} bytes and 10000 records")

    def hash_key_of(self, partition_key: str) -> str:
        """The explicit hash key of the key's bucket: decimal, as Kinesis takes it."""
        place = int.from_bytes(hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()[:2], "big")
        return _hash_key(place * self.buckets >> 16, self.buckets)


def aggregate(entry: Entry, hash_key: str) -> bytes:
    """The entry's records as one Kinesis payload, also if there is only one: a stream is aggregated or it is not.

    Each record carries the hash key too: consumer libraries drop records whose own hash lies outside the shard.

    Raises:
        ContractMismatch: the library did not take every record in; nothing may be sent.
    """
    library = _library()
    aggregated = library.new()
    for record in entry.records:
        if not aggregated.add_user_record(record.key, record.payload, hash_key):
            raise ContractMismatch(f"an aggregate of {len(entry.records)} records takes {aggregated.get_size_bytes()}")
    _, _, payload = aggregated.get_contents()
    count = len(library.parse(payload[_MAGIC_BYTES:-_DIGEST_BYTES]).records)
    if count != len(entry.records):
        raise ContractMismatch(f"an aggregate of {len(entry.records)} records holds {count}")
    return bytes(payload)


@functools.cache
def _hash_key(bucket: int, buckets: int) -> str:
    return str((bucket << _HASH_BITS) // buckets)


class _Library(NamedTuple):
    new: Callable[[], Any]  # an empty aggregate
    parse: Callable[[bytes], Any]  # its message, read again


@functools.cache
def _library() -> _Library:
    """Imported on first use: protobuf is slow to load, and most publishers do not aggregate."""
    path = list(sys.path)
    from aws_kinesis_agg import aggregator  # first: its messages load only with the path that it sets

    sys.path[:] = path  # that path has its own folder, with modules of common names, before ours
    return _Library(aggregator.AggRecord, aggregator.messages_pb2.AggregatedRecord.FromString)
