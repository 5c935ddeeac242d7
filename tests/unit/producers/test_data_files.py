"""The real files: how many rows, in which order, with which values. Skipped where they are not."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from producers.files import read_transactions

DATA = Path(os.environ.get("FRAUDSTREAM_DATA", Path(__file__).parents[4] / "shared" / "data"))
HANDBOOK = DATA / "handbook_dev_to_2018-08-14.parquet"
SPARKOV = DATA / "sparkov_like_A_train.parquet"
DAY_MS = 86_400_000
APRIL_1_2018_MS = 1_522_540_800_000
JUNE_3_2018_MS = 1_527_984_000_000
JANUARY_1_2019_MS = 1_546_300_800_000

pytestmark = pytest.mark.data


def needs(path: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path.is_file(), reason=f"{path.name} is not in FRAUDSTREAM_DATA ({DATA})")


@needs(HANDBOOK)
def test_one_day_of_the_handbook_data() -> None:
    rows = list(read_transactions(HANDBOOK, "handbook", JUNE_3_2018_MS, JUNE_3_2018_MS + DAY_MS))
    assert len(rows) == len({row.transaction.transaction_id for row in rows}) == 9_586
    times_ms = [row.transaction.event_time_ms for row in rows]
    assert times_ms == sorted(times_ms)
    assert all(JUNE_3_2018_MS <= time_ms < JUNE_3_2018_MS + DAY_MS for time_ms in times_ms)
    # the identifiers count up in file order, so ties in time must keep them in order
    assert [int(row.transaction.transaction_id) for row in rows] == sorted(
        int(row.transaction.transaction_id) for row in rows
    )


@needs(HANDBOOK)
def test_the_first_handbook_rows_value_by_value() -> None:
    rows = list(read_transactions(HANDBOOK, "handbook", until_ms=APRIL_1_2018_MS + 10 * 60_000))
    transaction = rows[0].transaction
    assert (transaction.transaction_id, transaction.card_id, transaction.merchant_id) == ("0", "596", "3156")
    assert (transaction.event_time_ms, transaction.amount_minor) == (APRIL_1_2018_MS + 31_000, 5716)
    assert rows[2].transaction.amount_minor == 14_600


@needs(HANDBOOK)
def test_the_whole_handbook_file_has_its_rows_and_frauds() -> None:
    frauds = Counter(row.is_fraud for row in read_transactions(HANDBOOK, "handbook"))
    assert frauds == {False: 1_303_778 - 10_659, True: 10_659}


@needs(SPARKOV)
def test_one_day_of_the_sparkov_data_although_the_file_is_unordered() -> None:
    rows = list(read_transactions(SPARKOV, "sparkov", JANUARY_1_2019_MS, JANUARY_1_2019_MS + DAY_MS))
    times_ms = [row.transaction.event_time_ms for row in rows]
    assert times_ms == sorted(times_ms)
    assert len(rows) == len({row.transaction.transaction_id for row in rows}) > 1_000
    first = rows[0].transaction
    assert (first.transaction_id, first.card_id, first.amount_minor) == ("a0000000", "766", 10_269)
    assert (first.merchant_category, first.latitude) == ("grocery_pos", pytest.approx(44.80006790161133, abs=0))
