"""1 shard, 2, 1 under load with the Lambda engine: parents before children, nothing lost or out of order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

from stream_features.feature_sets import feature_set
from tests.faults.resharding import PHASE, SETTING, Resharded, history_problems, missing, reshard_under_load
from tests.faults.setting import Setting

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def resharded(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Resharded:
    if lacks := missing():
        pytest.skip(lacks)
    return reshard_under_load(tmp_path_factory.mktemp("resharding"))


def test_every_transaction_is_decided_once_as_the_history_says(
    resharded: Resharded, record_property: Callable[[str, object], None]
) -> None:
    record_property("recovery_s", resharded.recovery_s)
    assert resharded.problems == []
    assert len(resharded.decisions) == 3 * PHASE


def test_no_shard_was_begun_before_its_parents_were_done(resharded: Resharded) -> None:
    scored: dict[str, list[int]] = defaultdict(list)
    for decision in resharded.decisions.values():
        scored[decision.stream_position.shard_id].append(decision.scored_at_ms)
    pairs = [(parent, child) for child, parents in resharded.shards.items() for parent in parents]
    assert len(pairs) == 4
    for parent, child in pairs:
        assert max(scored[parent]) <= min(scored[child]), (parent, child)


def test_cards_cross_the_shards(resharded: Resharded) -> None:
    """Else their order would say nothing."""
    shards_of: dict[str, set[str]] = defaultdict(set)
    for decision in resharded.decisions.values():
        shards_of[decision.card_id].add(decision.stream_position.shard_id)
    assert sum(len(shards) == 3 for shards in shards_of.values()) > 5


def test_self_test_two_transactions_of_a_card_in_the_wrong_order_would_be_noticed(resharded: Resharded) -> None:
    sent, features = list(resharded.sent), feature_set(SETTING.feature_set)
    first = next(at for at, one in enumerate(sent) if sum(other.card_id == one.card_id for other in sent[at:]) > 3)
    again = next(at for at in range(first + 1, len(sent)) if sent[at].card_id == sent[first].card_id)
    sent[first], sent[again] = sent[again], sent[first]
    assert history_problems(sent, features, resharded.decisions, resharded.states)
    lost = {name: one for name, one in resharded.decisions.items() if name != sent[0].transaction_id}
    assert f"{sent[0].transaction_id} has no decision" in history_problems(
        resharded.sent, features, lost, resharded.states
    )
