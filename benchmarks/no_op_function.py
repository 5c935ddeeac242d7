"""The function that the pipeline is compared with: as many small records out as came in, and nothing else.

It is added to the scoring function's own package, so both start with the same interpreter, packages and AWS client.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any


@cache
def kinesis() -> Any:
    import boto3

    return boto3.client("kinesis")


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, list[dict[str, str]]]:
    """Put one marker per record of the batch, the record's own event id."""
    kinesis().put_records(
        StreamName=os.environ["RESULT_STREAM"],
        Records=[
            {"Data": record["eventID"].encode(), "PartitionKey": record["kinesis"]["partitionKey"]}
            for record in event["Records"]
        ],
    )
    return {"batchItemFailures": []}
