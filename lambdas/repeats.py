"""Which of a batch's arrivals are their decision's own, and which only repeat one.

A decision that came by the stream names its record. One that was asked for through the score API names a request, and
the first record of its transaction that arrives with the same payload *claims* it: from then on that record is the
decision's own, counted as decided, and every other one is a duplicate. A claim is two marks in one transaction with its
count: one that stands once for the transaction, and one that says which record made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from lambdas.batch import Arrival, Batch
from lambdas.budget import Budget
from lambdas.cards import expiry_s
from lambdas.commit import Chain, Committer, Conflict, Link
from lambdas.effects import OnceOnly, Rejection, position_text
from lambdas.ports import Ledger
from lambdas.records import UserRecord
from lambdas.writes import PutEffect, StoredDecision
from stream_features.decision import StreamPosition
from stream_features.errors import MalformedRecord, PortFailure


def recorded_effect(transaction_id: str) -> str:
    """Stands when a record of a transaction that the API decided has arrived."""
    return f"transaction#{transaction_id}#recorded"


def claim_effect(transaction_id: str, position: StreamPosition) -> str:
    """Stands when the record at `position` was the first of a transaction that the API decided."""
    return f"{recorded_effect(transaction_id)}#{position_text(position)}"


def alerted_effect(transaction_id: str) -> str:
    """Stands when the API has raised the alert of its decision, so that the record need not."""
    return f"transaction#{transaction_id}#alerted"


def conflicting_duplicate() -> MalformedRecord:
    """Another payload under an id that is decided already."""
    return MalformedRecord("transaction_id", "conflicting_duplicate", "another payload has been decided under this id")


class Sorted(Struct):
    """Arrivals whose transaction is decided, without those that failed or conflict.

    Attributes:
        own: those that their decision is about.
        duplicates: those that repeat another one.
        claimed: how many of `own` have become so just now.
        alerted: transactions whose alert is known to be out.
    """

    own: list[Arrival]
    duplicates: list[Arrival]
    claimed: int = 0
    alerted: frozenset[str] = frozenset()


class Repeats(Protocol):
    """Sorts arrivals by whose they are. What fails is returned as failed through the batch."""

    def sort(self, batch: Batch, settled: Mapping[str, StoredDecision], newly: set[str]) -> Sorted:
        """Sort the batch's arrivals.

        Args:
            batch: takes failures and counts.
            settled: the stored decision of every id that has one.
            newly: the ids that this batch has decided.
        """
        ...

    def note_alerted(self, batch: Batch, arrivals: Sequence[Arrival]) -> None:
        """The alerts of these arrivals are out."""
        ...


class RecordRepeats:
    """Of records of a stream: repeats are counted, conflicts quarantined, decisions of the API claimed."""

    def __init__(
        self, once_only: OnceOnly, ledger: Ledger, committer: Committer, budget: Budget, *, ttl_days: int
    ) -> None:
        self._once_only = once_only
        self._ledger = ledger
        self._committer = committer
        self._budget = budget
        self._ttl_days = ttl_days

    def sort(self, batch: Batch, settled: Mapping[str, StoredDecision], newly: set[str]) -> Sorted:
        found = Sorted([], [])
        of_requests: list[Arrival] = []
        rejections: list[Rejection] = []
        for arrival in batch.arrivals:
            if batch.has_failed(arrival.record):
                continue
            stored = settled.get(arrival.transaction.transaction_id)
            if stored is None:
                batch.fail([arrival.record], PortFailure("the transaction's first record has not been decided"))
            elif stored.decision.stream_position == arrival.record.position:
                found.own.append(arrival)
            elif stored.decision.payload_sha256 != arrival.payload_sha256:
                rejections.append((arrival.record, conflicting_duplicate()))
            elif stored.decision.stream_position.of_request:
                of_requests.append(arrival)
            else:
                found.duplicates.append(arrival)
        self._once_only.quarantine(batch, rejections)
        self._sort_claims(batch, of_requests, found)
        duplicates: list[tuple[UserRecord, str]] = [(a.record, a.transaction.transaction_id) for a in found.duplicates]
        self._once_only.count_duplicates(batch, duplicates)
        return found

    def note_alerted(self, batch: Batch, arrivals: Sequence[Arrival]) -> None:
        """Nothing: a record that comes again is known by its position."""

    def _sort_claims(self, batch: Batch, arrivals: Sequence[Arrival], found: Sorted) -> None:
        """The first record of a transaction that the API decided claims the decision, once for all deliveries."""
        if not arrivals:
            return
        ids = dict.fromkeys(a.transaction.transaction_id for a in arrivals)
        marks = [mark(key) for key in ids for mark in (recorded_effect, alerted_effect)]
        try:
            self._budget.check()
            known = self._ledger.recorded([*marks, *map(_claim, arrivals)])
        except PortFailure as error:
            batch.fail([a.record for a in arrivals], error)
            return
        first: dict[str, Arrival] = {}
        for arrival in arrivals:
            if recorded_effect(arrival.transaction.transaction_id) not in known:
                first.setdefault(arrival.transaction.transaction_id, arrival)
        claimed = self._claim(batch, list(first.values()))
        found.claimed = len(claimed)
        found.alerted = frozenset(key for key in ids if alerted_effect(key) in known)
        for arrival in arrivals:
            if batch.has_failed(arrival.record):
                continue
            is_own = _claim(arrival) in known or arrival.record.position in claimed
            (found.own if is_own else found.duplicates).append(arrival)

    def _claim(self, batch: Batch, arrivals: Sequence[Arrival]) -> set[StreamPosition]:
        """Claim the decisions of these arrivals, each of another transaction; answers the records whose claim holds."""
        chains = [(arrival, Chain([self._link(arrival)])) for arrival in arrivals]
        self._committer.commit([chain for _, chain in chains])
        claimed = {arrival.record.position for arrival, chain in chains if chain.committed}
        batch.counts.update({"decided": len(claimed), "api_recorded": len(claimed)} if claimed else {})
        for arrival, chain in chains:
            if isinstance(chain.error, Conflict):
                # Another delivery of this record came first, or another record: the next delivery will read which.
                batch.fail([arrival.record], Conflict("another delivery claimed the decision first"))
            elif chain.error is not None:
                batch.fail([arrival.record], chain.error)
        return claimed

    def _link(self, arrival: Arrival) -> Link:
        expires_at_s = expiry_s(arrival.record.arrival_ms, self._ttl_days)
        marks = (recorded_effect(arrival.transaction.transaction_id), _claim(arrival))
        return Link(tuple(PutEffect(mark, expires_at_s) for mark in marks), {"decided": 1, "api_recorded": 1})


class RequestRepeats:
    """Of a request to the score API, which is no record: nothing is counted or quarantined.

    An arrival that neither is its decision's own nor repeats it has another payload; who asked is told so.
    """

    def __init__(self, ledger: Ledger, committer: Committer, budget: Budget, *, ttl_days: int) -> None:
        self._ledger = ledger
        self._committer = committer
        self._budget = budget
        self._ttl_days = ttl_days

    def sort(self, batch: Batch, settled: Mapping[str, StoredDecision], newly: set[str]) -> Sorted:
        found = Sorted([], [])
        for arrival in batch.arrivals:
            stored = settled.get(arrival.transaction.transaction_id)
            if stored is None or batch.has_failed(arrival.record):
                continue
            if stored.decision.payload_sha256 == arrival.payload_sha256:
                same = found.own if stored.decision.stream_position.of_request else found.duplicates
                same.append(arrival)
        self._find_alerted(batch, [a.transaction.transaction_id for a in found.own], settled, newly, found)
        return found

    def note_alerted(self, batch: Batch, arrivals: Sequence[Arrival]) -> None:
        """Leave word for the record. If that fails, subscribers may hear of the alert twice, never not at all."""
        for arrival in arrivals:
            mark = PutEffect(
                alerted_effect(arrival.transaction.transaction_id),
                expiry_s(arrival.record.arrival_ms, self._ttl_days),
            )
            chain = Chain([Link((mark,), {})])
            self._committer.commit([chain])
            if chain.error is not None and not isinstance(chain.error, Conflict):
                batch.fail([arrival.record], chain.error)

    def _find_alerted(
        self,
        batch: Batch,
        ids: Sequence[str],
        settled: Mapping[str, StoredDecision],
        newly: set[str],
        found: Sorted,
    ) -> None:
        asked = [key for key in ids if key not in newly and settled[key].decision.decision != "approve"]
        if not asked:
            return
        try:
            self._budget.check()
            known = self._ledger.recorded([alerted_effect(key) for key in asked])
        except PortFailure as error:
            batch.fail([a.record for a in found.own], error)
            return
        found.alerted = frozenset(key for key in asked if alerted_effect(key) in known)


def _claim(arrival: Arrival) -> str:
    return claim_effect(arrival.transaction.transaction_id, arrival.record.position)
