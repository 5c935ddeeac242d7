"""Queries through a stand-in for Athena."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from console.lake import QueryAnswer, named_query, query_names, run_query, statement_of
from stream_features.errors import PortFailure, UsageError
from tests.unit.local_firehose.fakes import client_error

COLUMNS = {"name": "varchar", "n": "bigint", "share": "double", "sure": "boolean", "cost": "decimal"}
ROWS: list[tuple[str | None, ...]] = [
    ("a", "1", "0.5", "true", "1.20"),
    ("", "-9223372036854775808", "1.0E-5", "false", "0"),
    (None, None, None, None, None),
]


class FakeAthena:
    """Runs one query: `states` are what the looks at it find; results come two rows a page."""

    def __init__(
        self,
        states: list[str],
        *,
        rows: list[tuple[str | None, ...]] | None = None,
        statement: str = "DML",
        **status: Any,
    ) -> None:
        self.states = states
        self.rows = ROWS if rows is None else rows
        self.statement = statement
        self.status = status
        self.stopped = False
        self.request: dict[str, Any] = {}

    def start_query_execution(self, **request: Any) -> dict[str, Any]:
        self.request = request
        return {"QueryExecutionId": "q"}

    def get_query_execution(self, QueryExecutionId: str) -> dict[str, Any]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"QueryExecution": {"StatementType": self.statement, "Status": {"State": state, **self.status}}}

    def stop_query_execution(self, QueryExecutionId: str) -> None:
        self.stopped = True

    def get_query_results(self, QueryExecutionId: str, MaxResults: int, NextToken: str = "0") -> dict[str, Any]:
        start = int(NextToken)
        rows: list[tuple[str | None, ...]] = list(self.rows[start : start + 2])
        if start == 0 and self.statement == "DML":
            rows.insert(0, tuple(COLUMNS))
        page: dict[str, Any] = {
            "ResultSet": {
                "Rows": [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in rows],
                "ResultSetMetadata": {"ColumnInfo": [{"Name": n, "Type": t} for n, t in COLUMNS.items()]},
            }
        }
        if start + 2 < len(self.rows):
            page["NextToken"] = str(start + 2)
        return page


def ask(athena: FakeAthena, **options: Any) -> Any:
    return run_query(athena, "select 1 as one", workgroup="w", database="d", **options)


def test_rows_have_the_types_of_their_columns_over_all_pages() -> None:
    athena = FakeAthena(["QUEUED", "RUNNING", "SUCCEEDED"])
    answer = ask(athena)
    assert answer.columns == tuple(COLUMNS)
    assert answer.types == tuple(COLUMNS.values())
    assert answer.rows == [
        ("a", 1, 0.5, True, Decimal("1.20")),
        ("", -(2**63), 1e-5, False, Decimal(0)),
        (None,) * 5,
    ]
    assert athena.request["WorkGroup"] == "w"
    assert athena.request["QueryExecutionContext"] == {"Database": "d"}


def test_an_answer_without_rows_has_columns() -> None:
    answer = ask(FakeAthena(["SUCCEEDED"], rows=[]))
    assert answer.columns == tuple(COLUMNS)
    assert answer.rows == []


def test_only_a_select_has_a_header_row() -> None:
    answer = ask(FakeAthena(["SUCCEEDED"], rows=[ROWS[0]], statement="UTILITY"))
    assert len(answer.rows) == 1


def test_a_wrong_statement_is_the_users_error_and_a_fault_of_athena_is_not() -> None:
    reason = {"StateChangeReason": "line 1:8: Column 'x' cannot be resolved"}
    with pytest.raises(UsageError, match="Column 'x'"):
        ask(FakeAthena(["RUNNING", "FAILED"], AthenaError={"ErrorCategory": 2}, **reason))
    with pytest.raises(PortFailure, match="Column 'x'"):
        ask(FakeAthena(["FAILED"], AthenaError={"ErrorCategory": 1}, **reason))
    with pytest.raises(PortFailure, match="cancelled"):
        ask(FakeAthena(["CANCELLED"]))


def test_a_statement_athena_does_not_accept_is_the_users_error() -> None:
    class Refusing(FakeAthena):
        def start_query_execution(self, **_request: Any) -> dict[str, Any]:
            raise client_error("InvalidRequestException", "StartQueryExecution")

    class Throttling(FakeAthena):
        def start_query_execution(self, **_request: Any) -> dict[str, Any]:
            raise client_error("TooManyRequestsException", "StartQueryExecution")

    with pytest.raises(UsageError, match="refused"):
        ask(Refusing(["SUCCEEDED"]))
    with pytest.raises(PortFailure, match="TooManyRequests"):
        ask(Throttling(["SUCCEEDED"]))


def test_a_query_that_runs_too_long_is_stopped() -> None:
    athena = FakeAthena(["RUNNING"])
    with pytest.raises(PortFailure, match="stopped after 0 s"):
        ask(athena, timeout_s=0)
    assert athena.stopped


def test_every_shipped_query_counts_a_transaction_once_and_has_a_comment() -> None:
    names = query_names()
    assert len(names) >= 6
    for name in names:
        sql = named_query(name)
        assert sql.startswith("-- "), name
        assert "row_number() over (partition by transaction_id order by degraded, scored_at_ms)" in sql, name
        assert "where publication = 1" in sql, name


@pytest.mark.parametrize("name", ["unknown", "../lake", "", "decisions_by_outcome.sql"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="there are: alerts_by_hour, "):
        named_query(name)


NO_QUERIES = [("", "is empty"), (" \n", "is empty"), ("select \udcff", "character 8")]


@pytest.mark.parametrize(("asked", "problem"), NO_QUERIES)
def test_what_is_no_query_is_refused_before_anyone_is_asked(asked: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        statement_of(asked)


def test_one_word_is_a_name_and_everything_else_is_sql() -> None:
    assert statement_of("decisions_by_outcome") == named_query("decisions_by_outcome")
    assert statement_of("select 1") == "select 1"
    with pytest.raises(UsageError, match="no query named 'select'"):
        statement_of("select")


def answer(*values: Any) -> QueryAnswer:
    return QueryAnswer(tuple(f"c{n}" for n in range(len(values))), ("varchar",) * len(values), [values])


def test_a_value_that_looks_like_markup_is_shown_as_it_stands() -> None:
    """A merchant may be called [/red]: the table took that for a tag that closes nothing, and the command crashed."""
    console = Console(width=100)
    with console.capture() as shown:
        console.print(answer("[/red]", "[bold]x", None).as_table())
    assert "[/red]" in shown.get()
    assert "[bold]x" in shown.get()


def test_decimals_and_what_is_not_finite_have_a_place_in_json() -> None:
    """A decimal could not be written at all; NaN stood there bare, which is no JSON."""
    said = answer(Decimal("1.20"), float("nan"), float("-inf"), 0.5, 2**63, None, True, "x").as_json()

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    assert json.loads(said, parse_constant=refuse)["rows"] == [["1.20", "nan", "-inf", 0.5, 2**63, None, True, "x"]]
