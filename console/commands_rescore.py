"""`rescore`: what was decided while the endpoint was down gets its score."""

from __future__ import annotations

import json

import click

from console.options import INSTANT, exit_codes
from stream_features.errors import PipelineError


@click.command("rescore")
@click.option("--from", "from_ms", type=INSTANT, default=None, help="First arrival in the stream, inclusive.")
@click.option("--until", "until_ms", type=INSTANT, default=None, help="Last arrival in the stream, exclusive.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def rescore_command(from_ms: int | None, until_ms: int | None, as_json: bool) -> None:
    r"""Ask the endpoint about degraded decisions, with the features that are stored, and replace them.

    The policy in force decides. Each is replaced once, published, and alerted where the verdict is worse than before.
    Running it again, also after a crash, goes on where it stopped. Exit 1 if a degraded decision is left.

    \b
    Example:
      fraudstream rescore
      fraudstream rescore --from 2026-11-28T09:00 --until 2026-11-28T10:00 --json
    """
    from console.policies import PolicyStore
    from console.running import running_pipeline
    from console.tables import rescore_ports, tables_of
    from lambdas.judging import Judge
    from lambdas.ports import ScorerDown
    from lambdas.rescoring import Rescoring

    pipeline = running_pipeline()
    judge = Judge(PolicyStore(pipeline).published().policy, pipeline.features)
    tables = tables_of(pipeline)
    rescoring = Rescoring(rescore_ports(pipeline, tables), judge, pipeline.features, tables.committer)
    try:
        outcome = rescoring.rescore(from_ms=from_ms, until_ms=until_ms)
    except ScorerDown as error:
        raise PipelineError(
            f"the endpoint is still down ({error}); what was rescored stays, run it again when the endpoint answers"
        ) from error
    outcomes = {f"{then} -> {now}": count for (then, now), count in sorted(outcome.outcomes.items())}
    if as_json:
        document = {"found": outcome.found, "rescored": outcome.rescored, "outcomes": outcomes}
        document |= {"alerted": outcome.alerted, "told_again": outcome.told_again, "left": outcome.left}
        click.echo(json.dumps(document | {"policy_version": judge.policy.policy_version}))
    else:
        click.echo(f"{outcome.rescored} of {outcome.found} degraded decisions rescored, {outcome.alerted} new alerts")
        for change, count in outcomes.items():
            click.echo(f"  {count} {change}")
        if outcome.told_again:
            click.echo(f"  {outcome.told_again} published that an interrupted run had replaced")
    if outcome.left:
        raise PipelineError("\n".join(f"{key}: not rescored: {why}" for key, why in sorted(outcome.left.items())))
