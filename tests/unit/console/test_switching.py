"""What a switch of engines hands over, and where the next engine begins: over tables and a stream in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console import switching
from console.answered import answered_up_to, decided_beyond
from console.handover import (
    add_to_cards,
    decided_by_the_job,
    purchase_events,
    standing_label_events,
    tell_merchants,
    with_purchases,
)
from console.switching import _Mappings, switch_engine
from console.tables import Tables
from lambdas.adapters.items import label_item
from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.effects import duplicate_effect, quarantined_effect
from lambdas.records import UserRecord
from lambdas.repeats import claim_effect
from lambdas.writes import PutLabel, StoredDecision, StoredLabel, StoredState
from local.flink.layout import FlinkFolder
from local.run import RunState
from stream_features.card_event import card_event
from stream_features.card_state import CardState
from stream_features.codec import pack
from stream_features.decision import API_SHARD, Decision, StreamPosition
from stream_features.errors import PipelineError, PortFailure, UsageError
from stream_features.feature_sets import feature_set
from stream_features.history import card_states
from stream_features.label_history import LabelReport
from stream_features.names import card_key
from stream_features.transaction import Transaction, encode_transaction
from tests.integration.lake_stack import a_decision
from tests.unit.lambdas.fakes import (
    FakeClock,
    FakeDecisionStore,
    FakeEntityEvents,
    FakeEntityStore,
    FakeLabelStore,
    FakeLedger,
    Fault,
    World,
)
from tests.unit.local_firehose.fakes import NOON_MS, FakeKinesis

SHARDS = ("shardId-000000000000", "shardId-000000000001")
FEATURES = feature_set("core")
TTL_S = NOON_MS // 1000 + 86_400


def a_transaction(number: int, **changes: Any) -> Transaction:
    given: dict[str, Any] = {
        "transaction_id": f"t-{number}",
        "event_time_ms": NOON_MS - 3_600_000 + number * 1_000,
        "card_id": f"card-{number % 3}",
        "merchant_id": f"merchant-{number % 2}",
        "amount_minor": 100 + number,
        "currency": "USD",
    }
    return Transaction(**(given | changes))


class Pipeline:
    """A stream of transactions and the tables, as far as a switch looks at them."""

    def __init__(self) -> None:
        self.kinesis = FakeKinesis(SHARDS)
        self.world = World()
        self.labels: list[dict[str, Any]] = []
        self.features = FEATURES
        clock = FakeClock(self.world)
        ledger = FakeLedger(self.world)
        budget = Budget(clock, longest_call_ms=0)
        stores: Any = {
            "entities": FakeEntityStore(self.world),
            "decisions": FakeDecisionStore(self.world),
            "labels": FakeLabelStore(self.world),
            "ledger": ledger,
            "committer": Committer(ledger, budget, clock, lambda seconds: seconds),
            "entity_events": FakeEntityEvents(self.world),
            "clock": clock,
        }
        self.tables = Tables(**stores)

    def client(self, service: str) -> Any:
        return self.kinesis if service == "kinesis" else self

    def output(self, name: str) -> str:
        return {"TransactionsStreamName": "transactions"}.get(name, name)

    def get_paginator(self, operation: str) -> Any:
        assert operation == "scan"

        def paginate(TableName: str, **_request: Any) -> list[dict[str, Any]]:
            if TableName == "LabelsTableName":
                return [{"Items": self.labels}]
            return [{"Items": [{"document": {"S": document.decode()}} for document in self.world.decisions.values()]}]

        return SimpleNamespace(paginate=paginate)

    def publish(self, transaction: Transaction, shard: str = SHARDS[0]) -> StreamPosition:
        sequence_number = self.kinesis.put(encode_transaction(transaction), arrival_ms=NOON_MS, shard=shard)
        return StreamPosition(shard, sequence_number)

    def decide(self, transaction: Transaction, position: StreamPosition, engine: str = "flink") -> Decision:
        fields = {name: getattr(transaction, name) for name in Transaction.__struct_fields__}
        changes: Any = {"engine": engine, "stream_position": position, "arrival_ms": NOON_MS}
        decision = msgspec.structs.replace(a_decision(1), **fields, **changes)
        self.world.decisions[transaction.transaction_id] = StoredDecision.of(decision).document
        return decision


@pytest.fixture
def pipeline() -> Any:
    return Pipeline()


def test_a_shard_is_answered_up_to_the_first_record_that_nothing_has_come_of(pipeline: Any) -> None:
    one, two, four = a_transaction(1), a_transaction(2), a_transaction(4)
    pipeline.decide(one, first := pipeline.publish(one))
    pipeline.decide(two, second := pipeline.publish(two, SHARDS[1]))
    again = pipeline.publish(one)
    bad = StreamPosition(SHARDS[0], pipeline.kinesis.put(b"no transaction"))
    open_one = pipeline.publish(a_transaction(3))
    pipeline.decide(four, pipeline.publish(four))

    def answered(after: dict[str, str] | None = None) -> dict[str, str | None]:
        found = answered_up_to(pipeline, pipeline.tables, after or {})
        assert not any(position.drained for position in found.values())
        return {shard: position.sequence_number for shard, position in found.items()}

    assert answered() == {SHARDS[0]: first.sequence_number, SHARDS[1]: second.sequence_number}
    pipeline.world.effects.add(duplicate_effect("t-1", again))
    assert answered()[SHARDS[0]] == again.sequence_number
    pipeline.world.effects.add(quarantined_effect(UserRecord(b"", "transactions", bad, NOON_MS)))
    assert answered()[SHARDS[0]] == bad.sequence_number
    assert answered({SHARDS[0]: open_one.sequence_number})[SHARDS[0]] > open_one.sequence_number  # told, not looked at
    # a decision on the same id at another place is no answer to this record
    pipeline.decide(a_transaction(3), StreamPosition(SHARDS[0], "1"))
    assert answered()[SHARDS[0]] == bad.sequence_number
    pipeline.decide(a_transaction(3), open_one)
    assert answered()[SHARDS[0]] == answered({SHARDS[0]: open_one.sequence_number})[SHARDS[0]]


def test_a_record_of_a_transaction_that_the_api_decided_is_answered_by_its_claim(pipeline: Any) -> None:
    transaction = a_transaction(1)
    position = pipeline.publish(transaction)
    pipeline.decide(transaction, StreamPosition(API_SHARD, str(NOON_MS)), "lambda")
    assert answered_up_to(pipeline, pipeline.tables, {}) == {}
    assert [one.transaction_id for one in decided_beyond(pipeline, pipeline.tables, {})] == ["t-1"]
    pipeline.world.effects.add(claim_effect("t-1", StreamPosition(SHARDS[0], "1")))  # of another record
    assert answered_up_to(pipeline, pipeline.tables, {}) == {}
    pipeline.world.effects.add(claim_effect("t-1", position))
    assert answered_up_to(pipeline, pipeline.tables, {})[SHARDS[0]].sequence_number == position.sequence_number


def test_a_shard_without_an_answer_is_left_out_and_a_closed_one_that_is_answered_is_done(pipeline: Any) -> None:
    transaction = a_transaction(1)
    position = pipeline.publish(transaction)
    assert answered_up_to(pipeline, pipeline.tables, {}) == {}
    pipeline.kinesis.closed.add(SHARDS[0])
    assert answered_up_to(pipeline, pipeline.tables, {}) == {}
    pipeline.decide(transaction, position)
    found = answered_up_to(pipeline, pipeline.tables, {})
    assert found[SHARDS[0]].drained
    assert SHARDS[1] not in found


def test_what_was_decided_beyond_a_checkpoint_is_found(pipeline: Any) -> None:
    transactions = [a_transaction(number) for number in range(4)]
    positions = [pipeline.publish(transaction) for transaction in transactions]
    for number in (0, 2):
        pipeline.decide(transactions[number], positions[number], "lambda")
    found = decided_beyond(pipeline, pipeline.tables, {SHARDS[0]: positions[0].sequence_number})
    assert [decision.transaction_id for decision in found] == ["t-2"]


def test_the_jobs_own_purchases_are_those_of_its_engine_after_its_start(pipeline: Any) -> None:
    for number, (engine, sequence_number) in enumerate(
        [("flink", "50"), ("flink", "100"), ("flink", "101"), ("lambda", "102"), ("flink", "103")]
    ):
        kind = "refund" if number == 4 else "purchase"
        pipeline.decide(a_transaction(number, type=kind), StreamPosition(SHARDS[0], sequence_number), engine)
    pipeline.decide(a_transaction(9), StreamPosition(SHARDS[1], "7"))
    begun_after = {SHARDS[0]: "100"}
    assert {d.transaction_id for d in decided_by_the_job(pipeline, begun_after)} == {"t-2", "t-9"}


@settings(max_examples=60, deadline=None)
@given(
    hours=st.lists(st.integers(0, 900), min_size=1, max_size=40),
    cut=st.integers(0, 40),
)
def test_a_card_brought_up_to_date_is_as_if_one_engine_had_seen_all_of_it(hours: list[int], cut: int) -> None:
    layout = replace(FEATURES.card_layout, exact_entries=8)
    events = [card_event(a_transaction(n, event_time_ms=NOON_MS + hour * 3_600_000)) for n, hour in enumerate(hours)]
    all_of_it, first = CardState.empty(), CardState.empty()
    for number, event in enumerate(events):
        all_of_it.take_in(layout, event)
        if number < cut:
            first.take_in(layout, event)
    stored = pack(first) if cut else None
    assert with_purchases(layout, stored, None, events[cut:]) == pack(all_of_it)


def test_cards_are_brought_up_to_date_once_however_often_it_is_tried(pipeline: Any) -> None:
    before, after = [a_transaction(number) for number in range(6)], [a_transaction(number) for number in range(6, 40)]
    old = card_states(before, FEATURES)
    for card, state in old.items():
        pipeline.world.states[card_key(card)] = StoredState(3, FEATURES.card_layout_id, pack(state), NOON_MS - 10**7)
    decisions = [
        pipeline.decide(transaction, StreamPosition(SHARDS[0], str(1000 + number)))
        for number, transaction in enumerate([*after, a_transaction(40, card_id="new")])
    ]

    def attempt() -> int:
        return add_to_cards(pipeline, pipeline.tables, decisions, "token", lambda line: None)

    pipeline.world.fault = Fault(at=len(pipeline.world.calls) + 2, kind="outage", effect=True)
    with pytest.raises(PortFailure):
        attempt()
    pipeline.world.fault = None
    assert attempt() == attempt() == 4
    expected = card_states([*before, *after, a_transaction(40, card_id="new")], FEATURES)
    assert {key: stored.packed for key, stored in pipeline.world.states.items()} == {
        card_key(card): pack(state) for card, state in expected.items()
    }
    assert pipeline.world.states["card#card-0"].complete_from_ms == NOON_MS - 10**7
    assert {stored.version for stored in pipeline.world.states.values()} == {1, 4}  # each written once


def test_a_state_of_another_layout_is_named_and_not_overwritten(pipeline: Any) -> None:
    pipeline.world.states["card#card-1"] = StoredState(1, "card-of-old", b"", None)
    decision = pipeline.decide(a_transaction(1), StreamPosition(SHARDS[0], "5"))
    with pytest.raises(PipelineError, match="card#card-1: its state has layout card-of-old"):
        add_to_cards(pipeline, pipeline.tables, [decision], "token", lambda line: None)


def a_report(number: int, *, is_fraud: bool) -> LabelReport:
    return LabelReport(
        reported_at_ms=NOON_MS + number,
        arrival_ms=NOON_MS + 10 + number,
        sequence_number=str(number),
        is_fraud=is_fraud,
        source="analyst",
    )


def test_merchants_are_told_of_purchases_and_of_labels_that_stand(pipeline: Any) -> None:
    purchase = pipeline.decide(a_transaction(1), StreamPosition(SHARDS[0], "5"))
    refund = pipeline.decide(a_transaction(2, type="refund"), StreamPosition(SHARDS[0], "6"))
    for transaction in (a_transaction(1), a_transaction(2), a_transaction(3)):
        reports = [a_report(1, is_fraud=True), a_report(2, is_fraud=False)]
        label = StoredLabel(
            revision=4,
            is_fraud=False,
            reported_at_ms=NOON_MS + 2,
            source="analyst",
            history=msgspec.json.encode(reports),
            merchant_id=transaction.merchant_id,
            event_time_ms=transaction.event_time_ms,
            waiting=False,
            told=msgspec.json.encode([transaction.merchant_id]),
        )
        pipeline.labels.append(label_item(PutLabel(transaction.transaction_id, 3, label, TTL_S)))
    tell_merchants(pipeline.tables, purchase_events([purchase, refund]), lambda line: None)
    tell_merchants(pipeline.tables, standing_label_events(pipeline, pipeline.tables), lambda line: None)
    decided, *labels = pipeline.world.entity_events
    assert (decided.kind, decided.transaction_id, decided.amount_base) == ("decided", "t-1", 101)
    assert {event.transaction_id: (event.revision, len(event.frauds)) for event in labels} == {
        "t-1": (4, 2),  # fraud, and fraud taken back
        "t-2": (4, 0),  # no purchase
        "t-3": (4, 2),  # not decided yet
    }


class Functions:
    """Mappings of the two functions that a switch stops."""

    def __init__(self) -> None:
        self.states = {"score-transactions": "Enabled", "update-entities": "Enabled"}

    def list_event_source_mappings(self) -> dict[str, Any]:
        return {
            "EventSourceMappings": [
                {
                    "UUID": f"uuid-{name}",
                    "FunctionArn": f"arn:aws:lambda:us-east-1:1:function:{name}",
                    "EventSourceArn": "arn:aws:kinesis:us-east-1:1:stream/transactions",
                    "State": state,
                }
                for name, state in self.states.items()
            ]
        }

    def update_event_source_mapping(self, UUID: str, Enabled: bool) -> None:
        self.states[UUID.removeprefix("uuid-")] = "Enabled" if Enabled else "Disabled"


def a_pipeline(folder: Path, engine: str, functions: Functions, target: str = "embedded") -> Any:
    given: dict[str, Any] = dict.fromkeys(RunState.__slots__, "")
    outputs = {"ScoreTransactionsFunctionName": "score-transactions", "UpdateEntitiesFunctionName": "update-entities"}
    run = RunState(**(given | {"engine": engine, "target": target, "outputs": outputs, "state_dir": folder}))
    return SimpleNamespace(
        run=run, state_dir=folder, client=lambda _service: functions, output=outputs.__getitem__, features=FEATURES
    )


def test_a_mapping_is_stopped_only_once_its_runner_has_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "mappings" / "status.json"
    status.parent.mkdir()
    status.write_text(json.dumps({"mappings": {"uuid-score-transactions": {}}}))
    (tmp_path / "mappings" / "uuid-score-transactions.json").write_text(
        json.dumps({SHARDS[0]: {"sequence_number": "9"}, SHARDS[1]: {"drained": True}})
    )
    functions = Functions()
    mappings = _Mappings(a_pipeline(tmp_path, "lambda", functions))
    (scorer,) = mappings.named("ScoreTransactions")
    asked = 0

    def sleep(_seconds: float) -> None:
        nonlocal asked
        asked += 1
        assert functions.states["score-transactions"] == "Disabled"
        if asked == 3:
            status.write_text(json.dumps({"mappings": {}}))

    monkeypatch.setattr(switching.time, "sleep", sleep)
    mappings.stop(scorer)
    assert asked == 3
    assert mappings.positions(scorer) == {SHARDS[0]: "9"}


def test_a_runner_that_never_lets_go_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "status.json").write_text(json.dumps({"mappings": {"uuid-update-entities": {}}}))
    monkeypatch.setattr(switching, "_IDLE_DEADLINE_S", 0.0)
    mappings = _Mappings(a_pipeline(tmp_path, "lambda", Functions()))
    (updater,) = mappings.named("UpdateEntities")
    with pytest.raises(PipelineError, match="update-entities is still called"):
        mappings.stop(updater)


def test_what_cannot_be_switched_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = Functions()
    with pytest.raises(UsageError, match="embedded"):
        switch_engine(a_pipeline(tmp_path, "lambda", functions, target="localstack"), "flink", print)
    with pytest.raises(UsageError, match="the engine of this run is lambda already"):
        switch_engine(a_pipeline(tmp_path, "lambda", functions), "lambda", print)
    monkeypatch.setattr(switching.flink, "missing", lambda: "no Java here")
    with pytest.raises(UsageError, match="no Java here"):
        switch_engine(a_pipeline(tmp_path, "lambda", functions), "flink", print)
    assert set(functions.states.values()) == {"Enabled"}
    job = FlinkFolder(tmp_path / "flink")
    job.path.mkdir()
    job.stop_request.touch()
    with pytest.raises(UsageError, match="finish with: fraudstream switch-engine lambda"):
        switch_engine(a_pipeline(tmp_path, "flink", functions), "flink", print)


def test_a_switch_to_flink_that_failed_half_way_can_be_taken_back(tmp_path: Path) -> None:
    functions = Functions()
    functions.states["score-transactions"] = "Disabled"
    pipeline = a_pipeline(tmp_path, "lambda", functions)
    assert switch_engine(pipeline, "lambda", lambda line: None) == pipeline.run
    assert set(functions.states.values()) == {"Enabled"}
