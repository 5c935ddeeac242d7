"""What a flush writes: records in, S3 objects out. Pure, and deterministic to the byte.

The same records give the same keys and the same bytes, so a flush that is repeated after a crash overwrites what it
wrote before.

A record that does not fit goes to the error prefix, as a JSON line with the bytes in base64, the shape AWS uses for
failed conversions. For Parquet that is what AWS does. For JSON Lines AWS would write any bytes as they are, and one
garbage record (a newline inside, NUL, half an object) would break the line structure, and with it every query over
the raw archive. Here a payload is archived as a line only if it is exactly one JSON object in UTF-8, without a newline
and not nested deeper than query engines read; every other payload is archived just as completely in `rawData` below
`processing-failed`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from local.firehose.destination import Destination
from local.firehose.hive_types import HiveType, arrow_type, row_type
from local.firehose.stream_reader import ShardRecord

_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_DEEPEST_JSON: Final = 64  # DuckDB gives up a whole query at 128
_GZIP_LEVEL: Final = 3  # half the time of the default level for a tenth more bytes


@dataclass(frozen=True, slots=True)
class LakeObject:
    """One object to put; `records` user records stand in it, `failed` says whether it is below the error prefix."""

    key: str
    body: bytes
    records: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a Glue table that stand in the files (partition keys stand in the path)."""

    fields: tuple[tuple[str, HiveType], ...]

    def row_decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(row_type(self.fields))

    def arrow_schema(self) -> Any:
        return pa.schema([(name, arrow_type(hive)) for name, hive in self.fields])


@dataclass(frozen=True, slots=True)
class _Failure:
    record: ShardRecord
    code: str
    message: str


def build_objects(
    destination: Destination, records: Iterable[ShardRecord], columns: Columns | None, *, now_ms: int
) -> list[LakeObject]:
    """Every record of one flush, in one object per prefix, plus one per error prefix.

    Args:
        destination: where and how; its `conversion` says Parquet.
        records: of any shards, each shard's in order.
        columns: of the Glue table; only for Parquet.
        now_ms: UTC epoch ms, stands in error lines only.
    """
    by_prefix: dict[str, list[ShardRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.shard_id):  # stable: sequence order inside a shard stays
        by_prefix[destination.prefix.expand(record.arrival_ms)].append(record)

    objects: list[LakeObject] = []
    failures: list[_Failure] = []
    for prefix in sorted(by_prefix):
        if columns is None:
            fitting, body, failed = _json_lines(destination, by_prefix[prefix])
        else:
            fitting, body, failed = _parquet(destination, by_prefix[prefix], columns)
        failures += failed
        if fitting:
            key = prefix + _object_name(destination, fitting) + destination.extension
            objects.append(LakeObject(key, body, len(fitting), failed=False))

    error_type = "processing-failed" if columns is None else "format-conversion-failed"
    failed_by_prefix: dict[str, list[_Failure]] = defaultdict(list)
    for failure in failures:
        failed_by_prefix[destination.error_prefix.expand(failure.record.arrival_ms, error_type)].append(failure)
    for prefix, group in sorted(failed_by_prefix.items()):
        key = prefix + _object_name(destination, [failure.record for failure in group])
        body = b"".join(_error_line(failure, now_ms) for failure in group)
        objects.append(LakeObject(key, body, len(group), failed=True))
    return objects


def _object_name(destination: Destination, records: Sequence[ShardRecord]) -> str:
    """Named like Firehose's, with a digest of the first and last position per shard instead of a random tail."""
    ends: dict[str, tuple[ShardRecord, ShardRecord]] = {}
    for record in records:
        first, _ = ends.get(record.shard_id, (record, record))
        ends[record.shard_id] = (first, record)
    spans = ";".join(
        f"{shard}:{a.sequence_number}.{a.sub_sequence_number}-{b.sequence_number}.{b.sub_sequence_number}"
        for shard, (a, b) in sorted(ends.items())
    )
    first_ms = min(record.arrival_ms for record in records)
    at = datetime.fromtimestamp(first_ms // 1000, UTC).strftime("%Y-%m-%d-%H-%M-%S")
    return f"{destination.name}-{destination.version}-{at}-{hashlib.sha256(spans.encode()).hexdigest()[:20]}"


def _json_lines(
    destination: Destination, records: Sequence[ShardRecord]
) -> tuple[list[ShardRecord], bytes, list[_Failure]]:
    fitting: list[ShardRecord] = []
    failures: list[_Failure] = []
    for record in records:
        failure = _why_not_a_line(record)
        if failure is None:
            fitting.append(record)
        else:
            failures.append(failure)
    body = b"".join(part for record in fitting for part in (record.payload, destination.delimiter))
    return fitting, gzip.compress(body, _GZIP_LEVEL, mtime=0) if destination.gzip else body, failures


def _why_not_a_line(record: ShardRecord) -> _Failure | None:
    if b"\n" in record.payload:
        return _Failure(record, "Archive.NotOneLine", "the record contains a newline")
    try:
        value = _JSON_OBJECT.decode(record.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _Failure(record, "Archive.NotAJsonObject", str(error))
    opened = record.payload.count(b"[") + record.payload.count(b"{")
    if opened > _DEEPEST_JSON and _depth(value) > _DEEPEST_JSON:
        return _Failure(record, "Archive.NestedTooDeep", f"more than {_DEEPEST_JSON} levels of arrays and objects")
    return None


def _depth(value: Any) -> int:
    """Levels of arrays and objects, without recursion."""
    depth, level = 0, [value]
    while level:
        containers = [inner for inner in level if isinstance(inner, dict | list)]
        depth += bool(containers)
        level = [item for inner in containers for item in (inner.values() if isinstance(inner, dict) else inner)]
    return depth


def _parquet(
    destination: Destination, records: Sequence[ShardRecord], columns: Columns
) -> tuple[list[ShardRecord], bytes, list[_Failure]]:
    decoder = columns.row_decoder()
    fitting: list[ShardRecord] = []
    rows: list[dict[str, Any]] = []
    failures: list[_Failure] = []
    for record in records:
        try:
            rows.append(decoder.decode(record.payload))
        except msgspec.ValidationError as error:
            failures.append(_Failure(record, "DataFormatConversion.MalformedData", str(error)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            failures.append(_Failure(record, "DataFormatConversion.ParseError", str(error)))
        else:
            fitting.append(record)
    out = io.BytesIO()
    if fitting and destination.conversion is not None:
        table = pa.Table.from_pylist(rows, schema=columns.arrow_schema())
        pq.write_table(table, out, compression=destination.conversion.compression)
    return fitting, out.getvalue(), failures


def _error_line(failure: _Failure, now_ms: int) -> bytes:
    record = failure.record
    return (
        msgspec.json.encode(
            {
                "attemptsMade": 1,
                "arrivalTimestamp": record.arrival_ms,
                "errorCode": failure.code,
                "errorMessage": failure.message,
                "attemptEndingTimestamp": now_ms,
                "rawData": base64.b64encode(record.payload).decode("ascii"),
                "sequenceNumber": record.sequence_number,
                "subSequenceNumber": record.sub_sequence_number,
            }
        )
        + b"\n"
    )
