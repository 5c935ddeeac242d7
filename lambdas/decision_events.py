"""From the stream of decisions to events on a bus: one event per decision.

The stream carries a decision again with every repeat of its transaction; a mark in `effects` keeps the event from going
out again. The mark follows the event, so a crash between the two sends it twice, never not at all. A decision that was
made without the model and then rescored is a second event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lambdas.batch import Batch, BatchOutcome
from lambdas.budget import Budget
from lambdas.cards import expiry_s
from lambdas.commit import Chain, Committer, Conflict, Link
from lambdas.port_sets import EventPorts
from lambdas.ports import NotPublished
from lambdas.records import UserRecord, arrival_order
from lambdas.writes import PutEffect
from stream_features.decision import Decision, decode_decision
from stream_features.decision_event import decision_event
from stream_features.errors import ContractMismatch, PortFailure

STAGES: Final = ("decode", "read", "publish", "commit")


def event_effect(decision: Decision) -> str:
    """Stands when the event of a decision is out."""
    mark = f"transaction#{decision.transaction_id}#event"
    return mark if decision.rescored_at_ms is None else f"{mark}#rescored"


class DecisionEventService:
    """Works on whole batches of the decisions stream."""

    def __init__(self, ports: EventPorts, committer: Committer, budget: Budget, *, ttl_days: int) -> None:
        self._ports = ports
        self._committer = committer
        self._budget = budget
        self._ttl_days = ttl_days

    def publish_batch(self, records: Sequence[UserRecord], *, remaining_ms: int) -> BatchOutcome:
        """Publish the event of every decision that has none yet; what fails is in the outcome, not raised.

        Only our own scorers write the stream, so a record that is no decision of this schema version is nobody's fault
        but ours: it fails and raises an alarm.
        """
        self._budget.renew(remaining_ms)
        batch = Batch(arrival_order(records), self._ports.clock, STAGES)
        decisions: dict[str, Decision] = {}
        records_of: dict[str, list[UserRecord]] = {}
        with batch.stage("decode"):
            for record in batch.records:
                try:
                    decision = decode_decision(record.payload)
                except ContractMismatch as error:
                    batch.fail([record], error)
                else:
                    decisions[event_effect(decision)] = decision
                    records_of.setdefault(decision.transaction_id, []).append(record)
        try:
            with batch.stage("read"):
                self._budget.check()
                known = self._ports.ledger.recorded(list(decisions)) if decisions else ()
            upcoming = [one for effect, one in decisions.items() if effect not in known]
            with batch.stage("publish"):
                missing = self._publish(batch, upcoming, records_of)
        except PortFailure as error:
            batch.fail([record for some in records_of.values() for record in some], error)
            return batch.outcome()
        with batch.stage("commit"):
            self._mark(batch, [one for one in upcoming if one.transaction_id not in missing], records_of)
        return batch.outcome()

    def _publish(
        self, batch: Batch, decisions: Sequence[Decision], records_of: dict[str, list[UserRecord]]
    ) -> frozenset[str]:
        """Answers the transactions whose event is not known to be out."""
        if not decisions:
            return frozenset()
        self._budget.check()
        missing: frozenset[str] = frozenset()
        try:
            self._ports.events.publish([decision_event(decision) for decision in decisions])
        except NotPublished as error:
            missing = error.transaction_ids
            batch.fail([record for key in sorted(missing) for record in records_of[key]], error)
        batch.counts["events"] += len(decisions) - len(missing)
        return missing

    def _mark(self, batch: Batch, decisions: Sequence[Decision], records_of: dict[str, list[UserRecord]]) -> None:
        chains: list[tuple[str, Chain]] = []
        for one in decisions:
            mark = PutEffect(event_effect(one), expiry_s(one.arrival_ms, self._ttl_days))
            chains.append((one.transaction_id, Chain([Link((mark,), {})])))
        self._committer.commit([chain for _, chain in chains])
        for key, chain in chains:
            if chain.error is not None and not isinstance(chain.error, Conflict):  # another delivery has marked it
                batch.fail(records_of[key], chain.error)
