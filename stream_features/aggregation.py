"""User records inside one Kinesis record: the producer library's aggregation format, or just the record itself."""

from __future__ import annotations

import hashlib
from typing import Final

_MAGIC: Final = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES: Final = 16


def user_payloads(kinesis_payload: bytes) -> list[bytes]:
    """The payloads a publisher sent in this record, in order; their index is the sub-sequence number.

    A payload that starts like an aggregate and is none (its checksum or its message is broken, or no record is in it)
    is one record, exactly as it stands: it is never dropped.
    """
    if not kinesis_payload.startswith(_MAGIC):
        return [kinesis_payload]
    message, digest = kinesis_payload[len(_MAGIC) : -_DIGEST_BYTES], kinesis_payload[-_DIGEST_BYTES:]
    if hashlib.md5(message, usedforsecurity=False).digest() != digest:
        return [kinesis_payload]
    # Imported here because aggregates are rare and protobuf is slow to load; from there because messages_pb2 alone does
    # not find its neighbour unless that module has set the path.
    from aws_kinesis_agg.deaggregator import messages_pb2
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    aggregate = messages_pb2.AggregatedRecord()
    try:
        aggregate.ParseFromString(message)
    except DecodeError:
        return [kinesis_payload]
    return [bytes(record.data) for record in aggregate.records] or [kinesis_payload]
