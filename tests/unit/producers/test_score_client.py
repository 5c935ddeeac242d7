"""The score API's client: signed requests, retries of what may succeed, and everything else said at once."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from botocore.credentials import Credentials

from producers.score_client import Reply, RequestRefused, ScoreClient, http_sender
from stream_features.errors import ContractMismatch, MalformedRecord, PortFailure
from stream_features.transaction import encode_transaction
from tests.unit.lambdas.deliveries import a_transaction
from tests.unit.lambdas.fakes import World
from tests.unit.lambdas.requests import an_event, api_on, ask

URL = "https://abc.execute-api.eu-central-1.amazonaws.com/live"


class Gateway:
    """The API on fakes, behind what API Gateway makes of a request; `replies` come before it."""

    def __init__(self, *replies: Reply | PortFailure) -> None:
        self.world = World()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._replies = list(replies)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.requests.append((method, url, dict(headers)))
        if self._replies:
            reply = self._replies.pop(0)
            if isinstance(reply, PortFailure):
                raise reply
            return reply
        path, _, query = url.removeprefix(URL).partition("?")
        event = an_event(
            body,
            method=method,
            path=path,
            query=dict(pair.split("=") for pair in query.split("&")) if query else None,
            headers=dict(headers),
        )
        answer = ask(api_on(self.world), event).answer
        return Reply(answer["statusCode"], answer["body"].encode())


def a_client(gateway: Gateway, pauses: list[float] | None = None) -> ScoreClient:
    return ScoreClient(
        URL + "/",
        credentials=Credentials("key-id", "secret", "token"),
        region="eu-central-1",
        send=gateway.send,
        pause=(pauses if pauses is not None else []).append,
    )


def an_error(status: int, code: str = "unavailable", **details: object) -> Reply:
    return Reply(status, json.dumps({"error": {"code": code, "message": "said", **details}}).encode())


def test_a_decision_is_asked_for_and_found_again() -> None:
    gateway = Gateway()
    client = a_client(gateway)
    transaction = a_transaction(event_time_ms=1_760_000_000_000 - 1)
    decision = client.score(transaction)
    assert (decision.transaction_id, decision.payload_sha256) != ("", "")
    assert client.decision("t1") == decision
    assert client.decision("t2") is None
    assert [(method, url) for method, url, _ in gateway.requests] == [
        ("POST", f"{URL}/score"),
        ("GET", f"{URL}/decisions/t1"),
        ("GET", f"{URL}/decisions/t2"),
    ]


def test_parameters_go_into_the_query_and_every_request_is_signed() -> None:
    gateway = Gateway()
    a_client(gateway).score(a_transaction(event_time_ms=1), publish=True, budget_ms=5_000)
    [(_, url, headers)] = gateway.requests
    assert url == f"{URL}/score?publish=true&budget_ms=5000"
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=key-id/")
    assert "/eu-central-1/execute-api/aws4_request" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "token"
    assert len(gateway.world.transactions_sent) == 1


@pytest.mark.parametrize(
    "failure",
    [
        an_error(429),
        an_error(500),
        an_error(502),
        an_error(503),
        an_error(504),
        Reply(503, b"<html>"),
        PortFailure("no answer"),
    ],
)
def test_what_may_succeed_later_is_asked_again_after_a_pause(failure: Reply | PortFailure) -> None:
    pauses: list[float] = []
    gateway = Gateway(failure, failure, failure)
    assert a_client(gateway, pauses).score(a_transaction()).transaction_id == "t1"
    assert len(gateway.requests) == 4
    assert len(pauses) == 3
    assert all(0 < pause <= 0.4 for pause in pauses)


def test_what_never_succeeds_is_a_port_failure_with_the_last_reason() -> None:
    gateway = Gateway(*[an_error(503)] * 9)
    with pytest.raises(PortFailure, match="503: said"):
        a_client(gateway).score(a_transaction())
    assert len(gateway.requests) == 4


def test_a_bad_transaction_is_named_before_anything_is_sent_and_by_the_api_otherwise() -> None:
    gateway = Gateway()
    with pytest.raises(MalformedRecord, match="card_id: card_number"):
        a_client(gateway).score(a_transaction(card_id="4111111111111111"))
    assert gateway.requests == []
    with pytest.raises(MalformedRecord) as refused:
        a_client(gateway).score_payload(b'{"transaction_id": "t1"}')
    assert (refused.value.field, refused.value.rule) == ("event_time_ms", "missing")
    assert len(gateway.requests) == 1


def test_another_transaction_under_the_same_id_is_named() -> None:
    gateway = Gateway()
    a_client(gateway).score(a_transaction())
    with pytest.raises(MalformedRecord) as refused:
        a_client(gateway).score(a_transaction(amount_minor=1))
    assert (refused.value.field, refused.value.rule) == ("transaction_id", "conflicting_duplicate")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(403, b'{"message":"Missing Authentication Token"}'), "403: Missing Authentication Token"),
        (an_error(400, "invalid_parameter", field="budget_ms"), "400: budget_ms: said"),
        (Reply(404, b"[]"), "404"),
    ],
)
def test_another_refusal_is_said_at_once(reply: Reply, said: str) -> None:
    gateway = Gateway(reply)
    with pytest.raises(RequestRefused, match=said):
        a_client(gateway).score(a_transaction())
    assert len(gateway.requests) == 1


def test_an_answer_that_is_no_decision_is_named() -> None:
    with pytest.raises(ContractMismatch, match="not a decision"):
        a_client(Gateway(Reply(200, b"{}"))).score(a_transaction())


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    seen: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers["Content-Type"], body))
            self.send_response(418)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"no")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", seen
        listening.shutdown()


def test_requests_go_over_http(server: tuple[str, list[Any]]) -> None:
    url, seen = server
    body = encode_transaction(a_transaction())
    assert http_sender(5.0)("POST", f"{url}/a?b=c", {"Content-Type": "application/json"}, body) == Reply(418, b"no")
    assert seen == [("/a?b=c", "application/json", body)]


def test_no_answer_is_a_port_failure() -> None:
    with pytest.raises(PortFailure, match="did not answer"):
        http_sender(1.0)("GET", "http://127.0.0.1:9/", {}, b"")
