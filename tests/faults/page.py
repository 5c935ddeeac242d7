"""docs/reliability.md: the table of faults and outcomes, written by a run and read back by a test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from local.capabilities import Place
from local.run import CHECKOUT
from tests.faults.catalogue import FAULTS
from tests.faults.reports import CampaignReport, Line, Reports
from tests.faults.setting import Setting

PAGE: Final = CHECKOUT / "docs" / "reliability.md"
TARGETS: Final[tuple[Place, ...]] = ("embedded", "localstack", "attached")
_HELD: Final = "held"
_HEAD: Final = """# What the pipeline survives

Written by `python -m tests.faults`, which runs the pipeline twice with the same transactions. One run is left alone; in
the other, every group of cards meets one fault. The injector is an HTTP proxy between our programs and the AWS
endpoint (`tests/faults/injector.py` says why). The tests in `tests/faults/` do the same, and `make soak DURATION=600
SEED=1` mixes the faults at random under live traffic. What readers make of bytes that nobody meant for them is fuzzed
apart (`tests/fuzz/`, `make fuzz`).

*held* means, after the fault and before the next one: published = decided + duplicates + quarantined, by the stream's
own positions; every valid id of the group is decided once; quarantine holds exactly the bad records; every decision
(score, reasons, rules, features) and the packed state of every card equals the undisturbed run bit by bit. At the end
the merchants' states are equal too, every decision is of the first record of its transaction, every published decision
is the stored one, and the lake agrees with the table. On LocalStack the judge is still the undisturbed run on the
embedded AWS.

*injected* counts what really happened; a fault that did not happen fails its test. *at rest after* runs from the last
record, or from the end of the fault where that came later, until every function stands at the end of its stream. It is
a figure of one run on one machine.
"""


class Row(NamedTuple):
    """One line of the table, without its figures."""

    name: str
    title: str
    outcome: str


def write_page(reports: Reports, path: Path = PAGE) -> None:
    """Write the page.

    Raises:
        ValueError: a part is missing.
    """
    if reports.missing:
        raise ValueError(f"never run here: {', '.join(reports.missing)}")
    path.write_text(rendered(reports))


def rendered(reports: Reports) -> str:
    """The whole page."""
    lines = [_HEAD]
    for campaign in (reports.embedded, reports.localstack):
        if campaign is not None:
            lines += table(campaign)
    lines += [
        "## Resharding under load",
        "",
        "Target embedded with the streams of kinesis-mock, which splits and merges as AWS does; engine lambda. The",
        "judge is the history in the order of publishing, features and states of all cards and merchants, to the bit.",
        "",
        f"* 1, 2, 1 shards: {reports.resharding}",
        "",
    ]
    return "\n".join([*lines, "## Soak", "", f"* {reports.soak}", "", *_elsewhere()]) + "\n"


def table(campaign: CampaignReport) -> list[str]:
    """The lines about the faults."""
    lines = [f"## Faults and outcomes: target {campaign.target}, engine {campaign.engine}", ""]
    sections = list(dict.fromkeys(line.section for line in campaign.lines))
    for section in sections:
        lines += [f"### {section}", "", "| fault | what happens | injected | outcome | at rest after |"]
        lines += ["| --- | --- | ---: | --- | ---: |"]
        lines += [_row(line) for line in campaign.lines if line.section == section]
        lines.append("")
    met = [line for line in campaign.lines if line.skipped is None]
    injected = sum(line.injected for line in met)
    lines += [
        f"{len(met)} faults met, {injected:,} times injected, {len(campaign.lines) - len(met)} skipped. At the end:"
    ]
    lines += ["", *(f"* {check}: {_held(problems)}" for check, problems in campaign.final.items())]
    lines += [f"* {check}: not checked: {reason}" for check, reason in campaign.unchecked.items()]
    return [*lines, ""]


def rows_of(text: str, target: str = "embedded") -> list[Row]:
    """The table of faults of a page, for one target."""
    part = text.partition(f"## Faults and outcomes: target {target},")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| (\d*) \| (.*?) \| (?:[\d.]+ s)? ?\|$", part, re.MULTILINE)
    return [
        Row(name, title, outcome if injected != "0" else "nothing injected")
        for name, title, injected, outcome, *_ in found
    ]


def expected_rows(setting: Setting) -> list[Row]:
    """What the table must say where everything held."""
    rows = []
    for fault in FAULTS:
        reason = setting.why_not(fault.needs)
        rows.append(Row(fault.name, fault.title, _HELD if reason is None else f"skipped: {reason}"))
    return rows


def _row(line: Line) -> str:
    if line.skipped is not None:
        return f"| `{line.name}` | {line.title} |  | skipped: {line.skipped} | |"
    return f"| `{line.name}` | {line.title} | {line.injected} | {_held(line.problems)} | {line.recovery_s:.1f} s |"


def _held(problems: Sequence[str]) -> str:
    return _HELD if not problems else "FAILED: " + "; ".join(problems[:2])


def _elsewhere() -> list[str]:
    """Which faults which target or engine cannot be put through, and why, from the table of capabilities."""
    lines = ["## Where a fault cannot run", "", "From the table in `local/capabilities.py`.", ""]
    lines += ["| target, engine | because | faults |", "| --- | --- | --- |"]
    for setting in (Setting(target, engine) for target in TARGETS for engine in ("lambda", "flink")):
        reasons: dict[str, list[str]] = {}
        for fault in FAULTS:
            if (reason := setting.why_not(fault.needs)) is not None:
                reasons.setdefault(reason, []).append(f"`{fault.name}`")
        for reason, names in reasons.items():
            lines.append(f"| {setting.target}, {setting.engine} | {reason} | {', '.join(names)} |")
    return lines
