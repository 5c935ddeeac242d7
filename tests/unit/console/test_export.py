"""The export of decisions."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from console.export import export_decisions, export_schema
from stream_features.decision import Decision, StreamPosition, encode_decision
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.feature_sets import feature_set
from tests.unit.console.test_meter import a_decision
from tests.unit.local_firehose.fakes import NOON_MS, client_error

CORE = feature_set("core")


def a_full_decision(number: int, **replaced: Any) -> Decision:
    features = {
        name: None if (number + place) % 5 == 0 else number / (place + 3) for place, name in enumerate(CORE.names)
    }
    return a_decision(number, features=features, **replaced)


class FakeTable:
    """Scans of a table, in segments if asked for, three items a page."""

    def __init__(self, decisions: list[Decision], *, fails_at_call: int | None = None) -> None:
        self.items = [{"document": {"S": encode_decision(decision).decode()}} for decision in decisions]
        self.fails_at_call = fails_at_call
        self.calls = 0

    def scan(self, **request: Any) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self.fails_at_call:
            raise client_error("InternalServerError", "Scan")
        assert request["ProjectionExpression"] == "#document"
        mine = self.items[request.get("Segment", 0) :: request.get("TotalSegments", 1)]
        start = request.get("ExclusiveStartKey", {"at": 0})["at"]
        page: dict[str, Any] = {"Items": mine[start : start + 3]}
        if start + 3 < len(mine):
            page["LastEvaluatedKey"] = {"at": start + 3}
        return page

    def describe_table(self, TableName: str) -> dict[str, Any]:
        return {"Table": {"ItemCount": len(self.items)}}


def export(decisions: list[Decision], out: Path, *, segments: int | None = None, **options: Any) -> Any:
    rows = export_decisions(FakeTable(decisions, **options), "decisions", CORE, out, segments=segments)
    table = pq.read_table(out)
    assert table.num_rows == rows
    return table


@pytest.mark.parametrize("segments", [None, 1, 3, 64])
def test_one_row_per_decision_with_the_contracts_columns_and_exact_values(tmp_path: Path, segments: int | None) -> None:
    decisions = [a_full_decision(number, latitude=0.1 * number, channel=None) for number in range(40)]
    table = export(decisions, tmp_path / "d.parquet", segments=segments)
    own = [name for name in Decision.__struct_fields__ if name != "features"]
    assert table.column_names == own + [f"f_{name}" for name in CORE.names]
    assert table.schema == export_schema(CORE.names)
    for row, decision in zip(table.to_pylist(), decisions, strict=True):
        expected = msgspec.to_builtins(decision)
        features = expected.pop("features")
        assert row == expected | {f"f_{name}": features[name] for name in CORE.names}


def test_features_are_doubles_and_a_missing_one_is_null(tmp_path: Path) -> None:
    table = export([a_full_decision(5)], tmp_path / "d.parquet")
    columns = [f"f_{name}" for name in CORE.names]
    assert {table.schema.field(name).type for name in columns} == {pa.float64()}
    assert [table.column(name)[0].as_py() is None for name in columns[:6]] == [True, False, False, False, False, True]


def test_rows_are_in_order_of_arrival_then_of_position_as_a_number(tmp_path: Path) -> None:
    places = [
        (0, "shard-0", "9", 0),
        (0, "shard-0", "10", 0),  # text order would put it before 9
        (0, "shard-0", "10", 1),
        (0, "shard-1", "1", 0),
        (1, "shard-0", "2", 0),
    ]
    decisions = [
        a_full_decision(n, arrival_ms=NOON_MS + ms, stream_position=StreamPosition(shard, sequence, sub))
        for n, (ms, shard, sequence, sub) in enumerate(places)
    ]
    shuffled = decisions[:]
    random.Random(4).shuffle(shuffled)
    table = export(shuffled, tmp_path / "d.parquet")
    assert table.column("transaction_id").to_pylist() == [decision.transaction_id for decision in decisions]


def test_an_empty_table_gives_a_file_with_columns_and_no_rows(tmp_path: Path) -> None:
    table = export([], tmp_path / "d.parquet")
    assert table.num_rows == 0
    assert table.schema == export_schema(CORE.names)


def test_a_decision_of_another_feature_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContractMismatch, match=r"t-7 has features of another feature set: terminal_risk"):
        export([a_full_decision(1), a_decision(7, features={"terminal_risk": 1.0})], tmp_path / "d.parquet")


def test_a_failed_export_leaves_the_former_file(tmp_path: Path) -> None:
    out = tmp_path / "d.parquet"
    out.write_bytes(b"former")
    with pytest.raises(PortFailure, match="InternalServerError"):
        export([a_full_decision(n) for n in range(40)], out, fails_at_call=4)
    assert out.read_bytes() == b"former"
    assert [path.name for path in tmp_path.iterdir()] == ["d.parquet"]
