"""`fraudstream demo`: the main job from nothing to a summary."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from console.options import exit_codes, iso_utc, progress
from console.running import Pipeline, running_pipeline
from stream_features.errors import PipelineError

if TYPE_CHECKING:
    from rich.console import Console

HISTORY = 60_000
_DAY_MS = 86_400_000
DAYS = 70.0
LABEL_GAP_MS = 7 * _DAY_MS
SEED = 20
_QUERY = "decisions_by_outcome"


@dataclass
class Phases:
    """Seconds per phase, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        progress(f"▸ {name}")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


@click.command("demo")
@click.option(
    "--transactions", type=click.IntRange(min=100), default=10_000, show_default=True, help="How many to publish."
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=500.0, show_default=True, help="Per second."
)
@exit_codes
def demo_command(transactions: int, rate: float) -> None:
    r"""Start the local AWS, train on simulated history, bootstrap, publish, show live, sum up; leaves it running.

    \b
    Example:
      fraudstream demo
      fraudstream demo --transactions 2000
    """
    from rich.console import Console

    console = Console()
    run_demo(transactions, rate, console if console.is_terminal else Console(width=120))


def run_demo(transactions: int, rate: float, console: Console) -> None:
    """Run every phase, then print the summary.

    Raises:
        PipelineError: the lake and the table disagree, or a phase failed.
    """
    from console.background import Publishing
    from console.bootstrap import bootstrap
    from console.export import export_decisions
    from console.live import follow
    from console.training import evaluate_export, train_file
    from local.run import state_folder
    from local.up import down, up
    from model.training_run import TrainingPlan
    from producers.file_writer import write_transactions
    from producers.simulator import simulate

    phases = Phases()
    with phases.phase("stop what ran before"):
        down(keep=False)
    folder = state_folder() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "transactions.parquet"
    with phases.phase(f"simulate {HISTORY + transactions:,} transactions"):
        rows = list(simulate(HISTORY + transactions, seed=SEED, end_ms=int(time.time() * 1_000), days=DAYS))
        write_transactions(file, rows)
        live_from_ms = rows[HISTORY].transaction.event_time_ms
    with phases.phase("train on the history"):
        plan = TrainingPlan(until_ms=live_from_ms - LABEL_GAP_MS)
        trained = train_file(file, None, "core", plan, out=folder / "model", progress=progress)
    with phases.phase("start the local AWS, deploy, start the endpoint"):
        up(
            target="embedded",
            engine="lambda",
            feature_set="core",
            model_artifact=trained.artifact_path,
            progress=progress,
        )
    pipeline = running_pipeline()
    with phases.phase("bootstrap the state of every card and merchant"):
        progress(bootstrap(pipeline, file, None, until_ms=live_from_ms, progress=progress).summary())
    with phases.phase(f"publish {transactions:,} at {rate:g}/s and decide them"):
        expected = sum(row.transaction.event_time_ms >= live_from_ms for row in rows)
        publishing = Publishing.start(file, live_from_ms, rate)
        status = follow(
            pipeline,
            lambda s: publishing.finished() and s.published >= expected and s.in_flight == 0,
            console=console,
        )
        sent = publishing.summary()
    with phases.phase("deliver the lake, ask Athena, evaluate"):
        answer = lake_answer(pipeline)
        export = folder / "decisions.parquet"
        export_decisions(pipeline.client("dynamodb"), pipeline.output("DecisionsTableName"), pipeline.features, export)
        figures = evaluate_export(export, file, None)
    show_summary(console, phases, sent, figures, answer, folder, pipeline, live_from_ms, trained.summary())
    if status.decided != expected:
        raise PipelineError(f"{expected} valid transactions were published but {status.decided} decided")


def lake_answer(pipeline: Pipeline) -> list[tuple[str, int, int]]:
    """Count and amount per outcome from Athena, checked against the table.

    Returns:
        (outcome, transactions, minor units) rows in outcome order.

    Raises:
        PipelineError: the lake's answer differs from the table's.
    """
    from console.lake import named_query, run_query
    from local.firehose.control import request_flush

    request_flush(pipeline.state_dir / "firehose", timeout_s=60)
    answer = run_query(
        pipeline.client("athena"),
        named_query(_QUERY),
        workgroup=pipeline.output("AthenaWorkgroupName"),
        database=pipeline.output("GlueDatabaseName"),
    )
    wanted = [answer.columns.index(name) for name in ("decision", "transactions", "amount_minor")]
    lake = sorted((str(row[wanted[0]]), int(row[wanted[1]]), int(row[wanted[2]])) for row in answer.rows)
    table = outcomes_in_table(pipeline)
    if lake != table:
        raise PipelineError(f"the lake says {lake}, the table says {table}")
    return lake


def outcomes_in_table(pipeline: Pipeline) -> list[tuple[str, int, int]]:
    """Count and amount per outcome over the decisions table, in outcome order."""
    counts: Counter[str] = Counter()
    amounts: Counter[str] = Counter()
    pages = (
        pipeline.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=pipeline.output("DecisionsTableName"), ProjectionExpression="document")
    )
    for page in pages:
        for item in page["Items"]:
            document = json.loads(item["document"]["S"])
            counts[document["decision"]] += 1
            amounts[document["decision"]] += document["amount_minor"]
    return sorted((outcome, counts[outcome], amounts[outcome]) for outcome in counts)


def show_summary(
    console: Console,
    phases: Phases,
    sent: str,
    figures: dict[str, float | int],
    answer: list[tuple[str, int, int]],
    folder: Path,
    pipeline: Pipeline,
    live_from_ms: int,
    trained: str,
) -> None:
    """What happened, how long it took, where it lies, what to try, how to stop."""
    from rich.table import Table

    seconds = Table("phase", "seconds", title="time")
    for name, taken in phases.seconds.items():
        seconds.add_row(name, f"{taken:.1f}")
    seconds.add_row("all", f"{sum(phases.seconds.values()):.1f}")
    quality = Table("figure", "value", title="against the simulator's truth")
    for name, value in figures.items():
        quality.add_row(name, f"{value:.4f}" if isinstance(value, float) else f"{value:,}")
    outcomes = Table(
        "decision", "transactions", "amount (minor)", title=f"Athena: {_QUERY} (equal to the same over DynamoDB)"
    )
    for outcome, transactions, amount in answer:
        outcomes.add_row(outcome, f"{transactions:,}", f"{amount:,}")
    console.print(seconds, quality, outcomes)
    console.print(sent, trained, sep="\n", highlight=False)
    console.print(
        f"evaluated: everything from {iso_utc(live_from_ms)} on; training ended {LABEL_GAP_MS // _DAY_MS} days before",
        f"transactions, model and decisions: {folder}",
        f"logs: {pipeline.state_dir / 'logs'}   local AWS: {pipeline.run.endpoint_url}",
        "look around:  .venv/bin/fraudstream status · watch · query · explain TRANSACTION_ID · quarantine list",
        "stop:         .venv/bin/fraudstream down",
        sep="\n",
        highlight=False,
    )
