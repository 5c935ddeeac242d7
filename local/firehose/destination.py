"""Delivery streams as deployed: what DescribeDeliveryStream says, read once and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from local.firehose.prefixes import PrefixTemplate
from stream_features.errors import UsageError

MEBIBYTE: Final = 1024 * 1024
_DEFAULT_SIZE_MB: Final = 5  # what AWS uses when no hints are given
_DEFAULT_INTERVAL_SECONDS: Final = 300
_PARQUET_COMPRESSION: Final = {"SNAPPY": "snappy", "GZIP": "gzip", "UNCOMPRESSED": "none"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """JSON to Parquet by the columns of a Glue table."""

    database: str
    table: str
    compression: str


@dataclass(frozen=True, slots=True)
class Destination:
    """One delivery stream: from a Kinesis stream to a prefix of a bucket."""

    name: str
    version: str
    stream_name: str
    bucket: str
    prefix: PrefixTemplate
    error_prefix: PrefixTemplate
    size_bytes: int
    interval_seconds: float
    gzip: bool
    delimiter: bytes
    extension: str
    conversion: Conversion | None


def list_kinesis_deliveries(firehose: Any) -> Iterator[dict[str, Any]]:
    """Descriptions of every delivery stream whose source is a Kinesis stream."""
    request: dict[str, Any] = {"DeliveryStreamType": "KinesisStreamAsSource"}
    while True:
        answer = firehose.list_delivery_streams(**request)
        names = answer["DeliveryStreamNames"]
        for name in names:
            yield firehose.describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]
        if not names or not answer["HasMoreDeliveryStreams"]:
            return
        request["ExclusiveStartDeliveryStreamName"] = names[-1]


def read_destination(description: dict[str, Any]) -> Destination:
    """The part of a DeliveryStreamDescription that this worker acts on.

    Raises:
        UsageError: it asks for something the worker does not do; ignoring it would deliver something else than AWS.
    """
    name = description["DeliveryStreamName"]
    if len(description["Destinations"]) != 1:
        raise UsageError(f"delivery stream {name}: expected one destination")
    described = description["Destinations"][0]
    s3 = described.get("ExtendedS3DestinationDescription") or described.get("S3DestinationDescription")
    if not s3:
        raise UsageError(f"delivery stream {name}: only S3 destinations are supported")
    if s3.get("DynamicPartitioningConfiguration", {}).get("Enabled"):
        raise UsageError(f"delivery stream {name}: dynamic partitioning is not supported")
    conversion = _conversion(name, s3.get("DataFormatConversionConfiguration", {}))
    compression = s3.get("CompressionFormat", "UNCOMPRESSED")
    if compression not in ("UNCOMPRESSED", "GZIP"):
        raise UsageError(f"delivery stream {name}: compression {compression} is not supported, use GZIP")
    if conversion is not None and compression != "UNCOMPRESSED":
        raise UsageError(
            f"delivery stream {name}: Parquet is compressed inside, CompressionFormat must be UNCOMPRESSED"
        )
    gzip = compression == "GZIP"
    hints = s3.get("BufferingHints", {})
    zone = s3.get("CustomTimeZone", "UTC")
    extension = ".parquet" if conversion else ".gz" if gzip else ""
    return Destination(
        name=name,
        version=str(description.get("VersionId", "1")),
        stream_name=description["Source"]["KinesisStreamSourceDescription"]["KinesisStreamARN"].rsplit("/", 1)[1],
        bucket=s3["BucketARN"].rsplit(":", 1)[1],
        prefix=PrefixTemplate(s3.get("Prefix", ""), time_zone=zone),
        error_prefix=PrefixTemplate(
            s3.get("ErrorOutputPrefix") or "!{firehose:error-output-type}/",
            time_zone=zone,
        ),
        size_bytes=round(float(hints.get("SizeInMBs", _DEFAULT_SIZE_MB)) * MEBIBYTE),
        interval_seconds=float(hints.get("IntervalInSeconds", _DEFAULT_INTERVAL_SECONDS)),
        gzip=gzip,
        delimiter=_delimiter(name, s3.get("ProcessingConfiguration", {})),
        extension=s3.get("FileExtension") or extension,
        conversion=conversion,
    )


def _conversion(name: str, configuration: dict[str, Any]) -> Conversion | None:
    if not configuration or not configuration.get("Enabled", True):
        return None
    serializer = configuration.get("OutputFormatConfiguration", {}).get("Serializer", {})
    if "OrcSerDe" in serializer:
        raise UsageError(f"delivery stream {name}: ORC is not supported, use ParquetSerDe")
    compression = (serializer.get("ParquetSerDe") or {}).get("Compression", "SNAPPY")
    schema = configuration.get("SchemaConfiguration", {})
    if compression not in _PARQUET_COMPRESSION or not schema.get("DatabaseName") or not schema.get("TableName"):
        raise UsageError(f"delivery stream {name}: conversion needs a Glue database and table and SNAPPY, GZIP or none")
    return Conversion(schema["DatabaseName"], schema["TableName"], _PARQUET_COMPRESSION[compression])


def _delimiter(name: str, configuration: dict[str, Any]) -> bytes:
    delimiter = b""
    for processor in configuration.get("Processors", []) if configuration.get("Enabled") else []:
        if processor["Type"] != "AppendDelimiterToRecord":
            raise UsageError(f"delivery stream {name}: processor {processor['Type']} is not supported")
        parameters = {p["ParameterName"]: p["ParameterValue"] for p in processor.get("Parameters", [])}
        delimiter = parameters.get("Delimiter", "\\n").replace("\\n", "\n").encode()
    return delimiter
