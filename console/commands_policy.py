"""`policy` and `lists`: what decides beside the model."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from console.options import (
    DURATION,
    FEATURE_SET,
    INSTANT,
    exit_codes,
    iso_utc,
    progress,
    require_folder_of,
    require_range,
)
from stream_features.errors import UsageError

if TYPE_CHECKING:
    from console.entity_lists import ListItem
    from lambdas.judging import Judge
    from lambdas.policy import EntityKind, ListName
    from stream_features.feature_sets import FeatureSet

FILE = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
OF_FEATURE_SET = click.option(
    "--feature-set", "feature_set_name", type=FEATURE_SET, default=None, help="The running one if not given."
)
KIND = click.argument("kind", type=click.Choice(["card", "merchant", "device", "ip"]))


def _features(name: str | None) -> FeatureSet:
    """The feature set that rules are checked against."""
    from local.run import load_run
    from stream_features.feature_sets import feature_set

    if name is None:
        run = load_run()
        name = run.feature_set if run is not None else "core"
    return feature_set(name)


def _checked(file: Path, feature_set_name: str | None) -> Judge:
    from console.policies import read_policy

    return read_policy(file, _features(feature_set_name))


@click.group("policy")
def policy_command() -> None:
    """Look at the decision policy, try another one, put it into force."""


@policy_command.command("show")
@JSON
@exit_codes
def policy_show_command(as_json: bool) -> None:
    r"""Show the published policy.

    \b
    Example:
      fraudstream policy show
    """
    from console.policies import PolicyStore, policy_document, policy_lines
    from console.running import running_pipeline

    published = PolicyStore(running_pipeline()).published()
    if as_json:
        click.echo(json.dumps(policy_document(published.policy)))
        return
    for line in policy_lines(published.policy):
        click.echo(line)
    pointer = published.pointer
    click.echo(f"  from s3://{pointer.bucket}/{pointer.key}" if pointer else "  from the parameter itself")


@policy_command.command("validate")
@FILE
@OF_FEATURE_SET
@JSON
@exit_codes
def policy_validate_command(file: Path, feature_set_name: str | None, as_json: bool) -> None:
    r"""Check FILE: its fields, and names and types in every rule. Exit 1, one line per problem, if it is not valid.

    \b
    Example:
      fraudstream policy validate policy.json --feature-set core
    """
    policy = _checked(file, feature_set_name).policy
    if as_json:
        click.echo(json.dumps({"valid": True, "policy_version": policy.policy_version, "rules": len(policy.rules)}))
    else:
        click.echo(f"{file}: policy {policy.policy_version} is valid, {len(policy.rules)} rules")


@policy_command.command("test")
@FILE
@OF_FEATURE_SET
@JSON
@exit_codes
def policy_test_command(file: Path, feature_set_name: str | None, as_json: bool) -> None:
    r"""Run the examples of FILE. Exit 1 if the policy decides one otherwise.

    \b
    Example:
      fraudstream policy test policy.json
    """
    from console.policies import PolicyRefused
    from lambdas.judging import failed_examples

    judge = _checked(file, feature_set_name)
    failed = failed_examples(judge)
    examples = len(judge.policy.examples)
    if as_json:
        click.echo(json.dumps({"examples": examples, "failed": failed}))
    elif not failed:
        click.echo(f"{file}: {examples} examples hold")
    if failed:
        raise PolicyRefused("\n".join(failed))


@policy_command.command("backtest")
@FILE
@click.option("--from", "from_ms", type=INSTANT, default=None, help="First event time, inclusive.")
@click.option("--until", "until_ms", type=INSTANT, default=None, help="Last event time, exclusive.")
@JSON
@exit_codes
def policy_backtest_command(file: Path, from_ms: int | None, until_ms: int | None, as_json: bool) -> None:
    r"""Replay FILE over the decisions in the lake: what would have fired, how precisely, what it would have saved.

    \b
    Example:
      fraudstream policy backtest policy.json --from 2018-08-01
    """
    from console.backtest import archived_decisions, backtest, known_frauds, listed_now
    from console.policies import read_policy
    from console.running import running_pipeline

    require_range(from_ms, until_ms)
    pipeline = running_pipeline()
    judge = read_policy(file, pipeline.features)
    archived = archived_decisions(pipeline, from_ms=from_ms, until_ms=until_ms, progress=progress)
    found = backtest(judge, archived, known_frauds(pipeline), listed_now(pipeline, judge, archived))
    click.echo(json.dumps(found.document()) if as_json else "\n".join(found.lines()))


@policy_command.command("thresholds")
@FILE
@click.option("--reviews-per-day", type=click.FloatRange(min=0), default=None, help="By capacity: at most so many.")
@click.option("--review-cost", type=click.FloatRange(min=0), default=None, help="By cost: of a review, in USD.")
@click.option("--decline-cost", type=click.FloatRange(min=0), default=None, help="By cost: of a good one declined.")
@click.option("--from", "from_ms", type=INSTANT, default=None, help="First event time, inclusive.")
@click.option("--until", "until_ms", type=INSTANT, default=None, help="Last event time, exclusive.")
@click.option("--version", "policy_version", required=True, help="The policy_version of the new document.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The new document.")
@JSON
@exit_codes
def policy_thresholds_command(
    file: Path,
    reviews_per_day: float | None,
    review_cost: float | None,
    decline_cost: float | None,
    from_ms: int | None,
    until_ms: int | None,
    policy_version: str,
    out: Path,
    as_json: bool,
) -> None:
    r"""Write FILE with thresholds computed from the decisions in the lake: by review capacity or by cost.

    \b
    Example:
      fraudstream policy thresholds policy.json --reviews-per-day 50 --version p2 --out p2.json
      fraudstream policy thresholds policy.json --review-cost 4 --decline-cost 25 --version p2 --out p2.json
    """
    import msgspec

    from console.backtest import archived_decisions, known_frauds
    from console.policies import read_policy
    from console.running import running_pipeline
    from console.thresholds import by_capacity, by_cost
    from lambdas.policy import encode_policy

    by_costs = review_cost is not None and decline_cost is not None
    if (reviews_per_day is not None) == by_costs or (review_cost is None) != (decline_cost is None):
        raise UsageError("give either --reviews-per-day, or --review-cost and --decline-cost")
    require_folder_of(out)
    require_range(from_ms, until_ms)
    pipeline = running_pipeline()
    policy = read_policy(file, pipeline.features).policy
    archived = archived_decisions(pipeline, from_ms=from_ms, until_ms=until_ms, progress=progress)
    if reviews_per_day is not None:
        chosen = by_capacity(archived, reviews_per_day, policy.decline_from)
    else:
        costs = {"review_cost": round(100 * (review_cost or 0)), "decline_cost": round(100 * (decline_cost or 0))}
        chosen = by_cost(archived, known_frauds(pipeline), **costs)
    new = msgspec.structs.replace(
        policy, policy_version=policy_version, review_from=chosen.review_from, decline_from=chosen.decline_from
    )
    out.write_bytes(encode_policy(new))
    if as_json:
        click.echo(json.dumps(chosen._asdict() | {"policy_version": policy_version, "out": str(out)}))
        return
    cost = "" if chosen.cost_minor is None else f", cost {chosen.cost_minor / 100:,.2f} USD"
    click.echo(
        f"{out}: review from {chosen.review_from}, decline from {chosen.decline_from}: "
        f"{chosen.reviews_per_day:.1f} reviews a day{cost}"
    )


@policy_command.command("activate")
@FILE
@JSON
@exit_codes
def policy_activate_command(file: Path, as_json: bool) -> None:
    r"""Put FILE into force, if it is valid and its examples hold; the functions decide by it within five seconds.

    \b
    Example:
      fraudstream policy activate policy.json
    """
    from console.policies import PolicyStore, read_policy
    from console.running import running_pipeline

    pipeline = running_pipeline()
    judge = read_policy(file, pipeline.features)
    pointer = PolicyStore(pipeline).activate(judge)
    version = judge.policy.policy_version
    if as_json:
        click.echo(json.dumps({"policy_version": version, "key": pointer.key, "sha256": pointer.sha256}))
    else:
        click.echo(f"policy {version} is in force within five seconds (s3://{pointer.bucket}/{pointer.key})")


@policy_command.command("rollback")
@JSON
@exit_codes
def policy_rollback_command(as_json: bool) -> None:
    r"""Put the policy before the one in force into force again.

    \b
    Example:
      fraudstream policy rollback
    """
    from console.policies import PolicyStore
    from console.running import running_pipeline

    pointer, policy = PolicyStore(running_pipeline()).rollback()
    if as_json:
        click.echo(json.dumps({"policy_version": policy.policy_version, "key": pointer.key, "sha256": pointer.sha256}))
    else:
        click.echo(f"policy {policy.policy_version} is in force again within five seconds")


@click.group("lists")
def lists_command() -> None:
    """Block and allow lists. They count where the policy uses them."""


@lists_command.command("add")
@click.argument("list_name", metavar="[block|allow]", type=click.Choice(["block", "allow"]))
@KIND
@click.argument("value")
@click.option("--reason", required=True, help="Why, for whoever looks at it later.")
@click.option("--author", default=None, help="Who; the user of this machine if not given.")
@click.option("--for", "lasts_ms", type=DURATION, default=None, help="How long (30d); for ever if not given.")
@JSON
@exit_codes
def lists_add_command(
    list_name: ListName,
    kind: EntityKind,
    value: str,
    reason: str,
    author: str | None,
    lasts_ms: int | None,
    as_json: bool,
) -> None:
    r"""Put an entity on a list; it leaves the other one.

    \b
    Example:
      fraudstream lists add block card card-17 --reason "reported stolen" --for 90d
    """
    from console.entity_lists import EntityLists
    from console.running import running_pipeline

    author = author or getpass.getuser()
    lists = EntityLists(running_pipeline())
    entry, former = lists.add(list_name, kind, value, author=author, reason=reason, lasts_ms=lasts_ms)
    if as_json:
        click.echo(json.dumps(_document(entry) | {"replaced": _document(former) if former else None}))
        return
    moved = f", moved from the {former.list_name} list" if former and former.list_name != list_name else ""
    click.echo(f"{kind} {value} is on the {list_name} list{_until(entry)}{moved}")


@lists_command.command("remove")
@KIND
@click.argument("value")
@JSON
@exit_codes
def lists_remove_command(kind: EntityKind, value: str, as_json: bool) -> None:
    r"""Take an entity off its list.

    \b
    Example:
      fraudstream lists remove card card-17
    """
    from console.entity_lists import EntityLists
    from console.running import running_pipeline

    entry = EntityLists(running_pipeline()).remove(kind, value)
    click.echo(json.dumps(_document(entry)) if as_json else f"{kind} {value} is off the {entry.list_name} list")


@lists_command.command("show")
@JSON
@exit_codes
def lists_show_command(as_json: bool) -> None:
    r"""Show who is on the lists, why, and until when.

    \b
    Example:
      fraudstream lists show
    """
    from console.entity_lists import EntityLists
    from console.running import running_pipeline

    entries = EntityLists(running_pipeline()).all()
    if as_json:
        click.echo(json.dumps([_document(entry) for entry in entries]))
        return
    for entry in entries:
        click.echo(
            f"{entry.list_name}  {entry.kind}  {entry.value}{_until(entry)}"
            f"  {entry.reason}  ({entry.author}, {iso_utc(entry.added_at_ms)})"
        )
    click.echo(f"{len(entries)} entries")


def _until(entry: ListItem) -> str:
    return "" if entry.expires_at_s is None else f" until {iso_utc(entry.expires_at_s * 1000)}"


def _document(entry: ListItem) -> dict[str, str | int | None]:
    return {
        "list": entry.list_name,
        "kind": entry.kind,
        "value": entry.value,
        "author": entry.author,
        "reason": entry.reason,
        "added_at_ms": entry.added_at_ms,
        "expires_at_s": entry.expires_at_s,
    }
