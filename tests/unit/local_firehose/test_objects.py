"""What a flush writes."""

from __future__ import annotations

import base64
import gzip
import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.firehose.destination import Destination, read_destination
from local.firehose.hive_types import parse_hive_type
from local.firehose.objects import Columns, LakeObject, build_objects
from local.firehose.stream_reader import ShardRecord
from stream_features.errors import UsageError
from tests.unit.local_firehose.fakes import NOON_MS, description, parquet_description

RAW = read_destination(description())
PARQUET = read_destination(parquet_description())
COLUMNS = Columns(
    tuple(
        (name, parse_hive_type(kind))
        for name, kind in {
            "transaction_id": "string",
            "score": "double",
            "amount_minor": "bigint",
            "late": "boolean",
            "reasons": "array<struct<feature:string,contribution:double>>",
            "features": "map<string,double>",
        }.items()
    )
)
GARBAGE = [
    b"",
    b"\xff\xfe",
    b'{"a":"\xff"}',
    b"not json",
    b"[1]",
    b'"text"',
    b'{"a":NaN}',
    b'{"a":1}\n',
    b'{"a":\n1}',
    b'{"a":1}{"a":2}',
    b'{"a":1e999}',
    b'{"a":"\x00"}',
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    b"\x00" * 1000,
]


def record(payload: bytes, sequence: int = 1, *, shard: str = "shard-0", arrival_ms: int = NOON_MS) -> ShardRecord:
    return ShardRecord(shard, str(sequence), 0, arrival_ms, payload)


def archived_payloads(objects: list[LakeObject], destination: Destination = RAW) -> list[bytes]:
    """Every payload that can be read back from objects of raw records, wherever it stands."""
    payloads: list[bytes] = []
    for lake_object in objects:
        if lake_object.failed:
            lines = lake_object.body.splitlines()
            payloads += [base64.b64decode(json.loads(line)["rawData"]) for line in lines]
        else:
            body = gzip.decompress(lake_object.body) if destination.gzip else lake_object.body
            assert body.endswith(b"\n")
            payloads += body[:-1].split(b"\n")
    return payloads


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3).map(
                lambda value: json.dumps(value).encode()
            ),
        ),
        max_size=20,
    )
)
@settings(max_examples=150)
def test_every_payload_is_archived_byte_for_byte_exactly_once(payloads: list[bytes]) -> None:
    objects = build_objects(RAW, [record(p, i) for i, p in enumerate(payloads)], None, now_ms=NOON_MS)
    assert sorted(archived_payloads(objects)) == sorted(payloads)
    assert sum(o.records for o in objects) == len(payloads)


@pytest.mark.parametrize("payload", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_archived_below_the_error_prefix_and_its_neighbours_as_lines(payload: bytes) -> None:
    records = [record(b'{"a":1}', 1), record(payload, 2), record(b'{"a":2}', 3)]
    lines, errors = build_objects(RAW, records, None, now_ms=NOON_MS + 5)
    assert gzip.decompress(lines.body) == b'{"a":1}\n{"a":2}\n'
    assert errors.key.startswith("errors/processing-failed/dt=2026-11-20/")
    failure = json.loads(errors.body)
    assert base64.b64decode(failure["rawData"]) == payload
    assert failure["sequenceNumber"] == "2"
    assert failure["arrivalTimestamp"] == NOON_MS
    assert failure["attemptEndingTimestamp"] == NOON_MS + 5
    assert failure["errorMessage"]


def test_wide_and_fairly_deep_objects_are_lines() -> None:
    wide = b'{"a":[' + b",".join([b'{"b":[]}'] * 200) + b"]}"
    deep = b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"
    (lines,) = build_objects(RAW, [record(wide, 1), record(deep, 2)], None, now_ms=NOON_MS)
    assert gzip.decompress(lines.body) == wide + b"\n" + deep + b"\n"


def test_records_go_to_the_prefix_of_their_arrival_hour() -> None:
    before, after = NOON_MS - 1, NOON_MS
    objects = build_objects(
        RAW,
        [record(b'{"a":1}', 1, arrival_ms=before), record(b'{"a":2}', 2, arrival_ms=after)],
        None,
        now_ms=NOON_MS,
    )
    assert [o.key.rsplit("/", 1)[0] for o in objects] == ["raw/dt=2026-11-20/hour=11", "raw/dt=2026-11-20/hour=12"]
    assert all(o.key.endswith(".gz") for o in objects)


def test_the_same_records_make_the_same_objects_in_whatever_order_the_shards_were_read() -> None:
    one = [record(b'{"a":%d}' % i, i, shard="shard-0") for i in range(5)]
    two = [record(b'{"a":%d}' % i, i, shard="shard-1") for i in range(5, 9)]
    interleaved = [one[0], two[0], two[1], one[1], one[2], two[2], one[3], two[3], one[4]]
    expected = build_objects(RAW, one + two, None, now_ms=NOON_MS)
    assert build_objects(RAW, interleaved, None, now_ms=NOON_MS) == expected


def test_other_records_never_share_a_key() -> None:
    batches = [[record(b"{}", 1)], [record(b"{}", 1), record(b"{}", 2)], [record(b"{}", 1, shard="shard-1")]]
    keys = [build_objects(RAW, batch, None, now_ms=NOON_MS)[0].key for batch in batches]
    assert len(set(keys)) == len(batches)


def test_parquet_has_the_columns_and_values_of_the_table() -> None:
    row: dict[str, Any] = {
        "transaction_id": "t-1",
        "score": 0.1,
        "amount_minor": 2**62,
        "late": False,
        "reasons": [{"feature": "amount", "contribution": -0.25}],
        "features": {"amount": 12.5, "speed": None},
    }
    records = [
        record(json.dumps(row | {"unknown": [1, {"x": 2}]}).encode(), 1),
        record(b'{"transaction_id":"t-2"}', 2),
    ]
    (made,) = build_objects(PARQUET, records, COLUMNS, now_ms=NOON_MS)
    table = pq.read_table(io.BytesIO(made.body))
    assert table.schema.names == [name for name, _ in COLUMNS.fields]
    first, second = table.to_pylist()
    assert first == row | {"features": [("amount", 12.5), ("speed", None)]}
    assert second == dict.fromkeys(row, None) | {"transaction_id": "t-2"}
    assert made.key.endswith(".parquet")
    assert made.records == 2


@pytest.mark.parametrize(
    ("payload", "code", "names"),
    [
        (b'{"transaction_id":"t","score":"high"}', "DataFormatConversion.MalformedData", "$.score"),
        (
            b'{"transaction_id":"t","amount_minor":9223372036854775808}',
            "DataFormatConversion.MalformedData",
            "$.amount",
        ),
        (b"[]", "DataFormatConversion.MalformedData", "object"),
        (b'{"transaction_id":', "DataFormatConversion.ParseError", ""),
        (b'{"transaction_id":"\xff"}', "DataFormatConversion.ParseError", "utf-8"),
    ],
)
def test_a_row_that_does_not_fit_goes_to_the_error_prefix_alone(payload: bytes, code: str, names: str) -> None:
    good = b'{"transaction_id":"t-1","score":1}'
    fitting, failed = build_objects(PARQUET, [record(payload, 1), record(good, 2)], COLUMNS, now_ms=NOON_MS)
    assert pq.read_table(io.BytesIO(fitting.body)).to_pylist()[0]["transaction_id"] == "t-1"
    assert failed.key.startswith("errors/format-conversion-failed/dt=2026-11-20/")
    failure = json.loads(failed.body)
    assert failure["errorCode"] == code
    assert names in failure["errorMessage"]
    assert base64.b64decode(failure["rawData"]) == payload


def test_without_a_delimiter_records_are_joined_as_firehose_does() -> None:
    destination = read_destination(description(ProcessingConfiguration={"Enabled": False}))
    (made,) = build_objects(destination, [record(b'{"a":1}', 1), record(b'{"a":2}', 2)], None, now_ms=NOON_MS)
    assert gzip.decompress(made.body) == b'{"a":1}{"a":2}'


def test_hints_and_settings_are_read_as_deployed() -> None:
    hints = {"SizeInMBs": "64", "IntervalInSeconds": "60"}  # a template parameter arrives as text in some places
    destination = read_destination(description(BufferingHints=hints, CompressionFormat="UNCOMPRESSED"))
    assert (destination.size_bytes, destination.interval_seconds) == (64 * 1024 * 1024, 60.0)
    assert (destination.bucket, destination.stream_name) == ("lake", "t")
    assert (destination.gzip, destination.delimiter) == (False, b"\n")


@pytest.mark.parametrize(
    "setting",
    [
        {"CompressionFormat": "Snappy"},
        {"DynamicPartitioningConfiguration": {"Enabled": True}},
        {"ProcessingConfiguration": {"Enabled": True, "Processors": [{"Type": "Lambda"}]}},
        {
            "CompressionFormat": "UNCOMPRESSED",
            "DataFormatConversionConfiguration": {"OutputFormatConfiguration": {"Serializer": {"OrcSerDe": {}}}},
        },
    ],
)
def test_a_setting_the_worker_would_have_to_ignore_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="delivery stream raw"):
        read_destination(description(**setting))
