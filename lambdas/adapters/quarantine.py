"""Rejected records: the object in the lake and the pointer in the queue."""

from __future__ import annotations

from typing import Any

import msgspec

from lambdas.adapters.calls import Caller
from lambdas.ports import Pointer
from stream_features.names import quarantine_key
from stream_features.rejected import Rejected, encode_rejected


class S3Quarantine:
    """One object per rejected record, named by its position; then a pointer in the quarantine queue."""

    def __init__(self, s3: Any, sqs: Any, *, bucket: str, queue_url: str, caller: Caller) -> None:
        self._s3 = s3
        self._sqs = sqs
        self._bucket = bucket
        self._queue_url = queue_url
        self._caller = caller

    def keep(self, rejected: Rejected) -> None:
        position = rejected.stream_position
        key = quarantine_key(rejected.stream, position.shard_id, position.sequence_number, position.sub_sequence_number)
        body = encode_rejected(rejected)
        self._caller.call(
            lambda: self._s3.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType="application/json"),
            what="PutObject",
        )
        self.announce(key=key, field=rejected.field, rule=rejected.rule)

    def announce(self, *, key: str, field: str, rule: str) -> None:
        message = msgspec.json.encode(Pointer(self._bucket, key, field, rule)).decode()
        self._caller.call(
            lambda: self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=message), what="SendMessage"
        )
