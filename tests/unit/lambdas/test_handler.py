"""The function as Lambda sees it: event in, failures out, one log line and one set of metrics."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aws_kinesis_agg.aggregator import RecordAggregator

from lambdas import publish_events, record_labels, score_api, score_features, score_transactions, update_entities
from lambdas.records import arrival_order, user_records
from lambdas.scoring import ScoringService
from lambdas.writes import StoredState
from stream_features.decision import decode_decision
from stream_features.entity_event import EntityEvent, encode_entity_event
from stream_features.label import Label, encode_label
from stream_features.transaction import encode_transaction
from tests.unit.lambdas.deliveries import a_record, a_transaction, records_of
from tests.unit.lambdas.fakes import NOW_MS, World, features_service_on, service_on
from tests.unit.lambdas.job import Job
from tests.unit.lambdas.processes import entities_on, labels_on
from tests.unit.lambdas.requests import an_event as a_request
from tests.unit.lambdas.requests import api_on


@dataclass
class Context:
    function_name: str = "score_transactions"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:score_transactions"
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def an_event(*payloads: bytes) -> dict[str, Any]:
    return {
        "Records": [
            {
                "eventID": f"shardId-000000000003:{4_000 + n}",
                "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/transactions",
                "kinesis": {
                    "data": base64.b64encode(payload).decode(),
                    "sequenceNumber": str(4_000 + n),
                    "partitionKey": "card-a",
                    "approximateArrivalTimestamp": NOW_MS / 1000,
                },
            }
            for n, payload in enumerate(payloads)
        ]
    }


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    service: ScoringService = service_on(world)
    monkeypatch.setattr(score_transactions, "service", lambda: service)
    return world


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line]


def test_an_event_becomes_user_records() -> None:
    raw = an_event(b"one", b"two")["Records"]
    [record] = user_records(raw[1])
    assert (record.payload, record.stream, record.arrival_ms) == (b"two", "transactions", NOW_MS)
    assert (record.position.shard_id, record.position.sequence_number) == ("shardId-000000000003", "4001")
    assert record.item_identifier == "4001"


def an_aggregate(*payloads: bytes) -> bytes:
    """What the producer library puts on the stream: several user records in one."""
    aggregator = RecordAggregator()
    for payload in payloads:
        assert aggregator.add_user_record("card-a", payload) is None
    content = aggregator.clear_and_get().get_contents()
    return bytes(content[2])


def test_an_aggregate_is_taken_apart_and_its_records_share_its_number() -> None:
    raw = an_event(b"one", an_aggregate(b"two", b"three", b"four"))["Records"]
    records = [record for each in raw for record in user_records(each)]
    assert [record.payload for record in records] == [b"one", b"two", b"three", b"four"]
    assert [record.position.order for record in records] == [(4000, 0), (4001, 0), (4001, 1), (4001, 2)]
    assert [record.item_identifier for record in records] == ["4000", "4001", "4001", "4001"]
    assert arrival_order(reversed(records)) == records


def test_what_only_looks_like_an_aggregate_is_one_record_and_is_quarantined(world: World) -> None:
    broken = an_aggregate(b"one", b"two")[:-1]
    assert score_transactions.lambda_handler(an_event(broken), Context()) == {"batchItemFailures": []}
    assert [kept.payload for kept in world.objects.values()] == [broken]


def test_every_user_record_of_an_aggregate_is_decided_or_quarantined_by_itself(world: World) -> None:
    inside = [encode_transaction(a_transaction(f"t{n}", card_id=f"card-{n}")) for n in range(3)]
    event = an_event(an_aggregate(inside[0], b"poison", inside[1], inside[0]), inside[2])
    assert score_transactions.lambda_handler(event, Context()) == {"batchItemFailures": []}
    positions = {key: decode_decision(world.decisions[key]).stream_position.order for key in sorted(world.decisions)}
    assert positions == {"t0": (4000, 0), "t1": (4000, 2), "t2": (4001, 0)}
    assert (world.counters["duplicates"], world.counters["quarantined"]) == (1, 1)
    assert list(world.objects) == [("shardId-000000000003", "4000", 1)]
    counters = dict(world.counters)
    assert score_transactions.lambda_handler(event, Context()) == {"batchItemFailures": []}
    assert world.counters == counters


def test_a_user_record_that_fails_brings_its_whole_aggregate_back(world: World) -> None:
    world.states["card#card-1"] = StoredState(1, "other layout", b"")
    inside = [encode_transaction(a_transaction(f"t{n}", card_id=f"card-{n}")) for n in range(3)]
    event = an_event(inside[0], an_aggregate(*inside[1:]))
    assert score_transactions.lambda_handler(event, Context()) == {"batchItemFailures": [{"itemIdentifier": "4001"}]}
    assert sorted(world.decisions) == ["t0", "t2"]
    del world.states["card#card-1"]
    assert score_transactions.lambda_handler(event, Context()) == {"batchItemFailures": []}
    assert sorted(world.decisions) == ["t0", "t1", "t2"]
    assert (world.counters["decided"], world.counters["duplicates"]) == (3, 0)


def test_aggregated_labels_are_recorded_each(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    service = labels_on(world)
    monkeypatch.setattr(record_labels, "service", lambda: service)
    labels = [Label(transaction_id=f"t{n}", is_fraud=True, reported_at_ms=NOW_MS, source="analyst") for n in range(3)]
    event = an_event(an_aggregate(*map(encode_label, labels[:2]), b"{}"), encode_label(labels[2]))
    assert record_labels.lambda_handler(event, Context()) == {"batchItemFailures": []}
    assert sorted(world.labels) == ["t0", "t1", "t2"]
    assert world.counters["labels_quarantined"] == 1


def test_sequence_numbers_are_ordered_as_integers() -> None:
    records = [a_record(sequence, b"") for sequence in (100, 9, 21)]
    assert [record.item_identifier for record in arrival_order(records)] == ["9", "21", "100"]


def test_a_good_batch_answers_no_failures(world: World) -> None:
    event = an_event(encode_transaction(a_transaction("t1")), b"poison")
    assert score_transactions.lambda_handler(event, Context()) == {"batchItemFailures": []}
    assert list(world.decisions) == ["t1"]


def test_a_failed_record_is_answered_by_its_sequence_number(world: World) -> None:
    world.down.add("scorer.score")
    event = an_event(b"poison", encode_transaction(a_transaction("t1")))
    answer = score_transactions.lambda_handler(event, Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "4001"}]}


def test_one_line_says_what_happened_and_none_names_a_card(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(score_transactions.logger.registered_handler, "stream", log)
    event = an_event(encode_transaction(a_transaction("t1", card_id="tok-secret-77")), b'{"card_id": "tok-secret-77"}')
    score_transactions.lambda_handler(event, Context())
    world.states["card#tok-secret-77"] = type(world.states["card#tok-secret-77"])(1, "other layout", b"")
    again = an_event(b"", b"", encode_transaction(a_transaction("t2", card_id="tok-secret-77")))
    score_transactions.lambda_handler(again, Context())
    printed = capsys.readouterr().out
    assert "tok-secret-77" not in printed + log.getvalue()
    first, *rest = lines(log.getvalue())
    assert (first["message"], first["records"], first["decided"], first["quarantined"]) == ("batch_scored", 2, 1, 1)
    assert set(first["stage_ms"]) == {"decode", "read", "window", "score", "commit", "publish"}
    assert [line["message"] for line in rest] == ["card_failed", "records_failed", "batch_scored"]
    assert (rest[0]["level"], rest[0]["sequence_number"]) == ("ERROR", "4002")
    metrics = [line for line in lines(printed) if "_aws" in line]
    assert any(line.get("card_failed_alarm") == [1.0] for line in metrics)
    assert any(line.get("records_decided") == [1.0] for line in metrics)


def test_features_become_decisions_and_no_line_names_a_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, log = World(), io.StringIO()
    service = features_service_on(world)
    monkeypatch.setattr(score_features, "service", lambda: service)
    monkeypatch.setattr(score_features.logger.registered_handler, "stream", log)
    job = Job(world)
    secret = a_transaction("t1", card_id="tok-secret-77")
    job.work_on(records_of(secret, b"poison", secret))
    event = an_event(*world.features_sent, b'{"card_id": "tok-secret-77"}')
    event["Records"][-1]["eventSourceARN"] = "arn:aws:kinesis:us-east-1:000000000000:stream/features"
    assert score_features.lambda_handler(event, Context()) == {"batchItemFailures": [{"itemIdentifier": "4003"}]}
    decision = decode_decision(world.decisions["t1"])
    assert (decision.stream_position.sequence_number, decision.arrival_ms) == ("1", NOW_MS)
    printed = capsys.readouterr().out
    assert "tok-secret-77" not in printed + log.getvalue()
    *_, line = lines(log.getvalue())
    assert {name: line[name] for name in ("message", "records", "decided", "duplicates", "quarantined", "failed")} == {
        "message": "features_scored",
        "records": 4,
        "decided": 1,
        "duplicates": 1,
        "quarantined": 1,
        "failed": 1,
    }
    assert any(each.get("card_failed_alarm") == [1.0] for each in lines(printed) if "_aws" in each)


def test_entity_events_become_merchants_and_no_line_names_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, log = World(), io.StringIO()
    service = entities_on(world)
    monkeypatch.setattr(update_entities, "service", lambda: service)
    monkeypatch.setattr(update_entities.logger.registered_handler, "stream", log)
    event = EntityEvent(kind="decided", merchant_id="secret shop", transaction_id="t1", event_time_ms=NOW_MS)
    raw = encode_entity_event(event)
    assert update_entities.lambda_handler(an_event(raw, b"poison"), Context()) == {"batchItemFailures": []}
    world.states["merchant#secret shop"] = type(world.states["merchant#secret shop"])(1, "other layout", b"")
    again = encode_entity_event(msgspec.structs.replace(event, transaction_id="t2"))
    answer = update_entities.lambda_handler(an_event(raw, again), Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "4001"}]}
    printed = capsys.readouterr().out
    assert "secret shop" not in printed + log.getvalue()
    first, *rest = lines(log.getvalue())
    assert (first["message"], first["records"], first["applied"], first["entity_events_quarantined"]) == (
        "entities_updated",
        2,
        1,
        1,
    )
    assert [line["message"] for line in rest] == ["merchant_failed", "records_failed", "entities_updated"]
    assert any(line.get("merchant_failed_alarm") == [1.0] for line in lines(printed) if "_aws" in line)


def test_labels_are_recorded_and_the_line_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    world, log = World(), io.StringIO()
    service = labels_on(world)
    monkeypatch.setattr(record_labels, "service", lambda: service)
    monkeypatch.setattr(record_labels.logger.registered_handler, "stream", log)
    label = Label(transaction_id="t1", is_fraud=True, reported_at_ms=NOW_MS, source="analyst")
    assert record_labels.lambda_handler(an_event(encode_label(label), b"{}"), Context()) == {"batchItemFailures": []}
    assert list(world.labels) == ["t1"]
    [line] = lines(log.getvalue())
    assert (line["message"], line["labels"], line["labels_quarantined"]) == ("labels_recorded", 1, 1)


@pytest.mark.parametrize(
    "name",
    ["score_transactions", "score_api", "score_features", "update_entities", "record_labels", "publish_events"],
)
def test_importing_a_function_touches_nothing_and_does_not_load_numpy(name: str) -> None:
    program = (
        "import socket, sys\n"
        "socket.socket.connect = None\n"
        f"import lambdas.{name} as function\n"
        "assert function.service.cache_info().currsize == 0\n"
        "heavy = {'aws_kinesis_agg', 'google.protobuf', 'pyflink', 'numpy', 'pandas', 'pyarrow', 'xgboost'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {"PATH": os.environ["PATH"]}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=Path.cwd(), capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()


@pytest.mark.filterwarnings("ignore:No application metrics to publish")
@pytest.mark.parametrize(
    "function", [score_transactions, score_features, update_entities, record_labels, publish_events]
)
def test_without_its_environment_the_first_call_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    monkeypatch.delenv("EFFECTS_TABLE", raising=False)
    function.service.cache_clear()
    with pytest.raises(ValueError, match="EFFECTS_TABLE is missing"):
        function.lambda_handler(an_event(), Context())


def a_score_api(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], io.StringIO]:
    """The function with a service on `world`, and what it logs."""
    service, log = api_on(world, tell=score_api.tell), io.StringIO()
    monkeypatch.setattr(score_api, "service", lambda: service)
    monkeypatch.setattr(score_api.logger.registered_handler, "stream", log)
    return lambda event: score_api.lambda_handler(event, Context()), log


def test_a_request_is_answered_with_one_line_and_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    handle, log = a_score_api(monkeypatch, world)
    answer = handle(a_request(a_transaction()))
    assert (answer["statusCode"], answer["body"]) == (200, world.decisions["t1"].decode())
    scored, line = lines(log.getvalue())
    assert (scored["message"], scored["api_decided"], scored["failed"]) == ("request_scored", 1, 0)
    assert (line["message"], line["status"], line["code"]) == ("request_answered", 200, "")
    assert "card-a" not in log.getvalue()
    metrics = next(line for line in lines(capsys.readouterr().out) if "requests" in line)
    assert (metrics["requests"], metrics["requests_refused"], metrics["requests_failed"]) == ([1.0], [0.0], [0.0])
    assert metrics["records_api_decided"] == [1.0]
    assert "commit_ms" in metrics


def test_a_request_decided_by_an_older_policy_than_the_published_one_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle, _ = a_score_api(monkeypatch, World(policy_problem="rule 'r': expression: unknown name 'nobody'"))
    assert handle(a_request(a_transaction()))["statusCode"] == 200
    metrics = next(line for line in lines(capsys.readouterr().out) if "requests" in line)
    assert metrics["policy_refused_alarm"] == [1.0]


def test_a_request_that_failed_says_why_in_the_log_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle, log = a_score_api(monkeypatch, World(down={"decisions.get"}))
    answer = handle(a_request(method="GET", path="/decisions/t1"))
    assert answer["statusCode"] == 503
    why, answered = lines(log.getvalue())
    assert (why["message"], why["code"]) == ("request_failed", "unavailable")
    assert why["reason"] == "PortFailure: decisions.get is down"
    assert answered["status"] == 503
    metrics = next(line for line in lines(capsys.readouterr().out) if "requests" in line)
    assert (metrics["requests_failed"], metrics.get("request_failed_alarm")) == ([1.0], None)


def test_an_error_in_our_own_code_is_an_answer_without_a_stack_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle, log = a_score_api(monkeypatch, World())
    answer = handle({"path": "/score"})  # no event of API Gateway
    assert (answer["statusCode"], json.loads(answer["body"])["error"]["code"]) == (500, "internal")
    assert "Traceback" not in answer["body"]
    assert "KeyError" in log.getvalue()
    metrics = next(line for line in lines(capsys.readouterr().out) if "requests" in line)
    assert metrics["request_failed_alarm"] == [1.0]


def test_a_refused_policy_is_a_metric_of_its_own(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    event = an_event(encode_transaction(a_transaction("t1")))
    score_transactions.lambda_handler(event, Context())
    assert "policy_refused_alarm" not in capsys.readouterr().out
    world.policy_problem = "rule 'r': expression: unknown name 'nobody'"
    score_transactions.lambda_handler(an_event(encode_transaction(a_transaction("t2"))), Context())
    metrics = next(line for line in lines(capsys.readouterr().out) if "_aws" in line)
    assert metrics["policy_refused_alarm"] == [1.0]


def test_decisions_without_the_endpoint_are_logged_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(score_transactions.logger.registered_handler, "stream", log)
    world.policy = msgspec.structs.replace(world.policy, degrade_after_ms=0)
    world.endpoint_down = True
    event = an_event(encode_transaction(a_transaction("t1")), encode_transaction(a_transaction("t2")))
    assert score_transactions.lambda_handler(event, Context()) == {"batchItemFailures": []}
    first, *_ = lines(log.getvalue())
    assert (first["message"], first["reason"], first["records"]) == (
        "decided_without_endpoint",
        "InvokeEndpoint: ReadTimeoutError",
        2,
    )
    metrics = next(line for line in lines(capsys.readouterr().out) if "_aws" in line)
    assert metrics["records_degraded"] == [2.0]
