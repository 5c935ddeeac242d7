"""The demo: it runs, its figures are true, and its data is neither trivial nor hopeless."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from console import demo
from local.run import load_run
from model.boosting import booster_scores, fit
from model.evaluate import average_precision
from model.parameters import complete
from model.training_set import TrainingSet, build_training_set
from producers.simulator import simulate
from stream_features.feature_sets import feature_set
from tests.e2e.driver import Installation, stored_decisions

pytestmark = pytest.mark.e2e

FIXED_END_MS = 1_780_000_000_000
WITHOUT_WINDOWS = ("amount", "is_night", "is_weekend")


def judged(training: TrainingSet, live: TrainingSet, columns: tuple[str, ...]) -> float:
    """Average precision on `live` of a model that sees only `columns`."""
    places = [training.feature_set.names.index(name) for name in columns]
    booster = fit(training.features[:, places], training.labels, columns, complete({}))
    return average_precision(live.labels, booster_scores(booster, np.ascontiguousarray(live.features[:, places])))


def test_the_demo_data_needs_its_windows() -> None:
    """AP between 0.4 and 0.95, at least 0.15 less without windows; evaluation strictly after training plus gap."""
    published = 10_000
    rows = list(simulate(demo.HISTORY + published, seed=demo.SEED, end_ms=FIXED_END_MS, days=demo.DAYS))
    live_from_ms = rows[demo.HISTORY].transaction.event_time_ms
    everything = build_training_set(((row.transaction, row.is_fraud) for row in rows), feature_set("core"))
    training = everything.between(None, live_from_ms - demo.LABEL_GAP_MS)
    live = everything.between(live_from_ms, None)
    assert int(training.event_times_ms.max()) + demo.LABEL_GAP_MS < int(live.event_times_ms.min())
    with_windows = judged(training, live, everything.feature_set.names)
    without = judged(training, live, WITHOUT_WINDOWS)
    assert 0.4 <= with_windows <= 0.95
    assert without <= with_windows - 0.15


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installation, str]:
    installed = Installation(tmp_path_factory.mktemp("demo") / "state", {})
    return installed, installed.run("demo", "--transactions", 1_200, timeout_s=400)


def test_the_demo_runs_and_leaves_the_pipeline_running(demonstrated: tuple[Installation, str]) -> None:
    installed, printed = demonstrated
    try:
        run = load_run(installed.state_dir)
        assert run is not None
        status = installed.status()
        assert (status["decided"], status["in_flight"]) == (1_200, 0)
        decisions = stored_decisions(installed.pipeline())
        assert len(decisions) == 1_200
        for wanted in (
            "Athena",
            "average_precision",
            "seconds",
            str(installed.state_dir),
            run.endpoint_url,
            "fraudstream down",
        ):
            assert wanted in printed
        outcomes = {"approve": 0, "review": 0, "decline": 0}
        for decision in decisions.values():
            outcomes[decision.decision] += 1
        for outcome, count in outcomes.items():
            if count:
                assert re.search(rf"{outcome} +│ +{count:,} ", printed), printed
    finally:
        installed.run("down")
    assert load_run(installed.state_dir) is None
    assert Path(installed.state_dir, "demo", "decisions.parquet").exists()
