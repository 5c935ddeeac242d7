"""Reading the raw archive back: every record of `transactions` as it was published."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError

from console.running import Pipeline
from local.firehose.control import read_worker_status, request_flush
from stream_features.errors import PipelineError, PortFailure
from stream_features.names import RAW_PREFIX

_FLUSH_TIMEOUT_S = 120.0


def bring_up_to_date(pipeline: Pipeline, timeout_s: float = _FLUSH_TIMEOUT_S) -> None:
    """Have everything delivered that has been published by now.

    Raises:
        PortFailure: the delivery into the archive stands still, or is not ours to hurry.
    """
    if read_worker_status(pipeline.state_dir / "firehose") is None:
        raise PortFailure("no delivery worker of this project runs here; records reach the archive in their own time")
    request_flush(pipeline.state_dir / "firehose", timeout_s=timeout_s)


def archived_records(pipeline: Pipeline, *, flush: bool = True) -> Iterator[bytes]:
    """Every archived record, in the order of the archive's objects; what is still on its way is delivered first.

    With `flush` False the archive is read as it is.

    The archive keeps a record per line, so a record that holds line breaks (none that is valid JSON on one line does)
    comes back in pieces.

    Raises:
        PortFailure: the archive did not answer, or the delivery into it stands still.
        PipelineError: an object is not as the template's delivery stream writes it; LocalStack's Firehose writes so.
    """
    if flush:
        bring_up_to_date(pipeline)
    s3, bucket = pipeline.client("s3"), pipeline.output("LakeBucketName")
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=RAW_PREFIX):
            for entry in page.get("Contents", []):
                content = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                try:
                    records = gzip.decompress(content)
                except (OSError, EOFError, zlib.error) as error:
                    raise PipelineError(
                        f"s3://{bucket}/{entry['Key']} is no GZIP file: the Firehose of this AWS writes another format "
                        "(fraudstream doctor); fraudstream explain takes --no-archive"
                    ) from error
                yield from records.split(b"\n")
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"bucket {bucket}: {error}") from error
