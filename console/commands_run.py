"""`up`, `down`, `switch-engine`, `env`, `doctor`: the life of the local pipeline."""

from __future__ import annotations

import json
import os
import shlex
import sys

import click

from console.options import FEATURE_SET, exit_codes, progress


@click.command("up")
@click.option(
    "--target",
    type=click.Choice(["embedded", "localstack"]),
    default=None,
    help="Which local AWS (default: what is kept, else embedded).",
)
@click.option(
    "--engine",
    type=click.Choice(["lambda", "flink"]),
    default=None,
    help="What computes the windows (default: what is kept, else lambda).",
)
@click.option(
    "--feature-set",
    "feature_set_name",
    type=FEATURE_SET,
    default=None,
    help="Which features (default: what is kept, else core).",
)
@click.option(
    "--endpoint-url",
    metavar="URL",
    default=None,
    help="With --target localstack: a LocalStack that runs already (default: AWS_ENDPOINT_URL, else one is started).",
)
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, then stop everything.")
@exit_codes
def up_command(
    target: str | None, engine: str | None, feature_set_name: str | None, endpoint_url: str | None, foreground: bool
) -> None:
    r"""Start the local AWS and deploy the pipeline; return when a transaction would be decided.

    \b
    Example:
      fraudstream up
      fraudstream up --engine flink --feature-set core --foreground
      fraudstream up --target localstack --endpoint-url http://127.0.0.1:4566
    """
    from local.up import chosen_before, down, up, wait_in_foreground

    before = chosen_before() or ("embedded", "lambda", "core")
    if endpoint_url is None and target == "localstack":
        endpoint_url = os.environ.get("AWS_ENDPOINT_URL") or None
    ours = False
    try:
        run = up(
            target or before[0], engine or before[1], feature_set_name or before[2], progress, endpoint_url=endpoint_url
        )
        ours = True
        click.echo(f"ready: {run.target} AWS at {run.endpoint_url}, engine {run.engine}, feature set {run.feature_set}")
        click.echo("  point your tools at it:  eval $(.venv/bin/fraudstream env)")
        if foreground:
            click.echo("  Ctrl-C stops it")
            wait_in_foreground(run)
    except KeyboardInterrupt:
        ours = True  # it may come as soon as the run stands, before anything here knows of it
        raise
    finally:
        if foreground and ours:
            down(keep=False)


@click.command("down")
@click.option("--keep", is_flag=True, help="Save streams, tables and lake for the next `up`.")
@exit_codes
def down_command(keep: bool) -> None:
    r"""End every process of the run; discard its streams, tables and lake unless --keep is given.

    \b
    Example:
      fraudstream down
      fraudstream down --keep
    """
    from local.up import down

    down(keep=keep)
    click.echo("stopped; state kept for the next up" if keep else "stopped; nothing of the run is left")


@click.command("switch-engine")
@click.argument("engine", type=click.Choice(["lambda", "flink"]))
@exit_codes
def switch_engine_command(engine: str) -> None:
    r"""Have ENGINE decide from where the present one stops; nothing is lost or decided twice.

    The run restarts on its data, so publishers meet a few seconds without Kinesis.

    \b
    Example:
      fraudstream switch-engine flink
    """
    from console.running import running_pipeline
    from console.switching import switch_engine

    run = switch_engine(running_pipeline(), engine, progress)
    click.echo(f"ready: engine {run.engine}, {run.target} AWS at {run.endpoint_url}")


@click.command("env")
@exit_codes
def env_command() -> None:
    r"""Print `export` lines that point boto3, the AWS CLI or SAM at the running pipeline, and SCORE_API_URL.

    \b
    Example:
      eval $(fraudstream env)
    """
    from console.asking import local_url
    from console.running import running_pipeline
    from local.run import aws_environment

    run = running_pipeline().run
    for name, value in sorted({**aws_environment(run), "SCORE_API_URL": local_url(run)}.items()):
        click.echo(f"export {name}={shlex.quote(value)}")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def doctor_command(as_json: bool) -> None:
    r"""Check machine, virtual environments, optional engines and the running pipeline; say what to type.

    Exit 1 if something is missing that is needed.

    \b
    Example:
      fraudstream doctor
      fraudstream doctor --json
    """
    from console.doctor import examine
    from console.findings import finding_lines, findings_document, is_well
    from console.targets import target_lines, targets_document

    findings = examine()
    if as_json:
        click.echo(json.dumps(findings_document(findings) | {"targets": targets_document()}))
    else:
        for line in (*finding_lines(findings), "", *target_lines()):
            click.echo(line)
    sys.exit(0 if is_well(findings) else 1)
