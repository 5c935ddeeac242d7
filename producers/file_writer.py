"""Labelled transactions → a CSV, JSON Lines or Parquet file with the fields' own names as columns."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from producers.labels import LabelledRow
from producers.mappings import LABEL_FIELD, TRANSACTION_FIELDS
from stream_features.errors import UsageError

_BATCH_ROWS: Final = 50_000
_SCENARIO: Final = "scenario"
_TYPES: Final = {
    "event_time_ms": pa.int64(),
    "amount_minor": pa.int64(),
    "latitude": pa.float64(),
    "longitude": pa.float64(),
    LABEL_FIELD: pa.bool_(),
}
COLUMNS: Final = (*TRANSACTION_FIELDS, LABEL_FIELD, _SCENARIO)
_SCHEMA: Final = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])

Values = tuple[Any, ...]  # in the order of COLUMNS


def write_transactions(path: str | Path, rows: Iterable[LabelledRow]) -> int:
    """Write rows of `read_transactions` or `simulate` to a file and say how many.

    Columns are the fields of Transaction, `is_fraud` and `scenario` (None where rows have none). The file appears
    whole or not at all, and the same rows give the same bytes.

    Raises:
        UsageError: the name does not end in .csv, .jsonl, .ndjson or .parquet.
    """
    path = Path(path)
    write = _WRITERS.get(path.suffix)
    if write is None:
        raise UsageError(f"{path}: unknown format; there are {', '.join(_WRITERS)}")
    written = 0

    def counted() -> Iterator[Values]:
        nonlocal written
        for row in rows:
            transaction = row.transaction
            values = [getattr(transaction, name) for name in TRANSACTION_FIELDS]
            written += 1
            yield (*values, row.is_fraud, getattr(row, _SCENARIO, None))

    with _whole_or_not_at_all(path) as partial:
        write(partial, counted())
    return written


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(path: Path, rows: Iterator[Values]) -> None:
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        while batch := list(islice(rows, _BATCH_ROWS)):
            columns = [
                pa.array(values, field.type) for values, field in zip(zip(*batch, strict=True), _SCHEMA, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=_SCHEMA))


def _write_csv(path: Path, rows: Iterator[Values]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _write_json_lines(path: Path, rows: Iterator[Values]) -> None:
    encode = msgspec.json.Encoder().encode
    with path.open("wb") as file:
        for row in rows:
            present = {name: value for name, value in zip(COLUMNS, row, strict=True) if value is not None}
            file.write(encode(present) + b"\n")


_WRITERS: Final[dict[str, Callable[[Path, Iterator[Values]], None]]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".ndjson": _write_json_lines,
}
