"""Real and look-alike transactions through the deployed path: one day of the Handbook file, one of the Sparkov file."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.options import INSTANT
from producers.files import read_transactions
from producers.mappings import load_mapping
from tests.e2e.conftest import Start
from tests.e2e.driver import needs_data, stored_decisions
from tests.e2e.judge import assert_sets_hold, feature_mismatches, features_of_the_card, score_mismatches
from tests.e2e.test_first_path import released_artifact

pytestmark = [pytest.mark.e2e, pytest.mark.data]

DAYS = {
    "handbook": ("handbook_dev_to_2018-08-14.parquet", "2018-06-03", "2018-06-04", 9_586),
    "sparkov": ("sparkov_like_A_train.parquet", "2019-06-15", "2019-06-16", None),
}


@pytest.mark.parametrize("mapping", DAYS)
def test_a_day_of_real_input_is_decided_and_equals_the_oracle(start: Start, mapping: str, tmp_path: Path) -> None:
    name, day, next_day, expected = DAYS[mapping]
    file = needs_data(name)
    with start() as installed:
        installed.run(
            "publish", file, "--mapping", mapping, "--from", day, "--until", next_day, "--wait", timeout_s=500
        )
        rows = read_transactions(
            file,
            load_mapping(mapping),
            from_ms=INSTANT.convert(day, None, None),
            until_ms=INSTANT.convert(next_day, None, None),
        )
        valid = [row.transaction for row in rows]
        assert len(valid) > 500
        assert expected is None or len(valid) == expected
        pipeline = installed.pipeline()
        decisions = stored_decisions(pipeline)
        assert_sets_hold(pipeline, installed.status(), decisions, valid)
        # at this speed merchants lag hours of event time behind: their features are judged where replay is in lockstep
        assert feature_mismatches(valid, decisions, "core", only=features_of_the_card("core")) == []
        assert score_mismatches(list(decisions.values()), released_artifact(installed, tmp_path), tmp_path) == []
