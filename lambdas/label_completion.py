"""Labels that do not know whose they are, or that it is a refund, go out again once there is a decision, completed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from lambdas.budget import Budget
from lambdas.ports import LabelPublisher, LabelStore
from lambdas.writes import StoredLabel
from stream_features.label import Label


class _OfMerchant(Protocol):
    """An entity event or a decision."""

    @property
    def merchant_id(self) -> str: ...
    @property
    def event_time_ms(self) -> int: ...
    @property
    def is_purchase(self) -> bool: ...


class Whose(Struct, frozen=True):
    """What a label has to know of its transaction; where a decision exists, its values win."""

    merchant_id: str
    event_time_ms: int
    is_purchase: bool

    @classmethod
    def of(cls, decided: _OfMerchant) -> Whose:
        return cls(decided.merchant_id, decided.event_time_ms, decided.is_purchase)


class LabelCompletion:
    """Asked with what was decided, again with what is redelivered: a crash may have come between commit and sending."""

    def __init__(self, labels: LabelStore, publisher: LabelPublisher, budget: Budget) -> None:
        self._labels = labels
        self._publisher = publisher
        self._budget = budget

    def complete(self, decided: Mapping[str, Whose]) -> int:
        """Send again every stored label that does not know what the decision of its transaction says.

        Args:
            decided: by transaction id.

        Returns:
            How many labels went out.

        Raises:
            NotPublished: some labels did not go out.
            PortFailure: the labels could not be read.
        """
        if not decided:
            return 0
        self._budget.check()
        stored = self._labels.get(list(decided))
        completed = [
            _completed(key, label, decided[key]) for key, label in stored.items() if _lacks(label, decided[key])
        ]
        if completed:
            self._budget.check()
            self._publisher.publish(completed)
        return len(completed)


def _lacks(label: StoredLabel, whose: Whose) -> bool:
    known = Whose(label.merchant_id or "", label.event_time_ms or 0, not label.no_purchase)
    return label.waiting or known != whose


def _completed(transaction_id: str, label: StoredLabel, whose: Whose) -> Label:
    """The label that holds, as it was reported, with what the decision knows."""
    return Label(
        transaction_id=transaction_id,
        is_fraud=label.is_fraud,
        reported_at_ms=label.reported_at_ms,
        source=label.source,
        merchant_id=whose.merchant_id,
        event_time_ms=whose.event_time_ms,
    )
