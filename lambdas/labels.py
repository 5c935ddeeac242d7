"""The service behind record_labels: reports into the labels table, and what they change on to the merchants.

1. Read what is stored about the batch's transactions, and their decisions.
2. Derive each transaction's item from its whole history. A label that nobody can assign yet waits in the table.
3. Commit the items with their counts, packed. A transaction that meets another writer starts again.
4. Ask once more for the decisions of labels that now wait, or accuse a merchant of what may be a refund: one that was
   committed before the label was is found here, and one that is committed later finds the label: through its own
   event, or, with Flink, when score_features looks. So none falls between.
5. Publish the label events, for redelivered labels again, then acknowledge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lambdas.batch import UPDATE_STAGES, Batch, BatchOutcome
from lambdas.budget import Budget
from lambdas.cards import expiry_s
from lambdas.commit import Chain, Committer, Conflict, Link
from lambdas.effects import OnceOnly, Rejection
from lambdas.failpoints import AFTER_COMMIT, AFTER_PUBLISH, BEFORE_COMMIT, Reach
from lambdas.label_records import Derived, Reported, derive, label_events
from lambdas.port_sets import LabelPorts
from lambdas.ports import NotPublished
from lambdas.records import UserRecord, arrival_order
from lambdas.writes import PutLabel, StoredDecision, StoredLabel
from stream_features.errors import ContractMismatch, MalformedRecord, PortFailure
from stream_features.label import parse_label

ATTEMPTS = 3  # one, one more after another writer, one more for a decision that came meanwhile

ByTransaction = dict[str, list[Reported]]


class LabelService:
    """Works on whole batches; see the module's first lines for the steps."""

    def __init__(self, ports: LabelPorts, committer: Committer, budget: Budget, *, ttl_days: int, reach: Reach) -> None:
        self._ports = ports
        self._committer = committer
        self._budget = budget
        self._ttl_days = ttl_days
        self._reach = reach
        self._once_only = OnceOnly(ports.ledger, ports.quarantine, committer, budget, ports.clock, ttl_days, "label")

    def record_batch(self, records: Sequence[UserRecord], *, remaining_ms: int) -> BatchOutcome:
        """Record a batch of one shard's labels.

        Args:
            records: user records of one batch.
            remaining_ms: until the invocation is cut off.

        Returns:
            What became of every record. A failure of a port or of stored items is in there, not raised.
        """
        self._budget.renew(remaining_ms)
        batch = Batch(arrival_order(records), self._ports.clock, UPDATE_STAGES)
        reported = self._parse(batch)
        settled = self._settle(batch, reported)
        with batch.stage("publish"):
            self._publish(batch, reported, settled)
        return batch.outcome()

    def _parse(self, batch: Batch) -> ByTransaction:
        reported: ByTransaction = {}
        rejections: list[Rejection] = []
        with batch.stage("decode"):
            for record in batch.records:
                try:
                    label = parse_label(record.payload)
                except MalformedRecord as error:
                    rejections.append((record, error))
                else:
                    reported.setdefault(label.transaction_id, []).append(Reported(label, record))
        with batch.stage("commit"):
            self._once_only.quarantine(batch, rejections)
        return reported

    def _settle(self, batch: Batch, reported: ByTransaction) -> dict[str, Derived]:
        """Steps 1 to 4; answers what stands about every transaction that did not fail."""
        settled: dict[str, Derived] = {}
        rejections: dict[int, Rejection] = {}
        unsettled = list(reported)
        for _ in range(ATTEMPTS):
            try:
                with batch.stage("read"):
                    labels, decisions = self._read(unsettled)
            except PortFailure as error:
                _fail(batch, reported, unsettled, error)
                break
            with batch.stage("apply"):
                derived = self._derive(batch, reported, unsettled, labels, decisions)
            for each in derived.values():
                rejections |= {id(record): (record, why) for record, why in each.refused}
            with batch.stage("commit"):
                unsettled = self._commit(batch, reported, labels, derived, settled)
            with batch.stage("read"):
                unsettled += self._decided_meanwhile(batch, reported, settled)
            if not unsettled:
                break
        else:
            _fail(batch, reported, unsettled, Conflict("another writer came first, again and again"))
        with batch.stage("commit"):
            self._once_only.quarantine(batch, list(rejections.values()))
        return settled

    def _read(self, transaction_ids: Sequence[str]) -> tuple[dict[str, StoredLabel], dict[str, bytes]]:
        if not transaction_ids:
            return {}, {}
        self._budget.check()
        labels = self._ports.labels.get(transaction_ids)
        self._budget.check()
        return labels, self._ports.decisions.get(transaction_ids)

    def _derive(
        self,
        batch: Batch,
        reported: ByTransaction,
        transaction_ids: Sequence[str],
        labels: Mapping[str, StoredLabel],
        decisions: Mapping[str, bytes],
    ) -> dict[str, Derived]:
        derived: dict[str, Derived] = {}
        for key in transaction_ids:
            try:
                decision = StoredDecision.from_document(decisions[key]) if key in decisions else None
                derived[key] = derive(labels.get(key), reported[key], decision)
            except ContractMismatch as error:
                _fail(batch, reported, [key], error)
        return derived

    def _commit(
        self,
        batch: Batch,
        reported: ByTransaction,
        labels: Mapping[str, StoredLabel],
        derived: Mapping[str, Derived],
        settled: dict[str, Derived],
    ) -> list[str]:
        """Step 3. Answers the transactions that met another writer: they start again."""
        chains: dict[str, Chain] = {}
        for key, each in derived.items():
            stored = labels.get(key)
            if stored is not None and stored == each.label:
                settled[key] = each  # redelivered: nothing to write
                continue
            newest_ms = max(reported_label.record.arrival_ms for reported_label in reported[key])
            put = PutLabel(
                transaction_id=key,
                expected_revision=None if stored is None else stored.revision,
                label=each.label,
                expires_at_s=expiry_s(newest_ms, self._ttl_days),
            )
            counts = {
                "labels": each.added,
                "labels_waiting": each.label.waiting - (stored is not None and stored.waiting),
            }
            chains[key] = Chain([Link((put,), {name: count for name, count in counts.items() if count})])
        if not chains:
            return []
        self._reach(BEFORE_COMMIT)
        self._committer.commit(list(chains.values()))
        again: list[str] = []
        for key, chain in chains.items():
            if isinstance(chain.error, Conflict):
                again.append(key)
            elif chain.error is not None:
                _fail(batch, reported, [key], chain.error)
            else:
                settled[key] = derived[key]
                batch.counts.update(chain.links[0].counts)
        if any(chain.committed for chain in chains.values()):
            self._reach(AFTER_COMMIT)
        return again

    def _decided_meanwhile(self, batch: Batch, reported: ByTransaction, settled: dict[str, Derived]) -> list[str]:
        """Step 4. Answers the transactions that are decided by now, which their label does not know."""
        waiting = [key for key, each in settled.items() if each.label.waiting or (each.frauds and not each.decided)]
        if not waiting:
            return []
        try:
            self._budget.check()
            decided = list(self._ports.decisions.get(waiting))
        except PortFailure as error:
            _fail(batch, reported, waiting, error)
            for key in waiting:
                del settled[key]
            return []
        for key in decided:
            del settled[key]
        return decided

    def _publish(self, batch: Batch, reported: ByTransaction, settled: Mapping[str, Derived]) -> None:
        events = [event for key, derived in settled.items() for event in label_events(key, derived)]
        if not events:
            return
        try:
            self._budget.check()
            self._ports.entity_events.publish(events)
        except NotPublished as error:
            _fail(batch, reported, [key for key in settled if key in error.transaction_ids], error)
        except PortFailure as error:
            _fail(batch, reported, list({event.transaction_id: None for event in events}), error)
        else:
            batch.counts["published"] += len(events)
            self._reach(AFTER_PUBLISH)


def _fail(
    batch: Batch,
    reported: ByTransaction,
    transaction_ids: Sequence[str],
    error: PortFailure | ContractMismatch | Conflict,
) -> None:
    for key in transaction_ids:
        batch.fail([each.record for each in reported[key]], error)
