"""The scalar path over a whole history: what training, bootstrap and tests run instead of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stream_features.card_state import CardState
from stream_features.feature_sets import FeatureSet
from stream_features.kernel import Observation, card_event, observe
from stream_features.label import Label
from stream_features.label_history import FraudEntry, fraud_entry
from stream_features.merchant_state import MerchantLayout, MerchantState
from stream_features.transaction import Transaction


@dataclass(slots=True)
class HistoryStates:
    """What a history leaves behind.

    Attributes:
        cards: by card_id.
        merchants: by merchant_id; stays empty when the feature set has no features of merchants.
    """

    cards: dict[str, CardState] = field(default_factory=dict)
    merchants: dict[str, MerchantState] = field(default_factory=dict)


def observe_history(
    transactions: Iterable[Transaction],
    features: FeatureSet,
    labels: Iterable[Label] | None = None,
    *,
    states: HistoryStates | None = None,
) -> Iterator[tuple[Transaction, Observation]]:
    """Observe `transactions` one by one, in the order given, which stands for their order of arrival.

    A label is known from its `reported_at_ms` on: it is taken in before the first transaction with which the history's
    clock, the latest event time so far, reaches that.

    Args:
        transactions: valid ones, each id once.
        features: the feature set.
        labels: ascending by `reported_at_ms`; of equal ones the later holds. None for none.
        states: updated in place; pass one to start from or to keep the states.

    Raises:
        MalformedRecord: `currency`/`no_rate`.
        ValueError: labels that are not in order.
    """
    states = states if states is not None else HistoryStates()
    cards, merchants, layout = states.cards, states.merchants, features.merchant_layout
    known = _KnownLabels(labels, layout, merchants) if labels is not None and layout is not None else None
    clock_ms = 0
    for transaction in transactions:
        event = card_event(transaction)
        clock_ms = max(clock_ms, event.event_time_ms)
        if known is not None:
            known.report_upto(clock_ms)
        card = cards.get(transaction.card_id)
        if card is None:
            card = cards[transaction.card_id] = CardState.empty()
        observation = observe(features, card, event, merchants.get(transaction.merchant_id))
        if layout is not None and event.is_purchase:
            _merchant(merchants, transaction.merchant_id).add(layout, event.event_time_ms, event.amount_base)
        if known is not None:
            known.decide(transaction)
        yield transaction, observation


def history_states(
    transactions: Iterable[Transaction],
    features: FeatureSet,
    labels: Iterable[Label] | None = None,
    *,
    before_ms: int | None = None,
) -> HistoryStates:
    """The states that `observe_history` would leave, without the answers.

    Args:
        transactions: valid ones, each id once; the order does not matter.
        features: the feature set.
        labels: ascending by `reported_at_ms`; None for none.
        before_ms: T; only what happened, and what was reported, before it. None for everything.

    Raises:
        MalformedRecord: `currency`/`no_rate`.
        ValueError: labels that are not in order.
    """
    states = HistoryStates()
    cards, merchants, layout = states.cards, states.merchants, features.merchant_layout
    known = _KnownLabels(labels, layout, merchants) if labels is not None and layout is not None else None
    for transaction in transactions:
        if before_ms is not None and transaction.event_time_ms >= before_ms:
            continue
        event = card_event(transaction)
        if known is not None:
            known.decide(transaction)
        if not event.is_purchase:
            continue
        card = cards.get(transaction.card_id)
        if card is None:
            card = cards[transaction.card_id] = CardState.empty()
        card.take_in(features.card_layout, event)
        if layout is not None:
            _merchant(merchants, transaction.merchant_id).add(layout, event.event_time_ms, event.amount_base)
    if known is not None:
        known.report_upto(None if before_ms is None else before_ms - 1)
    return states


def card_states(transactions: Iterable[Transaction], features: FeatureSet) -> dict[str, CardState]:
    """The state of every card after `transactions`, by card_id; the order does not matter.

    A card whose transactions store nothing (refunds only) has no entry.
    """
    return history_states(transactions, features).cards


def _merchant(merchants: dict[str, MerchantState], merchant_id: str) -> MerchantState:
    merchant = merchants.get(merchant_id)
    if merchant is None:
        merchant = merchants[merchant_id] = MerchantState.empty()
    return merchant


class _KnownLabels:
    """Takes labels in as time passes: at once where the purchase is known or named in the label, else when it comes."""

    def __init__(self, labels: Iterable[Label], layout: MerchantLayout, merchants: dict[str, MerchantState]) -> None:
        self._labels = iter(labels)
        self._next = next(self._labels, None)
        self._layout = layout
        self._merchants = merchants
        self._purchases: dict[str, tuple[str, int]] = {}  # transaction id -> merchant, event time
        self._no_purchases: set[str] = set()
        self._frauds: set[str] = set()
        self._entries: dict[str, list[FraudEntry]] = {}
        self._waiting: dict[str, list[Label]] = {}

    def report_upto(self, time_ms: int | None) -> None:
        """Take in what was reported up to `time_ms`; None: everything."""
        while (label := self._next) is not None and (time_ms is None or label.reported_at_ms <= time_ms):
            self._next = next(self._labels, None)
            if self._next is not None and self._next.reported_at_ms < label.reported_at_ms:
                raise ValueError("labels must stand in the order in which they were reported")
            self._report(label)

    def decide(self, transaction: Transaction) -> None:
        """`transaction` is known from now on."""
        transaction_id = transaction.transaction_id
        said = self._purchases.get(transaction_id)
        if transaction.type != "purchase":
            self._no_purchases.add(transaction_id)
            self._move(transaction_id, said, None)
            return
        purchase = self._purchases[transaction_id] = transaction.merchant_id, transaction.event_time_ms
        self._move(transaction_id, said, purchase)
        for label in self._waiting.pop(transaction_id, ()):
            self._report(label)

    def _report(self, label: Label) -> None:
        transaction_id = label.transaction_id
        if transaction_id in self._no_purchases:
            return
        purchase = self._purchases.get(transaction_id)
        if purchase is None:
            if label.merchant_id is None or label.event_time_ms is None:
                self._waiting.setdefault(transaction_id, []).append(label)
                return
            purchase = self._purchases[transaction_id] = label.merchant_id, label.event_time_ms
            for earlier in self._waiting.pop(transaction_id, ()):
                self._report(earlier)
        if label.is_fraud == (transaction_id in self._frauds):
            return
        (self._frauds.add if label.is_fraud else self._frauds.remove)(transaction_id)
        merchant_id, event_time_ms = purchase
        entry = fraud_entry(event_time_ms, label.reported_at_ms, label.is_fraud)
        self._entries.setdefault(transaction_id, []).append(entry)
        self._add(merchant_id, entry, entry.delta)

    def _move(self, transaction_id: str, said: tuple[str, int] | None, purchase: tuple[str, int] | None) -> None:
        """A label named another purchase than the one that comes, or what comes is none: its own values win."""
        entries = self._entries.get(transaction_id)
        if said is None or said == purchase or entries is None:
            return
        for entry in entries:
            self._add(said[0], entry, -entry.delta)
        if purchase is not None:
            merchant_id, event_time_ms = purchase
            moved = self._entries[transaction_id] = [
                FraudEntry(event_time_ms, entry.effective_ms, entry.delta) for entry in entries
            ]
            for entry in moved:
                self._add(merchant_id, entry, entry.delta)

    def _add(self, merchant_id: str, entry: FraudEntry, delta: int) -> None:
        merchant = _merchant(self._merchants, merchant_id)
        merchant.add_fraud(self._layout, entry.event_time_ms, entry.effective_ms, delta)
