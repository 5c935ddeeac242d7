"""Switching engines on a running pipeline, four times over one stream: what was decided must not notice.

History is bootstrapped first. Then every engine takes a stretch of the stream in lockstep, with duplicates and
corrected labels of what another engine has decided; the last transactions of each are still on their way when the
engine is switched. At the end everything is held against the slow oracle and against states made from history alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from console.bootstrap import bootstrap
from console.consumers import consumers_of
from console.deployment.build import SAM
from console.publishing import Replay, lockstep_bucket_ms, publish
from console.running import Pipeline
from console.status import read_status
from console.switching import switch_engine
from local.flink import install
from local.run import CHECKOUT
from local.up import down, up
from producers.file_writer import write_transactions
from producers.replay import known_at_ms, replay
from producers.simulator import SimulatedTransaction, simulate
from stream_features.codec import pack
from stream_features.errors import UsageError
from stream_features.feature_sets import feature_set
from stream_features.history import history_states
from stream_features.label import Label
from stream_features.merchant_codec import pack_merchant
from stream_features.names import card_key, merchant_key
from stream_features.transaction import Transaction
from tests.e2e.driver import stored_decisions, stored_states
from tests.e2e.judge import feature_mismatches, state_differences

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam (make setup)"),
    pytest.mark.skipif(not (CHECKOUT / ".venv-embedded").exists(), reason="no .venv-embedded (make setup)"),
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]

DAY_MS = 86_400_000
END_MS = 1_790_000_000_000
LABEL_DELAY_MS = 3 * DAY_MS
# A corrected label, after its transaction. One day less than merchants' delay makes buckets of a day, as far as an
# event may be late: what a merchant forgets when it hears of the bucket's end, its beginning does not ask for.
LAST_WORD_MS = LABEL_DELAY_MS + 3 * DAY_MS
ENGINES = ("lambda", "flink", "lambda", "flink")
FEATURES = feature_set("handbook")
Item = Transaction | Label


@dataclass(frozen=True)
class Stream:
    """What is bootstrapped, and what each engine gets, in order of time."""

    history: list[SimulatedTransaction]
    stretches: list[list[Item]]

    @property
    def items(self) -> list[Item]:
        return [item for stretch in self.stretches for item in stretch]

    @property
    def from_ms(self) -> int:
        return self.history[-1].transaction.event_time_ms + 1


def a_stream() -> Stream:
    """Every fifth label says fraud and is taken back three days later, under the same engine or the next."""
    rows = list(simulate(1_600, seed=11, end_ms=END_MS, days=60, customers=60))
    history, live = rows[:600], rows[600:]
    from_ms = history[-1].transaction.event_time_ms + 1
    items: list[Item] = list(replay(rows, from_ms=from_ms, label_delay_ms=LABEL_DELAY_MS))
    by_id = {row.transaction.transaction_id: row.transaction for row in rows}
    corrections: list[Item] = []
    for number, item in enumerate([one for one in items if isinstance(one, Label)]):
        if number % 5 == 0:
            items[items.index(item)] = said = a_label(by_id[item.transaction_id], item.reported_at_ms, is_fraud=True)
            corrections.append(a_label(by_id[said.transaction_id], said.event_time_ms + LAST_WORD_MS, is_fraud=False))
    items = sorted([*items, *corrections], key=known_at_ms)
    last_ms = live[-1].transaction.event_time_ms
    span_ms = last_ms - from_ms + 1
    stretches: list[list[Item]] = [[] for _ in ENGINES]
    for item in items:
        if known_at_ms(item) <= last_ms:
            stretches[(known_at_ms(item) - from_ms) * len(ENGINES) // span_ms].append(item)
    return Stream(history, stretches)


def a_label(transaction: Transaction, reported_at_ms: int, *, is_fraud: bool) -> Label:
    return Label(
        transaction_id=transaction.transaction_id,
        is_fraud=is_fraud,
        reported_at_ms=reported_at_ms,
        source="analyst",
        card_id=transaction.card_id,
        merchant_id=transaction.merchant_id,
        event_time_ms=transaction.event_time_ms,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    down(state_dir=tmp_path / "state")


def silent(_message: str) -> None:
    pass


def publish_stretch(pipeline: Pipeline, stretch: Sequence[Item], duplicates: Sequence[Transaction]) -> None:
    """All but the last bucket in lockstep; the last one, and the duplicates, only as far as the streams."""
    bucket_ms = lockstep_bucket_ms(FEATURES, LAST_WORD_MS)
    last = known_at_ms(stretch[-1]) // bucket_ms
    waited_for = [item for item in stretch if known_at_ms(item) // bucket_ms < last]
    publish(pipeline, waited_for, Replay(lockstep=True, wait=True, progress=silent), LAST_WORD_MS)
    on_their_way = [item for item in stretch if known_at_ms(item) // bucket_ms == last]
    publish(pipeline, [*on_their_way, *duplicates], Replay(progress=silent), LABEL_DELAY_MS)


def test_four_switches_lose_nothing_double_nothing_and_change_no_value(folder: Path, tmp_path: Path) -> None:
    stream = a_stream()
    pipeline = Pipeline(up(feature_set="handbook", progress=silent, state_dir=folder))
    past = tmp_path / "history.parquet"
    write_transactions(past, stream.history)
    bootstrap(pipeline, past, None, until_ms=stream.from_ms, label_delay_ms=LABEL_DELAY_MS, progress=silent)
    published: list[Transaction] = []
    repeated = 0
    for engine, stretch in zip(ENGINES, stream.stretches, strict=True):
        if pipeline.run.engine != engine:
            pipeline = Pipeline(switch_engine(pipeline, engine, silent))
        assert pipeline.run.engine == engine
        duplicates = published[:: max(1, len(published) // 7)][:7]
        publish_stretch(pipeline, stretch, duplicates)
        repeated += len(duplicates)
        published += [item for item in stretch if isinstance(item, Transaction)]
        with pytest.raises(UsageError, match="already"):
            switch_engine(pipeline, engine, silent)
    pipeline = Pipeline(switch_engine(pipeline, "lambda", silent))
    consumers_of(pipeline).wait_until_at_rest()

    decisions = stored_decisions(pipeline)
    assert set(decisions) == {transaction.transaction_id for transaction in published}
    engines = [decisions[transaction.transaction_id].engine for transaction in published]
    assert {engine: engines.count(engine) > 100 for engine in ("lambda", "flink")} == {"lambda": True, "flink": True}
    status = read_status(pipeline.run)
    assert (status.published, status.decided) == (len(published) + repeated, len(published))
    assert (status.duplicates, status.quarantined, status.in_flight) == (repeated, 0, 0)

    labels = [item for item in stream.items if isinstance(item, Label)]
    before = [row.transaction for row in stream.history]
    reported_before = [
        a_label(row.transaction, row.transaction.event_time_ms + LABEL_DELAY_MS, is_fraud=bool(row.is_fraud))
        for row in stream.history
        if row.transaction.event_time_ms + LABEL_DELAY_MS < stream.from_ms
    ]
    assert feature_mismatches([*before, *published], decisions, "handbook", [*reported_before, *labels]) == []

    states = history_states([*before, *published], FEATURES, [*reported_before, *labels])
    cards = {card_key(card): pack(state) for card, state in states.cards.items()}
    merchants = {merchant_key(merchant): pack_merchant(state) for merchant, state in states.merchants.items()}
    assert state_differences(stored_states(pipeline, "card#"), cards) == []
    assert state_differences(stored_states(pipeline, "merchant#"), merchants) == []
