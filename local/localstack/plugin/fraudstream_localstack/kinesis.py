"""Kinesis in LocalStack's process: its own provider over moto's streams, with moto's shards mended.

As moto has them, putting is quadratic and not safe for concurrency, and the last shard ends one hash key too late for
Amazon's client library (which LocalStack's Firehose uses).
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return"
from __future__ import annotations

import threading
from bisect import bisect_right
from typing import Any, Final

from localstack.aws.api import CommonServiceException
from localstack.services.kinesis.provider import KinesisProvider
from moto.kinesis.models import Record, Shard, Stream

_FIRST_SEQUENCE_NUMBER: Final = 496 * 10**53 + 1  # 56 digits, as real ones have
_GREATEST_HASH_KEY: Final = 2**128 - 1
_MOST_RECORDS_PER_READ: Final = 10_000
_putting = threading.Lock()


class MotoKinesisProvider(KinesisProvider):
    """Refuses what moto would lose records at."""

    def _refuse_resharding(self, context: Any, *args: object, **kwargs: object) -> Any:
        raise CommonServiceException("InvalidArgumentException", "this Kinesis backend loses records when resharded")

    update_shard_count = split_shard = merge_shards = _refuse_resharding


def mend_shards() -> None:
    """Replace what is wrong with moto's shards; once per process, before the first stream."""
    Shard.put_record = _put_record
    Shard.get_records = _get_records
    Shard.get_max_sequence_number = lambda shard: (_sequence_numbers(shard) or [0])[-1]
    Shard.get_min_sequence_number = lambda shard: (_sequence_numbers(shard) or [0])[0]
    init_shards = Stream.init_shards

    def init_shards_within_the_key_space(stream: Any, count: int) -> None:
        init_shards(stream, count)
        for shard in stream.shards.values():
            shard.ending_hash = min(shard.ending_hash, _GREATEST_HASH_KEY)

    Stream.init_shards = init_shards_within_the_key_space


def _sequence_numbers(shard: Any) -> list[int]:
    """The shard's sequence numbers, ascending; a list beside moto's dictionary, because it can be searched."""
    if not hasattr(shard, "sequence_numbers"):
        shard.sequence_numbers = list(shard.records)
    return shard.sequence_numbers


def _put_record(shard: Any, partition_key: str, data: Any, explicit_hash_key: str | None) -> str:
    with _putting:
        numbers = _sequence_numbers(shard)
        number = numbers[-1] + 1 if numbers else _FIRST_SEQUENCE_NUMBER
        shard.records[number] = Record(partition_key, data, number, explicit_hash_key)
        numbers.append(number)  # last: readers, who hold no lock, see whole records only
    return str(number)


def _get_records(shard: Any, last_sequence_number: str | int, limit: int | None) -> tuple[list[Any], int, int]:
    numbers, last = _sequence_numbers(shard), int(last_sequence_number)
    start = bisect_right(numbers, last)
    found = numbers[start : start + (limit or _MOST_RECORDS_PER_READ)]
    if not found:
        return [], last, 0
    records = [shard.records[number] for number in found]
    behind_s = shard.records[numbers[-1]].created_at - records[-1].created_at
    return records, found[-1], int(behind_s * 1000)
