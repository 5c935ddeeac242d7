"""What a campaign publishes asks what it should, whatever the hour: people sleep, and the simulator knows it."""

from __future__ import annotations

import pytest

from stream_features.transaction import Transaction
from tests.faults.catalogue import FAULTS
from tests.faults.workload import with_skewed_clocks, workload

HOUR_MS = 3_600_000
MONDAY_MS = 1_795_392_000_000
SIZES = {fault.name: fault.size for fault in FAULTS if fault.meet is not None}


def late(rows: list[Transaction]) -> int:
    """How many are older than their card's newest."""
    newest: dict[str, int] = {}
    found = 0
    for one in rows:
        found += one.event_time_ms < newest.get(one.card_id, 0)
        newest[one.card_id] = max(newest.get(one.card_id, 0), one.event_time_ms)
    return found


@pytest.mark.parametrize("hour", range(0, 7 * 24, 5))
def test_wrong_clocks_make_late_transactions_at_any_hour_of_the_week(hour: int) -> None:
    group = workload(SIZES, MONDAY_MS + hour * HOUR_MS).groups["clock_skew"]
    assert late(group) == 0
    assert late(with_skewed_clocks(group)) > 10
