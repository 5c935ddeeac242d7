"""`python -m tests.faults [FAULT ...]`: put the pipeline through the faults; without names, write docs/reliability.md.

python -m tests.faults                            # everything that can run here, and the page from it
python -m tests.faults invoked_at_once            # these faults only; the page stays as it is
python -m tests.faults --part soak --part page    # some parts; the page takes the others from when they last ran
python -m tests.faults --part localstack garbage  # these faults of a part; its others stay as they were
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from local.localstack.host import missing as localstack_missing
from tests.faults.campaign import Campaign, conduct, made_workload, undisturbed
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.page import write_page
from tests.faults.reports import PARTS, campaign_report, keep, kept, resharding_report, soak_report, with_lines_of
from tests.faults.resharding import missing as resharding_missing
from tests.faults.resharding import reshard_under_load
from tests.faults.setting import Setting, running
from tests.faults.soak import FEATURE_SET, soak

SOAK_S: Final = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="names of tests/faults/catalogue.py")
    parser.add_argument("--target", choices=["embedded", "localstack"], default="embedded", help="for named faults")
    parser.add_argument("--engine", choices=["lambda", "flink"], default="lambda", help="for named faults")
    parser.add_argument("--part", action="append", choices=[*PARTS, "page"], help="a part of the page, or writing it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fraudstream-faults-") as folder:
        chosen = [fault for fault in FAULTS if not options.faults or fault.name in options.faults]
        if (options.faults and not options.part) or options.engine != "lambda":
            return _said(campaign_of(Setting(options.target, options.engine), chosen, Path(folder)).problems)
        parts: list[str] = options.part or [*PARTS, "page"]
        problems = [problem for part in PARTS if part in parts for problem in MAKE[part](Path(folder) / part, chosen)]
    if "page" in parts:
        write_page(kept())
    return _said(problems)


def campaign_of(setting: Setting, faults: Sequence[Fault], folder: Path) -> Campaign:
    """The undisturbed run, which is on the embedded AWS, and the one in which the faults are met."""
    calm = replace(setting, target="embedded")
    part = made_workload(calm, [fault for fault in faults if setting.why_not(fault.needs) is None])
    stored = undisturbed(calm, part, folder / "undisturbed")
    with running(setting, folder / "disturbed", injected=True, seed=1) as run:
        return conduct(run, part, stored, _say, faults)


def _embedded(folder: Path, chosen: Sequence[Fault]) -> list[str]:
    campaign = campaign_of(Setting(), chosen, folder)
    keep("embedded", with_lines_of(kept().embedded, campaign_report(campaign)))
    return campaign.problems


def _localstack(folder: Path, chosen: Sequence[Fault]) -> list[str]:
    if lacks := localstack_missing():
        return [f"localstack cannot run here: {lacks}"]
    campaign = campaign_of(Setting("localstack"), chosen, folder)
    keep("localstack", with_lines_of(kept().localstack, campaign_report(campaign)))
    return campaign.problems


def _resharding(folder: Path, chosen: Sequence[Fault]) -> list[str]:
    folder.mkdir(parents=True)
    if lacks := resharding_missing():
        return [f"resharding cannot run here: {lacks}"]
    found = reshard_under_load(folder)
    keep("resharding", resharding_report(found))
    _say(found.summary())
    return found.problems


def _soak(folder: Path, chosen: Sequence[Fault]) -> list[str]:
    with running(Setting(feature_set=FEATURE_SET), folder, injected=True, seed=1) as run:
        report = soak(run, SOAK_S, 1, _say)
    keep("soak", soak_report(report))
    _say(report.summary())
    return report.problems


MAKE: Final[dict[str, Callable[[Path, Sequence[Fault]], list[str]]]] = {
    "embedded": _embedded,
    "localstack": _localstack,
    "resharding": _resharding,
    "soak": _soak,
}


def _said(problems: Sequence[str]) -> int:
    for problem in problems:
        _say(problem)
    return 1 if problems else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
