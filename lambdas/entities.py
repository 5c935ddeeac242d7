"""The service behind update_entities: decided and label events into merchants' states, each once.

1. Read the effects of the batch's events and the states of the merchants that have something new.
2. Apply, in memory, merchant by merchant; the state is a function of the set of events, so order does not matter.
3. Commit state and effects together, per merchant, packed. A merchant that meets another writer starts again, once.
4. A decided transaction, refunds included, may have a label that waits to learn whose it is: send that label to its
   stream again, completed. Redelivered events ask again, because a crash may have come between commit and sending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lambdas.batch import UPDATE_STAGES, Batch, BatchOutcome
from lambdas.budget import Budget
from lambdas.commit import MAX_ENTITY_EFFECTS, Chain, Committer, Conflict
from lambdas.effects import OnceOnly, Rejection
from lambdas.failpoints import AFTER_COMMIT, AFTER_PUBLISH, BEFORE_COMMIT, Reach
from lambdas.label_completion import LabelCompletion, Whose
from lambdas.merchants import Arrived, Kept, effect_of, merchant_links, not_applied
from lambdas.port_sets import EntityPorts
from lambdas.ports import NotPublished
from lambdas.records import UserRecord, arrival_order
from lambdas.writes import StoredEffect, StoredState
from stream_features.entity_event import decode_entity_event
from stream_features.errors import ContractMismatch, MalformedRecord, PortFailure, StateCorrupt
from stream_features.feature_sets import FeatureSet
from stream_features.merchant_state import MerchantLayout
from stream_features.names import merchant_key

COMMIT_ATTEMPTS = 2  # a merchant whose commit meets another writer starts again once

Pending = dict[str, list[Arrived]]


class EntityUpdateService:
    """Works on whole batches; see the module's first lines for the steps."""

    def __init__(
        self,
        ports: EntityPorts,
        features: FeatureSet,
        layout: MerchantLayout,
        committer: Committer,
        budget: Budget,
        *,
        kept: Kept,
        reach: Reach,
    ) -> None:
        self._ports = ports
        self._features = features
        self._layout = layout
        self._committer = committer
        self._budget = budget
        self._kept = kept
        self._reach = reach
        self._labels = LabelCompletion(ports.labels, ports.label_publisher, budget)
        self._once_only = OnceOnly(
            ports.ledger, ports.quarantine, committer, budget, ports.clock, kept.decided_days, "entity-event"
        )

    def apply_batch(self, records: Sequence[UserRecord], *, remaining_ms: int) -> BatchOutcome:
        """Apply a batch of one shard's records.

        Args:
            records: user records of one batch.
            remaining_ms: until the invocation is cut off.

        Returns:
            What became of every record. A failure of a port or of stored state is in there, not raised.
        """
        self._budget.renew(remaining_ms)
        batch = Batch(arrival_order(records), self._ports.clock, UPDATE_STAGES)
        arrivals = self._parse(batch)
        self._apply(batch, [arrived for arrived in arrivals if arrived.event.is_purchase])
        with batch.stage("publish"):
            self._complete_labels(batch, arrivals)
        return batch.outcome()

    def _parse(self, batch: Batch) -> list[Arrived]:
        arrivals: list[Arrived] = []
        rejections: list[Rejection] = []
        with batch.stage("decode"):
            for record in batch.records:
                try:
                    arrivals.append(Arrived(decode_entity_event(record.payload), record))
                except MalformedRecord as error:
                    rejections.append((record, error))
        with batch.stage("commit"):
            self._once_only.quarantine(batch, rejections)
        return arrivals

    def _apply(self, batch: Batch, arrivals: Sequence[Arrived]) -> None:
        open_merchants: Pending = {}
        for arrived in arrivals:
            open_merchants.setdefault(arrived.event.merchant_id, []).append(arrived)
        for _ in range(COMMIT_ATTEMPTS):
            everything = [arrived for merchant in open_merchants.values() for arrived in merchant]
            try:
                with batch.stage("read"):
                    known = self._read_effects(everything)
                    pending = _pending(open_merchants, known)
                    states = self._read_states(pending)
            except PortFailure as error:
                batch.fail([arrived.record for arrived in everything], error)
                return
            batch.counts["applied_before"] += len(everything) - sum(map(len, pending.values()))
            with batch.stage("apply"):
                chains = self._chains(batch, pending, states, known)
            with batch.stage("commit"):
                open_merchants = self._commit(batch, pending, chains)
            if not open_merchants:
                return
        lost = [arrived.record for merchant in open_merchants.values() for arrived in merchant]
        batch.fail(lost, Conflict("another writer came first, twice"))

    def _read_effects(self, arrivals: Sequence[Arrived]) -> dict[str, StoredEffect]:
        effects = dict.fromkeys(effect_of(arrived.event) for arrived in arrivals)
        if not effects:
            return {}
        self._budget.check()
        return self._ports.effects.get(list(effects))

    def _read_states(self, pending: Pending) -> dict[str, StoredState]:
        if not pending:
            return {}
        self._budget.check()
        return self._ports.entities.get([merchant_key(merchant_id) for merchant_id in pending])

    def _chains(
        self,
        batch: Batch,
        pending: Pending,
        states: Mapping[str, StoredState],
        known: Mapping[str, StoredEffect],
    ) -> dict[str, Chain]:
        chains: dict[str, Chain] = {}
        for merchant_id, arrivals in pending.items():
            try:
                links = merchant_links(
                    self._features, self._layout, states.get(merchant_key(merchant_id)), arrivals, known, self._kept
                )
            except (StateCorrupt, ContractMismatch) as error:
                batch.fail([arrived.record for arrived in arrivals], error)
            else:
                chains[merchant_id] = Chain(links)
        return chains

    def _commit(self, batch: Batch, pending: Pending, chains: Mapping[str, Chain]) -> Pending:
        """Answers the events of merchants that met another writer: they start again."""
        if not chains:
            return {}
        self._reach(BEFORE_COMMIT)
        self._committer.commit(list(chains.values()))
        again: Pending = {}
        for merchant_id, chain in chains.items():
            done = min(chain.committed * MAX_ENTITY_EFFECTS, len(pending[merchant_id]))
            batch.counts["applied"] += done
            left = pending[merchant_id][done:]
            if isinstance(chain.error, Conflict):
                again[merchant_id] = left
            elif chain.error is not None:
                batch.fail([arrived.record for arrived in left], chain.error)
        if any(chain.committed for chain in chains.values()):
            self._reach(AFTER_COMMIT)
        return again

    def _complete_labels(self, batch: Batch, arrivals: Sequence[Arrived]) -> None:
        decided = {
            arrived.event.transaction_id: arrived
            for arrived in arrivals
            if arrived.event.kind == "decided" and not batch.has_failed(arrived.record)
        }
        try:
            completed = self._labels.complete({key: Whose.of(each.event) for key, each in decided.items()})
        except NotPublished as error:
            batch.fail([decided[key].record for key in decided if key in error.transaction_ids], error)
        except PortFailure as error:
            batch.fail([arrived.record for arrived in decided.values()], error)
        else:
            batch.counts["labels_completed"] += completed
            if completed:
                self._reach(AFTER_PUBLISH)


def _pending(open_merchants: Pending, known: Mapping[str, StoredEffect]) -> Pending:
    """What is new, by merchant; merchants with nothing new are left out."""
    pending = {merchant_id: not_applied(arrivals, known) for merchant_id, arrivals in open_merchants.items()}
    return {merchant_id: arrivals for merchant_id, arrivals in pending.items() if arrivals}
