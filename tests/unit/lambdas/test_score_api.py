"""Requests to the score API on fakes: what is answered, and what is said about every request that cannot be."""

from __future__ import annotations

import base64
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from lambdas import score_requests
from lambdas.score_requests import (
    DECISION_RESOURCE,
    LEAST_BUDGET_MS,
    MOST_BUDGET_MS,
    SCORE_PATH,
    USUAL_BUDGET_MS,
    internal_error,
)
from stream_features.contract import MAX_RECORD_BYTES
from stream_features.decision import decode_decision
from stream_features.feature_sets import feature_set
from stream_features.transaction import encode_transaction
from tests.unit.lambdas.deliveries import a_record, a_transaction, deliver
from tests.unit.lambdas.fakes import FakeLedger, FakeScorer, World, service_on
from tests.unit.lambdas.requests import LONGEST_CALL_MS, an_event, api_on, ask, error_of, score

CONTRACT = Path(__file__).parents[3] / "schemas" / "score_api.openapi.json"


def test_an_answer_is_the_stored_decision_and_the_same_again() -> None:
    world = World()
    handled = ask(api_on(world), an_event(a_transaction()))
    assert handled.answer == {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store"},
        "body": world.decisions["t1"].decode(),
        "isBase64Encoded": False,
    }
    assert decode_decision(handled.answer["body"]).transaction_id == "t1"
    assert ask(api_on(world), an_event(a_transaction())) == handled
    assert ask(api_on(world), an_event(method="GET", path="/decisions/t1", content_type=None)) == handled
    assert len([call for call in world.calls if call == "scorer.score"]) == 1


def test_a_media_type_may_have_parameters_and_headers_any_case() -> None:
    event = an_event(a_transaction(), content_type=None, headers={"cOnTent-type": "Application/JSON; charset=utf-8"})
    assert ask(api_on(World()), event).answer["statusCode"] == 200


def test_a_body_may_come_as_base64() -> None:
    body = base64.b64encode(encode_transaction(a_transaction())).decode()
    assert ask(api_on(World()), an_event(body, isBase64Encoded=True)).answer["statusCode"] == 200


def changed(**changes: object) -> str:
    return json.dumps(json.loads(encode_transaction(a_transaction())) | changes)


def without(field: str) -> str:
    document = json.loads(encode_transaction(a_transaction()))
    del document[field]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ("", "$", "empty"),
        ("{", "$", "not_json"),
        ("[]", "$", "not_object"),
        ("[" * 70 + "]" * 70, "$", "too_deep"),
        (without("transaction_id"), "transaction_id", "missing"),
        (without("event_time_ms"), "event_time_ms", "missing"),
        (without("card_id"), "card_id", "missing"),
        (without("merchant_id"), "merchant_id", "missing"),
        (without("amount_minor"), "amount_minor", "missing"),
        (without("currency"), "currency", "missing"),
        (changed(transaction_id="a b"), "transaction_id", "bad_characters"),
        (changed(event_time_ms=1e18), "event_time_ms", "wrong_type"),
        (changed(event_time_ms=1_760_000_000_000 + 300_001), "event_time_ms", "future_time"),
        (changed(card_id="4111111111111111"), "card_id", "card_number"),
        (changed(amount_minor=-1), "amount_minor", "out_of_range"),
        (changed(currency="ZZZ"), "currency", "unknown_currency"),
        (changed(type="gift"), "type", "not_in_set"),
        (changed(latitude=1.0), "longitude", "missing"),
        (changed(country="XX"), "country", "not_in_set"),
        (changed(ip="300.1.1.1"), "ip", "bad_address"),
    ],
)
def test_a_body_that_breaks_the_contract_is_refused_by_field_and_rule(body: str, field: str, rule: str) -> None:
    world = World()
    handled = ask(api_on(world), an_event(body))
    error = error_of(handled)
    assert (handled.answer["statusCode"], error["code"]) == (400, "invalid_transaction")
    assert (error["field"], error["rule"]) == (field, rule)
    assert "4111" not in handled.answer["body"]
    assert (world.calls, world.counters, world.objects) == ([], {}, {})


@pytest.mark.parametrize(
    ("event", "status", "code", "field", "rule"),
    [
        (an_event("!", isBase64Encoded=True), 400, "invalid_transaction", "$", "not_base64"),
        (
            an_event(base64.b64encode(b'{"a": "\xff"}').decode(), isBase64Encoded=True),
            400,
            "invalid_transaction",
            "$",
            "not_utf8",
        ),
        (an_event('{"a": "' + "x" * MAX_RECORD_BYTES + '"}'), 413, "too_large", "$", "too_large"),
        (an_event(a_transaction(), query={"publish": "yes"}), 400, "invalid_parameter", "publish", "not_boolean"),
        (an_event(a_transaction(), query={"budget_ms": "soon"}), 400, "invalid_parameter", "budget_ms", "out_of_range"),
        (
            an_event(a_transaction(), query={"budget_ms": str(LEAST_BUDGET_MS - 1)}),
            400,
            "invalid_parameter",
            "budget_ms",
            "out_of_range",
        ),
        (
            an_event(a_transaction(), query={"budget_ms": str(MOST_BUDGET_MS + 1)}),
            400,
            "invalid_parameter",
            "budget_ms",
            "out_of_range",
        ),
        (an_event(a_transaction(), query={"budget": "1"}), 400, "invalid_parameter", "budget", "unknown"),
        (an_event(a_transaction(), content_type="text/plain"), 415, "unsupported_media_type", None, None),
        (an_event(a_transaction(), content_type=None), 415, "unsupported_media_type", None, None),
        (an_event(method="GET"), 405, "method_not_allowed", None, None),
        (an_event(method="DELETE", path="/decisions/t1"), 405, "method_not_allowed", None, None),
        (an_event(method="GET", path="/"), 404, "no_such_path", None, None),
        (an_event(method="GET", path="/decisions/t1"), 404, "unknown_transaction", None, None),
        (
            an_event(method="GET", path="/decisions/a%20b"),
            400,
            "invalid_transaction",
            "transaction_id",
            "bad_characters",
        ),
        (
            an_event(method="GET", path="/decisions/" + "x" * 65),
            400,
            "invalid_transaction",
            "transaction_id",
            "too_long",
        ),
        (an_event(method="GET", path="/decisions/"), 400, "invalid_transaction", "transaction_id", "empty"),
    ],
)
def test_every_other_bad_request_has_its_answer(
    event: dict[str, Any], status: int, code: str, field: str | None, rule: str | None
) -> None:
    world = World()
    handled = ask(api_on(world), event)
    error = error_of(handled)
    assert (handled.answer["statusCode"], error["code"], handled.code) == (status, code, code)
    assert (error.get("field"), error.get("rule")) == (field, rule)
    assert error["message"]
    allowed = {SCORE_PATH: "POST", DECISION_RESOURCE: "GET"}
    assert handled.answer["headers"].get("Allow") == (allowed[event["resource"]] if status == 405 else None)
    assert world.counters == {}


def test_another_payload_under_a_decided_id_is_a_conflict() -> None:
    world = World()
    first = score(api_on(world), a_transaction())
    handled = ask(api_on(world), an_event(a_transaction(amount_minor=1), query={"publish": "true"}))
    assert (handled.answer["statusCode"], handled.code) == (409, "conflicting_duplicate")
    assert error_of(handled)["field"] == "transaction_id"
    assert score(api_on(world), a_transaction()) == first
    assert world.transactions_sent == []


# --- what is not the request's fault -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "down", ["decisions.get", "entities.get", "scorer.score", "policies.current", "ledger.transact"]
)
def test_a_service_that_does_not_answer_is_a_503_and_the_request_may_come_again(down: str) -> None:
    world = World(down={down})
    handled = ask(api_on(world), an_event(a_transaction()))
    assert (handled.answer["statusCode"], handled.code) == (503, "unavailable")
    assert handled.answer["headers"]["Retry-After"] == "1"
    assert down in handled.reason
    assert down not in handled.answer["body"]
    assert not handled.alarm
    assert world.decisions == {}
    world.down.clear()
    assert score(api_on(world), a_transaction())[0] == 200


def test_a_store_that_does_not_answer_is_a_503_for_who_asks_for_a_decision() -> None:
    handled = ask(api_on(World(down={"decisions.get"})), an_event(method="GET", path="/decisions/t1"))
    assert (handled.answer["statusCode"], handled.code) == (503, "unavailable")


@pytest.mark.parametrize("down", ["publisher.publish", "entity_events.publish"])
def test_a_decision_that_stands_is_answered_and_its_record_publishes_it(down: str) -> None:
    world = World(down={down})
    assert score(api_on(world), a_transaction()) == (200, world.decisions["t1"])
    world.down.clear()
    deliver(service_on(world), [a_record(1, a_transaction())])
    assert {stored.document for stored in world.published} == {world.decisions["t1"]}
    assert [event.transaction_id for event in world.entity_events][-1] == "t1"


def test_a_model_that_does_not_fit_takes_a_person() -> None:
    scorer = FakeScorer(world := World(), feature_set("core"))
    scorer.mismatch = True
    handled = ask(api_on(world, scorer=scorer), an_event(a_transaction()))
    assert (handled.answer["statusCode"], handled.code, handled.alarm) == (500, "cannot_decide", True)
    assert "Retry-After" not in handled.answer["headers"]


def test_a_stored_document_that_is_no_decision_takes_a_person() -> None:
    world = World(decisions={"t1": b"{}"})
    for event in (an_event(a_transaction()), an_event(method="GET", path="/decisions/t1")):
        handled = ask(api_on(world), event)
        assert (handled.answer["statusCode"], handled.code, handled.alarm) == (500, "cannot_decide", True)


def test_an_error_of_our_own_says_nothing_about_it() -> None:
    handled = internal_error()
    assert (handled.answer["statusCode"], error_of(handled)["code"], handled.alarm) == (500, "internal", True)


def test_an_answer_comes_within_its_budget() -> None:
    """Every call takes a second here, so the service cannot come to an end."""
    for budget_ms in (LEAST_BUDGET_MS, 6_000):
        world = World(seconds_per_call=1.0)
        begun_s = world.clock_s
        handled = ask(api_on(world), an_event(a_transaction(), query={"budget_ms": str(budget_ms)}))
        assert (handled.answer["statusCode"], handled.code) == (504, "not_decided_yet")
        assert handled.answer["headers"]["Retry-After"] == "1"
        assert world.clock_s - begun_s <= budget_ms / 1000
    assert score(api_on(World()), a_transaction(), budget_ms=str(LONGEST_CALL_MS + 2_001))[0] == 200


def test_the_functions_own_time_bounds_the_budget() -> None:
    world = World(seconds_per_call=1.0)
    begun_s = world.clock_s
    event = an_event(a_transaction(), query={"budget_ms": str(MOST_BUDGET_MS)})
    assert api_on(world).handle(event, remaining_ms=5_000).answer["statusCode"] == 504
    assert world.clock_s - begun_s <= 5


def test_a_card_that_others_write_all_the_time_is_a_503() -> None:
    class Busy(FakeLedger):
        def transact(self, writes: Any, counts: Any, *, token: str) -> None:
            number = len(self._world.calls)
            deliver(service_on(self._world), [a_record(number + 1, a_transaction(f"other{number}"))])
            super().transact(writes, counts, token=token)

    world = World()
    handled = ask(api_on(world, ledger=Busy(world)), an_event(a_transaction("mine")))
    assert (handled.answer["statusCode"], handled.code) == (503, "unavailable")
    assert "another writer" in handled.reason
    assert world.counters["api_decided"] == 0
    assert score(api_on(world), a_transaction("mine"))[0] == 200


# --- publishing for the application ------------------------------------------------------------------------------


def test_the_application_publishes_unless_it_asks_the_api_to() -> None:
    world = World()
    score(api_on(world), a_transaction())
    score(api_on(world), a_transaction(), publish="false")
    assert world.transactions_sent == []
    score(api_on(world), a_transaction(), publish="true")
    assert world.transactions_sent == [encode_transaction(a_transaction())]


def test_what_is_known_to_have_arrived_is_not_published_again() -> None:
    world = World()
    for _ in range(2):  # nobody knows of the first one yet
        score(api_on(world), a_transaction(), publish="true")
    assert len(world.transactions_sent) == 2
    deliver(service_on(world), [a_record(1, a_transaction()), a_record(2, a_transaction())])
    assert (world.counters["decided"], world.counters["duplicates"]) == (1, 1)
    score(api_on(world), a_transaction(), publish="true")
    other = a_transaction("by-stream")
    deliver(service_on(world), [a_record(3, other)])
    score(api_on(world), other, publish="true")
    assert len(world.transactions_sent) == 2


def test_a_transaction_that_could_not_be_published_is_a_503_and_the_next_request_publishes_it() -> None:
    world = World(down={"transactions.publish"})
    handled = ask(api_on(world), an_event(a_transaction(), query={"publish": "true"}))
    assert (handled.answer["statusCode"], handled.answer["headers"]["Retry-After"]) == (503, "1")
    world.down.clear()
    assert score(api_on(world), a_transaction(), publish="true") == (200, world.decisions["t1"])
    assert len(world.transactions_sent) == 1


# --- with the Flink engine ---------------------------------------------------------------------------------------


def after(calls: int, world: World, then: Callable[[], None]) -> None:
    """Run `then` when the decisions were read this often."""

    class Watched(list[str]):
        def append(self, name: str) -> None:
            super().append(name)
            if self.count("decisions.get") == calls:
                world.calls = list(self)
                then()

    world.calls = Watched()


def decide(world: World) -> None:
    deliver(service_on(world), [a_record(1, a_transaction())])


def test_with_flink_the_api_publishes_once_and_waits_for_the_decision() -> None:
    world = World()
    after(4, world, lambda: decide(world))
    assert score(api_on(world, engine="flink"), a_transaction()) == (200, world.decisions["t1"])
    assert world.transactions_sent == [encode_transaction(a_transaction())]
    assert (world.counters["decided"], world.counters["api_decided"]) == (1, 0)
    assert score(api_on(world, engine="flink"), a_transaction()) == (200, world.decisions["t1"])
    assert len(world.transactions_sent) == 1


def test_with_flink_no_decision_within_the_budget_is_a_504() -> None:
    world = World()
    begun_s = world.clock_s
    handled = ask(api_on(world, engine="flink"), an_event(a_transaction(), query={"budget_ms": "5000"}))
    assert (handled.answer["statusCode"], handled.code) == (504, "not_decided_yet")
    assert "GET /decisions/" in error_of(handled)["message"]
    assert world.clock_s - begun_s <= 5
    assert len(world.transactions_sent) == 1


def test_with_flink_an_application_may_publish_itself() -> None:
    world = World()
    after(3, world, lambda: decide(world))
    assert score(api_on(world, engine="flink"), a_transaction(), publish="false")[0] == 200
    assert world.transactions_sent == []


def test_with_flink_a_conflict_is_not_published() -> None:
    world = World()
    deliver(service_on(world), [a_record(1, a_transaction())])
    handled = ask(api_on(world, engine="flink"), an_event(a_transaction(amount_minor=9)))
    assert (handled.answer["statusCode"], world.transactions_sent) == (409, [])


@pytest.mark.parametrize(("down", "code"), [("decisions.get", "unavailable"), ("transactions.publish", "unavailable")])
def test_with_flink_a_service_that_does_not_answer_is_a_503(down: str, code: str) -> None:
    handled = ask(api_on(World(down={down}), engine="flink"), an_event(a_transaction()))
    assert (handled.answer["statusCode"], handled.code) == (503, code)


# --- the written contract ----------------------------------------------------------------------------------------


def contract() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(CONTRACT.read_text())
    return document


def codes_of(responses: dict[str, Any]) -> set[tuple[int, str]]:
    """(status, code) of every error that an operation may answer."""
    found = set()
    for status, response in responses.items():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        for part in schema.get("allOf", ()):
            codes = part.get("properties", {}).get("error", {}).get("properties", {}).get("code", {}).get("enum", ())
            found |= {(int(status), code) for code in codes}
    return found


def test_the_written_contract_is_one() -> None:
    validate(contract(), base_uri=CONTRACT.as_uri())


def test_the_written_contract_names_every_error_and_no_other() -> None:
    """`no_such_path` stays unsaid: the gateway has no such path either, and answers by itself."""
    paths = contract()["paths"]
    written = {each for path in paths.values() for op in path.values() for each in codes_of(op["responses"])}
    source = inspect.getsource(score_requests)
    answered = {(int(status), code) for status, code in re.findall(r"Refused\(\s*(\d{3}),\s*\"(\w+)\"", source)}
    answered |= {(int(status), code) for status, code in re.findall(r"\((\d{3}), \"(\w+)\"\)", source)}
    assert len(answered) > 10
    assert written == answered - {(404, "no_such_path")}


def test_the_written_contract_has_the_bounds_of_the_code() -> None:
    parameters = {each["name"]: each["schema"] for each in contract()["paths"][SCORE_PATH]["post"]["parameters"]}
    assert parameters["budget_ms"] == {
        "type": "integer",
        "minimum": LEAST_BUDGET_MS,
        "maximum": MOST_BUDGET_MS,
        "default": USUAL_BUDGET_MS,
    }
    assert set(contract()["paths"]) == {SCORE_PATH, DECISION_RESOURCE}
