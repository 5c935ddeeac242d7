"""One PutRecords call and what its answer means. Everything that talks to AWS on behalf of the publishers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from botocore.exceptions import ConnectionError as EndpointUnreachable

from producers.outbox import Accepted, Answer, Entry, NoAnswer, Refused
from stream_features.aws_answers import HalfAnswer, whole

MAX_RECORDS: Final = 500
MAX_REQUEST_BYTES: Final = 5 * 1024 * 1024
MAX_RECORD_BYTES: Final = (
    1024 * 1024
)  # payload and key; larger records are an option of a stream that ours is not given
MAX_KEY_CHARACTERS: Final = 256

_RETRYABLE_CODES: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "KMSThrottlingException",
        "ThrottlingException",
        "Throttling",
        "RequestTimeout",
        "RequestTimeoutException",
    }
)


def kinesis_client(**options: Any) -> Any:
    """A Kinesis client for a publisher: region, endpoint and credentials from the environment, or from `options`.

    One attempt a call, because the publisher itself sends again, and only what failed; short timeouts, because an
    answer that takes ten seconds does not come; no second check of parameters that the publisher has made itself.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        parameter_validation=False,
        max_pool_connections=16,
    )
    return boto3.session.Session().client("kinesis", config=config, **options)


def put_records(client: Any, stream_name: str, entries: Sequence[Entry]) -> Answer:
    """Send the entries, whose `data` is filled in, in one call; failures of AWS and of the network are answers too."""
    records = []
    for entry in entries:
        if entry.hash_key is None:
            records.append({"PartitionKey": entry.records[0].key, "Data": entry.data})
        else:
            # The bucket is the partition key too: an event source mapping with a parallelization factor keeps the order
            # of records with one partition key only.
            records.append({"PartitionKey": entry.hash_key, "ExplicitHashKey": entry.hash_key, "Data": entry.data})
    try:
        response = whole(client.put_records(StreamName=stream_name, Records=records), "Records")
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        is_final = code not in _RETRYABLE_CODES and status < 500
        return NoAnswer(str(error), final=is_final, unknown=status >= 500, cause=error)
    except (EndpointConnectionError, ConnectTimeoutError) as error:
        return NoAnswer(str(error), cause=error)  # nothing was sent
    except (HTTPClientError, EndpointUnreachable, HalfAnswer, UnicodeDecodeError) as error:
        return NoAnswer(str(error), unknown=True, cause=error)
    except BotoCoreError as error:
        return NoAnswer(str(error), final=True, cause=error)
    results = response["Records"]
    if len(results) != len(records):
        reason = f"{len(results)} results for {len(records)} records"
        return NoAnswer(reason, final=True, unknown=True)
    return [
        Refused(f"{result['ErrorCode']}: {result.get('ErrorMessage', '')}")
        if result.get("ErrorCode")
        else Accepted(result.get("ShardId", ""), result.get("SequenceNumber", ""))
        for result in results
    ]
