"""What the tables hold, and the writes that one transaction of theirs is made of."""

from __future__ import annotations

from msgspec import Struct

from stream_features.decision import Decision, decode_decision, encode_decision
from stream_features.label import LabelSource


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
