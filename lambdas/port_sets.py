"""Which ports each service needs."""

from __future__ import annotations

from dataclasses import dataclass

from lambdas.ports import (
    Alerts,
    Clock,
    DecisionEvents,
    DecisionPublisher,
    DecisionStore,
    EffectStore,
    EntityEventPublisher,
    EntityStore,
    LabelPublisher,
    LabelStore,
    Ledger,
    ListStore,
    PolicySource,
    Quarantine,
    RescoreIndex,
    Scorer,
    TransactionPublisher,
)


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
