"""Columns of a file say what its rows say, value by value, and fail where they fail, by the same words."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers import file_columns
from producers.file_columns import read_columns
from producers.files import FileRow, read_transactions
from producers.mappings import HANDBOOK, Column, Mapping
from stream_features.errors import MalformedRecord
from stream_features.transaction import Transaction

DATA = Path(os.environ.get("FRAUDSTREAM_DATA", Path(__file__).parents[4] / "shared" / "data"))

good: dict[str, Any] = {
    "transaction_id": "t-1",
    "event_time_ms": 1_600_000_000_000,
    "card_id": "card-1",
    "merchant_id": "Café 24/7",
    "amount_minor": 1_234,
    "currency": "EUR",
}
variations: dict[str, st.SearchStrategy[Any]] = {
    "transaction_id": st.sampled_from(["t-2", "A.b:c_9", "x" * 64, "x" * 65, "", "a b", "t\n", None, "ä"]),
    "event_time_ms": st.sampled_from([0, 1_599_999_999_999, 1_600_000_000_001, -1, 253_402_300_800_000]),
    "card_id": st.sampled_from(["card-2", "1234567890123456", "", None, "12345678901", "card\n"]),
    "merchant_id": st.sampled_from(["m", "x" * 128, "x" * 129, "bad\x07bell", "", None]),
    "amount_minor": st.sampled_from([0, 10**12, 10**12 + 1, -1, 99]),
    "currency": st.sampled_from(["USD", "JPY", "EUR", "eur", "XXX", "ZZZ", "", None]),
    "type": st.sampled_from(["refund", "purchase", "reversal", "gift", "", None]),
    "auth_result": st.sampled_from(["approved", "perhaps", None]),
    "merchant_category": st.sampled_from(["grocery", "x" * 65, None]),
    "channel": st.sampled_from(["pos", "moto", "drone", None]),
    "country": st.sampled_from(["DE", "de", "XX", "", None]),
    "latitude": st.sampled_from([0.0, -0.0, 90.0, 90.1, -12.3456785, float("nan"), float("inf"), None]),
    "longitude": st.sampled_from([0.0, 180.0, -180.5, 13.4, float("nan"), None]),
    "device_id": st.sampled_from(["phone 1", "", None, "x" * 129]),
    "ip": st.sampled_from(["192.0.2.7", "::1", "fe80::1%eth0", "no", None]),
    "is_fraud": st.sampled_from([True, False, None]),
}
mostly_good = st.lists(
    st.tuples(st.sampled_from(sorted(variations)), st.integers(0, 3)).flatmap(
        lambda choice: st.tuples(st.just(choice[0]), variations[choice[0]])
    ),
    max_size=3,
).map(lambda changes: good | {"latitude": 1.5, "longitude": 2.5} | dict(changes))


def columns_as_rows(path: Path, mapping: Mapping | str | None) -> list[FileRow]:
    columns = read_columns(path, mapping)
    coded = {name: [column.values[code] for code in column.codes.to_pylist()] for name, column in columns.coded.items()}
    is_fraud = coded.pop("is_fraud")
    plain = {
        "transaction_id": columns.transaction_ids,
        "event_time_ms": columns.event_times_ms,
        "amount_minor": columns.amounts_minor,
        "latitude": columns.latitudes,
        "longitude": columns.longitudes,
    }
    fields = {**coded, **{name: values.to_pylist() for name, values in plain.items()}}
    return [
        FileRow(Transaction(**{name: values[row] for name, values in fields.items()}), is_fraud[row])
        for row in range(len(is_fraud))
    ]


def outcome(read: Callable[[], list[FileRow]]) -> str:
    """The rows, or the complaint, as text: NaN equals NaN and -0.0 is not 0.0."""
    try:
        return repr(read())
    except MalformedRecord as error:
        return f"{error.field} breaks {error.rule}: {error.message}"


def assert_same(path: Path, mapping: Mapping | str | None = None) -> None:
    assert outcome(lambda: columns_as_rows(path, mapping)) == outcome(lambda: list(read_transactions(path, mapping)))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = sorted({name for row in rows for name in row})
    if path.suffix == ".parquet":
        columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
        # a column of nulls alone has no type of its own
        typed = {n: c if not pa.types.is_null(c.type) else c.cast(pa.string()) for n, c in columns.items()}
        pq.write_table(pa.table(typed), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@settings(max_examples=120, deadline=None)
@given(rows=st.lists(mostly_good, min_size=1, max_size=5))
def test_the_same_rows_or_the_same_complaint(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.getbasetemp() / f"file-columns{suffix}"
    assert_same(write(path, rows))


@settings(max_examples=150, deadline=None)
@given(
    amounts=st.lists(
        st.one_of(
            st.integers(0, 10**7).map(lambda cents: cents / 100),
            st.sampled_from([0.125, 0.375, 2.675, 1.005, 0.005, 0.015, 1e10, 1e11, 4503599627370.497, 1e-320, -0.001]),
            st.floats(0, 1e10),
        ),
        min_size=1,
        max_size=6,
    ),
    text=st.booleans(),
    digits=st.integers(0, 4),
)
def test_major_units_round_as_they_do_row_by_row(tmp_path_factory, amounts, text, digits):
    mapping = Mapping(
        name="major",
        columns=HANDBOOK.columns | {"amount_minor": (Column(name="TX_AMOUNT", digits=digits),)},
        constants={"currency": "USD"},
    )
    path = tmp_path_factory.getbasetemp() / f"major{'.csv' if text else '.parquet'}"
    rows = [
        {
            "TRANSACTION_ID": number,
            "TX_DATETIME": "2018-08-01 00:00:00",
            "CUSTOMER_ID": 1,
            "TERMINAL_ID": 2,
            "TX_AMOUNT": amount,
            "TX_FRAUD": 0,
        }
        for number, amount in enumerate(amounts)
    ]
    assert_same(write(path, rows), mapping)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_valid_file_never_goes_row_by_row(tmp_path, monkeypatch, suffix):
    def never(*_: object) -> None:
        raise AssertionError("read row by row")

    monkeypatch.setattr(file_columns, "_by_row", never)
    rows = [good | {"transaction_id": f"t-{n}", "latitude": 1.5, "longitude": -2.5, "is_fraud": True} for n in range(3)]
    rows[1]["event_time_ms"] -= 1
    assert [row.transaction.transaction_id for row in columns_as_rows(write(tmp_path / f"f{suffix}", rows), None)] == [
        "t-1",
        "t-0",
        "t-2",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_without_rows(tmp_path, suffix):
    path = tmp_path / f"none{suffix}"
    path.write_text(",".join(good) + "\n" if suffix == ".csv" else "")
    assert columns_as_rows(path, None) == []


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mapping"),
    [("handbook_dev_to_2018-08-14.parquet", "handbook"), ("sparkov_like_A_train.parquet", "sparkov")],
)
def test_real_files(tmp_path, name, mapping):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in FRAUDSTREAM_DATA ({DATA})")
    path = tmp_path / name
    pq.write_table(pq.read_table(DATA / name).slice(0, 20_000), path)
    assert_same(path, mapping)
