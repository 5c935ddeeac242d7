"""The scoring service: a batch of records in, stored and published decisions out, each effect once.

1. Read the stored decisions of the batch's transaction ids. What is known is not computed again.
2. Read the state of the remaining cards and of their merchants.
3. Windows in arrival order per card, one request to the endpoint, policy.
4. Commit state and decisions together, per card, packed. Before it nothing has happened; after it nothing does again.
5. Publish the stored decisions, tell whoever waits for them, then acknowledge. Redelivered and repeated
   transactions send all of it again: a crash may have come between commit and publication, and who reads applies once.

A card that fails, fails alone. A redelivered batch finds at step 1 what an earlier delivery has committed.

What differs between the engines are three parts (`engines.py`): how transactions come in, how their windows are asked
(with Flink they have been asked already: no step 2 and no state at step 4), and who is told. What
differs between records of a stream and a request to the score API is what repeats count as (`repeats.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from lambdas.batch import Arrival, Batch, BatchOutcome
from lambdas.budget import Budget
from lambdas.failpoints import AFTER_PUBLISH, Reach
from lambdas.port_sets import ScoringPorts
from lambdas.ports import NotPublished
from lambdas.records import UserRecord, arrival_order
from lambdas.repeats import Repeats
from lambdas.settlement import Settlement
from lambdas.writes import StoredDecision
from stream_features.errors import PortFailure


class Intake(Protocol):
    """How transactions come in."""

    def take_in(self, batch: Batch) -> None:
        """Fill `batch.arrivals` from its records; what is no transaction is quarantined or fails."""
        ...


class TellOfDecisions(Protocol):
    """Whom decisions concern beside their subscribers: merchants, and labels that wait."""

    def tell(self, batch: Batch, decisions: Sequence[StoredDecision]) -> None:
        """Tell of decisions, at least once each.

        Raises:
            NotPublished: some could not be told of.
            PortFailure: none could.
        """
        ...


class ScoredBatch(NamedTuple):
    """What became of a batch, and the stored decision of every transaction in it that has one."""

    outcome: BatchOutcome
    decisions: Mapping[str, StoredDecision]


class ScoringService:
    """Works on whole batches; see the module's first lines for the steps."""

    def __init__(
        self,
        ports: ScoringPorts,
        budget: Budget,
        *,
        intake: Intake,
        settlement: Settlement,
        repeats: Repeats,
        decided: TellOfDecisions,
        reach: Reach,
    ) -> None:
        self._ports = ports
        self._budget = budget
        self._intake = intake
        self._settlement = settlement
        self._repeats = repeats
        self._decided = decided
        self._reach = reach

    def score_batch(self, records: Sequence[UserRecord], *, remaining_ms: int) -> BatchOutcome:
        """Decide a batch of one shard's records.

        Args:
            records: user records of one batch.
            remaining_ms: until the invocation is cut off.

        Returns:
            What became of every record. A failure of a port, of stored state or of the model is in there, not raised.
        """
        return self.score(records, remaining_ms=remaining_ms).outcome

    def score(self, records: Sequence[UserRecord], *, remaining_ms: int) -> ScoredBatch:
        """As `score_batch`, with the decisions; one may stand although a record of it failed (in step 5)."""
        self._budget.renew(remaining_ms)
        batch = Batch(arrival_order(records), self._ports.clock)
        self._intake.take_in(batch)
        settled: dict[str, StoredDecision] = {}
        newly = self._settlement.settle(batch, settled)
        with batch.stage("publish"):
            self._publish(batch, settled, newly)
        return ScoredBatch(batch.outcome(), settled)

    def _publish(self, batch: Batch, settled: Mapping[str, StoredDecision], newly: set[str]) -> None:
        """Step 5, once the repeats are sorted out: duplicates counted, conflicting ones quarantined."""
        found = self._repeats.sort(batch, settled, newly)
        own, duplicates = found.own, found.duplicates
        self._send(batch, self._ports.publisher.publish, [*own, *duplicates], settled)
        self._send(batch, lambda decisions: self._decided.tell(batch, decisions), [*own, *duplicates], settled)
        # A duplicate raises no second alert: the record it repeats has raised it, or will when it is redelivered.
        alerting = [
            a
            for a in own
            if settled[a.transaction.transaction_id].decision.decision != "approve"
            and a.transaction.transaction_id not in found.alerted
        ]
        self._send(batch, self._ports.alerts.raise_alerts, alerting, settled)
        self._repeats.note_alerted(batch, [a for a in alerting if not batch.has_failed(a.record)])
        known_before = len(own) - len({a.transaction.transaction_id for a in own} & newly)
        batch.counts["redelivered"] = known_before - found.claimed
        if own or duplicates:
            self._reach(AFTER_PUBLISH)

    def _send(
        self,
        batch: Batch,
        send: Callable[[list[StoredDecision]], None],
        arrivals: Sequence[Arrival],
        settled: Mapping[str, StoredDecision],
    ) -> None:
        """Send what the arrivals' decisions say, each once; arrivals whose part did not go out fail."""
        arrivals = [a for a in arrivals if not batch.has_failed(a.record)]
        decisions = {a.transaction.transaction_id: settled[a.transaction.transaction_id] for a in arrivals}
        if not decisions:
            return
        try:
            self._budget.check()
            send(list(decisions.values()))
        except NotPublished as error:
            missing = error.transaction_ids
            batch.fail([a.record for a in arrivals if a.transaction.transaction_id in missing], error)
        except PortFailure as error:
            batch.fail([a.record for a in arrivals], error)
