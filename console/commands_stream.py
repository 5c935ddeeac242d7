"""`simulate`, `publish`, `score`, `bootstrap`: what goes into the pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

import click

from console.options import (
    DURATION,
    INSTANT,
    MAPPING,
    SPEED,
    exit_codes,
    iso_utc,
    progress,
    require_folder_of,
    require_range,
)
from stream_features.errors import UsageError


@click.command("simulate")
@click.argument("count", type=click.IntRange(min=1))
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same transactions.")
@click.option("--days", type=float, default=30.0, show_default=True, help="Days of event time they cover.")
@click.option("--until", type=INSTANT, default=None, help="Time of the last transaction (default: now).")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help=".parquet, .csv or .jsonl")
@exit_codes
def simulate_command(count: int, seed: int, days: float, until: int | None, out: Path) -> None:
    r"""Write COUNT simulated transactions with their labels to a file.

    \b
    Example:
      fraudstream simulate 50000 --seed 7 --days 60 --out history.parquet
    """
    from producers.file_writer import write_transactions
    from producers.simulator import simulate

    require_folder_of(out)
    end_ms = until if until is not None else int(time.time() * 1_000)
    rows = list(simulate(count, seed=seed, end_ms=end_ms, days=days))
    write_transactions(out, rows)
    fraud = sum(row.is_fraud for row in rows)
    first, last = rows[0].transaction.event_time_ms, rows[-1].transaction.event_time_ms
    click.echo(f"{out}: {count} transactions from {iso_utc(first)} to {iso_utc(last)}, {fraud} fraudulent")


@click.command("publish")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--mapping", type=MAPPING, default=None, help="handbook, sparkov or TOML: the columns of a foreign FILE.")
@click.option("--from", "from_ms", type=INSTANT, default=None, help="First event time, inclusive.")
@click.option("--until", "until_ms", type=INSTANT, default=None, help="Last event time, exclusive.")
@click.option(
    "--label-delay", "label_delay_ms", type=DURATION, default=None, help="Report each row's label after this (5d)."
)
@click.option("--speed", type=SPEED, default=None, help="max (default), realtime or Nx of event time.")
@click.option("--simulate", "simulated", type=click.IntRange(min=1), help="Publish this many simulated transactions.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulator and of injected faults.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=None, help="Transactions per second.")
@click.option("--bad-share", type=click.FloatRange(0, 1), default=0.0, help="Share of garbage records to add.")
@click.option("--duplicate-share", type=click.FloatRange(0, 1), default=0.0, help="Share of records to send twice.")
@click.option("--lockstep", is_flag=True, help="One bucket of event time at a time, each decided before the next.")
@click.option("--wait", is_flag=True, help="Return when nothing is in flight any more and labels are applied.")
@exit_codes
def publish_command(
    file: Path | None,
    mapping: str | None,
    from_ms: int | None,
    until_ms: int | None,
    label_delay_ms: int | None,
    speed: float | None,
    simulated: int | None,
    seed: int,
    rate: float | None,
    bad_share: float,
    duplicate_share: float,
    lockstep: bool,
    wait: bool,
) -> None:
    r"""Publish transactions from FILE, or simulated ones, in event-time order.

    \b
    Example:
      fraudstream publish --simulate 10000 --rate 500 --wait
      fraudstream publish day.parquet --mapping handbook --from 2018-08-08 --until 2018-08-09 --wait
    """
    from console.publishing import Replay, publish_file, publish_simulated

    if (file is None) == (simulated is None):
        raise UsageError("give either a FILE or --simulate N")
    pacing = Replay(speed=speed, rate=rate, lockstep=lockstep, wait=wait, progress=progress)
    if file is not None:
        require_range(from_ms, until_ms)
        if bad_share or duplicate_share:
            raise UsageError("--bad-share and --duplicate-share go with --simulate")
        sent = publish_file(file, mapping, from_ms, until_ms, label_delay_ms, pacing)
    else:
        if mapping or from_ms is not None or until_ms is not None:
            raise UsageError("--mapping, --from and --until go with a FILE")
        sent = publish_simulated(simulated or 0, seed, label_delay_ms, bad_share, duplicate_share, pacing)
    click.echo(sent.summary())


@click.command("score")
@click.argument("file", type=click.File("rb"))
@click.option("--publish", is_flag=True, help="Have the API publish the transactions as well.")
@click.option("--budget-ms", type=int, default=None, help="Within which the API answers (1500 to 25000).")
@click.option("--url", default=None, help="Of a deployed API (output ScoreApiUrl), with your own AWS credentials.")
@exit_codes
def score_command(file: BinaryIO, publish: bool, budget_ms: int | None, url: str | None) -> None:
    r"""Ask the score API for a decision on every line of FILE (- for stdin), one transaction as JSON each.

    A decision a line goes to stdout, as JSON. Lines that have none are named on stderr, and the exit code is 1.

    \b
    Example:
      fraudstream simulate 10 --out some.jsonl
      fraudstream score some.jsonl --publish
      echo '{"transaction_id": "t-1", "event_time_ms": 1760000000000, "card_id": "card-1", "merchant_id": "m-1", \
             "amount_minor": 1250, "currency": "EUR"}' | fraudstream score -
    """
    from console.asking import client_at, client_of, payloads
    from console.running import running_pipeline
    from stream_features.errors import MalformedRecord

    if file.name.endswith((".parquet", ".csv")):
        raise UsageError(f"{file.name}: the score API takes JSON; simulate --out some.jsonl writes such a file")
    client = client_at(url) if url else client_of(running_pipeline().run)
    refused = 0
    for number, payload in enumerate(payloads(file), start=1):
        try:
            document = client.score_payload(payload, publish=publish or None, budget_ms=budget_ms)
        except MalformedRecord as error:
            refused += 1
            click.echo(f"transaction {number}: {error}", err=True)
        else:
            click.echo(document.decode())
    if refused:
        raise click.ClickException(f"{refused} without a decision")


@click.command("bootstrap")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--mapping", type=MAPPING, default=None, help="handbook, sparkov or TOML: the columns of a foreign FILE.")
@click.option("--until", "until_ms", type=INSTANT, default=None, help="T: load event times before it (default: all).")
@click.option("--label-delay", "label_delay_ms", type=DURATION, default=None, help="Delay of each row's label (5d).")
@exit_codes
def bootstrap_command(file: Path, mapping: str | None, until_ms: int | None, label_delay_ms: int | None) -> None:
    r"""Load what happened and what was reported before T in FILE into the online state; nothing is scored.

    \b
    Example:
      fraudstream bootstrap history.parquet --until 2018-08-08 --label-delay 5d
    """
    from console.bootstrap import bootstrap
    from console.running import running_pipeline

    loaded = bootstrap(
        running_pipeline(), file, mapping, until_ms=until_ms, label_delay_ms=label_delay_ms, progress=progress
    )
    click.echo(loaded.summary())
