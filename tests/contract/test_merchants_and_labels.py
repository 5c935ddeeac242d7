"""The same events and labels through the services on fakes and on the embedded AWS leave the same behind."""

from __future__ import annotations

from collections.abc import Sequence

from lambdas.batch import BatchOutcome
from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.entities import EntityUpdateService
from lambdas.labels import LabelService
from lambdas.merchants import Kept
from lambdas.port_sets import EntityPorts, LabelPorts
from lambdas.records import UserRecord
from stream_features.entity_event import EntityEvent
from stream_features.feature_sets import feature_set
from tests.contract.harness import Aws
from tests.unit.lambdas.deliveries import REMAINING_MS, records_of
from tests.unit.lambdas.fakes import TTL_DAYS, FakeClock, World, never
from tests.unit.lambdas.loop import event_records, functions_on, label_records
from tests.unit.lambdas.processes import LABEL_TTL_DAYS
from tests.unit.lambdas.test_merchant_effects_happen_once import labels, transactions


def entities_on_aws(aws: Aws) -> EntityUpdateService:
    clock = FakeClock(aws.world)
    features = feature_set("core")
    assert features.merchant_layout is not None
    budget = Budget(clock, longest_call_ms=0)
    ports = EntityPorts(
        entities=aws.entities,
        effects=aws.effects,
        labels=aws.labels,
        ledger=aws.ledger,
        label_publisher=aws.label_publisher,
        quarantine=aws.quarantine,
        clock=clock,
    )
    committer = Committer(aws.ledger, budget, clock, lambda seconds: seconds)
    kept = Kept(TTL_DAYS, LABEL_TTL_DAYS)
    return EntityUpdateService(ports, features, features.merchant_layout, committer, budget, kept=kept, reach=never)


def labels_on_aws(aws: Aws) -> LabelService:
    clock = FakeClock(aws.world)
    budget = Budget(clock, longest_call_ms=0)
    ports = LabelPorts(
        labels=aws.labels,
        decisions=aws.decisions,
        ledger=aws.ledger,
        entity_events=aws.entity_events,
        quarantine=aws.quarantine,
        clock=clock,
    )
    committer = Committer(aws.ledger, budget, clock, lambda seconds: seconds)
    return LabelService(ports, committer, budget, ttl_days=LABEL_TTL_DAYS, reach=never)


def test_merchants_and_labels_end_in_the_same_state(aws: Aws) -> None:
    world = World()
    on_fakes = functions_on(world)
    services = {"labels": labels_on_aws(aws), "entity-events": entities_on_aws(aws)}
    on_fakes("transactions")(records_of(*transactions()))
    decided = list(world.entity_events)
    fake_labels, fake_entities = on_fakes("labels"), on_fakes("entity-events")

    def on_aws(records: Sequence[UserRecord]) -> BatchOutcome:
        service = services[records[0].stream]
        if isinstance(service, LabelService):
            return service.record_batch(records, remaining_ms=REMAINING_MS)
        return service.apply_batch(records, remaining_ms=REMAINING_MS)

    def both(records: Sequence[UserRecord]) -> None:
        fake = fake_labels if records[0].stream == "labels" else fake_entities
        for _ in range(2):
            assert fake(records).failed == []
            assert on_aws(records).failed == []

    world.decisions.clear()  # neither side knows the decisions: labels wait for the events
    world.counters.clear()
    both([*label_records(labels()), label_records([b"poison"], first=99)[0]])
    both(event_records(decided))
    both(label_records(world.labels_sent, first=200))
    told = list(world.entity_events[len(decided) :])
    both(event_records(told, first=500))

    def keys(events: Sequence[EntityEvent]) -> list[tuple[str, int]]:
        return sorted((event.transaction_id, event.revision) for event in events)

    merchants = {key: state for key, state in world.states.items() if key.startswith("merchant#")}
    assert aws.entities.get(sorted(merchants)) == merchants
    assert aws.labels.get(sorted(world.labels)) == world.labels
    assert aws.effects.get(sorted(world.revised)) == world.revised
    assert aws.ledger.recorded(sorted(world.effects)) == world.effects
    assert +aws.counters() == +world.counters
    assert keys(aws.told()) == keys(told)
    assert {label.transaction_id for label in aws.sent_labels()} == {"o02", "o05"}
