"""What every filling of the ports keeps: the fakes the unit tests trust, and the adapters on AWS."""

from __future__ import annotations

import json
import uuid

import pytest

from lambdas.policy import Policy
from lambdas.ports import ConditionFailed, ListedEntity, ToRescore
from lambdas.writes import (
    DecisionSettled,
    PutDecision,
    PutEffect,
    PutLabel,
    PutRevisedEffect,
    PutState,
    ReplaceDecision,
    StoredDecision,
    StoredEffect,
    StoredLabel,
    StoredState,
    Write,
)
from stream_features.decision import Decision, Reason, StreamPosition
from stream_features.decision_event import decision_event, encode_decision_event
from stream_features.entity_event import EntityEvent, FraudEntry
from stream_features.errors import MalformedRecord
from stream_features.label import Label
from stream_features.names import quarantine_key
from stream_features.rejected import rejected
from stream_features.transaction import encode_transaction
from tests.contract.harness import Aws, Harness
from tests.unit.lambdas.deliveries import a_transaction

POSITION = StreamPosition("shardId-000000000001", "49590338271490256608559692538361571095921575989136588898", 0)


def a_decision(transaction_id: str = "t1", **changes: object) -> StoredDecision:
    values: dict[str, object] = {
        "transaction_id": transaction_id,
        "event_time_ms": 1_759_999_999_999,
        "card_id": "card-a",
        "merchant_id": "Käse & Brot “7”",
        "amount_minor": 10**12,
        "currency": "USD",
        "score": 0.10000000149011612,
        "decision": "approve",
        "reasons": [Reason("amount", -0.1), Reason("is_night", 1e-17)],
        "rules": [],
        "features": {"amount": 1e16, "card_sum_1h": 0.1 + 0.2, "speed_from_last_m_s": None},
        "feature_set_id": "core-1",
        "model_version": "m",
        "variant": "AllTraffic",
        "policy_version": "p",
        "engine": "lambda",
        "stream_position": POSITION,
        "arrival_ms": 1_760_000_000_123,
        "scored_at_ms": 1_760_000_000_456,
        "late": False,
        "degraded": False,
        "payload_sha256": "0" * 64,
    }
    return StoredDecision.of(Decision(**(values | changes)))  # type: ignore[arg-type]


def a_token() -> str:
    """Tokens are one namespace for all tables."""
    return uuid.uuid4().hex


def put(transaction_id: str) -> PutDecision:
    return PutDecision(a_decision(transaction_id), 1_800_000_000)


def a_state(entity: str, expected_version: int | None, packed: bytes, complete_from_ms: int | None = None) -> PutState:
    return PutState(entity, expected_version, "layout-1", packed, complete_from_ms, 1_800_000_000)


def a_label(transaction_id: str = "t1", expected_revision: int | None = None, **changes: object) -> PutLabel:
    values: dict[str, object] = {
        "revision": 1 if expected_revision is None else expected_revision + 1,
        "is_fraud": True,
        "reported_at_ms": 1_760_000_000_000,
        "source": "chargeback",
        "history": b'[{"source":"chargeback"}]',
        "merchant_id": "Käse & Brot “7”",
        "event_time_ms": 0,
        "waiting": False,
        "told": '["Käse & Brot “7”"]'.encode(),
    }
    return PutLabel(transaction_id, expected_revision, StoredLabel(**(values | changes)), 1_800_000_000)  # type: ignore[arg-type]


def an_effect(effect: str, expected_revision: int | None, revision: int = 1) -> PutRevisedEffect:
    return PutRevisedEffect(effect, expected_revision, revision, b"[[1,2,-1]]", 1_800_000_000)


def test_what_is_not_there_is_left_out(ports: Harness) -> None:
    assert ports.decisions.get(["t1", "t2"]) == {}
    assert ports.effects.get(["e1", "e2"]) == {}
    assert ports.labels.get(["t1", "t2"]) == {}
    assert ports.entities.get(["card#a"]) == {}
    assert ports.ledger.recorded(["e1"]) == frozenset()


def test_a_decision_comes_back_bit_for_bit(ports: Harness) -> None:
    stored = a_decision()
    ports.ledger.transact([PutDecision(stored, 1_800_000_000)], {}, token=a_token())
    assert ports.decisions.get(["t0", "t1"]) == {"t1": stored.document}
    assert StoredDecision.from_document(ports.decisions.get(["t1"])["t1"]) == stored


@pytest.mark.parametrize("complete_from_ms", [None, 0, 1_759_000_000_000])
def test_a_state_comes_back_with_its_version_and_every_byte(ports: Harness, complete_from_ms: int | None) -> None:
    packed = bytes(range(256)) * 250
    ports.ledger.transact([a_state("card#a", None, packed, complete_from_ms)], {}, token=a_token())
    assert ports.entities.get(["card#a", "card#b"]) == {"card#a": StoredState(1, "layout-1", packed, complete_from_ms)}
    ports.ledger.transact([a_state("card#a", 1, b"\x00")], {}, token=a_token())
    assert ports.entities.get(["card#a"]) == {"card#a": StoredState(2, "layout-1", b"\x00", None)}


def test_more_than_a_hundred_keys_and_more_than_16_megabytes_are_read_whole(ports: Harness) -> None:
    packed = bytes(64_000)
    names = [f"card#{number:03d}" for number in range(260)]
    for start in range(0, len(names), 40):
        ports.ledger.transact([a_state(name, None, packed) for name in names[start : start + 40]], {}, token=a_token())
    found = ports.entities.get([*names, "card#unknown"])
    assert sorted(found) == names
    assert all(state.packed == packed for state in found.values())


def test_writes_and_counts_are_one_transaction(ports: Harness) -> None:
    writes: list[Write] = [a_state("card#a", None, b"1"), put("t1"), put("t2"), PutEffect("e1", 1_800_000_000)]
    writes += [a_label(), an_effect("e3", None)]
    ports.ledger.transact(writes, {"decided": 2, "late": 1}, token=a_token())
    ports.ledger.transact([PutEffect("e2", 1_800_000_000)], {"duplicates": 1, "decided": 3}, token=a_token())
    assert sorted(ports.decisions.get(["t1", "t2", "t3"])) == ["t1", "t2"]
    assert ports.ledger.recorded(["e1", "e2", "e3", "e4"]) == {"e1", "e2", "e3"}
    assert ports.counters() == {"decided": 5, "late": 1, "duplicates": 1}


@pytest.mark.parametrize(
    "refused",
    [
        put("t1"),
        a_state("card#a", None, b"x"),
        a_state("card#a", 2, b"x"),
        a_state("card#unknown", 1, b"x"),
        PutEffect("e1", 1_800_000_000),
        an_effect("e1", None),
        an_effect("e2", None, revision=9),
        an_effect("e2", 1, revision=9),
        an_effect("e4", 1),
        a_label("t1"),
        a_label("t1", 2),
        a_label("t2", 1),
    ],
    ids=[
        "decision is there",
        "entity is there",
        "other version",
        "entity is not there",
        "effect is there",
        "plain effect is there",
        "revised effect is there",
        "other revision of the effect",
        "revised effect is not there",
        "label is there",
        "other revision of the label",
        "label is not there",
    ],
)
def test_one_failed_condition_and_nothing_is_written(ports: Harness, refused: Write) -> None:
    standing: list[Write] = [put("t1"), a_state("card#a", None, b"1"), PutEffect("e1", 1_800_000_000)]
    standing += [an_effect("e2", None, revision=3), a_label("t1")]
    ports.ledger.transact(standing, {"decided": 1}, token=a_token())
    with pytest.raises(ConditionFailed):
        ports.ledger.transact([put("t9"), refused, PutEffect("e9", 1_800_000_000)], {"decided": 1}, token=a_token())
    assert ports.decisions.get(["t9"]) == {}
    assert ports.entities.get(["card#a"])["card#a"] == StoredState(1, "layout-1", b"1", None)
    assert ports.ledger.recorded(["e9"]) == frozenset()
    assert ports.effects.get(["e2"])["e2"].revision == 3
    assert ports.labels.get(["t1"])["t1"].revision == 1
    assert ports.counters() == {"decided": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_fraud": False, "told": b"[]"},
        {"merchant_id": None, "event_time_ms": None, "waiting": True},
        {"event_time_ms": None, "waiting": True},
        {"history": b"[" + b"1," * 100_000 + b"1]"},
    ],
    ids=["complete", "legitimate", "orphan", "half an orphan", "long history"],
)
def test_a_label_comes_back_as_it_was_written(ports: Harness, changes: dict[str, object]) -> None:
    write = a_label(**changes)
    ports.ledger.transact([write], {}, token=a_token())
    assert ports.labels.get(["t0", "t1"]) == {"t1": write.label}
    again = a_label("t1", 1)
    ports.ledger.transact([again], {}, token=a_token())
    assert ports.labels.get(["t1"]) == {"t1": again.label}


def test_effects_come_back_with_what_was_applied(ports: Harness) -> None:
    ports.ledger.transact([PutEffect("e1", 1_800_000_000), an_effect("e2", None, 4)], {}, token=a_token())
    assert ports.effects.get(["e1", "e2", "e3"]) == {"e1": StoredEffect(), "e2": StoredEffect(4, b"[[1,2,-1]]")}
    ports.ledger.transact([an_effect("e2", 4, 7)], {}, token=a_token())
    assert ports.effects.get(["e2"]) == {"e2": StoredEffect(7, b"[[1,2,-1]]")}


def degraded(transaction_id: str) -> PutDecision:
    return PutDecision(a_decision(transaction_id, score=None, decision="review", degraded=True), 1_800_000_000)


def rescored(transaction_id: str, **changes: object) -> ReplaceDecision:
    values: dict[str, object] = {"score": 0.25, "decision": "approve", "rescored_at_ms": 1_760_000_009_000}
    return ReplaceDecision(a_decision(transaction_id, **(values | changes)), degraded(transaction_id).stored)


@pytest.mark.parametrize("verdict", ["approve", "decline"])
def test_a_degraded_decision_is_replaced_once_and_leaves_the_index_when_it_is_settled(
    ports: Harness, verdict: str
) -> None:
    arrival_ms = degraded("t1").stored.decision.arrival_ms
    entries = [ToRescore(key, arrival_ms, 1_800_000_000) for key in ("t1", "t2")]
    ports.ledger.transact([put("t0"), degraded("t1"), degraded("t2")], {}, token=a_token())
    assert sorted(ports.to_rescore.entries(), key=lambda entry: entry.transaction_id) == entries
    write = rescored("t1", decision=verdict)
    ports.ledger.transact([write], {"degraded": -1}, token=a_token())
    assert ports.decisions.get(["t1"]) == {"t1": write.stored.document}
    assert sorted(ports.to_rescore.entries(), key=lambda entry: entry.transaction_id) == entries
    with pytest.raises(ConditionFailed):
        ports.ledger.transact([rescored("t1", score=0.5)], {"degraded": -1}, token=a_token())
    with pytest.raises(ConditionFailed):
        ports.ledger.transact([DecisionSettled(degraded("t1").stored)], {}, token=a_token())
    assert ports.counters() == {"degraded": -1}
    ports.ledger.transact([DecisionSettled(write.stored)], {}, token=a_token())
    assert list(ports.to_rescore.entries()) == entries[1:]
    assert ports.decisions.get(["t1"]) == {"t1": write.stored.document}


def test_a_count_can_fall(ports: Harness) -> None:
    ports.ledger.transact([a_label("t1")], {"labels": 1, "labels_waiting": 1}, token=a_token())
    ports.ledger.transact([a_label("t1", 1)], {"labels_waiting": -1}, token=a_token())
    assert +ports.counters() == {"labels": 1}


def test_events_go_out_under_their_merchants_key(ports: Harness) -> None:
    events = [
        EntityEvent(
            kind="label",
            merchant_id="Käse & Brot “7”" * 8,
            transaction_id=f"t{number}",
            event_time_ms=number,
            revision=number + 1,
            frauds=[FraudEntry(number, 2, -1)],
        )
        for number in range(600)
    ]
    ports.entity_events.publish(events)
    assert sorted(ports.told(), key=lambda event: event.event_time_ms) == events


def test_labels_go_out_under_their_transactions_key(ports: Harness) -> None:
    label = Label(transaction_id="t1", is_fraud=True, reported_at_ms=5, source="analyst", merchant_id="é")
    ports.label_publisher.publish([label])
    assert ports.sent_labels() == [label]


def test_transactions_go_out_as_they_were_written_under_their_card(ports: Harness) -> None:
    transaction = a_transaction()
    payload = encode_transaction(transaction)[:-1] + ',"own":"Käse"}'.encode()
    ports.transactions.publish(transaction, payload)
    assert ports.sent_transactions() == [payload]


def test_the_same_token_again_changes_nothing_and_is_no_failure(ports: Harness) -> None:
    token = a_token()
    for _ in range(3):
        ports.ledger.transact([put("t1"), PutEffect("e1", 1_800_000_000)], {"decided": 1}, token=token)
    assert ports.counters() == {"decided": 1}


def test_a_hundred_items_fit_with_the_counter(ports: Harness) -> None:
    ports.ledger.transact([put(f"t{number}") for number in range(99)], {"decided": 99}, token=a_token())
    assert len(ports.decisions.get([f"t{number}" for number in range(99)])) == 99


def test_published_documents_are_the_stored_ones(ports: Harness) -> None:
    decisions = [a_decision(f"t{number}") for number in range(1_100)]
    ports.publisher.publish(decisions)
    assert sorted(ports.published()) == sorted(stored.document for stored in decisions)


def test_every_alert_goes_out(ports: Harness) -> None:
    decisions = [a_decision(f"t{number:02d}", decision="review", score=0.7) for number in range(23)]
    ports.alerts.raise_alerts(decisions)
    assert sorted(ports.alerted()) == [f"t{number:02d}" for number in range(23)]


def test_every_event_goes_out_as_the_contract_says(ports: Harness) -> None:
    if isinstance(ports, Aws):
        ports.subscribe_to_events({"decision": [{"prefix": ""}]})
    events = [decision_event(a_decision(f"t{number:02d}").decision) for number in range(23)]
    ports.events.publish(events)
    found = sorted(ports.sent_events(), key=lambda event: str(event["transaction_id"]))
    assert found == [json.loads(encode_decision_event(event)) for event in events]


def test_a_subscriber_of_declines_hears_of_nothing_else(aws: Aws) -> None:
    aws.subscribe_to_events({"decision": ["decline"], "score": [{"numeric": [">=", 0.95]}]})
    decisions = [("approve", 0.99), ("decline", 0.96), ("decline", 0.94), ("review", 0.97)]
    aws.events.publish(
        [
            decision_event(a_decision(f"t{n}", decision=verdict, score=score).decision)
            for n, (verdict, score) in enumerate(decisions)
        ]
    )
    assert [event["transaction_id"] for event in aws.sent_events()] == ["t1"]


def test_a_rejected_record_is_kept_once_however_often_it_is_redelivered(ports: Harness) -> None:
    record = rejected(
        b"\xff\x00 not JSON",
        MalformedRecord("$", "not_utf8", "byte 0 is not UTF-8"),
        stream="transactions",
        stream_position=POSITION,
        arrival_ms=1_760_000_000_000,
        rejected_at_ms=1_760_000_000_001,
    )
    ports.quarantine.keep(record)
    ports.quarantine.keep(record)
    assert ports.quarantined() == [record]
    assert [(pointer.field, pointer.rule) for pointer in ports.pointers()] == [("$", "not_utf8")] * 2


def test_a_record_that_lies_in_quarantine_is_only_announced(ports: Harness) -> None:
    record = rejected(
        b"poison",
        MalformedRecord("$", "not_json", "byte 0"),
        stream="transactions",
        stream_position=POSITION,
        arrival_ms=1_760_000_000_000,
        rejected_at_ms=1_760_000_000_001,
    )
    ports.quarantine.keep(record)
    key = quarantine_key("transactions", POSITION.shard_id, POSITION.sequence_number, 0)
    ports.quarantine.announce(key=key, field="$", rule="not_json")
    assert ports.quarantined() == [record]
    pointers = ports.pointers()
    assert [(pointer.key, pointer.field, pointer.rule) for pointer in pointers] == [(key, "$", "not_json")] * 2
    assert pointers[0] == pointers[1]


def test_the_policy_is_the_published_one(ports: Harness) -> None:
    policy = Policy(policy_version="p7", review_from=0.25, decline_from=0.75)
    ports.set_policy(policy)
    assert ports.policies.current() == policy


def test_listed_entities_are_found_and_others_left_out(ports: Harness) -> None:
    ports.list_entity("card#a", ListedEntity("block"))
    ports.list_entity("ip#::1", ListedEntity("allow", 4_102_444_800))
    asked = ["card#a", "ip#::1", *(f"merchant#{n}" for n in range(150))]
    assert ports.lists.get(asked) == {"card#a": ListedEntity("block"), "ip#::1": ListedEntity("allow", 4_102_444_800)}
