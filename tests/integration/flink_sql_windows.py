"""Counts and sums of cards from Flink SQL alone; run by the interpreter of .venv-flink, imports nothing of ours.

    python flink_sql_windows.py INPUT OUTPUT PRECEDING

INPUT: a CSV file of transaction id, card, event time (ms), amount (cents) and type, without a header. OUTPUT: a folder
that does not exist. PRECEDING: a JSON object, a window's name to how many ms before a row it begins, that millisecond
included. A row of the output is the id, then count and sum of each window in the order of PRECEDING.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment


def ask(tables: TableEnvironment, source: str, answer: str, preceding: dict[str, int]) -> None:
    tables.execute_sql(
        "CREATE TABLE tx (id STRING, card STRING, event_ms BIGINT, cents BIGINT, kind STRING) WITH "
        f"('connector' = 'filesystem', 'path' = '{Path(source).as_uri()}', 'format' = 'csv')"
    )
    columns = ", ".join(f"count_{name} BIGINT, sum_{name} BIGINT" for name in preceding)
    tables.execute_sql(
        f"CREATE TABLE windows (id STRING, {columns}) WITH "
        f"('connector' = 'filesystem', 'path' = '{Path(answer).as_uri()}', 'format' = 'csv')"
    )
    values = ", ".join(
        f"COUNT(CASE WHEN kind = 'purchase' THEN 1 END) OVER w_{name}, "
        f"SUM(CASE WHEN kind = 'purchase' THEN cents ELSE 0 END) OVER w_{name}"
        for name in preceding
    )
    named = ", ".join(
        f"w_{name} AS (PARTITION BY card ORDER BY event_ms RANGE BETWEEN {ms} PRECEDING AND CURRENT ROW)"
        for name, ms in preceding.items()
    )
    tables.execute_sql(f"INSERT INTO windows SELECT id, {values} FROM tx WINDOW {named}").wait()


def main(source: str, answer: str, preceding: str) -> None:
    configuration = Configuration()
    for key, value in {
        "parallelism.default": "1",
        "taskmanager.memory.managed.size": "64m",
        # The mini cluster's own servers.
        "rest.bind-address": "127.0.0.1",
        "rest.address": "127.0.0.1",
        "rest.bind-port": "0",
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
    }.items():
        configuration.set_string(key, value)
    settings = EnvironmentSettings.new_instance().in_batch_mode().with_configuration(configuration).build()
    ask(TableEnvironment.create(settings), source, answer, json.loads(preceding))


if __name__ == "__main__":
    main(*sys.argv[1:])
