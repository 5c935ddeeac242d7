"""What the services need from the outside, owned by the services; `adapters/` fills them in on AWS.

Every method raises `PortFailure` when the service behind it failed or timed out. Where another error is possible,
the docstring says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from lambdas.policy import Policy
from lambdas.writes import (
    StoredDecision,
    StoredEffect,
    StoredLabel,
    StoredState,
    Write,
)
from stream_features.decision import Reason
from stream_features.decision_event import DecisionEvent
from stream_features.entity_event import EntityEvent
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.label import Label
from stream_features.rejected import Rejected
from stream_features.transaction import Transaction


class ConditionFailed(Exception):
    """A condition of a transaction did not hold: someone else wrote first. Nothing of the transaction was written."""


class RowRefused(ContractMismatch):
    """The endpoint refused one row of a request; the other rows are not to blame.

    Attributes:
        row: index into the rows as they were passed to `Scorer.score`.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


class ScorerDown(PortFailure):
    """The endpoint cannot be asked: refused connections, timeouts, 5xx, throttling. It is neither code nor model."""


class NotPublished(PortFailure):
    """Some records were still refused after the bounded retries; all others are out.

    Attributes:
        transaction_ids: the transactions of which a record is not known to be out.
    """

    def __init__(self, message: str, transaction_ids: Iterable[str]) -> None:
        super().__init__(message)
        self.transaction_ids = frozenset(transaction_ids)


class Prediction(Struct, frozen=True):
    """One row's answer. `score` is a fraud probability in 0..1; reasons are empty below `explain_from`."""

    score: float
    reasons: list[Reason]
    model_version: str
    variant: str


class Pointer(Struct, frozen=True):
    """Where a quarantined record lies and why; the message of the quarantine queue."""

    bucket: str
    key: str
    field: str
    rule: str


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall clock, UTC epoch milliseconds."""
        ...

    def elapsed_s(self) -> float:
        """A clock that only runs forward, in seconds; its zero means nothing."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait between two tries of a call."""
        ...


class DecisionStore(Protocol):
    def get(self, transaction_ids: Sequence[str]) -> dict[str, bytes]:
        """Documents of the decisions among distinct `transaction_ids`, read consistently; unknown ids are left out."""
        ...


class EntityStore(Protocol):
    def get(self, entities: Sequence[str]) -> dict[str, StoredState]:
        """The stored states among distinct `entities`, read consistently; unknown entities are left out."""
        ...


class EffectStore(Protocol):
    def get(self, effects: Sequence[str]) -> dict[str, StoredEffect]:
        """The applied among distinct `effects`, read consistently; the others are left out."""
        ...


class LabelStore(Protocol):
    def get(self, transaction_ids: Sequence[str]) -> dict[str, StoredLabel]:
        """What is known about distinct `transaction_ids`, read consistently; those without a label are left out."""
        ...


class ToRescore(Struct, frozen=True):
    """An entry of the index of what is to be rescored: a degraded decision, or one that nobody has been told of yet."""

    transaction_id: str
    arrival_ms: int
    expires_at_s: int


class RescoreIndex(Protocol):
    def entries(self) -> Iterator[ToRescore]:
        """Every entry, in no order. What was written a moment ago may be missing or still be there."""
        ...


class Ledger(Protocol):
    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        """All of `writes` and the counts, or nothing. The same token again within ten minutes changes nothing.

        Args:
            writes: at most 99, each of another item.
            counts: counter name (`names.COUNTERS`) to what is added to it; none is zero.
            token: 1..36 characters, the same for every try of one transaction.

        Raises:
            ConditionFailed: the condition of at least one write did not hold.
            PortFailure: anything else; the transaction may or may not have happened.
        """
        ...

    def recorded(self, effects: Sequence[str]) -> frozenset[str]:
        """Those among distinct `effects` whose mark is written, read consistently."""
        ...


class Scorer(Protocol):
    def score(self, rows: Sequence[tuple[float, ...]], *, explain_from: float, once: bool = False) -> list[Prediction]:
        """Score rows in the column order of the feature set (NaN = missing); as many answers, in the same order.

        Args:
            rows: at least one.
            explain_from: least score that gets reasons.
            once: do not try again after a failure.

        Raises:
            ScorerDown: the endpoint did not answer.
            RowRefused: one row cannot be scored, the others can.
            ContractMismatch: the endpoint's model does not fit our feature set, or its answer is not what we agreed.
        """
        ...


class DecisionPublisher(Protocol):
    def publish(self, decisions: Sequence[StoredDecision]) -> None:
        """Put the stored documents on the decisions stream. Raises `NotPublished` after trying every one."""
        ...


class EntityEventPublisher(Protocol):
    def publish(self, events: Sequence[EntityEvent]) -> None:
        """Put events on the entity-events stream. Raises `NotPublished` after trying every one."""
        ...


class TransactionPublisher(Protocol):
    def publish(self, transaction: Transaction, payload: bytes) -> None:
        """Put `payload`, the transaction as its application wrote it, on the stream of transactions.

        Raises `NotPublished` when it is not known to be out.
        """
        ...


class LabelPublisher(Protocol):
    def publish(self, labels: Sequence[Label]) -> None:
        """Put labels on the labels stream. Raises `NotPublished` after trying every one."""
        ...


class Alerts(Protocol):
    def raise_alerts(self, decisions: Sequence[StoredDecision]) -> None:
        """Tell the subscribers of reviews and declines. Raises `NotPublished` after trying every one."""
        ...


class DecisionEvents(Protocol):
    def publish(self, events: Sequence[DecisionEvent]) -> None:
        """Put events on the bus. Raises `NotPublished` after trying every one."""
        ...


class Quarantine(Protocol):
    def keep(self, rejected: Rejected) -> None:
        """Store a rejected record and queue a pointer to it. Doing it twice stores one object and two pointers."""
        ...

    def announce(self, *, key: str, field: str, rule: str) -> None:
        """Queue a pointer to a rejected record that is stored already, under `key`."""
        ...


class PolicySource(Protocol):
    def current(self) -> Policy:
        """The policy in force: the published one, or the last good one where that is not valid.

        Raises ContractMismatch when the published document is not a valid policy and there is no good one yet.
        """
        ...

    def problem(self) -> str | None:
        """Why the published policy is not the one in force; None if it is."""
        ...


class ListedEntity(Struct, frozen=True):
    """An entity's item in the table of lists. It counts until `expires_at_s` (epoch seconds; None: for ever)."""

    list_name: str
    expires_at_s: int | None = None


class ListStore(Protocol):
    def get(self, entries: Sequence[str]) -> dict[str, ListedEntity]:
        """The listed among distinct `entries` (`judging.list_entry`), expired ones included; others are left out."""
        ...
