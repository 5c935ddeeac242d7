"""Bootstrap at T and streaming from T on gives the state and the decisions of streaming from the start."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from console.options import iso_utc
from producers.files import read_transactions
from producers.replay import replay
from stream_features.decision import Decision
from stream_features.label import Label
from tests.e2e.conftest import Start
from tests.e2e.driver import Installation, publish_in_lockstep, stored_decisions, stored_states
from tests.e2e.judge import decision_differences, state_differences

pytestmark = pytest.mark.e2e

COUNT = 2_500
DAY_MS = 86_400_000
LABEL_DELAY_MS = 5 * DAY_MS


@dataclass
class Scene:
    """A file, T in its middle, and what both ways of processing it stored."""

    t_ms: int
    streamed: dict[str, Decision]
    streamed_states: dict[str, bytes]
    bootstrapped: dict[str, Decision]
    bootstrapped_states: dict[str, bytes]
    late_cards: set[str]
    again: set[str]
    after_again: dict[str, bytes]
    consistent: dict[str, Any]


@pytest.fixture(scope="module")
def scene(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("bootstrap")
    file = folder / "transactions.jsonl"
    Installation(folder, {}).run("simulate", COUNT, "--seed", 21, "--days", 25, "--out", file)
    rows = [row.transaction for row in read_transactions(file)]
    t_ms = rows[COUNT * 2 // 3].event_time_ms
    middle_ms = rows[COUNT * 5 // 6].event_time_ms
    # These cards stream before their history is loaded, so that the bootstrap has something to merge.
    late_cards = set(sorted({row.card_id for row in rows})[::3])
    early = [row for row in rows if row.event_time_ms >= middle_ms and row.card_id in late_cards]
    again = [row for row in rows if t_ms - 3 * DAY_MS <= row.event_time_ms < t_ms]
    early_ids = {row.transaction_id for row in early}
    rest = [
        item
        for item in replay(read_transactions(file), from_ms=t_ms, label_delay_ms=LABEL_DELAY_MS)
        if isinstance(item, Label) or item.transaction_id not in early_ids
    ]
    delay = ("--label-delay", "5d")
    with start("handbook") as installed:
        installed.run("publish", file, *delay, "--lockstep", "--wait")
        streamed = stored_decisions(installed.pipeline()), stored_states(installed.pipeline())
    with start("handbook") as installed:
        pipeline = installed.pipeline()
        publish_in_lockstep(pipeline, early)
        installed.run("bootstrap", file, "--until", iso_utc(t_ms), *delay)
        publish_in_lockstep(pipeline, rest, label_delay_ms=LABEL_DELAY_MS)
        bootstrapped = stored_decisions(pipeline), stored_states(pipeline)
        consistent = json.loads(installed.run("consistency", "--json"))
        publish_in_lockstep(pipeline, again)
        assert set(stored_decisions(pipeline)) == {row.transaction_id for row in rows if row.event_time_ms >= t_ms} | {
            row.transaction_id for row in again
        }
        refused = installed.run("bootstrap", file, "--until", iso_utc(t_ms), *delay, expect=1)
        assert "loaded" not in refused  # what went wrong stands on stderr
        after_again = stored_states(pipeline)
    return Scene(
        t_ms, *streamed, *bootstrapped, late_cards, {row.transaction_id for row in again}, after_again, consistent
    )


def test_the_state_is_the_same_to_the_byte(scene: Scene) -> None:
    kinds = {key.partition("#")[0] for key in scene.bootstrapped_states}
    assert kinds == {"card", "merchant"}
    assert len(scene.bootstrapped_states) > 100
    assert state_differences(scene.streamed_states, scene.bootstrapped_states) == []


def test_bootstrapped_ids_that_arrive_again_and_a_second_bootstrap_change_no_state(scene: Scene) -> None:
    assert len(scene.again) > 50
    assert state_differences(scene.bootstrapped_states, scene.after_again) == []


def test_decisions_after_t_are_the_same(scene: Scene) -> None:
    """For the cards whose history was there before they streamed; for the others the order of arrival was another."""
    mine = {i: d for i, d in scene.bootstrapped.items() if d.card_id not in scene.late_cards}
    theirs = {
        i: d for i, d in scene.streamed.items() if d.event_time_ms >= scene.t_ms and d.card_id not in scene.late_cards
    }
    assert len(mine) > 200
    assert decision_differences(theirs, mine) == []
    assert sum(bool(d.features["TERMINAL_ID_RISK_30DAY_WINDOW"]) for d in mine.values()) > 10


def test_the_consistency_job_knows_what_was_loaded(scene: Scene) -> None:
    assert scene.consistent["holds"]
    assert scene.consistent["compared"] == len(scene.bootstrapped)


def test_bootstrap_says_which_file_is_missing(tmp_path: Path) -> None:
    Installation(tmp_path, {}).run("bootstrap", tmp_path / "nothing.csv", expect=2)
