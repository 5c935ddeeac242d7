"""What the services need from the outside, owned by the services; `adapters/` fills them in on AWS.

Every method raises `PortFailure` when the service behind it failed or timed out. Where another error is possible,
the docstring says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from lambdas.policy import Policy
from stream_features.decision import Decision, Reason, decode_decision, encode_decision
from stream_features.decision_event import DecisionEvent
from stream_features.entity_event import EntityEvent
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.label import Label, LabelSource
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


class StoredDecision(Struct, frozen=True):
    """A decision with the bytes it is, or will be, stored as: what is published again is bit for bit the same."""

    decision: Decision
    document: bytes

    @classmethod
    def of(cls, decision: Decision) -> StoredDecision:
        return cls(decision, encode_decision(decision))

    @classmethod
    def from_document(cls, document: bytes) -> StoredDecision:
        """Read a stored document. Raises ContractMismatch when it is no decision of this schema version."""
        return cls(decode_decision(document), document)


class StoredState(Struct, frozen=True):
    """One entity's packed state as read: `version` is what the next write has to find unchanged."""

    version: int
    layout: str
    packed: bytes
    complete_from_ms: int | None = None


class PutState(Struct, frozen=True):
    """Write an entity's state if it still has `expected_version` (None: if the entity is still unknown)."""

    entity: str
    expected_version: int | None
    layout: str
    packed: bytes
    complete_from_ms: int | None
    expires_at_s: int

    @property
    def version(self) -> int:
        return 1 if self.expected_version is None else self.expected_version + 1

    @property
    def size_bytes(self) -> int:
        return len(self.packed) + 256


class PutDecision(Struct, frozen=True):
    """Write a decision if its transaction has none yet."""

    stored: StoredDecision
    expires_at_s: int

    @property
    def size_bytes(self) -> int:
        return len(self.stored.document) + 640  # the index attributes beside the document, at their longest


class ReplaceDecision(Struct, frozen=True):
    """Write a decision in the place of `replaced`, if that is still the stored one to the last byte.

    Its item stays in the index of what is to be rescored, until `DecisionSettled`: somebody has to hear of it.
    """

    stored: StoredDecision
    replaced: StoredDecision

    @property
    def size_bytes(self) -> int:
        return len(self.stored.document) + len(self.replaced.document) + 640


class DecisionSettled(Struct, frozen=True):
    """Take a decision out of the index of what is to be rescored, if its document is still this one."""

    stored: StoredDecision

    @property
    def size_bytes(self) -> int:
        return len(self.stored.document) + 640


class PutEffect(Struct, frozen=True):
    """Write the mark that an effect has happened, if it has not yet."""

    effect: str
    expires_at_s: int

    @property
    def size_bytes(self) -> int:
        return len(self.effect) + 64


class StoredEffect(Struct, frozen=True):
    """An applied effect as read: its revision, and the document that says what was applied, where there is one."""

    revision: int = 0
    document: bytes = b""


class PutRevisedEffect(Struct, frozen=True):
    """Write an effect that later revisions replace, if it still has `expected_revision` (None: if it is absent)."""

    effect: str
    expected_revision: int | None
    revision: int
    document: bytes  # UTF-8
    expires_at_s: int

    @property
    def size_bytes(self) -> int:
        return len(self.effect) + len(self.document) + 128


class StoredLabel(Struct, frozen=True):
    """Everything known about one transaction's fraud, as the `labels` table holds it.

    Attributes:
        revision: of the item; grows with every change.
        is_fraud: the label that holds.
        reported_at_ms: when it was reported, epoch ms.
        source: by whom.
        history: UTF-8 JSON list of every distinct report.
        merchant_id: whose fraud it would be; None while nobody knows.
        event_time_ms: when the transaction was; None while nobody knows.
        waiting: nobody knows yet to whom it applies.
        told: UTF-8 JSON list of the merchants that may have been told fraud entries of this transaction.
        no_purchase: its transaction was decided and is a refund or a reversal, which no merchant's risk hears of.
    """

    revision: int
    is_fraud: bool
    reported_at_ms: int
    source: LabelSource
    history: bytes
    merchant_id: str | None
    event_time_ms: int | None
    waiting: bool
    told: bytes = b"[]"
    no_purchase: bool = False


class PutLabel(Struct, frozen=True):
    """Write a transaction's label if its item still has `expected_revision` (None: if there is none)."""

    transaction_id: str
    expected_revision: int | None
    label: StoredLabel
    expires_at_s: int

    @property
    def size_bytes(self) -> int:
        return len(self.label.history) + len(self.label.told) + 1_024


Write = PutState | PutDecision | ReplaceDecision | DecisionSettled | PutEffect | PutRevisedEffect | PutLabel


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPorts:
    """What the scoring service needs from outside its process, whichever engine computes the windows."""

    decisions: DecisionStore
    ledger: Ledger
    scorer: Scorer
    policies: PolicySource
    lists: ListStore
    publisher: DecisionPublisher
    alerts: Alerts
    quarantine: Quarantine
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionPorts(ScoringPorts):
    """And where it asks the windows itself: the states, and the way to the merchants."""

    entities: EntityStore
    entity_events: EntityEventPublisher


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesPorts(ScoringPorts):
    """And where the windows have been asked before: the labels that wait for its decisions."""

    labels: LabelStore
    label_publisher: LabelPublisher


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPorts:
    """What the score API needs beside the scoring service."""

    decisions: DecisionStore
    ledger: Ledger
    transactions: TransactionPublisher
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPorts:
    """Everything outside the process that tells a bus of decisions."""

    ledger: Ledger
    events: DecisionEvents
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class RescorePorts:
    """What rescoring needs from outside its process."""

    to_rescore: RescoreIndex
    decisions: DecisionStore
    effects: EffectStore
    scorer: Scorer
    lists: ListStore
    publisher: DecisionPublisher
    alerts: Alerts
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityPorts:
    """Everything outside the process that updates entities."""

    entities: EntityStore
    effects: EffectStore
    labels: LabelStore
    ledger: Ledger
    label_publisher: LabelPublisher
    quarantine: Quarantine
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPorts:
    """Everything outside the process that records labels."""

    labels: LabelStore
    decisions: DecisionStore
    ledger: Ledger
    entity_events: EntityEventPublisher
    quarantine: Quarantine
    clock: Clock
