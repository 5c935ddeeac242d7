"""Files as columns of raw values: times of all rows first, then any rows in any order, without holding them as objects.

Parquet and CSV stay in Arrow's compact columns; of JSON Lines only the offset of each line is kept.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Mapping as ReadOnlyMapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from producers.file_values import is_missing, reader_of
from producers.mappings import Column, Mapping
from stream_features.errors import MalformedRecord, UsageError

TIME_FIELD: Final = "event_time_ms"
SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".ndjson")


class Source(Protocol):
    """A file's rows, numbered from 0."""

    @property
    def columns(self) -> ReadOnlyMapping[str, Column]:
        """Field → the column it is read from."""
        ...

    def event_times_ms(self) -> pa.Int64Array:
        """The event time of every row. Raises MalformedRecord, naming the row, if one cannot be read."""
        ...

    def rows(self, numbers: pa.Array, contiguous: bool) -> dict[str, list[Any]]:
        """Raw values by field of the rows of these numbers, in their order."""
        ...

    def row_name(self, number: int) -> str:
        """How a person finds the row."""
        ...


def open_source(path: Path, mapping: Mapping) -> Source:
    """The file behind `path`, by its suffix.

    Raises:
        UsageError: it does not exist, has another format or lacks a column that the mapping needs.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: unknown format {path.suffix or 'without suffix'}; there are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            columns = mapping.choose(frozenset(file.schema_arrow.names), str(path))
            return TableSource(path, columns, file.read(columns=_names(columns)))
        if path.suffix == ".csv":
            columns = mapping.choose(_csv_header(path), str(path))
            return TableSource(path, columns, _csv_table(path, _names(columns)))
        return JsonLinesSource(path, mapping)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error


def _names(columns: ReadOnlyMapping[str, Column]) -> list[str]:
    return sorted({column.name for column in columns.values()})


class TableSource:
    """Rows of an Arrow table."""

    def __init__(self, path: Path, columns: ReadOnlyMapping[str, Column], table: pa.Table) -> None:
        self.columns = columns
        self._path = path
        self._table = table.combine_chunks()

    def event_times_ms(self) -> pa.Int64Array:
        column = self.columns[TIME_FIELD]
        values = self._table[column.name]
        if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
            if values.null_count:
                number = pc.index(values.is_null(), True).as_py()
                raise MalformedRecord(TIME_FIELD, "missing", f"{self.row_name(number)}: the field is required")
            # without a time zone the values are UTC already; finer units are cut down to milliseconds
            times = values.cast(pa.timestamp("ms", getattr(values.type, "tz", None)), safe=False).cast(pa.int64())
        else:
            read, times_ms = reader_of(TIME_FIELD, column), array("q")
            for batch in values.chunks:
                for value in batch.to_pylist():
                    try:
                        times_ms.append(read(value))
                    except MalformedRecord as error:
                        raise _in_row(error, self.row_name(len(times_ms))) from error
                    except OverflowError as error:
                        raise _out_of_range(self.row_name(len(times_ms))) from error
            times = _int64(times_ms)
        return times.combine_chunks() if isinstance(times, pa.ChunkedArray) else times

    def rows(self, numbers: pa.Array, contiguous: bool) -> dict[str, list[Any]]:
        if contiguous:
            part = self._table.slice(numbers[0].as_py() if len(numbers) else 0, len(numbers))
        else:
            part = self._table.take(numbers)
        # times were read before; a timestamp column would turn into datetime objects here
        return {field: part[column.name].to_pylist() for field, column in self.columns.items() if field != TIME_FIELD}

    def values(self, field: str, numbers: pa.Array) -> pa.Array:
        """The raw column of a field, of the rows of these numbers, in their order."""
        taken = self._table[self.columns[field].name].take(numbers)
        taken = taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
        return taken.dictionary_decode() if pa.types.is_dictionary(taken.type) else taken

    def row_name(self, number: int) -> str:
        return f"{self._path.name} row {number + 1}"


class JsonLinesSource:
    """Rows of a JSON Lines file; blank lines are none."""

    def __init__(self, path: Path, mapping: Mapping) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder().decode
        self._file = path.open("rb")
        self._offsets = array("q")
        self._lines = array("q")
        self._times_ms = array("q")
        names: set[str] = set()
        bad_time = self._scan(mapping.columns.get(TIME_FIELD, ()), names)
        self.columns = mapping.choose(frozenset(names), str(path)) if self._offsets else {}
        if bad_time is not None:
            raise bad_time

    def _scan(self, time_columns: tuple[Column, ...], names: set[str]) -> MalformedRecord | None:
        """Note where each row begins and when it happened; the first unreadable time is returned for later."""
        readers = [(column.name, reader_of(TIME_FIELD, column)) for column in time_columns]
        bad_time: MalformedRecord | None = None
        offset = 0
        for line_number, line in enumerate(self._file):
            if not line.isspace():
                self._offsets.append(offset)
                self._lines.append(line_number)
                row = self._row(line, len(self._offsets) - 1)
                names.update(row)
                try:
                    value, read = next(((row[name], read) for name, read in readers if name in row), (None, None))
                    if read is None or is_missing(value):
                        raise MalformedRecord(TIME_FIELD, "missing", "the field is required")
                    self._times_ms.append(read(value))
                except MalformedRecord as error:
                    bad_time = bad_time or _in_row(error, self.row_name(len(self._offsets) - 1))
                    self._times_ms.append(0)
                except OverflowError:
                    bad_time = bad_time or _out_of_range(self.row_name(len(self._offsets) - 1))
                    self._times_ms.append(0)
            offset += len(line)
        return bad_time

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRecord("$", "not_json", f"{self.row_name(number)}: {error}") from error
        if not isinstance(row, dict):
            raise MalformedRecord("$", "not_object", f"{self.row_name(number)}: is JSON but not an object")
        return row

    def event_times_ms(self) -> pa.Int64Array:
        return _int64(self._times_ms)

    def rows(self, numbers: pa.Array, contiguous: bool) -> dict[str, list[Any]]:
        rows = []
        for number in numbers.to_pylist():
            self._file.seek(self._offsets[number])
            rows.append(self._row(self._file.readline(), number))
        return {
            field: [row.get(column.name) for row in rows]
            for field, column in self.columns.items()
            if field != TIME_FIELD
        }

    def row_name(self, number: int) -> str:
        return f"{self._path.name} line {self._lines[number] + 1}"


def _in_row(error: MalformedRecord, row_name: str) -> MalformedRecord:
    return MalformedRecord(error.field, error.rule, f"{row_name}: {error.message}")


def _out_of_range(row_name: str) -> MalformedRecord:
    return MalformedRecord(TIME_FIELD, "out_of_range", f"{row_name}: too far from 1970")


def _int64(values: array[int]) -> pa.Int64Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def _csv_header(path: Path) -> frozenset[str]:
    # bytes that are not UTF-8 are reported by whoever reads the rows, with their line
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = next(csv.reader(file), [])
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UsageError(f"{path}: column {repeated[0]!r} appears more than once")
    return frozenset(header)


def _csv_table(path: Path, names: list[str]) -> pa.Table:
    """The named columns as text: guessed types would take the zeros from `007` and the digits from card numbers."""
    bad_rows: list[MalformedRecord] = []

    def note(row: Any) -> str:
        message = f"{row.actual_columns} values where the header has {row.expected_columns}"
        bad_rows.append(MalformedRecord("$", "column_count", f"{path.name} row {(row.number or 2) - 1}: {message}"))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise _not_utf8(path, error) from error
    if bad_rows:
        raise bad_rows[0]
    return table


def _not_utf8(path: Path, error: pa.ArrowInvalid) -> MalformedRecord | pa.ArrowInvalid:
    """The first line of the file that is not UTF-8, if that is why reading it failed."""
    with path.open("rb") as file:
        for line_number, line in enumerate(file):
            try:
                line.decode()
            except UnicodeDecodeError:
                return MalformedRecord("$", "not_utf8", f"{path.name} line {line_number + 1}: is not UTF-8")
    return error
