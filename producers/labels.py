"""Labels: what a bank learns about its transactions, `label_delay_ms` after each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from producers.publisher import RecordPublisher
from stream_features.label import Label, check_label, encode_label
from stream_features.transaction import Transaction

DAY_MS: Final = 86_400_000
DEFAULT_LABEL_DELAY_MS: Final = 5 * DAY_MS


class LabelledRow(Protocol):
    """A transaction with what is known about it: a row of a file or of the simulator."""

    @property
    def transaction(self) -> Transaction: ...

    @property
    def is_fraud(self) -> bool | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNoise:
    """How reports differ from the truth, decided per transaction id, so that every reader sees the same reports.

    Attributes:
        missed_share: share of the frauds that nobody reports; their label says legitimate.
        disputed_share: share of the legitimate transactions reported as fraud by their own cardholders.
    """

    missed_share: float = 0.0
    disputed_share: float = 0.0

    def reported_fraud(self, transaction_id: str, is_fraud: bool) -> bool:
        digest = hashlib.blake2b(transaction_id.encode(), digest_size=8, person=b"label-noise").digest()
        chance = int.from_bytes(digest, "big") / 2**64
        return is_fraud is not (chance < (self.missed_share if is_fraud else self.disputed_share))


NO_NOISE: Final = LabelNoise()


def label_of(transaction: Transaction, is_fraud: bool, *, label_delay_ms: int, noise: LabelNoise = NO_NOISE) -> Label:
    """The label that is reported `label_delay_ms` after the transaction, fraud as a chargeback.

    It names merchant and event time, so it applies whether or not a decision exists yet.
    """
    reported_fraud = noise.reported_fraud(transaction.transaction_id, is_fraud)
    return Label(
        transaction_id=transaction.transaction_id,
        is_fraud=reported_fraud,
        reported_at_ms=transaction.event_time_ms + label_delay_ms,
        source="chargeback" if reported_fraud else "customer",
        card_id=transaction.card_id,
        merchant_id=transaction.merchant_id,
        event_time_ms=transaction.event_time_ms,
    )


def labels_of(
    rows: Iterable[LabelledRow], *, label_delay_ms: int = DEFAULT_LABEL_DELAY_MS, noise: LabelNoise = NO_NOISE
) -> Iterator[Label]:
    """One label for every row whose truth is known, in the rows' order."""
    for row in rows:
        if row.is_fraud is not None:
            yield label_of(row.transaction, row.is_fraud, label_delay_ms=label_delay_ms, noise=noise)


class LabelPublisher(RecordPublisher):
    """Publishes labels, keyed by their transaction."""

    def publish(self, label: Label) -> None:
        """Queue one label; raises like `RecordPublisher.publish_raw`, and MalformedRecord for a bad label."""
        check_label(label)
        self.publish_raw(label.transaction_id, encode_label(label), record_id=label.transaction_id)
