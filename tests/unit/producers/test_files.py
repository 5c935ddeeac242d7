from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers import files
from producers.file_writer import write_transactions
from producers.files import FileRow, read_transactions
from producers.mappings import load_mapping
from producers.simulator import simulate
from stream_features.errors import MalformedRecord, UsageError
from stream_features.transaction import Transaction

END_MS = 1_750_000_000_000
FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet")
ROW = {
    "transaction_id": "t1",
    "event_time_ms": 1_700_000_000_000,
    "card_id": "c1",
    "merchant_id": "m1",
    "amount_minor": 5,
    "currency": "USD",
}


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as they are, in the format of the suffix; CSV and Parquet take their columns from the first row."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0])]
        lines += [",".join("" if row[name] is None else str(row[name]) for name in rows[0]) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, *arguments: Any) -> list[FileRow]:
    return list(read_transactions(path, *arguments))


def refused(path: Path, *arguments: Any) -> MalformedRecord:
    with pytest.raises(MalformedRecord) as raised:
        read(path, *arguments)
    return raised.value


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    rows = list(simulate(500, seed=4, end_ms=END_MS))
    path = tmp_path / f"history{suffix}"
    assert write_transactions(path, rows) == 500
    assert read(path) == [FileRow(row.transaction, row.is_fraud) for row in rows]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_written_files_are_the_same_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        write_transactions(tmp_path / f"{name}{suffix}", simulate(200, seed=4, end_ms=END_MS))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_written_parquet_file_has_the_truth_beside_the_fields(tmp_path: Path) -> None:
    rows = list(simulate(2_000, seed=4, end_ms=END_MS))
    write_transactions(tmp_path / "history.parquet", rows)
    table = pq.read_table(tmp_path / "history.parquet")
    assert table["is_fraud"].to_pylist() == [row.is_fraud for row in rows]
    assert table["scenario"].to_pylist() == [row.scenario for row in rows]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("old")

    def failing() -> Any:
        yield from simulate(3, seed=1, end_ms=END_MS)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_transactions(path, failing())
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    times=st.lists(st.integers(1_700_000_000_000, 1_700_000_000_006), min_size=1, max_size=30),
    from_offset=st.integers(0, 7) | st.none(),
    until_offset=st.integers(0, 7) | st.none(),
    batch_rows=st.integers(1, 8),
)
def test_rows_come_by_time_then_file_order_and_only_of_the_period(
    tmp_path: Path,
    suffix: str,
    times: list[int],
    from_offset: int | None,
    until_offset: int | None,
    batch_rows: int,
) -> None:
    rows = [ROW | {"transaction_id": f"t{number}", "event_time_ms": time} for number, time in enumerate(times)]
    path = save(tmp_path / f"rows{suffix}", rows)
    from_ms = None if from_offset is None else 1_700_000_000_000 + from_offset
    until_ms = None if until_offset is None else 1_700_000_000_000 + until_offset
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "_BATCH_ROWS", batch_rows)
        got = [row.transaction.transaction_id for row in read(path, None, from_ms, until_ms)]
    inside = [
        row
        for row in rows
        if (from_ms is None or row["event_time_ms"] >= from_ms)
        and (until_ms is None or row["event_time_ms"] < until_ms)
    ]
    assert got == [row["transaction_id"] for row in sorted(inside, key=lambda row: row["event_time_ms"])]


@pytest.mark.parametrize("suffix", FORMATS)
def test_absent_optional_fields_take_their_defaults(tmp_path: Path, suffix: str) -> None:
    path = save(
        tmp_path / f"rows{suffix}", [ROW | {"channel": None, "note": "ignored"}, ROW | {"channel": "pos", "note": ""}]
    )
    first, second = read(path)
    assert first == FileRow(Transaction(**ROW), None)
    assert second.transaction.channel == "pos"


def test_an_absent_type_in_a_row_is_a_purchase(tmp_path: Path) -> None:
    path = save(
        tmp_path / "rows.csv", [ROW | {"type": None, "is_fraud": None}, ROW | {"type": "refund", "is_fraud": "true"}]
    )
    assert [(row.transaction.type, row.is_fraud) for row in read(path)] == [("purchase", None), ("refund", True)]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"amount_minor": -1}, "amount_minor", "out_of_range"),
        ({"amount_minor": None}, "amount_minor", "missing"),
        ({"amount_minor": 10.5}, "amount_minor", "wrong_type"),
        ({"card_id": "4111111111111111"}, "card_id", "card_number"),
        ({"card_id": "c 1"}, "card_id", "bad_characters"),
        ({"currency": "XXZ"}, "currency", "unknown_currency"),
        ({"event_time_ms": None}, "event_time_ms", "missing"),
    ],
)
def test_a_bad_row_is_named_with_field_and_rule(
    tmp_path: Path, suffix: str, change: dict[str, Any], field: str, rule: str
) -> None:
    good = [ROW | {"transaction_id": f"t{number}"} for number in range(6)]
    path = save(tmp_path / f"rows{suffix}", [*good, ROW | change, *good])
    error = refused(path)
    assert (error.field, error.rule) == (field, rule)
    assert f"rows{suffix} {'line' if suffix in ('.jsonl', '.ndjson') else 'row'} 7:" in error.message
    assert "4111111111111111" not in str(error)


def test_rows_before_the_bad_one_are_given_out(tmp_path: Path) -> None:
    rows = read_transactions(save(tmp_path / "rows.csv", [ROW, ROW | {"amount_minor": "many"}]))
    assert next(rows).transaction == Transaction(**ROW)
    with pytest.raises(MalformedRecord, match=r"rows\.csv row 2"):
        next(rows)


def test_the_first_bad_row_is_named_whichever_of_its_columns_is_bad(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"merchant_id": None}, ROW | {"amount_minor": "many"}, ROW | {"card_id": "c 1"}]
    for first_bad, field in ((1, "merchant_id"), (2, "amount_minor"), (3, "card_id")):
        error = refused(save(tmp_path / "rows.csv", [ROW, *rows[first_bad:], *rows]))
        assert "rows.csv row 2:" in error.message
        assert error.field == field


def test_the_row_number_is_the_files_although_rows_are_sorted(tmp_path: Path) -> None:
    later, earlier = ROW | {"event_time_ms": ROW["event_time_ms"] + 5}, ROW | {"currency": "nope"}
    assert "rows.csv row 2:" in refused(save(tmp_path / "rows.csv", [later, earlier])).message


def test_bad_rows_outside_the_period_do_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.csv", [ROW | {"currency": "nope"}, ROW | {"event_time_ms": 1_700_000_000_001}])
    assert len(read(path, None, 1_700_000_000_001)) == 1


@pytest.mark.parametrize(
    ("line", "rule"),
    [("{", "not_json"), ("[1]", "not_object"), ("\x00", "not_json"), ("[" * 100_000, "not_json")],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, rule: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + line + "\n")
    error = refused(path)
    assert (error.field, error.rule) == ("$", rule)
    assert "rows.jsonl line 3:" in error.message


def test_a_csv_row_of_another_length_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.csv", [ROW, ROW])
    path.write_text(path.read_text() + "1,2,3\n")
    error = refused(path)
    assert (error.field, error.rule) == ("$", "column_count")
    assert "rows.csv row 3:" in error.message


def test_csv_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.csv", [ROW, ROW | {"merchant_id": "caf\u00e9"}])
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xe9"))
    error = refused(path)
    assert (error.field, error.rule) == ("$", "not_utf8")
    assert "line 3" in error.message


def test_csv_takes_quotes_byte_order_marks_and_leading_zeros(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    header = "card_id,merchant_id,transaction_id,event_time_ms,amount_minor,currency"
    text = f'{header}\n007,"a, ""b""",t1,1700000000000,5,USD\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    [row] = read(path)
    assert (row.transaction.card_id, row.transaction.merchant_id) == ("007", 'a, "b"')


@pytest.mark.parametrize(("suffix", "content"), [(".csv", "card_id,amount\nc,1\n"), (".jsonl", '{"card_id": "c"}\n')])
def test_missing_columns_are_all_named(tmp_path: Path, suffix: str, content: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(content)
    with pytest.raises(
        UsageError, match=r"transaction_id.*event_time_ms.*merchant_id.*amount_minor.*currency"
    ) as raised:
        read_transactions(path)
    assert "The file has:" in str(raised.value)


@pytest.mark.parametrize(("name", "says"), [("rows.xlsx", "unknown format .xlsx"), ("rows.csv", "no such file")])
def test_files_that_cannot_be_read_are_refused_at_once(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_transactions(tmp_path / name)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("no parquet")
    with pytest.raises(UsageError, match="cannot be read as parquet"):
        read_transactions(path)


def test_files_without_rows_give_none(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "empty.csv").write_text(",".join(ROW) + "\n")
    pq.write_table(pa.Table.from_pylist([ROW]).slice(0, 0), tmp_path / "empty.parquet")
    assert [read(path) for path in sorted(tmp_path.iterdir())] == [[], [], []]


HANDBOOK_ROW = {
    "TRANSACTION_ID": 12,
    "TX_DATETIME": dt.datetime(2018, 4, 1, 0, 7, 56),  # noqa: DTZ001 - as the files have it: UTC without saying so
    "CUSTOMER_ID": 596,
    "TERMINAL_ID": 3156,
    "TX_AMOUNT": 57.16,
    "TX_TIME_SECONDS": 476,
    "TX_FRAUD": 1,
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_handbook_rows(tmp_path: Path, suffix: str) -> None:
    row = HANDBOOK_ROW if suffix == ".parquet" else HANDBOOK_ROW | {"TX_DATETIME": "2018-04-01 00:07:56"}
    assert read(save(tmp_path / f"rows{suffix}", [row]), "handbook") == [
        FileRow(
            Transaction(
                transaction_id="12",
                event_time_ms=1_522_541_276_000,
                card_id="596",
                merchant_id="3156",
                amount_minor=5716,
                currency="USD",
            ),
            True,
        )
    ]


@pytest.mark.parametrize(
    ("major", "minor"),
    [(57.16, 5716), (0.125, 12), (0.375, 38), (1.005, 100), (0.29, 29), (1108.85, 110885), (Decimal("0.125"), 12)],
)
def test_amounts_are_the_product_rounded_half_even(tmp_path: Path, major: Any, minor: int) -> None:
    path = save(tmp_path / "rows.parquet", [HANDBOOK_ROW | {"TX_AMOUNT": major}])
    assert read(path, "handbook")[0].transaction.amount_minor == minor


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
def test_timestamps_of_any_unit_and_zone_are_instants(tmp_path: Path, unit: str, zone: str | None) -> None:
    instant = 1_522_541_276
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    table = pa.Table.from_pylist([HANDBOOK_ROW]).set_column(
        1, "TX_DATETIME", pa.array([instant * scale], pa.int64()).cast(pa.timestamp(unit, zone))
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet", "handbook")[0].transaction.event_time_ms == instant * 1_000


SPARKOV_ROW = {
    "trans_date_trans_time": "2019-01-01 00:00:18",
    "merchant": "fraud_Rippin, Kub and Mann",
    "category": "misc_net",
    "amt": 4.97,
    "merch_lat": 36.011293,
    "merch_long": -82.048315,
    "trans_num": "0b242abb623afc578575680df30655b9",
    "is_fraud": 0,
}


def test_sparkov_rows_by_customer(tmp_path: Path) -> None:
    [row] = read(save(tmp_path / "rows.jsonl", [SPARKOV_ROW | {"cust_id": 7, "cc_num": 2703186189652095}]), "sparkov")
    assert row == FileRow(
        Transaction(
            transaction_id="0b242abb623afc578575680df30655b9",
            event_time_ms=1_546_300_818_000,
            card_id="7",
            merchant_id="fraud_Rippin, Kub and Mann",
            amount_minor=497,
            currency="USD",
            merchant_category="misc_net",
            latitude=36.011293,
            longitude=-82.048315,
        ),
        False,
    )


def test_sparkov_rows_by_card_number_get_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_TOKEN_KEY", "a key for this test only")
    rows = [SPARKOV_ROW | {"cc_num": number} for number in (2703186189652095, "2703186189652095", 630423337322)]
    cards = [row.transaction.card_id for row in read(save(tmp_path / "rows.jsonl", rows), "sparkov")]
    assert cards[0] == cards[1] != cards[2]
    assert all(card.startswith("t_") for card in cards)


def test_a_missing_token_key_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_TOKEN_KEY", "short")
    path = save(tmp_path / "rows.jsonl", [SPARKOV_ROW | {"cc_num": 2703186189652095}])
    with pytest.raises(UsageError, match="FRAUDSTREAM_TOKEN_KEY"):
        read_transactions(path, "sparkov")


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("timestamp", "2023-11-14T22:13:20Z"),
        ("timestamp", "2023-11-15T00:13:20.000+02:00"),
        ("timestamp", "2023-11-14 22:13:20"),
        ("epoch_s", "1700000000"),
        ("epoch_ms", "1700000000000"),
        ("%d.%m.%Y %H:%M:%S", "14.11.2023 22:13:20"),
    ],
)
def test_times_in_the_forms_a_mapping_can_name(tmp_path: Path, time: str, text: str) -> None:
    (tmp_path / "m.toml").write_text(
        f"[columns]\nevent_time_ms = {{column = 'when', time = '{time}'}}\n"
        + "".join(f"{name} = '{name}'\n" for name in ROW if name != "event_time_ms")
    )
    path = save(tmp_path / "rows.csv", [ROW | {"when": text}])
    mapping = load_mapping(tmp_path / "m.toml")
    assert read(path, mapping)[0].transaction.event_time_ms == 1_700_000_000_000


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_time_that_cannot_be_read_is_named(tmp_path: Path, suffix: str) -> None:
    path = save(
        tmp_path / f"rows{suffix}", [SPARKOV_ROW | {"cust_id": 1, "merchant": "m", "trans_date_trans_time": "soon"}]
    )
    error = refused(path, "sparkov")
    assert (error.field, error.rule) == ("event_time_ms", "unparsable_time")
    assert "1:" in error.message


def test_a_number_where_a_time_must_be_is_not_guessed(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", [SPARKOV_ROW | {"cust_id": 1, "trans_date_trans_time": 1_546_300_818}])
    assert refused(path, "sparkov").rule == "wrong_type"


def test_truth_that_is_neither_yes_nor_no_is_refused(tmp_path: Path) -> None:
    error = refused(save(tmp_path / "rows.jsonl", [ROW | {"is_fraud": 2}]))
    assert (error.field, error.rule) == ("is_fraud", "wrong_type")
