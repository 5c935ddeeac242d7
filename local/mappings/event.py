"""The JSON a function gets for a Kinesis batch, and what the on-failure destination gets for one given up."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from local.mappings.settings import MappingSettings

MAX_EVENT_BYTES: Final = 6 * 1024 * 1024  # the payload of a synchronous call
_ENVELOPE_BYTES: Final = 640  # an event's fields around key and payload, generously


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One Kinesis record, as a lane holds it."""

    sequence_number: str
    partition_key: str
    payload: bytes
    arrived_at: datetime

    @property
    def event_bytes(self) -> int:
        """An upper bound of its size in the event."""
        return (len(self.payload) + 2) // 3 * 4 + 6 * len(self.partition_key) + _ENVELOPE_BYTES


def kinesis_event(records: Sequence[StreamRecord], settings: MappingSettings, shard_id: str, role_arn: str) -> bytes:
    """The event of one call, as Lambda builds it."""
    return msgspec.json.encode(
        {
            "Records": [
                {
                    "kinesis": {
                        "kinesisSchemaVersion": "1.0",
                        "partitionKey": record.partition_key,
                        "sequenceNumber": record.sequence_number,
                        "data": base64.b64encode(record.payload).decode("ascii"),
                        "approximateArrivalTimestamp": record.arrived_at.timestamp(),
                    },
                    "eventSource": "aws:kinesis",
                    "eventVersion": "1.0",
                    "eventID": f"{shard_id}:{record.sequence_number}",
                    "eventName": "aws:kinesis:record",
                    "invokeIdentityArn": role_arn,
                    "awsRegion": settings.region,
                    "eventSourceARN": settings.stream_arn,
                }
                for record in records
            ]
        }
    )


def discard_notice(
    records: Sequence[StreamRecord],
    settings: MappingSettings,
    shard_id: str,
    *,
    condition: str,
    calls: int,
    function_error: str | None,
    now: datetime,
) -> str:
    """The document Lambda sends for records it gives up. It says where they are, not what they hold.

    Args:
        records: at least one, in stream order.
        settings: of the mapping that gave up.
        shard_id: where they are.
        condition: `RetryAttemptsExhausted` or `RecordAgeExceeded`.
        calls: how often the function was called with them.
        function_error: of the last call; None if there was none or it answered.
        now: UTC.
    """
    notice: dict[str, Any] = {
        "requestContext": {
            "requestId": str(uuid.uuid4()),
            "functionArn": settings.function_arn,
            "condition": condition,
            "approximateInvokeCount": calls,
        },
        "version": "1.0",
        "timestamp": _iso(now),
        "KinesisBatchInfo": {
            "shardId": shard_id,
            "startSequenceNumber": records[0].sequence_number,
            "endSequenceNumber": records[-1].sequence_number,
            "approximateArrivalOfFirstRecord": _iso(records[0].arrived_at),
            "approximateArrivalOfLastRecord": _iso(records[-1].arrived_at),
            "batchSize": len(records),
            "streamArn": settings.stream_arn,
        },
    }
    if calls:
        notice["responseContext"] = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": function_error}
    return msgspec.json.encode(notice).decode()


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
