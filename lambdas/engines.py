"""The scoring service as each engine needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lambdas.batch import Batch
from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.effects import OnceOnly
from lambdas.failpoints import Reach
from lambdas.intake import FeaturesIntake, TransactionIntake
from lambdas.label_completion import LabelCompletion, Whose
from lambdas.merchants import decided_event
from lambdas.port_sets import FeaturesPorts, ScoringPorts, TransactionPorts
from lambdas.ports import EntityEventPublisher
from lambdas.repeats import RecordRepeats, Repeats, RequestRepeats
from lambdas.scoring import ScoringService
from lambdas.settlement import Settlement
from lambdas.windows import RecordWindows, TableWindows, Windows
from lambdas.writes import StoredDecision
from stream_features.decision import Engine
from stream_features.feature_sets import FeatureSet


class TellMerchants:
    """Sends every decision to its merchant.

    Whether or not the active feature set asks merchants: labels and a later set need them.
    """

    def __init__(self, entity_events: EntityEventPublisher) -> None:
        self._entity_events = entity_events

    def tell(self, batch: Batch, decisions: Sequence[StoredDecision]) -> None:
        self._entity_events.publish([decided_event(stored.decision) for stored in decisions])


class CompleteLabels:
    """Completes the labels that waited for these decisions. The job itself knows the purchases of merchants."""

    def __init__(self, labels: LabelCompletion) -> None:
        self._labels = labels

    def tell(self, batch: Batch, decisions: Sequence[StoredDecision]) -> None:
        whose = {stored.decision.transaction_id: Whose.of(stored.decision) for stored in decisions}
        batch.counts["labels_completed"] += self._labels.complete(whose)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What both engines are built from."""

    features: FeatureSet
    committer: Committer
    budget: Budget
    ttl_days: int  # of decisions and states, counted from arrival
    reach: Reach

    def of_transactions(self, ports: TransactionPorts) -> ScoringService:
        """The service behind score_transactions: reads `transactions`, asks and keeps the cards' states itself."""
        return self._of_transactions(ports, self._record_repeats(ports))

    def of_requests(self, ports: TransactionPorts) -> ScoringService:
        """The same service behind the score API, where a request stands for a record that has yet to come."""
        repeats = RequestRepeats(ports.ledger, self.committer, self.budget, ttl_days=self.ttl_days)
        return self._of_transactions(ports, repeats)

    def _of_transactions(self, ports: TransactionPorts, repeats: Repeats) -> ScoringService:
        windows = TableWindows(ports.entities, self.features, self.budget, ttl_days=self.ttl_days)
        return ScoringService(
            ports,
            self.budget,
            intake=TransactionIntake(self._once_only(ports)),
            settlement=self._settlement(ports, windows, "lambda"),
            repeats=repeats,
            decided=TellMerchants(ports.entity_events),
            reach=self.reach,
        )

    def of_features(self, ports: FeaturesPorts) -> ScoringService:
        """The service behind score_features: reads `features`, where the Flink job has asked the windows."""
        labels = LabelCompletion(ports.labels, ports.label_publisher, self.budget)
        return ScoringService(
            ports,
            self.budget,
            intake=FeaturesIntake(self._once_only(ports)),
            settlement=self._settlement(ports, RecordWindows(self.features), "flink"),
            repeats=self._record_repeats(ports),
            decided=CompleteLabels(labels),
            reach=self.reach,
        )

    def _record_repeats(self, ports: ScoringPorts) -> RecordRepeats:
        once_only = self._once_only(ports)
        return RecordRepeats(once_only, ports.ledger, self.committer, self.budget, ttl_days=self.ttl_days)

    def _once_only(self, ports: ScoringPorts) -> OnceOnly:
        return OnceOnly(ports.ledger, ports.quarantine, self.committer, self.budget, ports.clock, self.ttl_days)

    def _settlement(self, ports: ScoringPorts, windows: Windows, engine: Engine) -> Settlement:
        return Settlement(
            ports,
            self.features,
            windows,
            self.committer,
            self.budget,
            engine=engine,
            ttl_days=self.ttl_days,
            reach=self.reach,
        )
