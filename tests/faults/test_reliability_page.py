"""docs/reliability.md says what the catalogue says; figures may differ, rows and outcomes may not."""

from __future__ import annotations

import pytest

from local.capabilities import Place
from tests.faults.page import PAGE, expected_rows, rows_of
from tests.faults.setting import Setting


@pytest.mark.parametrize("target", ["embedded", "localstack"])
def test_the_page_has_every_fault_and_each_held_or_is_skipped_with_its_reason(target: Place) -> None:
    assert rows_of(PAGE.read_text(), target) == expected_rows(Setting(target))


def test_the_resharding_of_the_page_held() -> None:
    assert "* 1, 2, 1 shards: held: 540 transactions over 4 shards" in PAGE.read_text()


def test_the_soak_of_the_page_held() -> None:
    assert "`make soak DURATION=60 SEED=1`: every check held" in PAGE.read_text()
    assert "FAILED" not in PAGE.read_text()


@pytest.mark.parametrize(("old", "new"), [(" held ", " FAILED: x "), ("| `hot_card` ", "| `cold_card` ")])
def test_another_outcome_or_name_would_be_noticed(old: str, new: str) -> None:
    text = PAGE.read_text()
    assert old in text
    assert rows_of(text.replace(old, new, 1)) != expected_rows(Setting())


def test_a_fault_that_never_happened_would_be_noticed() -> None:
    page = "## Faults and outcomes: target embedded, engine lambda\n| `hot_card` | a card | 0 | held | 1.0 s |"
    assert rows_of(page)[0].outcome == "nothing injected"
