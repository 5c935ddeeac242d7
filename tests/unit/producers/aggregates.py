"""Aggregates taken apart by the library that Amazon gives to consumers."""

from __future__ import annotations

import base64
from typing import Any


def user_records(data: bytes) -> list[tuple[str, bytes, str | None]]:
    """(partition key, payload, explicit hash key) of every record in an aggregate; the payload itself if it is none."""
    import aws_kinesis_agg.aggregator  # noqa: F401 - without it the next line fails: it sets the path that that needs
    from aws_kinesis_agg.deaggregator import deaggregate_records

    as_delivered: dict[str, Any] = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "sequenceNumber": "1",
            "approximateArrivalTimestamp": 0.0,
            "partitionKey": "outer",
            "data": base64.b64encode(data),
        }
    }
    return [
        (
            one["kinesis"]["partitionKey"],
            base64.b64decode(one["kinesis"]["data"]),
            one["kinesis"].get("explicitHashKey"),
        )
        for one in deaggregate_records([as_delivered])
    ]
