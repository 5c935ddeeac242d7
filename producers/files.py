"""Transactions from CSV, JSON Lines and Parquet files, in event-time order whatever the order of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from producers.file_sources import TIME_FIELD, Source, open_source
from producers.file_values import Read, reader_of
from producers.mappings import LABEL_FIELD, TRANSACTION_FIELDS, Mapping, load_mapping
from stream_features.errors import MalformedRecord
from stream_features.transaction import FIELD_RULES, Transaction, check_transaction

_BATCH_ROWS: Final = 10_000
_DEFAULTS: Final = {rule.name: rule.default for rule in FIELD_RULES}


class FileRow(NamedTuple):
    """A transaction of a file; `is_fraud` is None where the file does not say."""

    transaction: Transaction
    is_fraud: bool | None


def read_transactions(
    path: str | Path,
    mapping: Mapping | str | Path | None = None,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> Iterator[FileRow]:
    """The file's transactions of [from, until), by event time and, at one time, in the file's order.

    Rows outside the period are read for their time only; every row inside is held to the contract of `Transaction`.

    Args:
        path: a file named .csv (with a header), .jsonl, .ndjson or .parquet.
        mapping: a mapping, its name or its TOML file; None: the columns have the fields' own names.
        from_ms: first event time, UTC epoch milliseconds, inclusive.
        until_ms: last event time, exclusive.

    Raises:
        UsageError: at once, if the file or the mapping cannot be used.
        MalformedRecord: a row that breaks a rule; the message names file and row. Times are checked at once, the rest
            as the rows come up.
    """
    if not isinstance(mapping, Mapping):
        mapping = load_mapping(mapping)
    return read_rows(open_source(Path(path), mapping), mapping, from_ms, until_ms)


def read_rows(
    source: Source, mapping: Mapping, from_ms: int | None = None, until_ms: int | None = None
) -> Iterator[FileRow]:
    """What `read_transactions` gives, of a file that is open already."""
    times_ms = source.event_times_ms() if source.columns else pa.array([], pa.int64())
    readers = {field: reader_of(field, column) for field, column in source.columns.items() if field != TIME_FIELD}
    return _in_batches(source, mapping, readers, times_ms, row_numbers(times_ms, from_ms, until_ms))


def row_numbers(times_ms: pa.Int64Array, from_ms: int | None, until_ms: int | None) -> pa.Array:
    """Numbers of the rows in the period, in event-time order; rows of one time stay in file order."""
    inside = pc.and_(
        pc.greater_equal(times_ms, from_ms if from_ms is not None else -(2**63)),
        pc.less(times_ms, until_ms) if until_ms is not None else True,
    )
    numbers = pc.indices_nonzero(inside)
    chosen_ms = times_ms.take(numbers)
    if len(chosen_ms) > 1 and not pc.all(pc.less_equal(chosen_ms[:-1], chosen_ms[1:])).as_py():
        numbers = numbers.take(pc.sort_indices(chosen_ms))  # a stable sort, by its documentation
    return numbers


def _in_batches(
    source: Source, mapping: Mapping, readers: dict[str, Read], times_ms: pa.Int64Array, numbers: pa.Array
) -> Iterator[FileRow]:
    for start in range(0, len(numbers), _BATCH_ROWS):
        batch = numbers[start : start + _BATCH_ROWS]
        first = batch[0].as_py()
        contiguous = pc.all(pc.equal(batch, pa.array(range(first, first + len(batch))))).as_py()
        raw = source.rows(batch, contiguous)
        values: dict[str, Any] = {TIME_FIELD: times_ms.take(batch).to_pylist()}
        failures: list[tuple[int, int, MalformedRecord]] = []
        for field, read in readers.items():
            values[field], failure = _read_until_bad(read, raw.pop(field))
            if failure is not None:
                failures.append((len(values[field]), len(failures), failure))
        for index, row in _built(values, mapping):  # ends before the first value that could not be read
            try:
                check_transaction(row.transaction, arrival_ms=None)
            except MalformedRecord as error:
                raise _in_row(error, source, batch, index) from error
            yield row
        if failures:
            index, _, failure = min(failures)
            raise _in_row(failure, source, batch, index) from failure


def _read_until_bad(read: Read, raw: Iterable[Any]) -> tuple[list[Any], MalformedRecord | None]:
    """The values up to the first that breaks a rule, and that rule."""
    values: list[Any] = []
    append = values.append
    try:
        for value in raw:
            append(read(value))
    except MalformedRecord as error:
        return values, error
    return values, None


def _built(values: dict[str, Any], mapping: Mapping) -> Iterator[tuple[int, FileRow]]:
    """Rows, numbered from 0, as far as every column has a value."""
    constant = _DEFAULTS | dict(mapping.constants)
    columns = [values.get(field, repeat(constant[field])) for field in TRANSACTION_FIELDS]
    truths = values.get(LABEL_FIELD, repeat(None))
    for index, (
        transaction_id, event_time_ms, card_id, merchant_id, amount_minor, currency, kind, auth_result,
        merchant_category, channel, country, latitude, longitude, device_id, ip, is_fraud,
    ) in enumerate(zip(*columns, truths, strict=False)):  # fmt: skip
        transaction = Transaction(
            transaction_id=transaction_id,
            event_time_ms=event_time_ms,
            card_id=card_id,
            merchant_id=merchant_id,
            amount_minor=amount_minor,
            currency=currency,
            type=kind,
            auth_result=auth_result,
            merchant_category=merchant_category,
            channel=channel,
            country=country,
            latitude=latitude,
            longitude=longitude,
            device_id=device_id,
            ip=ip,
        )
        yield index, FileRow(transaction, is_fraud)


def _in_row(error: MalformedRecord, source: Source, numbers: pa.Array, index: int) -> MalformedRecord:
    return MalformedRecord(error.field, error.rule, f"{source.row_name(numbers[index].as_py())}: {error.message}")
