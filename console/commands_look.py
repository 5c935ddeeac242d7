"""`status`, `watch`, `query`, `explain`, `label`, `consistency`: looking into the running pipeline."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from console.options import INSTANT, QUERY, exit_codes, progress, require_range
from stream_features.errors import UsageError

if TYPE_CHECKING:
    from stream_features.label import LabelSource


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def status_command(as_json: bool) -> None:
    r"""Counts, lag and latency percentiles by stage.

    \b
    Example:
      fraudstream status
      fraudstream status --json
    """
    from console.running import running_pipeline
    from console.status import read_status

    status = read_status(running_pipeline().run)
    click.echo(status.as_json() if as_json else status.as_text())


@click.command("watch")
@click.option("--seconds", type=click.FloatRange(min=0), default=None, help="Stop after this long (default: Ctrl-C).")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=None,
    help="Seconds between two looks (0.5; without a terminal 5).",
)
@exit_codes
def watch_command(seconds: float | None, interval_s: float | None) -> None:
    r"""Watch counts, lag, latency and the newest alerts with their reasons; Ctrl-C ends it.

    \b
    Example:
      fraudstream watch
      fraudstream watch --seconds 30 --interval 2
    """
    try:
        from console.live import watch
        from console.running import running_pipeline

        watch(running_pipeline(), seconds, interval_s)
    except KeyboardInterrupt:
        return  # how it is meant to end


@click.command("query")
@click.argument("sql", type=QUERY, metavar="SQL|NAME", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def query_command(sql: str | None, as_json: bool) -> None:
    r"""Run SQL, or a shipped query by its name, over the lake through Athena; without an argument list the names.

    \b
    Example:
      fraudstream query decisions_by_outcome
      fraudstream query "select count(distinct transaction_id) as transactions from decisions"
    """
    from console.lake import query_names, run_query, statement_of
    from console.running import running_pipeline

    if sql is None:
        for name in query_names():
            click.echo(name)
        return
    statement = statement_of(sql)
    pipeline = running_pipeline()
    answer = run_query(
        pipeline.client("athena"),
        statement,
        workgroup=pipeline.output("AthenaWorkgroupName"),
        database=pipeline.output("GlueDatabaseName"),
    )
    if as_json:
        click.echo(answer.as_json())
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # a pipe has no width to wrap at
    console.print(answer.as_table())


@click.command("explain")
@click.argument("transaction_id")
@click.option("--history", type=click.IntRange(min=0), default=10, show_default=True, help="Of the card's past.")
@click.option("--no-archive", is_flag=True, help="Do not compute its features again: that reads the whole archive.")
@click.option("--json", "as_json", is_flag=True, help="The decision's fields and its explanation, as one document.")
@exit_codes
def explain_command(transaction_id: str, history: int, no_archive: bool, as_json: bool) -> None:
    r"""Explain one decision: features with the past they came from, contributions, rules, and all of it computed again.

    Exit 1 if what is computed again differs from what is stored, or if nothing is known of the transaction.

    \b
    Example:
      fraudstream explain sim-1-42
      fraudstream explain sim-1-42 --history 50 --json
    """
    from console.explain import NoDecision, explain, stored_decision
    from console.explain_text import explanation_document, explanation_lines
    from console.running import running_pipeline
    from console.whereabouts import find

    pipeline = running_pipeline()
    try:
        decision = stored_decision(pipeline, transaction_id)
    except NoDecision:
        nowhere = find(pipeline, transaction_id)
        unknown = nowhere.state == "unknown"
        said = json.dumps(nowhere.document()) if as_json else "\n".join(nowhere.lines())
        click.echo(said, err=unknown and not as_json)
        sys.exit(1 if unknown else 0)
    found = explain(pipeline, decision, from_archive=not no_archive, progress=progress)
    if as_json:
        click.echo(json.dumps(explanation_document(found, history=history)))
    else:
        for line in explanation_lines(found, history=history):
            click.echo(line)
    sys.exit(0 if found.holds else 1)


@click.command("label")
@click.argument("transaction_id")
@click.option("--fraud/--legitimate", "is_fraud", default=None, help="What it was.")
@click.option(
    "--source",
    type=click.Choice(["analyst", "chargeback", "customer"]),
    default="analyst",
    show_default=True,
    help="Who says so.",
)
@click.option("--reported-at", "reported_at_ms", type=INSTANT, default=None, help="When it was said (default: now).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def label_command(
    transaction_id: str, is_fraud: bool | None, source: LabelSource, reported_at_ms: int | None, as_json: bool
) -> None:
    r"""Report a decided transaction as fraud or as legitimate; return when the report is recorded.

    Of several reports the one with the later time holds.

    \b
    Example:
      fraudstream label sim-1-42 --fraud
      fraudstream label sim-1-42 --legitimate --source customer
    """
    import time

    from console.labelling import report
    from console.running import running_pipeline

    if is_fraud is None:
        raise UsageError("say which it was: --fraud or --legitimate")
    now_ms = time.time_ns() // 1_000_000
    reported = report(
        running_pipeline(),
        transaction_id,
        is_fraud=is_fraud,
        source=source,
        reported_at_ms=now_ms if reported_at_ms is None else reported_at_ms,
    )
    click.echo(json.dumps(reported.document()) if as_json else "\n".join(reported.lines()))


@click.command("consistency")
@click.option("--from", "from_ms", type=INSTANT, default=None, help="First event time, inclusive.")
@click.option("--until", "until_ms", type=INSTANT, default=None, help="Last event time, exclusive.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def consistency_command(from_ms: int | None, until_ms: int | None, as_json: bool) -> None:
    r"""Compute served features again from archive, decisions and labels; exit 1 if any value differs in any bit.

    \b
    Example:
      fraudstream consistency
      fraudstream consistency --from 2018-08-08 --until 2018-08-09 --json
    """
    from console.recheck import check_consistency
    from console.running import running_pipeline

    require_range(from_ms, until_ms)
    found = check_consistency(running_pipeline(), from_ms=from_ms, until_ms=until_ms, progress=progress)
    click.echo(found.as_json() if as_json else found.as_text())
    sys.exit(0 if found.holds else 1)
