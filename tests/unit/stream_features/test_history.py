"""The scalar path over a history: when labels are known, and which states are left."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.codec import pack
from stream_features.feature_sets import CORE, DAY_MS, HANDBOOK, FeatureSet
from stream_features.history import HistoryStates, history_states, observe_history
from stream_features.label import Label
from stream_features.merchant_codec import pack_merchant
from stream_features.transaction import Transaction
from tests.unit.stream_features.cards import a_transaction
from tests.unit.stream_features.test_kernel import histories, labels_of

START_MS = 1_600_000_000_000
RISK = HANDBOOK.names.index("TERMINAL_ID_RISK_30DAY_WINDOW")
COUNT = HANDBOOK.names.index("TERMINAL_ID_NB_TX_30DAY_WINDOW")


def at(days: float, name: str, **changes: object) -> Transaction:
    return a_transaction(transaction_id=name, event_time_ms=START_MS + round(days * DAY_MS), **changes)


def a_label(name: str, days: float, is_fraud: bool = True, **changes: object) -> Label:
    fields: dict[str, object] = {"transaction_id": name, "is_fraud": is_fraud, "source": "analyst"}
    return Label(**{**fields, "reported_at_ms": START_MS + round(days * DAY_MS), **changes})  # type: ignore[arg-type]


def risks(history: Iterable[Transaction], labels: list[Label]) -> list[float]:
    return [observation.values[RISK] for _, observation in observe_history(history, HANDBOOK, labels)]


def packed(states: HistoryStates) -> tuple[dict[str, bytes], dict[str, bytes]]:
    cards = {name: pack(card) for name, card in states.cards.items() if card.times}
    return cards, {name: pack_merchant(merchant) for name, merchant in states.merchants.items()}


@pytest.mark.parametrize("features", [CORE, HANDBOOK], ids=lambda features: features.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_states_are_those_that_observing_leaves(features: FeatureSet, data: st.DataObject) -> None:
    history = data.draw(histories())
    labels = data.draw(labels_of(history))
    observed = HistoryStates()
    for _ in observe_history(history, features, labels, states=observed):
        pass
    newest_ms = max(transaction.event_time_ms for transaction in history)
    known = [label for label in labels if label.reported_at_ms <= newest_ms]
    assert packed(history_states(history, features, known)) == packed(observed)
    assert packed(history_states(history[::-1], features, known)) == packed(observed)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_before_t_is_what_happened_and_was_reported_before_it(data: st.DataObject) -> None:
    history = data.draw(histories())
    labels = data.draw(labels_of(history))
    t_ms = data.draw(st.sampled_from([transaction.event_time_ms for transaction in history])) + data.draw(
        st.integers(0, 1)
    )
    expected = history_states(
        [transaction for transaction in history if transaction.event_time_ms < t_ms],
        HANDBOOK,
        [label for label in labels if label.reported_at_ms < t_ms],
    )
    assert packed(history_states(history, HANDBOOK, labels, before_ms=t_ms)) == packed(expected)


@pytest.mark.parametrize(
    ("reported", "withdrawn", "risk"),
    [
        (5, None, 1.0),
        (10 - 120_000 / DAY_MS, None, 1.0),  # takes effect at the very moment of the question
        (10 - 119_999 / DAY_MS, None, 0.0),
        (5, 6, 0.0),
        (5, 10 - 119_999 / DAY_MS, 1.0),  # withdrawn too late for the question
        (11, None, 0.0),
    ],
)
def test_a_fraud_counts_from_two_minutes_after_its_report(
    reported: float, withdrawn: float | None, risk: float
) -> None:
    labels = [a_label("a", reported)]
    if withdrawn is not None:
        labels.append(a_label("a", withdrawn, is_fraud=False))
    assert risks([at(0, "a"), at(10, "b")], labels)[1] == risk


@pytest.mark.parametrize(("days", "count"), [(7, 1), (7 - 1 / DAY_MS, 0), (37, 0), (37 - 1000 / DAY_MS, 1)])
def test_a_delayed_window_is_open_at_its_old_end_and_closed_at_its_new_end(days: float, count: int) -> None:
    *_, (_, observation) = observe_history([at(0, "a"), at(days, "b")], HANDBOOK)
    assert observation.values[COUNT] == count


def test_the_share_of_frauds_is_of_the_same_window() -> None:
    history = [at(0, "a"), at(1, "b"), at(2, "c"), at(9.5, "d")]
    assert risks(history, [a_label("b", 6)])[-1] == 1 / 3
    assert risks(history, [a_label("b", 6), a_label("d", 9)])[-1] == 1 / 3


def test_labels_of_refunds_and_of_other_merchants_do_not_count() -> None:
    history = [at(0, "a"), at(1, "r", type="refund"), at(1, "o", merchant_id="other"), at(20, "z")]
    named = a_label("r", 5, merchant_id=history[1].merchant_id, event_time_ms=history[1].event_time_ms)
    for labels in ([a_label("r", 5), a_label("o", 5)], [named]):
        assert risks(history, labels)[-1] == 0.0


def test_a_label_that_names_no_purchase_waits_for_it() -> None:
    early = [a_label("late", 5)]
    history = [at(0, "a"), at(6, "b"), at(0.5, "late", card_id="card-2"), at(9, "z")]
    assert risks(history, early)[-1] == 1 / 2
    named = [a_label("never", 5, merchant_id=history[0].merchant_id, event_time_ms=START_MS + DAY_MS)]
    assert risks([at(0, "a"), at(6, "b"), at(9, "z")], named)[-1] == 1.0


def test_where_the_purchase_is_known_its_own_merchant_and_time_win() -> None:
    wrong = a_label("a", 5, merchant_id="other", event_time_ms=START_MS - 100 * DAY_MS)
    assert risks([at(0, "a"), at(9, "z")], [wrong])[-1] == 1.0


def test_labels_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        risks([at(0, "a"), at(10, "b")], [a_label("a", 5), a_label("a", 4, is_fraud=False)])
