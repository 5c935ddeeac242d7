"""The fast way through a file: whole columns instead of rows, for those who compute over a history at once.

Every rule of `read_transactions` holds here as well. Columns are checked by Arrow, texts once per different value. What
these checks do not accept, whether it breaks a rule or is only unusual, makes the whole file be read row by row: that
verdict counts, and a bad row is named as always.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from producers.file_sources import TIME_FIELD, Source, TableSource, open_source
from producers.file_values import reader_of
from producers.files import read_rows, row_numbers
from producers.mappings import LABEL_FIELD, TRANSACTION_FIELDS, Column, Mapping, load_mapping
from stream_features.contract import IDENTIFIER, MAX_TIME_MS
from stream_features.currency import RATES
from stream_features.errors import MalformedRecord
from stream_features.transaction import FIELD_RULES, MAX_AMOUNT_MINOR

_RULES: Final = {rule.name: rule for rule in FIELD_RULES}
_PLACES: Final = {"latitude": 90.0, "longitude": 180.0}
_NUMBERS: Final = frozenset({TIME_FIELD, "amount_minor", *_PLACES})
_CODED: Final = tuple(name for name in TRANSACTION_FIELDS if name not in _NUMBERS | {"transaction_id"})
_PLAIN_DECIMAL: Final = r"^-?[0-9]{1,30}(\.[0-9]{1,30})?$"  # texts that Arrow and Python read as the same float64


class Coded(NamedTuple):
    """A column as places in its different values.

    Attributes:
        codes: int64 array, one per row.
        values: the different values; None where the field is absent.
    """

    codes: pa.Int64Array
    values: Sequence[Any]


class FileColumns(NamedTuple):
    """Transactions of a file by column, in event-time order and, at one time, in the file's order.

    Attributes:
        transaction_ids: strings.
        event_times_ms: int64.
        amounts_minor: int64.
        latitudes: float64, null where unknown; `longitudes` likewise.
        longitudes: see `latitudes`.
        coded: every other field of Transaction by name, and `is_fraud` with values True, False or None.
    """

    transaction_ids: pa.StringArray
    event_times_ms: pa.Int64Array
    amounts_minor: pa.Int64Array
    latitudes: pa.DoubleArray
    longitudes: pa.DoubleArray
    coded: dict[str, Coded]


class _Unusual(Exception):
    """A value that the fast checks leave to the exact ones."""


def read_columns(path: str | Path, mapping: Mapping | str | Path | None = None) -> FileColumns:
    """All transactions of the file, as `read_transactions` would give them one by one.

    Args:
        path: a file named .csv (with a header), .jsonl, .ndjson or .parquet.
        mapping: a mapping, its name or its TOML file; None: the columns have the fields' own names.

    Raises:
        UsageError: the file or the mapping cannot be used.
        MalformedRecord: a row breaks a rule; the message names file and row.
    """
    if not isinstance(mapping, Mapping):
        mapping = load_mapping(mapping)
    source = open_source(Path(path), mapping)
    if isinstance(source, TableSource):
        # What is refused here is read row by row: the rows say whether it is unusual or wrong.
        with suppress(_Unusual, pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return _by_column(source, mapping)
    return _by_row(source, mapping)


def _by_column(source: TableSource, mapping: Mapping) -> FileColumns:
    times_ms = source.event_times_ms()
    numbers = row_numbers(times_ms, None, None)
    times_ms = times_ms.take(numbers)
    _require(len(times_ms) == 0 or (times_ms[0].as_py() >= 0 and times_ms[-1].as_py() <= MAX_TIME_MS))
    constant = {name: _RULES[name].default for name in TRANSACTION_FIELDS} | dict(mapping.constants)

    def coded(field: str) -> Coded:
        column = source.columns.get(field)
        if column is None:
            value = constant.get(field)
            return Coded(pa.repeat(pa.scalar(0, pa.int64()), len(numbers)), [_obeying(field, value)])
        return _coded(field, column, source.values(field, numbers))

    columns = FileColumns(
        _identifiers(source.values("transaction_id", numbers)),
        times_ms,
        _amounts(source.columns["amount_minor"], source.values("amount_minor", numbers)),
        _degrees("latitude", source, numbers),
        _degrees("longitude", source, numbers),
        {field: coded(field) for field in (*_CODED, LABEL_FIELD)},
    )
    _require(pc.all(pc.equal(columns.latitudes.is_null(), columns.longitudes.is_null()), min_count=0).as_py())
    _require_rates(columns.coded["currency"], times_ms)
    return columns


def _require(holds: bool) -> None:
    if not holds:
        raise _Unusual


def _obeying(field: str, value: Any) -> Any:
    """`value` when the contract takes it in this field."""
    rule = _RULES.get(field)
    if rule is None or (value is None and not rule.required and rule.default is None):
        return value
    try:
        return rule.check(field, value)
    except MalformedRecord as error:
        raise _Unusual from error


def _coded(field: str, column: Column, values: pa.Array) -> Coded:
    """A column of texts or labels: each different value is read and checked once."""
    encoded = values.dictionary_encode(null_encoding="encode")
    read = reader_of(field, column)
    try:
        different = [_obeying(field, read(value)) for value in encoded.dictionary.to_pylist()]
    except MalformedRecord as error:
        raise _Unusual from error
    return Coded(encoded.indices.cast(pa.int64()), different)


def _identifiers(values: pa.Array) -> pa.StringArray:
    if pa.types.is_integer(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    _require(pa.types.is_string(values.type) and values.null_count == 0)
    _require(pc.all(pc.match_substring_regex(values, f"^(?:{IDENTIFIER})$"), min_count=0).as_py())
    return values


def _floats(values: pa.Array) -> pa.DoubleArray:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.if_else(pc.equal(values, ""), None, values)
        _require(pc.all(pc.match_substring_regex(values, _PLAIN_DECIMAL), min_count=0).as_py())
    else:
        _require(pa.types.is_floating(values.type) or pa.types.is_integer(values.type))
    return values.cast(pa.float64())


def _amounts(column: Column, values: pa.Array) -> pa.Int64Array:
    if column.digits is not None:
        values = _floats(values)
        _require(values.null_count == 0)
        # the same product and the same rounding as in the exact reader; NaN fails the comparison below
        values = pc.round(pc.multiply(values, float(10**column.digits)), round_mode="half_to_even")
    elif pa.types.is_string(values.type):
        _require(pc.all(pc.match_substring_regex(values, "^[0-9]{1,13}$"), min_count=0).as_py())
        values = values.cast(pa.int64())
    else:
        _require(pa.types.is_integer(values.type))
    _require(values.null_count == 0)
    allowed = pc.and_(pc.greater_equal(values, 0), pc.less_equal(values, MAX_AMOUNT_MINOR))
    _require(pc.all(allowed, min_count=0).as_py())
    return values.cast(pa.int64())


def _degrees(field: str, source: TableSource, numbers: pa.Array) -> pa.DoubleArray:
    if field not in source.columns:
        return pa.nulls(len(numbers), pa.float64())
    values = _floats(source.values(field, numbers))
    values = pc.if_else(pc.is_nan(values), None, values)
    within = pc.less_equal(pc.abs(values), _PLACES[field])
    _require(pc.all(within, min_count=0).as_py())
    return values


def _require_rates(currencies: Coded, times_ms: pa.Int64Array) -> None:
    for code, currency in enumerate(currencies.values):
        first_ms = RATES.first_ms.get(currency)
        _require(first_ms is not None)
        earliest = pc.min(times_ms.filter(pc.equal(currencies.codes, code))).as_py()
        _require(earliest is None or earliest >= first_ms)


def _by_row(source: Source, mapping: Mapping) -> FileColumns:
    """The columns from rows that were read and checked one by one."""
    transaction_ids: list[str] = []
    times_ms, amounts_minor = array("q"), array("q")
    latitudes: list[float | None] = []
    longitudes: list[float | None] = []
    codes = {field: array("q") for field in (*_CODED, LABEL_FIELD)}
    seen: dict[str, dict[Any, int]] = {field: {} for field in codes}
    for transaction, is_fraud in read_rows(source, mapping):
        transaction_ids.append(transaction.transaction_id)
        times_ms.append(transaction.event_time_ms)
        amounts_minor.append(transaction.amount_minor)
        latitudes.append(transaction.latitude)
        longitudes.append(transaction.longitude)
        for field in _CODED:
            value = getattr(transaction, field)
            codes[field].append(seen[field].setdefault(value, len(seen[field])))
        codes[LABEL_FIELD].append(seen[LABEL_FIELD].setdefault(is_fraud, len(seen[LABEL_FIELD])))
    return FileColumns(
        pa.array(transaction_ids, pa.string()),
        pa.array(times_ms, pa.int64()),
        pa.array(amounts_minor, pa.int64()),
        pa.array(latitudes, pa.float64()),
        pa.array(longitudes, pa.float64()),
        {field: Coded(pa.array(codes[field], pa.int64()), list(seen[field])) for field in codes},
    )
