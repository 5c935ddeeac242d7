"""Fresh processes of update_entities and record_labels on a world."""

from __future__ import annotations

from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.decision_events import DecisionEventService
from lambdas.entities import EntityUpdateService
from lambdas.failpoints import Reach
from lambdas.labels import LabelService
from lambdas.merchants import Kept
from lambdas.port_sets import EntityPorts, EventPorts, LabelPorts
from lambdas.ports import Ledger
from stream_features.feature_sets import FeatureSet, feature_set
from tests.unit.lambdas.fakes import (
    TTL_DAYS,
    FakeClock,
    FakeDecisionEvents,
    FakeDecisionStore,
    FakeEffectStore,
    FakeEntityEvents,
    FakeEntityStore,
    FakeLabelPublisher,
    FakeLabelStore,
    FakeLedger,
    FakeQuarantine,
    World,
    never,
)

LABEL_TTL_DAYS = 120


def entities_on(
    world: World,
    *,
    ledger: Ledger | None = None,
    features: FeatureSet | None = None,
    label_publisher: FakeLabelPublisher | None = None,
    reach: Reach = never,
) -> EntityUpdateService:
    """A fresh process of update_entities on the world."""
    clock = FakeClock(world)
    features = features or feature_set("core")
    assert features.merchant_layout is not None
    budget = Budget(clock, longest_call_ms=4_000)
    ledger = ledger or FakeLedger(world)
    ports = EntityPorts(
        entities=FakeEntityStore(world),
        effects=FakeEffectStore(world),
        labels=FakeLabelStore(world),
        ledger=ledger,
        label_publisher=label_publisher or FakeLabelPublisher(world),
        quarantine=FakeQuarantine(world),
        clock=clock,
    )
    return EntityUpdateService(
        ports,
        features,
        features.merchant_layout,
        Committer(ledger, budget, clock, lambda seconds: seconds),
        budget,
        kept=Kept(TTL_DAYS, LABEL_TTL_DAYS),
        reach=reach,
    )


def events_on(world: World, *, events: FakeDecisionEvents | None = None) -> DecisionEventService:
    """A fresh process of publish_events on the world."""
    clock = FakeClock(world)
    budget = Budget(clock, longest_call_ms=4_000)
    ledger = FakeLedger(world)
    ports = EventPorts(ledger=ledger, events=events or FakeDecisionEvents(world), clock=clock)
    committer = Committer(ledger, budget, clock, lambda seconds: seconds)
    return DecisionEventService(ports, committer, budget, ttl_days=TTL_DAYS)


def labels_on(
    world: World,
    *,
    ledger: Ledger | None = None,
    decisions: FakeDecisionStore | None = None,
    entity_events: FakeEntityEvents | None = None,
    reach: Reach = never,
) -> LabelService:
    """A fresh process of record_labels on the world."""
    clock = FakeClock(world)
    budget = Budget(clock, longest_call_ms=4_000)
    ledger = ledger or FakeLedger(world)
    ports = LabelPorts(
        labels=FakeLabelStore(world),
        decisions=decisions or FakeDecisionStore(world),
        ledger=ledger,
        entity_events=entity_events or FakeEntityEvents(world),
        quarantine=FakeQuarantine(world),
        clock=clock,
    )
    return LabelService(
        ports,
        Committer(ledger, budget, clock, lambda seconds: seconds),
        budget,
        ttl_days=LABEL_TTL_DAYS,
        reach=reach,
    )
