"""Asking the lake: SQL through Athena, and the queries that ship with the project.

Both streams behind the lake deliver at least once, so every shipped query keeps one row per transaction id first.
They are written for Athena (Trino); every expression has an alias.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from stream_features.errors import PortFailure, UsageError

if TYPE_CHECKING:
    from rich.table import Table

_PAGE_ROWS: Final = 1000
_FIRST_LOOK_S: Final = 0.03
_SLOWEST_LOOK_S: Final = 1.0
_SYSTEM_ERROR: Final = 1  # AthenaError.ErrorCategory: 1 system, 2 user, 3 other


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """Rows as Python values: int, float, bool, Decimal or text by the column's type, None for NULL."""

    columns: tuple[str, ...]
    types: tuple[str, ...]  # Athena's names: varchar, bigint, double, ...
    rows: list[tuple[Any, ...]]

    def as_json(self) -> str:
        """One JSON document: `columns` and `rows`. What JSON has no number for (decimals, NaN, infinities) is text."""
        rows = [[_in_json(value) for value in row] for row in self.rows]
        return json.dumps({"columns": self.columns, "rows": rows}, allow_nan=False)

    def as_table(self) -> Table:
        """For a terminal; values stand as they are, whatever characters they hold."""
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for name in self.columns:
            table.add_column(Text(name))
        for row in self.rows:
            table.add_row(*(Text("" if value is None else str(value)) for value in row))
        return table


def query_names() -> list[str]:
    """Names of the shipped queries, sorted."""
    folder = resources.files("console") / "queries"
    return sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))


def named_query(name: str) -> str:
    """The SQL of a shipped query.

    Raises:
        UsageError: there is none of that name; the message lists those there are.
    """
    if name not in query_names():
        raise UsageError(f"no query named {name!r}; there are: {', '.join(query_names())}")
    return (resources.files("console") / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def statement_of(asked: str) -> str:
    """The SQL of what a user typed: a shipped query's if it is one word, else the text itself.

    Raises:
        UsageError: no shipped query has that name; or there is no text, or it is not UTF-8.
    """
    if asked.replace("_", "").isalnum():
        return named_query(asked)
    if not asked.strip():
        raise UsageError(f"the query is empty; type SQL or one of: {', '.join(query_names())}")
    try:
        asked.encode()
    except UnicodeEncodeError as error:  # how Python hands on bytes of an argument that are not text
        raise UsageError(f"the query is not UTF-8 from character {error.start + 1} on") from error
    return asked


def run_query(athena: Any, sql: str, *, workgroup: str, database: str, timeout_s: float = 120.0) -> QueryAnswer:
    """Run one statement and return its whole answer.

    Args:
        athena: boto3 client.
        sql: one statement, in Athena's dialect, without a final semicolon.
        workgroup: says where results go.
        database: where unqualified table names are looked up.
        timeout_s: a query that runs longer is stopped.

    Raises:
        UsageError: Athena refused or failed the statement; the message is Athena's.
        PortFailure: Athena did not answer, failed by its own fault, or took too long.
    """
    try:
        query_id = athena.start_query_execution(
            QueryString=sql, WorkGroup=workgroup, QueryExecutionContext={"Database": database}
        )["QueryExecutionId"]
        execution = _wait(athena, query_id, timeout_s)
        return _fetch(athena, query_id, has_header=execution.get("StatementType", "DML") == "DML")
    except ClientError as error:
        if error.response["Error"]["Code"] == "InvalidRequestException":
            raise UsageError(f"Athena refused the query: {error.response['Error']['Message']}") from error
        raise PortFailure(f"Athena: {error}") from error
    except BotoCoreError as error:
        raise PortFailure(f"Athena: {error}") from error


def _wait(athena: Any, query_id: str, timeout_s: float) -> dict[str, Any]:
    ends_at = time.monotonic() + timeout_s
    pause_s = _FIRST_LOOK_S
    while True:
        execution: dict[str, Any] = athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
        status = execution["Status"]
        reason = status.get("StateChangeReason") or "no reason given"
        if status["State"] == "SUCCEEDED":
            return execution
        if status["State"] == "FAILED":
            if status.get("AthenaError", {}).get("ErrorCategory") == _SYSTEM_ERROR:
                raise PortFailure(f"Athena failed: {reason}")
            raise UsageError(f"the query failed: {reason}")
        if status["State"] == "CANCELLED":
            raise PortFailure(f"the query was cancelled: {reason}")
        if time.monotonic() >= ends_at:
            athena.stop_query_execution(QueryExecutionId=query_id)
            raise PortFailure(f"the query was stopped after {timeout_s:g} s")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _SLOWEST_LOOK_S)


def _fetch(athena: Any, query_id: str, *, has_header: bool) -> QueryAnswer:
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = []
    request: dict[str, Any] = {"QueryExecutionId": query_id, "MaxResults": _PAGE_ROWS}
    first = True
    while True:
        page = athena.get_query_results(**request)
        raw_rows = page["ResultSet"]["Rows"]
        if first:
            info = page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
            columns = tuple(column["Name"] for column in info)
            types = tuple(column["Type"] for column in info)
            if has_header:  # a SELECT's first page begins with the column names
                raw_rows = raw_rows[1:]
            first = False
        for row in raw_rows:
            rows.append(
                tuple(_typed(datum.get("VarCharValue"), kind) for datum, kind in zip(row["Data"], types, strict=True))
            )
        if not page.get("NextToken"):
            return QueryAnswer(columns, types, rows)
        request["NextToken"] = page["NextToken"]


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("tinyint", "smallint", "integer", "int", "bigint"), int),
    **dict.fromkeys(("float", "real", "double"), float),
    "decimal": Decimal,
    "boolean": lambda text: text == "true",
}


def _in_json(value: Any) -> Any:
    if isinstance(value, Decimal) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _typed(text: str | None, athena_type: str) -> Any:
    if text is None:
        return None
    return _READERS.get(athena_type.partition("(")[0], str)(text)
