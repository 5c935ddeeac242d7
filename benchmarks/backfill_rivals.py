"""The handbook's twelve windows in DuckDB's SQL and in Polars, on one thread each; run by `benchmarks.backfill`.

    python -m benchmarks.backfill_rivals duckdb|polars FILE REPEATS

Runs in a virtual environment of its own, from requirements/bench.lock. The table is in memory before the clock starts.
Prints one JSON document: CPU seconds of each repeat, and the sum of every column, by which the results are compared.
Two purchases of one card in one second count each other here, where ours lets only the earlier one count.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

os.environ["POLARS_MAX_THREADS"] = "1"

DAYS = (1, 7, 30)
DELAY_DAYS = 7


def duckdb_windows(file: str) -> Callable[[], dict[str, float]]:
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    connection.execute("CREATE TABLE history AS SELECT * FROM read_parquet(?)", [file])
    columns = [
        "TRANSACTION_ID",
        "TX_AMOUNT",
        "CAST(isodow(TX_DATETIME) >= 6 AS DOUBLE) AS weekend",
        "CAST(hour(TX_DATETIME) <= 6 AS DOUBLE) AS night",
    ]
    windows = []
    for days in DAYS:
        columns.append(f"CAST(count(*) OVER card_{days} AS DOUBLE) AS card_count_{days}")
        columns.append(f"avg(TX_AMOUNT) OVER card_{days} AS card_mean_{days}")
        windows.append(
            f"card_{days} AS (PARTITION BY CUSTOMER_ID ORDER BY TX_DATETIME RANGE BETWEEN "
            f"INTERVAL {days * 86_400_000 - 1} MILLISECONDS PRECEDING AND CURRENT ROW)"
        )
    for days in DAYS:
        columns.append(f"CAST(count(*) OVER terminal_{days} AS DOUBLE) AS terminal_count_{days}")
        columns.append(
            f"CASE WHEN count(*) OVER terminal_{days} = 0 THEN 0.0 "
            f"ELSE sum(TX_FRAUD) OVER terminal_{days} / count(*) OVER terminal_{days} END AS terminal_risk_{days}"
        )
        windows.append(
            f"terminal_{days} AS (PARTITION BY TERMINAL_ID ORDER BY TX_DATETIME RANGE BETWEEN "
            f"INTERVAL {(days + DELAY_DAYS) * 86_400_000 - 1} MILLISECONDS PRECEDING AND "
            f"INTERVAL {DELAY_DAYS} DAYS PRECEDING)"
        )
    query = f"CREATE OR REPLACE TABLE answers AS SELECT {', '.join(columns)} FROM history WINDOW {', '.join(windows)}"  # noqa: S608

    def run() -> dict[str, float]:
        connection.execute(query)
        names = [column.split()[-1] for column in columns[1:]]
        sums = connection.execute(f"SELECT {', '.join(f'sum({name})' for name in names)} FROM answers").fetchone()  # noqa: S608
        return dict(zip(names, map(float, sums or ()), strict=True))

    return run


def polars_windows(file: str) -> Callable[[], dict[str, float]]:
    import polars as pl

    table = pl.read_parquet(file)
    table = table.with_columns(pl.col("TX_DATETIME").cast(pl.Datetime("ms"))).sort("TX_DATETIME", maintain_order=True)

    def run() -> dict[str, float]:
        answers = table.with_columns(
            (pl.col("TX_DATETIME").dt.weekday() >= 6).cast(pl.Float64).alias("weekend"),
            (pl.col("TX_DATETIME").dt.hour() <= 6).cast(pl.Float64).alias("night"),
        )
        names = ["TX_AMOUNT", "weekend", "night"]
        for key, entity, offset in (("CUSTOMER_ID", "card", 0), ("TERMINAL_ID", "terminal", DELAY_DAYS)):
            ordered = answers.sort(key, "TX_DATETIME", maintain_order=True)
            parts = [ordered]
            for days in DAYS:
                value = pl.col("TX_AMOUNT").mean() if entity == "card" else pl.col("TX_FRAUD").cast(pl.Float64).mean()
                rolled = ordered.rolling(
                    "TX_DATETIME", period=f"{days}d", offset=f"-{days + offset}d", closed="right", group_by=key
                ).agg(
                    pl.len().cast(pl.Float64).alias(f"{entity}_count_{days}"),
                    value.fill_null(0.0).alias(f"{entity}_{'mean' if entity == 'card' else 'risk'}_{days}"),
                )
                parts.append(rolled.drop(key, "TX_DATETIME"))
                names += parts[-1].columns
            answers = pl.concat(parts, how="horizontal")
        return {name: float(answers[name].sum()) for name in names}

    return run


def main() -> None:
    library, file, repeats = sys.argv[1:]
    run = {"duckdb": duckdb_windows, "polars": polars_windows}[library](file)
    seconds, sums = [], {}
    for _ in range(int(repeats)):
        started = time.process_time()
        sums = run()
        seconds.append(time.process_time() - started)
    version = __import__(library).__version__
    print(json.dumps({"library": f"{library} {version}", "seconds": seconds, "sums": sums}))


if __name__ == "__main__":
    main()
