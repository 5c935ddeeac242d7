"""Effects that are not decisions, each counted once per stream position: quarantined records and duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from lambdas.batch import Batch
from lambdas.budget import Budget
from lambdas.cards import expiry_s
from lambdas.commit import Chain, Committer, Conflict, Link
from lambdas.ports import Clock, Ledger, Quarantine
from lambdas.records import UserRecord
from lambdas.writes import PutEffect
from stream_features.decision import StreamPosition
from stream_features.errors import MalformedRecord, PortFailure
from stream_features.feature_record import RejectedMark
from stream_features.rejected import rejected

Rejection = tuple[UserRecord, MalformedRecord]
Mark = tuple[UserRecord, RejectedMark]
RecordKind = Literal["transaction", "label", "entity-event"]


def position_text(position: StreamPosition) -> str:
    return f"{position.shard_id}:{position.sequence_number}:{position.sub_sequence_number}"


def duplicate_effect(transaction_id: str, position: StreamPosition) -> str:
    return f"transaction#{transaction_id}#duplicate#{position_text(position)}"


def quarantined_effect(record: UserRecord, kind: RecordKind = "transaction") -> str:
    return f"{kind}-record#{record.stream}#quarantined#{position_text(record.position)}"


QUARANTINED_COUNTER: Final[dict[RecordKind, str]] = {
    "transaction": "quarantined",  # its own counter: published = decided + duplicates + quarantined + in flight
    "label": "labels_quarantined",
    "entity-event": "entity_events_quarantined",
}


class OnceOnly:
    """Quarantines and counts. What fails is returned as failed through the batch, record by record."""

    def __init__(
        self,
        ledger: Ledger,
        quarantine: Quarantine,
        committer: Committer,
        budget: Budget,
        clock: Clock,
        ttl_days: int,
        kind: RecordKind = "transaction",
    ) -> None:
        self._ledger = ledger
        self._quarantine = quarantine
        self._committer = committer
        self._budget = budget
        self._clock = clock
        self._ttl_days = ttl_days
        self._kind: RecordKind = kind

    def quarantine(self, batch: Batch, rejections: Sequence[Rejection]) -> None:
        """Store, queue and count each rejected record. The count comes last: what is counted lies in quarantine."""
        rejection_of = {quarantined_effect(record, self._kind): (record, error) for record, error in rejections}
        self._once(
            batch,
            {effect: record for effect, (record, _) in rejection_of.items()},
            QUARANTINED_COUNTER[self._kind],
            before=lambda effect: self._keep(*rejection_of[effect]),
        )

    def announce(self, batch: Batch, marks: Sequence[Mark], kind: RecordKind) -> None:
        """Queue and count each record that lies in quarantine already, as `quarantine` does with what it stores."""
        mark_of = {quarantined_effect(record, kind): (record, mark) for record, mark in marks}

        def queue(effect: str) -> None:
            _, mark = mark_of[effect]
            self._quarantine.announce(key=mark.key, field=mark.field, rule=mark.rule)

        record_of = {effect: record for effect, (record, _) in mark_of.items()}
        self._once(batch, record_of, QUARANTINED_COUNTER[kind], before=queue)

    def count_duplicates(self, batch: Batch, duplicates: Sequence[tuple[UserRecord, str]]) -> None:
        """Count each duplicate, given with its transaction id."""
        self._once(batch, {duplicate_effect(key, record.position): record for record, key in duplicates}, "duplicates")

    def _keep(self, record: UserRecord, error: MalformedRecord) -> None:
        self._quarantine.keep(
            rejected(
                record.payload,
                error,
                stream=record.stream,
                stream_position=record.position,
                arrival_ms=record.arrival_ms,
                rejected_at_ms=self._clock.now_ms(),
            )
        )

    def _once(
        self,
        batch: Batch,
        record_of: dict[str, UserRecord],
        counter: str,
        before: Callable[[str], None] = lambda effect: None,
    ) -> None:
        """For every effect not yet recorded: `before`, then its mark and its count in one transaction."""
        if not record_of:
            return
        try:
            self._budget.check()
            recorded = self._ledger.recorded(list(record_of))
        except PortFailure as error:
            batch.fail(list(record_of.values()), error)
            return
        chains: dict[str, Chain] = {}
        for effect, record in record_of.items():
            if effect in recorded:
                continue
            try:
                self._budget.check()
                before(effect)
            except PortFailure as error:
                batch.fail([record], error)
            else:
                mark = PutEffect(effect, expiry_s(record.arrival_ms, self._ttl_days))
                chains[effect] = Chain([Link((mark,), {counter: 1})])
        self._committer.commit(list(chains.values()))
        for effect, chain in chains.items():
            if isinstance(chain.error, Conflict):
                continue  # another delivery has counted it in the meantime
            if chain.error is not None:
                batch.fail([record_of[effect]], chain.error)
            else:
                batch.counts[counter] += 1
