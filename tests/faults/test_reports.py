"""Parts of the page are kept and read back; a page is written from all of them or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.page import Row, rendered, rows_of, write_page
from tests.faults.reports import (
    CampaignReport,
    Line,
    Reports,
    keep,
    kept,
    resharding_report,
    soak_report,
    with_lines_of,
)
from tests.faults.resharding import Resharded
from tests.faults.soak import SoakReport

MET = Line("one", "one thing", "Delivery", None, 1_234, 0.52, ())
BROKEN = Line("two", "another thing", "Delivery", None, 3, 1.0, ("x is 1, not 2", "y", "z"))
SKIPPED = Line("three", "a third", "Input", "it cannot", 0, 0.0, ())
CAMPAIGN = CampaignReport(
    "localstack", "lambda", (MET, BROKEN, SKIPPED), {"the sets hold": []}, {"the lake": "no lake"}
)


def test_parts_come_back_as_they_were_kept(tmp_path: Path) -> None:
    assert kept(tmp_path) == Reports()
    assert kept(tmp_path).missing == ["embedded", "localstack", "resharding", "soak"]
    keep("localstack", CAMPAIGN, tmp_path)
    keep("soak", soak_report(SoakReport(60.0, 1)), tmp_path)
    found = kept(tmp_path)
    assert found.localstack == CAMPAIGN
    assert str(found.soak).startswith("`make soak DURATION=60 SEED=1`: every check held")
    assert found.missing == ["embedded", "resharding"]
    with pytest.raises(ValueError, match="never run here: embedded, resharding"):
        write_page(found, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_the_page_says_what_was_met_what_failed_and_what_was_skipped(tmp_path: Path) -> None:
    page = rendered(Reports(CAMPAIGN, CAMPAIGN, resharding_report(Resharded(problems=["lost"])), "the soak"))
    assert rows_of(page, "localstack") == [
        Row("one", "one thing", "held"),
        Row("two", "another thing", "FAILED: x is 1, not 2; y"),
        Row("three", "a third", "skipped: it cannot"),
    ]
    assert rows_of(page, "embedded") == []  # both campaigns were of the other target
    assert "| `one` | one thing | 1234 | held | 0.5 s |" in page
    assert "2 faults met, 1,237 times injected, 1 skipped. At the end:" in page
    assert "* the lake: not checked: no lake" in page
    assert "* 1, 2, 1 shards: FAILED: lost" in page


def test_a_resharding_that_was_not_tried_says_why() -> None:
    assert resharding_report("no node on the PATH") == "skipped: no node on the PATH"


def test_a_run_of_some_faults_leaves_the_others_of_its_part() -> None:
    names = [fault.name for fault in FAULTS[:3]]
    before, again = (tuple(replace(MET, name=name, injected=count) for name in names) for count in (1, 2))
    first = CampaignReport("localstack", "lambda", before, {"sets": ["lost"]}, {})
    second = CampaignReport("localstack", "lambda", again[1:2], {"sets": [], "states": []}, {"lake": "none"})
    both = with_lines_of(first, second)
    assert [(line.name, line.injected) for line in both.lines] == list(zip(names, (1, 2, 1), strict=True))
    assert (both.final, both.unchecked) == ({"sets": ["lost"], "states": []}, {"lake": "none"})
    assert with_lines_of(both, CampaignReport("localstack", "lambda", again, {"sets": []}, {})).final == {"sets": []}
    assert with_lines_of(None, second) == second
    stopped = replace(first, final={})
    assert "the end of the run that met 2 of them" in with_lines_of(stopped, second).unchecked
