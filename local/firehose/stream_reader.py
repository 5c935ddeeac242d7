"""One shard of a Kinesis stream, read forward from a position. Used by whatever reads a stream outside a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from stream_features.aws_answers import whole

PAGE_LIMIT: Final = 5_000  # records a GetRecords call; decisions are about 2 KB each


class ShardRecord(NamedTuple):
    """One user record: an aggregated Kinesis record holds several, told apart by the sub-sequence number."""

    shard_id: str
    sequence_number: str
    sub_sequence_number: int
    arrival_ms: int
    payload: bytes


class ShardReader:
    """Reads one shard in order. `position` is the last sequence number read, None before the first record."""

    def __init__(
        self, kinesis: Any, stream_name: str, shard_id: str, *, position: str | None, page_limit: int = PAGE_LIMIT
    ) -> None:
        self.shard_id = shard_id
        self.position = position
        self.drained = False  # closed by a reshard and read to its end
        self.millis_behind: int | None = None  # as of the last page
        self._kinesis = kinesis
        self._stream_name = stream_name
        self._page_limit = page_limit
        self._iterator: str | None = None
        self._page_was_full = False

    def seek(self, position: str | None) -> None:
        """Continue after `position` (from the oldest record when None); free when that is where it stands."""
        if position != self.position:
            self.position = position
            self._iterator = None
            self.millis_behind = None

    def read_page(self) -> list[dict[str, Any]]:
        """The next records as boto3 returns them; an empty page does not mean the end: see `caught_up`.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Kinesis refused or did not answer. The position stands.
            HalfAnswer: its answer broke off. Likewise.
        """
        if self.drained:
            return []
        try:
            page = self._get_records()
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExpiredIteratorException":
                self._iterator = None
                raise
            self._iterator = None
            page = self._get_records()
        records: list[dict[str, Any]] = page["Records"]
        if records:
            self.position = records[-1]["SequenceNumber"]
        self.millis_behind = page.get("MillisBehindLatest", 0)
        self._iterator = page.get("NextShardIterator")
        self.drained = self._iterator is None
        self._page_was_full = len(records) == self._page_limit
        return records

    @property
    def caught_up(self) -> bool:
        """Whether the last page reached the newest record (or the end of a closed shard)."""
        return self.drained or (self.millis_behind == 0 and not self._page_was_full)

    def _get_records(self) -> dict[str, Any]:
        if self._iterator is None:
            where: dict[str, str] = {"ShardIteratorType": "TRIM_HORIZON"}
            if self.position is not None:
                where = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": self.position}
            answer = self._kinesis.get_shard_iterator(StreamName=self._stream_name, ShardId=self.shard_id, **where)
            self._iterator = whole(answer, "ShardIterator")["ShardIterator"]
        return whole(self._kinesis.get_records(ShardIterator=self._iterator, Limit=self._page_limit), "Records")


def list_shard_ids(kinesis: Any, stream_name: str) -> list[str]:
    """Every shard of the stream, closed ones included, in the order of their ids."""
    shard_ids: list[str] = []
    request: dict[str, Any] = {"StreamName": stream_name}
    while True:
        answer = whole(kinesis.list_shards(**request), "Shards")
        shard_ids += [shard["ShardId"] for shard in answer["Shards"]]
        if not answer.get("NextToken"):
            return sorted(shard_ids)
        request = {"NextToken": answer["NextToken"]}


def stream_identity(kinesis: Any, stream_name: str) -> str:
    """ARN and creation time: differs once a stream was deleted and made again, whose positions mean nothing then."""
    answer = kinesis.describe_stream_summary(StreamName=stream_name)
    summary = whole(answer, "StreamDescriptionSummary")["StreamDescriptionSummary"]
    return f"{summary['StreamARN']}@{int(summary['StreamCreationTimestamp'].timestamp())}"


def arrival_ms(record: Mapping[str, Any]) -> int:
    """ApproximateArrivalTimestamp of a boto3 record as UTC epoch ms."""
    return round(float(record["ApproximateArrivalTimestamp"].timestamp()) * 1000)
