"""In-memory stand-ins for the AWS services a delivery uses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError

from local.firehose.delivery import AwsClients

NOON_MS = 1_795_176_000_000  # 2026-11-20T12:00:00Z


class FakeKinesis:
    """One stream; records are appended by `put`. Iterators can be made to expire and shards be closed."""

    def __init__(self, shards: tuple[str, ...] = ("shardId-000000000000",)) -> None:
        self.records: dict[str, list[dict[str, Any]]] = {shard: [] for shard in shards}
        self.closed: set[str] = set()
        self.expire_iterators = False
        self.page_limit = 10_000
        self.created = datetime(2026, 11, 20, tzinfo=UTC)
        self._next_sequence = 10**20

    def put(self, payload: bytes, *, arrival_ms: int = NOON_MS, shard: str = "shardId-000000000000") -> str:
        self._next_sequence += 7
        sequence_number = str(self._next_sequence)
        self.records[shard].append(
            {
                "SequenceNumber": sequence_number,
                "ApproximateArrivalTimestamp": datetime.fromtimestamp(arrival_ms / 1000, UTC),
                "Data": payload,
                "PartitionKey": "k",
            }
        )
        return sequence_number

    def describe_stream_summary(self, StreamName: str) -> dict[str, Any]:
        return {
            "StreamDescriptionSummary": {
                "StreamARN": f"arn:aws:kinesis:us-east-1:1:stream/{StreamName}",
                "StreamCreationTimestamp": self.created,
            }
        }

    def list_shards(self, **request: Any) -> dict[str, Any]:
        """Two shards a page."""
        shards = sorted(self.records)
        start = int(request.get("NextToken", 0))
        answer: dict[str, Any] = {"Shards": [{"ShardId": shard} for shard in shards[start : start + 2]]}
        if start + 2 < len(shards):
            answer["NextToken"] = str(start + 2)
        return answer

    def get_shard_iterator(
        self,
        StreamName: str,
        ShardId: str,
        ShardIteratorType: str,
        StartingSequenceNumber: str = "",
    ) -> dict[str, Any]:
        start = 0
        if ShardIteratorType == "AFTER_SEQUENCE_NUMBER":
            start = sum(int(r["SequenceNumber"]) <= int(StartingSequenceNumber) for r in self.records[ShardId])
        return {"ShardIterator": f"{ShardId}|{start}"}

    def get_records(self, ShardIterator: str, Limit: int) -> dict[str, Any]:
        if self.expire_iterators:
            self.expire_iterators = False
            raise client_error("ExpiredIteratorException", "GetRecords")
        shard, start = ShardIterator.split("|")
        end = min(int(start) + min(Limit, self.page_limit), len(self.records[shard]))
        at_end = end == len(self.records[shard])
        answer: dict[str, Any] = {
            "Records": self.records[shard][int(start) : end],
            "MillisBehindLatest": 0 if at_end else 1000,
        }
        if not (at_end and shard in self.closed):
            answer["NextShardIterator"] = f"{shard}|{end}"
        return answer


class FakeS3:
    """Objects by key; the next `failures` puts fail."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.failures = 0

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise EndpointConnectionError(endpoint_url=f"s3://{Bucket}")
        self.puts.append(Key)
        self.objects[Key] = Body


class FakeGlue:
    """One table."""

    def __init__(self, columns: dict[str, str]) -> None:
        self.columns = columns

    def get_table(self, DatabaseName: str, Name: str) -> dict[str, Any]:
        columns = [{"Name": name, "Type": kind} for name, kind in self.columns.items()]
        return {"Table": {"StorageDescriptor": {"Columns": columns}}}


class FakeClock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fake_clients(kinesis: FakeKinesis, s3: FakeS3, columns: dict[str, str] | None = None) -> AwsClients:
    return AwsClients(kinesis=kinesis, s3=s3, glue=FakeGlue(columns or {}), firehose=None)


def client_error(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


def description(name: str = "raw", **s3: Any) -> dict[str, Any]:
    """A DeliveryStreamDescription as DescribeDeliveryStream returns it; `s3` replaces settings of the destination."""
    return {
        "DeliveryStreamName": name,
        "VersionId": "1",
        "Source": {"KinesisStreamSourceDescription": {"KinesisStreamARN": "arn:aws:kinesis:us-east-1:1:stream/t"}},
        "Destinations": [
            {
                "ExtendedS3DestinationDescription": {
                    "BucketARN": "arn:aws:s3:::lake",
                    "Prefix": "raw/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/",
                    "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/dt=!{timestamp:yyyy-MM-dd}/",
                    "BufferingHints": {"SizeInMBs": 1, "IntervalInSeconds": 60},
                    "CompressionFormat": "GZIP",
                    "ProcessingConfiguration": {
                        "Enabled": True,
                        "Processors": [
                            {
                                "Type": "AppendDelimiterToRecord",
                                "Parameters": [{"ParameterName": "Delimiter", "ParameterValue": "\\n"}],
                            }
                        ],
                    },
                    **s3,
                }
            }
        ],
    }


def parquet_description(name: str = "decisions") -> dict[str, Any]:
    """The same for a delivery with format conversion."""
    return description(
        name,
        CompressionFormat="UNCOMPRESSED",
        ProcessingConfiguration={"Enabled": False},
        DataFormatConversionConfiguration={
            "Enabled": True,
            "SchemaConfiguration": {"DatabaseName": "d", "TableName": "t"},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {"Compression": "SNAPPY"}}},
        },
    )
