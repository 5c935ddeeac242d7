"""The same records through the service on fakes and on the embedded AWS leave the same behind."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from lambdas.answering import DecidesItself
from lambdas.policy import Policy
from lambdas.port_sets import FeaturesPorts, RequestPorts, TransactionPorts
from lambdas.score_requests import ScoreApi
from lambdas.scoring import ScoringService
from stream_features.codec import unpack
from stream_features.decision import decode_decision
from stream_features.entity_event import encode_entity_event
from stream_features.errors import PortFailure
from stream_features.feature_sets import feature_set
from stream_features.transaction import Transaction
from tests.contract.harness import Aws
from tests.contract.test_ports import a_label
from tests.unit.lambdas.deliveries import a_transaction, records_of, run_to_the_end
from tests.unit.lambdas.fakes import (
    NOW_MS,
    POLICY,
    FakeClock,
    FakeLedger,
    FakeScorer,
    World,
    features_service_on,
    never,
    scoring,
)
from tests.unit.lambdas.job import Job
from tests.unit.lambdas.loop import feature_records
from tests.unit.lambdas.requests import score
from tests.unit.lambdas.test_effects_happen_once import BATCH_SIZE, records, undisturbed


def service_on_aws(aws: Aws) -> ScoringService:
    ports = transaction_ports_on_aws(aws)
    return scoring(ports.clock, aws.ledger, feature_set("core"), never, longest_call_ms=0).of_transactions(ports)


def api_on_aws(aws: Aws) -> ScoreApi:
    deciding = transaction_ports_on_aws(aws)
    ports = RequestPorts(
        decisions=aws.decisions, ledger=aws.ledger, transactions=aws.transactions, clock=deciding.clock
    )
    built = scoring(ports.clock, aws.ledger, feature_set("core"), never, longest_call_ms=0)
    return ScoreApi(
        ports, DecidesItself(built.of_requests(deciding), ports, built.budget, tell=lambda outcome: None), built.budget
    )


def transaction_ports_on_aws(aws: Aws) -> TransactionPorts:
    return TransactionPorts(
        decisions=aws.decisions,
        entities=aws.entities,
        ledger=aws.ledger,
        scorer=FakeScorer(aws.world, feature_set("core")),
        policies=aws.policies,
        lists=aws.lists,
        publisher=aws.publisher,
        entity_events=aws.entity_events,
        alerts=aws.alerts,
        quarantine=aws.quarantine,
        clock=FakeClock(aws.world),
    )


def test_the_api_and_the_stream_write_one_card_at_the_same_time_and_lose_nothing(aws: Aws) -> None:
    """Of 24 transactions of one card each writer has its own half, and both have the six in the middle."""
    aws.set_policy(POLICY)
    transactions = [
        a_transaction(f"t{n:02d}", event_time_ms=NOW_MS - 3_600_000 + n * 1_000, amount_minor=n + 1) for n in range(24)
    ]
    streamed = records_of(*transactions[9:])
    answers: dict[str, bytes] = {}

    def ask_for(first: list[Transaction]) -> None:
        api = api_on_aws(aws)
        for transaction in first:
            status = 0
            while status != 200:  # as an application does
                status, answers[transaction.transaction_id] = score(api, transaction)

    with ThreadPoolExecutor(2) as threads:
        asking = threads.submit(ask_for, transactions[:15])
        run_to_the_end(aws.world, streamed, batch_size=1, new_service=lambda world: service_on_aws(aws))
        asking.result()
    run_to_the_end(aws.world, streamed, batch_size=4, new_service=lambda world: service_on_aws(aws))
    stored = aws.decisions.get([one.transaction_id for one in transactions])
    assert len(stored) == 24
    assert answers == {key: stored[key] for key in answers}
    of_api = [key for key, document in stored.items() if decode_decision(document).stream_position.of_request]
    counters = aws.counters()
    assert (counters["decided"], counters["duplicates"], counters["quarantined"]) == (15, 0, 0)
    assert counters["api_decided"] == len(of_api) >= 9
    assert counters["api_recorded"] == len(of_api) - 9
    state = aws.entities.get(["card#card-a"])["card#card-a"]
    assert len(unpack(state.packed, None).times) == 24
    assert state.version == 24  # one commit for each: the loser of every race began again


@pytest.mark.parametrize("redelivered", [False, True])
def test_adapters_and_fakes_end_in_the_same_state(aws: Aws, redelivered: bool) -> None:
    aws.set_policy(POLICY)
    expected = undisturbed()
    for _ in range(1 + redelivered):
        run_to_the_end(aws.world, records(), batch_size=BATCH_SIZE, new_service=lambda world: service_on_aws(aws))
    assert aws.decisions.get(sorted(expected.decisions)) == expected.decisions
    states = aws.entities.get(sorted(expected.states))
    assert states == expected.states
    assert aws.counters() == expected.counters
    assert aws.ledger.recorded(sorted(expected.effects)) == expected.effects
    assert set(aws.published()) == {stored.document for stored in expected.published}
    assert set(map(encode_entity_event, aws.told())) == set(map(encode_entity_event, expected.entity_events))
    assert set(aws.alerted()) == {stored.decision.transaction_id for stored in expected.alerts}
    quarantined = {(r.stream_position, r.rule, r.payload) for r in aws.quarantined()}
    assert quarantined == {(r.stream_position, r.rule, r.payload) for r in expected.objects.values()}


def test_a_policy_that_is_not_there_yet_lets_records_wait(aws: Aws) -> None:
    batch = list(records()[:10])
    outcome = service_on_aws(aws).score_batch(batch, remaining_ms=60_000)
    assert outcome.failed == [record.item_identifier for record in batch]
    assert outcome.alarms == []
    with pytest.raises(PortFailure):
        aws.policies.current()
    aws.set_policy(Policy(policy_version="p", review_from=0.5, decline_from=0.9))
    assert service_on_aws(aws).score_batch(batch, remaining_ms=60_000).failed == []
    assert aws.world == World(clock_s=aws.world.clock_s, calls=aws.world.calls)


def features_service_on_aws(aws: Aws) -> ScoringService:
    clock = FakeClock(aws.world)
    features = feature_set("core")
    ports = FeaturesPorts(
        decisions=aws.decisions,
        ledger=aws.ledger,
        scorer=FakeScorer(aws.world, features),
        policies=aws.policies,
        lists=aws.lists,
        publisher=aws.publisher,
        labels=aws.labels,
        label_publisher=aws.label_publisher,
        alerts=aws.alerts,
        quarantine=aws.quarantine,
        clock=clock,
    )
    return scoring(clock, aws.ledger, features, never, longest_call_ms=0).of_features(ports)


@pytest.mark.parametrize("redelivered", [False, True])
def test_adapters_and_fakes_end_in_the_same_state_behind_the_job(aws: Aws, redelivered: bool) -> None:
    """The same records of `features`, with labels that wait for two of their decisions."""
    aws.set_policy(POLICY)
    world = World()
    Job(world).work_on(records())
    stored_by_the_job = dict(world.objects)
    waiting = [a_label(key, merchant_id=None, event_time_ms=None, waiting=True) for key in ("a000", "b1")]
    FakeLedger(world).transact(waiting, {}, token="labels")
    aws.ledger.transact(waiting, {}, token=uuid.uuid4().hex)
    for rejected in stored_by_the_job.values():
        aws.quarantine.keep(rejected)
    announced = len(aws.pointers())
    sent = feature_records(world.features_sent)
    for _ in range(1 + redelivered):
        for start in range(0, len(sent), BATCH_SIZE):
            batch = sent[start : start + BATCH_SIZE]
            assert features_service_on(world).score_batch(batch, remaining_ms=60_000).failed == []
            assert features_service_on_aws(aws).score_batch(batch, remaining_ms=60_000).failed == []
    assert announced == len(stored_by_the_job) == 2
    assert {decode_decision(document).engine for document in world.decisions.values()} == {"flink"}
    assert aws.decisions.get(sorted(world.decisions)) == world.decisions
    assert aws.counters() == world.counters
    assert aws.ledger.recorded(sorted(world.effects)) == world.effects
    assert set(aws.published()) == {stored.document for stored in world.published}
    assert set(aws.alerted()) == {stored.decision.transaction_id for stored in world.alerts}
    assert aws.told() == []
    assert {(r.stream_position, r.rule) for r in aws.quarantined()} == {
        (r.stream_position, r.rule) for r in world.objects.values()
    }
    pointers = {(pointer.key, pointer.field, pointer.rule) for pointer in aws.pointers()}
    assert pointers == {(pointer.key, pointer.field, pointer.rule) for pointer in world.pointers}
    assert len(pointers) == len(stored_by_the_job) + 1  # and the id that came back on another card
    assert set(aws.sent_labels()) == set(world.labels_sent)
    assert {label.transaction_id for label in aws.sent_labels()} == {"a000", "b1"}
