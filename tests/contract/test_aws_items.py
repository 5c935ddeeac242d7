"""What only the tables show: attributes that indexes, expiry and other readers rely on; errors as AWS words them."""

from __future__ import annotations

import hashlib
import json
import uuid

import pytest

from lambdas.adapters.calls import client_config
from lambdas.adapters.dynamodb import DynamoDecisionStore
from lambdas.policy import Policy, Rule, encode_policy
from lambdas.writes import DecisionSettled, PutDecision, PutEffect
from stream_features.errors import ContractMismatch, PortFailure
from tests.contract.harness import Aws
from tests.contract.local_aws import client, free_port
from tests.contract.test_ports import a_decision, a_label, a_state, an_effect, degraded, put, rescored


def test_a_decision_item_holds_the_document_and_the_index_attributes(aws: Aws) -> None:
    stored = a_decision(decision="decline", score=0.1 + 0.2)
    aws.ledger.transact([PutDecision(stored, 1_800_000_000), put("approved")], {}, token=uuid.uuid4().hex)
    assert aws.item("decisions", "transaction_id", "t1") == {
        "transaction_id": {"S": "t1"},
        "card_id": {"S": "card-a"},
        "event_time_ms": {"N": "1759999999999"},
        "score": {"N": "0.30000000000000004"},
        "decision": {"S": "decline"},
        "alert_day": {"S": "2025-10-09"},
        "payload_sha256": {"S": "0" * 64},
        "expires_at": {"N": "1800000000"},
        "document": {"S": stored.document.decode()},
    }
    assert "alert_day" not in aws.item("decisions", "transaction_id", "approved")


def test_a_degraded_decision_has_the_lowest_place_among_alerts_until_it_is_rescored(aws: Aws) -> None:
    aws.ledger.transact([degraded("t1"), degraded("t2")], {}, token=uuid.uuid4().hex)
    before = aws.item("decisions", "transaction_id", "t1")
    assert (before["score"], before["alert_day"]) == ({"N": "0"}, {"S": "2025-10-09"})
    assert before["to_rescore_ms"] == {"N": str(degraded("t1").stored.decision.arrival_ms)}
    declined, approved = rescored("t1", decision="decline", score=0.1 + 0.2), rescored("t2")
    aws.ledger.transact([declined, approved], {}, token=uuid.uuid4().hex)
    aws.ledger.transact([DecisionSettled(declined.stored)], {}, token=uuid.uuid4().hex)
    changed = {"score": {"N": "0.30000000000000004"}, "decision": {"S": "decline"}}
    expected = before | changed | {"document": {"S": declined.stored.document.decode()}}
    del expected["to_rescore_ms"]
    assert aws.item("decisions", "transaction_id", "t1") == expected
    assert "alert_day" not in aws.item("decisions", "transaction_id", "t2")


def test_states_and_effects_expire(aws: Aws) -> None:
    writes = [a_state("card#a", None, b"1", 5), PutEffect("e1", 1_800_000_000)]
    aws.ledger.transact(writes, {}, token=uuid.uuid4().hex)
    assert aws.item("entity_state", "entity", "card#a") == {
        "entity": {"S": "card#a"},
        "version": {"N": "1"},
        "layout": {"S": "layout-1"},
        "complete_from": {"N": "5"},
        "state": {"B": b"1"},
        "expires_at": {"N": "1800000000"},
    }
    assert aws.item("effects", "effect", "e1") == {"effect": {"S": "e1"}, "expires_at": {"N": "1800000000"}}


def test_labels_and_revised_effects_expire(aws: Aws) -> None:
    aws.ledger.transact([a_label(), an_effect("e1", None, 4)], {}, token=uuid.uuid4().hex)
    assert aws.item("labels", "transaction_id", "t1") == {
        "transaction_id": {"S": "t1"},
        "revision": {"N": "1"},
        "is_fraud": {"BOOL": True},
        "reported_at_ms": {"N": "1760000000000"},
        "source": {"S": "chargeback"},
        "history": {"S": '[{"source":"chargeback"}]'},
        "merchant_id": {"S": "Käse & Brot “7”"},
        "event_time_ms": {"N": "0"},
        "waiting": {"BOOL": False},
        "told": {"S": '["Käse & Brot “7”"]'},
        "expires_at": {"N": "1800000000"},
    }
    assert aws.item("effects", "effect", "e1") == {
        "effect": {"S": "e1"},
        "revision": {"N": "4"},
        "document": {"S": "[[1,2,-1]]"},
        "expires_at": {"N": "1800000000"},
    }


def test_a_token_used_for_another_transaction_is_a_failure_and_writes_nothing(aws: Aws) -> None:
    token = uuid.uuid4().hex
    aws.ledger.transact([put("t1")], {}, token=token)
    with pytest.raises(PortFailure, match="IdempotentParameterMismatch"):
        aws.ledger.transact([put("t2")], {}, token=token)
    assert sorted(aws.decisions.get(["t1", "t2"])) == ["t1"]


def test_a_service_that_does_not_answer_is_a_port_failure(aws: Aws) -> None:
    nowhere = client(
        "dynamodb", f"http://127.0.0.1:{free_port()}", client_config(connect_timeout_s=1, read_timeout_s=1)
    )
    with pytest.raises(PortFailure, match="EndpointConnectionError"):
        DynamoDecisionStore(nowhere, "decisions", aws.caller).get(["t1"])
    with pytest.raises(PortFailure, match="EndpointConnectionError"):
        aws.ledger_on(nowhere).transact([put("t1")], {}, token=uuid.uuid4().hex)


def test_a_missing_table_is_a_port_failure(aws: Aws) -> None:
    with pytest.raises(PortFailure, match="ResourceNotFoundException"):
        DynamoDecisionStore(aws.dynamodb, "no-such-table", aws.caller).get(["t1"])


def test_a_policy_is_kept_for_five_seconds(aws: Aws) -> None:
    source = aws.policy_source()
    with pytest.raises(PortFailure, match="ParameterNotFound"):
        source.current()
    old = Policy(policy_version="old", review_from=0.5, decline_from=0.9)
    new = Policy(policy_version="new", review_from=0.4, decline_from=0.8)
    aws.set_policy(old)
    assert source.current() == old
    aws.set_policy(new)
    aws.world.clock_s += 4.9
    assert source.current() == old
    aws.world.clock_s += 0.2
    assert source.current() == new


def test_a_policy_that_is_not_one_is_a_contract_mismatch(aws: Aws) -> None:
    aws.ssm.put_parameter(Name=f"/{aws.prefix}/policy", Type="String", Value="{}")
    with pytest.raises(ContractMismatch, match="policy_version"):
        aws.policies.current()


def pointer_to(aws: Aws, document: bytes, key: str = "policies/p.json", sha256: str = "") -> None:
    """Publish a policy document and let the parameter point to it."""
    aws.s3.put_object(Bucket=aws.name("artifacts"), Key=key, Body=document)
    sha256 = sha256 or hashlib.sha256(document).hexdigest()
    value = json.dumps({"bucket": aws.name("artifacts"), "key": key, "sha256": sha256})
    aws.ssm.put_parameter(Name=f"/{aws.prefix}/policy", Type="String", Value=value, Overwrite=True)


def test_a_policy_may_lie_where_the_parameter_points(aws: Aws) -> None:
    policy = Policy(
        policy_version="p", review_from=0.5, decline_from=0.9, rules=(Rule("big", "amount_minor > 100", "review"),)
    )
    pointer_to(aws, encode_policy(policy))
    assert aws.policy_source().current() == policy


@pytest.mark.parametrize(
    ("document", "options", "problem"),
    [
        (b"{}", {}, "policy_version"),
        (b'{"policy_version": "bad", "review_from": 0.1, "decline_from": 2}', {}, "decline_from=2"),
        (
            b'{"policy_version": "bad", "review_from": 0.1, "decline_from": 0.2,'
            b' "rules": [{"id": "r", "expression": "nobody > 1", "action": "review"}]}',
            {},
            "rule 'r': expression: unknown name 'nobody'",
        ),
        (b'{"policy_version": "other", "review_from": 0, "decline_from": 1}', {"sha256": "0" * 64}, "its bytes"),
    ],
)
def test_a_published_policy_that_is_invalid_leaves_the_last_good_one_in_force(
    aws: Aws, document: bytes, options: dict[str, str], problem: str
) -> None:
    good = Policy(policy_version="good", review_from=0.5, decline_from=0.9)
    aws.set_policy(good)
    source = aws.policy_source()
    assert (source.current(), source.problem()) == (good, None)
    pointer_to(aws, document, **options)
    aws.world.clock_s += 6
    assert source.current() == good
    assert problem in str(source.problem())
    with pytest.raises(ContractMismatch):
        aws.policy_source().current()  # a process that starts now has no good one
    mended = Policy(policy_version="mended", review_from=0.5, decline_from=0.9)
    pointer_to(aws, encode_policy(mended))
    aws.world.clock_s += 6
    assert (source.current(), source.problem()) == (mended, None)
    aws.set_policy(good)
    aws.world.clock_s += 6
    assert source.current() == good


def test_a_pointer_to_nothing_leaves_the_last_good_policy_in_force(aws: Aws) -> None:
    good = Policy(policy_version="good", review_from=0.5, decline_from=0.9)
    aws.set_policy(good)
    source = aws.policy_source()
    source.current()
    pointer_to(aws, encode_policy(good))
    aws.s3.delete_object(Bucket=aws.name("artifacts"), Key="policies/p.json")
    aws.world.clock_s += 6
    assert source.current() == good
    assert "NoSuchKey" in str(source.problem())
    aws.set_policy(good)  # put back: nothing is wrong any more
    aws.world.clock_s += 6
    assert (source.current(), source.problem()) == (good, None)
