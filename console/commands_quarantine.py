"""`quarantine`: what was rejected, why, and the way back in."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console.options import INSTANT, exit_codes, iso_utc
from stream_features.errors import UsageError

if TYPE_CHECKING:
    from console.quarantine import Entry, Fix, State, Wanted
    from console.running import Pipeline
    from console.way_back import Replayed, WayBack
    from stream_features.errors import MalformedRecord

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
AUTHOR = click.option("--author", default=None, help="Who; the user of this machine if not given.")
_HEX_BYTES = 256


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which records are meant."""
    for option in (
        click.option("--until", "until_ms", type=INSTANT, default=None, help="Last arrival, exclusive."),
        click.option("--from", "from_ms", type=INSTANT, default=None, help="First arrival in the stream, inclusive."),
        click.option("--stream", default=None, help="transactions, labels or entity-events."),
        click.option("--rule", default=None, help="The rule that was broken, such as no_rate."),
        click.option("--field", default=None, help="The field that broke it, such as currency; $ is the whole record."),
    ):
        command = option(command)
    return command


def _entries(pipeline: Pipeline, wanted: Wanted) -> list[Entry]:
    from console.quarantine import entries_of, rejected_records
    from console.tables import effect_store
    from lambdas.wiring import SystemClock

    entries = entries_of(list(rejected_records(pipeline)), effect_store(pipeline, SystemClock()))
    return [entry for entry in entries if wanted.takes(entry)]


def _entry(pipeline: Pipeline, position: str) -> Entry:
    from console.quarantine import entries_of, key_of, rejected_record
    from console.tables import effect_store
    from lambdas.wiring import SystemClock

    key = key_of(position)
    (entry,) = entries_of([(key, rejected_record(pipeline, key))], effect_store(pipeline, SystemClock()))
    return entry


def _way_back(pipeline: Pipeline) -> WayBack:
    from console.tables import patient_caller, tables_of
    from console.way_back import WayBack

    tables = tables_of(pipeline)
    return WayBack(
        pipeline.client("s3"),
        pipeline.client("kinesis"),
        bucket=pipeline.output("LakeBucketName"),
        decisions=tables.decisions,
        committer=tables.committer,
        caller=patient_caller(tables.clock),
        clock=tables.clock,
    )


def _document(entry: Entry) -> dict[str, Any]:
    rejected, mark = entry.rejected, entry.mark
    return {
        "position": entry.position,
        "key": entry.key,
        "state": entry.state,
        "stream": rejected.stream,
        "field": rejected.field,
        "rule": rejected.rule,
        "message": rejected.message,
        "arrival_ms": rejected.arrival_ms,
        "rejected_at_ms": rejected.rejected_at_ms,
        "fix": mark.fix if mark and mark.fix else None,
        "transaction_id": mark.transaction_id if mark else None,
        "replayed_as": mark.position.sequence_number if mark and mark.position else None,
        "author": mark.author if mark else None,
    }


@click.group("quarantine")
def quarantine_command() -> None:
    """What was rejected, why, and a way back in that counts nothing twice."""


@quarantine_command.command("list")
@_filters
@click.option("--state", type=click.Choice(["open", "fixed", "replaying", "replayed"]), default=None)
@JSON
@exit_codes
def quarantine_list_command(
    field: str | None,
    rule: str | None,
    stream: str | None,
    from_ms: int | None,
    until_ms: int | None,
    state: State | None,
    as_json: bool,
) -> None:
    r"""List rejected records: position, state, field, rule and reason.

    \b
    Example:
      fraudstream quarantine list
      fraudstream quarantine list --field currency --rule no_rate --state open
    """
    from console.quarantine import STATES, Wanted
    from console.running import running_pipeline

    wanted = Wanted(field=field, rule=rule, stream=stream, state=state, from_ms=from_ms, until_ms=until_ms)
    entries = _entries(running_pipeline(), wanted)
    if as_json:
        click.echo(json.dumps([_document(entry) for entry in entries]))
        return
    for entry in entries:
        rejected = entry.rejected
        click.echo(f"{entry.position}  {entry.state}  {rejected.field}  {rejected.rule}  {rejected.message}")
    states = [entry.state for entry in entries]
    counts = ", ".join(f"{states.count(name)} {name}" for name in STATES if name in states)
    click.echo(f"{len(entries)} rejected" + (f": {counts}" if counts else ""))


@quarantine_command.command("show")
@click.argument("position")
@JSON
@exit_codes
def quarantine_show_command(position: str, as_json: bool) -> None:
    r"""Show one rejected record: its original bytes, why it was rejected, and what a correction needs.

    \b
    Example:
      fraudstream quarantine show transactions/shardId-000000000000/4963-0
    """
    from console.corrections import problems
    from console.running import running_pipeline
    from lambdas.wiring import SystemClock

    pipeline = running_pipeline()
    entry = _entry(pipeline, position)
    fix = _way_back(pipeline).fix_at(entry.mark.fix) if entry.mark and entry.mark.fix else None
    rejected, kind = entry.rejected, entry.kind
    found = problems(kind, rejected.payload, arrival_ms=SystemClock().now_ms()) if kind else []
    if as_json:
        document = _document(entry) | {"payload_base64": rejected.payload_base64}
        document["problems"] = [{"field": one.field, "rule": one.rule, "message": one.message} for one in found]
        document["fixed_by"] = None if fix is None else {"reason": fix.reason, "changes": fix.changes}
        document["fixed_payload_base64"] = None if fix is None else fix.payload_base64
        click.echo(json.dumps(document))
        return
    click.echo(f"{entry.position}  {entry.state}")
    click.echo(f"  rejected {iso_utc(rejected.rejected_at_ms)}, arrived {iso_utc(rejected.arrival_ms)}")
    click.echo(f"  {rejected.field}: {rejected.rule}: {rejected.message}")
    click.echo(f"  {len(rejected.payload)} bytes: {_readable(rejected.payload)}")
    for line in _needs(entry, found, fix):
        click.echo(f"  {line}")


def _readable(payload: bytes) -> str:
    """Text where it is text, else the beginning in hex."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return text[:2_000] + ("…" if len(text) > 2_000 else "")
    return "hex " + payload[:_HEX_BYTES].hex(" ") + (" …" if len(payload) > _HEX_BYTES else "")


def _needs(entry: Entry, found: list[MalformedRecord], fix: Fix | None) -> list[str]:
    """What was done about it, or has to be."""
    import base64

    lines: list[str] = []
    if fix is not None:
        lines.append(f"corrected by {fix.author}, {iso_utc(fix.fixed_at_ms)}: {fix.reason} ({', '.join(fix.changes)})")
        lines.append(f"  {_readable(base64.b64decode(fix.payload_base64))}")
    if entry.mark is not None and entry.state in ("replaying", "replayed"):
        at = f"{entry.mark.author}, {iso_utc(entry.mark.at_ms)}"
        lines.append(f"{entry.state} by {at}, as {entry.mark.transaction_id}")
    if entry.state == "replayed":
        return lines
    if entry.state == "replaying":
        return [*lines, f"it was interrupted: fraudstream quarantine replay {entry.position}"]
    if entry.kind is None:
        return [*lines, "only the pipeline writes such records; there is no way back for one"]
    if fix is not None:
        return [*lines, f"to send it: fraudstream quarantine replay {entry.position}"]
    if not found:
        return [*lines, f"no rule refuses it now: fraudstream quarantine replay {entry.position}"]
    lines.append("a correction needs (fraudstream quarantine fix):")
    lines += [f"  {one.field}: {one.rule}: {one.message}" for one in found]
    if any(one.field == "$" for one in found):
        lines.append("  it is no JSON object: give every required field with --set, or the whole record with --with")
    return lines


@quarantine_command.command("fix")
@click.argument("position")
@click.option("--set", "sets", multiple=True, metavar="FIELD=VALUE", help="The field's right value; repeats.")
@click.option("--unset", multiple=True, metavar="FIELD", help="Leave the field out; repeats.")
@click.option(
    "--with",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="The whole right record.",
)
@click.option("--reason", required=True, help="Why, for whoever looks at it later.")
@AUTHOR
@JSON
@exit_codes
def quarantine_fix_command(
    position: str,
    sets: tuple[str, ...],
    unset: tuple[str, ...],
    file: Path | None,
    reason: str,
    author: str | None,
    as_json: bool,
) -> None:
    r"""Correct a rejected record; nothing is sent yet. The original stays, and a later correction starts from it again.

    \b
    Example:
      fraudstream quarantine fix transactions/shardId-000000000000/4963-0 --set currency=EUR --reason "typo of the till"
      fraudstream quarantine fix transactions/shardId-000000000000/4963-0 --with right.json --reason "the till's log"
    """
    from console.corrections import parse_sets
    from console.running import running_pipeline

    if (file is None) == (not sets and not unset):
        raise UsageError("give either --set and --unset, or --with FILE")
    pipeline = running_pipeline()
    fix, record = _way_back(pipeline).fix(
        _entry(pipeline, position),
        sets=parse_sets(sets),
        unset=unset,
        whole=None if file is None else file.read_bytes().strip(),
        author=author or getpass.getuser(),
        reason=reason,
    )
    if as_json:
        document = {"position": position, "transaction_id": record.transaction_id, "changes": fix.changes}
        click.echo(json.dumps(document | {"author": fix.author, "reason": fix.reason}))
    else:
        click.echo(f"{position} is corrected, as {record.transaction_id}")
        click.echo(f"  to send it: fraudstream quarantine replay {position}")


@quarantine_command.command("replay")
@click.argument("positions", metavar="[POSITION]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every record that can go back.")
@_filters
@AUTHOR
@JSON
@exit_codes
def quarantine_replay_command(
    positions: tuple[str, ...],
    everything: bool,
    field: str | None,
    rule: str | None,
    stream: str | None,
    from_ms: int | None,
    until_ms: int | None,
    author: str | None,
    as_json: bool,
) -> None:
    r"""Send corrected records, and those that no rule refuses any more, into their stream again; each once.

    Exit 1 if a record that was named cannot go back; with --all or filters, such records are told and left.

    \b
    Example:
      fraudstream quarantine replay transactions/shardId-000000000000/4963-0
      fraudstream quarantine replay --field currency --rule no_rate
      fraudstream quarantine replay --all
    """
    from console.quarantine import Wanted
    from console.running import running_pipeline

    wanted = Wanted(field=field, rule=rule, stream=stream, from_ms=from_ms, until_ms=until_ms)
    filtered = wanted != Wanted()
    if bool(positions) + (everything or filtered) != 1:
        raise UsageError("say what to send: positions, or --all, or filters such as --field currency --rule no_rate")
    pipeline = running_pipeline()
    if positions:
        entries = [_entry(pipeline, position) for position in dict.fromkeys(positions)]
    else:
        entries = [entry for entry in _entries(pipeline, wanted) if entry.state != "replayed" and entry.kind]

    def told(outcome: Replayed) -> None:
        if not as_json:
            click.echo(f"{outcome.entry.position}  {outcome.result}  {outcome.why}")

    in_order = sorted(entries, key=lambda entry: entry.rejected.stream_position)
    outcomes = _way_back(pipeline).replay(in_order, author=author or getpass.getuser(), told=told)
    results = [outcome.result for outcome in outcomes]
    if as_json:
        documents = [_document(one.entry) | {"result": one.result, "why": one.why} for one in outcomes]
        click.echo(json.dumps(documents))
    else:
        counts = ", ".join(f"{results.count(name)} {name}" for name in dict.fromkeys(results))
        click.echo(f"{len(outcomes)} looked at" + (f": {counts}" if counts else ", nothing to send"))
    sys.exit(1 if positions and "refused" in results else 0)
