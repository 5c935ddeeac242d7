"""A pipeline whose Athena answers every statement with the statement itself, as values of all types."""

from __future__ import annotations

from typing import Any


class EchoingAthena:
    """Stands for a running pipeline: `client` and `output` are all that a query asks of it."""

    def __init__(self) -> None:
        self._statement = ""

    def client(self, service: str) -> EchoingAthena:
        assert service == "athena"
        return self

    def output(self, name: str) -> str:
        return name

    def start_query_execution(self, *, QueryString: str, **request: Any) -> dict[str, Any]:
        self._statement = QueryString
        return {"QueryExecutionId": "q"}

    def get_query_execution(self, QueryExecutionId: str) -> dict[str, Any]:
        state = {"State": "SUCCEEDED"}
        if "fail" in self._statement:
            state = {"State": "FAILED", "StateChangeReason": f"line 1:1: mismatched input {self._statement!r}"}
        return {"QueryExecution": {"StatementType": "DML", "Status": state}}

    def get_query_results(self, QueryExecutionId: str, MaxResults: int) -> dict[str, Any]:
        columns = {self._statement or "_col0": "varchar", "n": "bigint", "cost": "decimal(10,2)", "share": "double"}
        rows: list[list[str | None]] = [
            [*columns],
            [self._statement, "7", "1.20", "NaN"],
            [None, None, None, "-Infinity"],
        ]
        return {
            "ResultSet": {
                "Rows": [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in rows],
                "ResultSetMetadata": {"ColumnInfo": [{"Name": n, "Type": t} for n, t in columns.items()]},
            }
        }
