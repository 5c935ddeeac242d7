"""Requests to the score API, and fresh processes of its function on a world."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lambdas.answering import DecidesItself, WaitsForDecision
from lambdas.batch import BatchOutcome
from lambdas.budget import Budget
from lambdas.port_sets import RequestPorts
from lambdas.ports import Ledger, Scorer
from lambdas.score_requests import DECISION_RESOURCE, DECISIONS_PATH, Handled, ScoreApi
from stream_features.decision import Engine
from stream_features.feature_sets import feature_set
from stream_features.transaction import Transaction, encode_transaction
from tests.unit.lambdas.fakes import (
    FakeClock,
    FakeDecisionStore,
    FakeLedger,
    FakeTransactionPublisher,
    World,
    never,
    scoring,
    transaction_ports,
)

REMAINING_MS = 28_000
LONGEST_CALL_MS = 2_000


def api_on(
    world: World,
    *,
    engine: Engine = "lambda",
    ledger: Ledger | None = None,
    scorer: Scorer | None = None,
    tell: Callable[[BatchOutcome], None] | None = None,
) -> ScoreApi:
    """A fresh process of score_api on the world."""
    clock = FakeClock(world)
    ports = RequestPorts(
        decisions=FakeDecisionStore(world),
        ledger=FakeLedger(world),
        transactions=FakeTransactionPublisher(world),
        clock=clock,
    )
    if engine == "flink":
        budget = Budget(clock, longest_call_ms=LONGEST_CALL_MS, stop_before_ms=100)
        return ScoreApi(ports, WaitsForDecision(ports, budget), budget)
    features = feature_set("core")
    deciding = transaction_ports(world, features, ledger, scorer)
    built = scoring(clock, deciding.ledger, features, never, LONGEST_CALL_MS)
    decides = DecidesItself(built.of_requests(deciding), ports, built.budget, tell or (lambda outcome: None))
    return ScoreApi(ports, decides, built.budget)


def an_event(
    body: Transaction | bytes | str | None = None,
    *,
    method: str = "POST",
    path: str = "/score",
    query: dict[str, str] | None = None,
    content_type: str | None = "application/json",
    **changes: object,
) -> dict[str, Any]:
    """An event of API Gateway."""
    if isinstance(body, Transaction):
        body = encode_transaction(body)
    resource, parameters = path, None
    if path.startswith(DECISIONS_PATH):
        resource, parameters = DECISION_RESOURCE, {"transaction_id": path.removeprefix(DECISIONS_PATH)}
    event = {
        "httpMethod": method,
        "path": f"/payments{path}",  # as behind a domain with a mapping
        "resource": resource,
        "pathParameters": parameters,
        "headers": {} if content_type is None else {"Content-Type": content_type},
        "queryStringParameters": query,
        "body": body.decode() if isinstance(body, bytes) else body,
        "isBase64Encoded": False,
    }
    return event | changes


def ask(api: ScoreApi, event: dict[str, Any]) -> Handled:
    return api.handle(event, remaining_ms=REMAINING_MS)


def score(api: ScoreApi, transaction: Transaction, **query: str) -> tuple[int, bytes]:
    """Status and body of `POST /score`."""
    answer = ask(api, an_event(transaction, query=query or None)).answer
    return answer["statusCode"], answer["body"].encode()


def error_of(handled: Handled) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(handled.answer["body"])["error"]
    return error
