"""Rows from a history: features over all of it, rows by time, purchases with a label only."""

from __future__ import annotations

import msgspec
import numpy as np

from model.training_set import DEFAULT_LABEL_DELAY_MS, build_training_set
from producers.labels import DEFAULT_LABEL_DELAY_MS as PUBLISHED_LABEL_DELAY_MS
from producers.labels import label_of
from stream_features.feature_sets import feature_set
from stream_features.history import observe_history
from tests.unit.model.history import DAY_MS, START_MS, a_history

CORE = feature_set("core")
HISTORY = a_history(cards=12, days=20)


def test_rows_hold_the_features_of_the_streams_own_path_cast_once():
    rows = build_training_set(HISTORY, CORE, label_delay_ms=3 * DAY_MS)
    labels = [label_of(transaction, bool(is_fraud), label_delay_ms=3 * DAY_MS) for transaction, is_fraud in HISTORY]
    observed = list(observe_history((transaction for transaction, _ in HISTORY), CORE, labels))
    expected = np.array([observation.values for _, observation in observed], dtype=np.float64).astype(np.float32)
    assert rows.features.dtype == np.float32
    assert rows.features.tobytes() == expected.tobytes()
    assert rows.transaction_ids.tolist() == [transaction.transaction_id for transaction, _ in HISTORY]
    assert rows.card_ids.tolist() == [transaction.card_id for transaction, _ in HISTORY]
    assert rows.event_times_ms.tolist() == [transaction.event_time_ms for transaction, _ in HISTORY]
    assert rows.labels.tolist() == [int(bool(is_fraud)) for _, is_fraud in HISTORY]


def test_chosen_rows_know_the_history_before_them():
    from_ms, until_ms = START_MS + 10 * DAY_MS, START_MS + 15 * DAY_MS
    chosen = build_training_set(HISTORY, CORE, from_ms=from_ms, until_ms=until_ms)
    everything = build_training_set(HISTORY, CORE)
    assert 0 < len(chosen) < len(everything)
    assert chosen.features.tobytes() == everything.between(from_ms, until_ms).features.tobytes()
    forgotten = build_training_set([row for row in HISTORY if row[0].event_time_ms >= from_ms], CORE, until_ms=until_ms)
    assert chosen.features.tobytes() != forgotten.features.tobytes()


def test_the_start_is_inclusive_and_the_end_exclusive():
    first, last = HISTORY[0][0].event_time_ms, HISTORY[-1][0].event_time_ms
    assert len(build_training_set(HISTORY, CORE, from_ms=first, until_ms=last)) == len(HISTORY) - 1
    assert len(build_training_set(HISTORY, CORE, from_ms=first + 1)) == len(HISTORY) - 1


def test_refunds_are_no_rows_and_rows_without_a_label_count_in_windows_only():
    transaction, _ = HISTORY[0]
    later = msgspec.structs.replace(transaction, transaction_id="later", event_time_ms=transaction.event_time_ms + 1000)
    refund = msgspec.structs.replace(transaction, transaction_id="refund", type="refund")
    rows = build_training_set([(transaction, None), (refund, True), (later, True)], CORE)
    assert rows.transaction_ids.tolist() == ["later"]
    assert rows.features[0, CORE.names.index("card_count_1m")] == 2.0


def test_no_row_at_all_is_an_empty_set_of_the_right_width():
    assert build_training_set([], CORE).features.shape == (0, len(CORE.names))


def test_labels_come_as_late_as_the_publisher_sends_them_unless_said_otherwise():
    assert DEFAULT_LABEL_DELAY_MS == PUBLISHED_LABEL_DELAY_MS
    by_default = build_training_set(HISTORY, CORE).features.tobytes()
    assert build_training_set(HISTORY, CORE, label_delay_ms=DEFAULT_LABEL_DELAY_MS).features.tobytes() == by_default
    assert build_training_set(HISTORY, CORE, label_delay_ms=30 * DAY_MS).features.tobytes() != by_default
