"""Decisions out of the table into a Parquet file."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError

from stream_features.decision import Decision, Reason, StreamPosition, decode_decision
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.feature_sets import FeatureSet

_SEGMENTS: Final = 8
_ONE_SCAN_ITEMS: Final = 200_000  # up to here one scan is quick enough, and parallel ones only multiply its cost
_BATCH_ROWS: Final = 2_000
_ROW_GROUP: Final = 20_000
_SEQUENCE_DIGITS: Final = 128  # the longest sequence number; equal lengths make text order number order
_ORDER: Final = "_order"  # position as text that sorts like the position
_REASONS: Final = pa.list_(pa.struct([("feature", pa.string()), ("contribution", pa.float64())]))
_POSITION: Final = pa.struct(
    [("shard_id", pa.string()), ("sequence_number", pa.string()), ("sub_sequence_number", pa.int64())]
)


def export_decisions(
    dynamodb: Any, table_name: str, features: FeatureSet, out: Path, *, segments: int | None = None
) -> int:
    """Write every decision of the table to `out`, replacing it as a whole, and return how many there were.

    One row per transaction, ordered by arrival time, then position in the stream. Columns: those of Decision except
    `features`, in its order, then a float64 column `f_<name>` per feature in feature-set order, null for missing.

    Args:
        dynamodb: boto3 client.
        table_name: the decisions table.
        features: the feature set whose columns are written.
        out: a `.parquet` file; its folder must exist.
        segments: parallel scans; by the table's size if not given.

    Raises:
        ContractMismatch: a decision holds a feature that `features` does not have.
        PortFailure: DynamoDB did not answer; `out` is as it was.
    """
    ordered = export_schema(features.names).append(pa.field(_ORDER, pa.string()))
    names = frozenset(features.names)

    def scan(segment: int) -> list[Any]:
        documents = _documents(dynamodb, table_name, segment, segments or 1)
        return [_record_batch(batch, names, ordered) for batch in _batches(documents)]

    try:
        if segments is None:
            item_count = dynamodb.describe_table(TableName=table_name)["Table"].get("ItemCount", 0)
            segments = 1 if item_count <= _ONE_SCAN_ITEMS else _SEGMENTS
        with ThreadPoolExecutor(max_workers=segments) as pool:
            batches = [batch for part in pool.map(scan, range(segments)) for batch in part]
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"table {table_name}: {error}") from error
    table = pa.Table.from_batches(batches, schema=ordered)
    table = table.sort_by([("arrival_ms", "ascending"), (_ORDER, "ascending")]).drop_columns([_ORDER])
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary, row_group_size=_ROW_GROUP)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return int(table.num_rows)


def export_schema(feature_names: tuple[str, ...]) -> Any:
    """The Arrow schema of an export."""
    fields = [
        pa.field(field.name, _arrow_type(field.type))
        for field in msgspec.structs.fields(Decision)
        if field.name != "features"
    ]
    return pa.schema(fields + [pa.field(f"f_{name}", pa.float64()) for name in feature_names])


def _arrow_type(annotation: Any) -> Any:
    """The column type of a field of Decision: structs and lists are few and named, everything else is a scalar."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (choice for choice in get_args(annotation) if choice is not type(None))
    if get_origin(annotation) is Literal:
        annotation = str
    columns = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        StreamPosition: _POSITION,
        list[Reason]: _REASONS,
        list[str]: pa.list_(pa.string()),
    }
    return columns[annotation]


def _documents(dynamodb: Any, table_name: str, segment: int, segments: int) -> Iterator[str]:
    request: dict[str, Any] = {
        "TableName": table_name,
        "ConsistentRead": True,
        "ProjectionExpression": "#document",
        "ExpressionAttributeNames": {"#document": "document"},
    }
    if segments > 1:
        request |= {"Segment": segment, "TotalSegments": segments}
    while True:
        page = dynamodb.scan(**request)
        for item in page["Items"]:
            yield item["document"]["S"]
        if not page.get("LastEvaluatedKey"):
            return
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _record_batch(documents: list[str], feature_names: frozenset[str], schema: Any) -> Any:
    rows = []
    for document in documents:
        decision = decode_decision(document)
        if unknown := decision.features.keys() - feature_names:
            raise ContractMismatch(
                f"decision {decision.transaction_id} has features of another feature set: {', '.join(sorted(unknown))}"
            )
        row = msgspec.to_builtins(decision)
        row.update((f"f_{name}", value) for name, value in row.pop("features").items())
        position = decision.stream_position
        sequence_number = position.sequence_number.rjust(_SEQUENCE_DIGITS, "0")
        row[_ORDER] = f"{position.shard_id}/{sequence_number}/{position.sub_sequence_number:010d}"
        rows.append(row)
    return pa.RecordBatch.from_pylist(rows, schema=schema)
