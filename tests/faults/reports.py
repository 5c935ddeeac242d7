"""What runs found, as far as the page needs it. Parts are kept as files: they can be made one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from local.capabilities import Place
from local.run import CHECKOUT, write_atomically
from tests.faults.campaign import Campaign, Outcome
from tests.faults.catalogue import FAULTS
from tests.faults.resharding import Resharded
from tests.faults.soak import SoakReport

T = TypeVar("T")

FOLDER: Final = CHECKOUT / ".fraudstream" / "reliability"


@dataclass(frozen=True)
class Line:
    """One fault, and what came of it: the fields of `Outcome`."""

    name: str
    title: str
    section: str
    skipped: str | None
    injected: int
    recovery_s: float
    problems: tuple[str, ...]


@dataclass(frozen=True)
class CampaignReport:
    """One campaign: the fields of `Campaign` without what the runs stored."""

    target: Place
    engine: str
    lines: tuple[Line, ...]
    final: dict[str, list[str]]
    unchecked: dict[str, str]


@dataclass(frozen=True)
class Reports:
    """All parts of the page; None for one that was never made here."""

    embedded: CampaignReport | None = None
    localstack: CampaignReport | None = None
    resharding: str | None = None
    soak: str | None = None

    @property
    def missing(self) -> list[str]:
        """Names of the parts that were never made."""
        return [name for name in PARTS if getattr(self, name) is None]


PARTS: Final[dict[str, Any]] = {
    "embedded": CampaignReport,
    "localstack": CampaignReport,
    "resharding": str,
    "soak": str,
}


def campaign_report(campaign: Campaign) -> CampaignReport:
    """What the page says about `campaign`."""
    lines = tuple(map(_line, campaign.outcomes))
    return CampaignReport(campaign.setting.target, campaign.setting.engine, lines, campaign.final, campaign.unchecked)


def with_lines_of(before: CampaignReport | None, now: CampaignReport) -> CampaignReport:
    """`now`, and from `before` the faults that `now` does not speak of; every run checks its own end."""
    spoken = {line.name for line in now.lines}
    lines = {line.name: line for line in (*(before.lines if before else ()), *now.lines)}
    order = [fault.name for fault in FAULTS if fault.name in lines]
    earlier = [name for name in lines if name not in spoken and lines[name].skipped is None]
    final = dict(before.final if before and earlier else {})
    unchecked = dict(now.unchecked)
    if earlier and not final:
        unchecked[f"the end of the run that met {len(earlier)} of them"] = "it was stopped before its end"
    for check, problems in now.final.items():
        final[check] = [*final.get(check, []), *problems]
    return CampaignReport(now.target, now.engine, tuple(lines[name] for name in order), final, unchecked)


def resharding_report(found: Resharded | str) -> str:
    """A run's summary, or why there was none."""
    return found.summary() if isinstance(found, Resharded) else f"skipped: {found}"


def soak_report(soak: SoakReport) -> str:
    """The command and its last line."""
    return f"`make soak DURATION={soak.seconds:.0f} SEED={soak.seed}`: {soak.summary()}"


def keep(part: str, report: object, folder: Path = FOLDER) -> None:
    """Write one part down."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{part}.json", msgspec.json.encode(report))


def kept(folder: Path = FOLDER) -> Reports:
    """The parts that were written down, whenever that was."""
    found = {}
    for part, kind in PARTS.items():
        path = folder / f"{part}.json"
        if path.exists():
            found[part] = msgspec.json.decode(path.read_bytes(), type=kind)
    return Reports(**found)


def _line(outcome: Outcome) -> Line:
    fault = outcome.fault
    return Line(
        fault.name,
        fault.title,
        fault.section,
        outcome.skipped,
        outcome.injected,
        outcome.recovery_s,
        outcome.problems,
    )
