"""Adapters against clients that fail the way AWS does; what works is tested in tests/contract."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from lambdas.adapters.calls import TRIES, Caller, in_chunks
from lambdas.adapters.dynamodb import DynamoDecisionStore, DynamoLedger, DynamoRescoreIndex, cancellation_codes
from lambdas.adapters.sagemaker import ROWS_PER_REQUEST, SageMakerScorer
from lambdas.adapters.streams import KinesisDecisionPublisher, SnsAlerts
from lambdas.budget import Budget, OutOfTime
from lambdas.ports import ConditionFailed, NotPublished, RowRefused, ScorerDown, ToRescore
from lambdas.writes import PutEffect, StoredDecision
from stream_features.decision import Reason, decode_decision
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.feature_sets import feature_set
from tests.unit.lambdas.deliveries import a_transaction, deliver, records_of
from tests.unit.lambdas.fakes import NOW_MS, FakeClock, World, service_on

TIMEOUT = ReadTimeoutError(endpoint_url="http://127.0.0.1")
REFUSED = EndpointConnectionError(endpoint_url="http://127.0.0.1")


def client_error(code: str, **more: Any) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}, **more}, "Operation")  # type: ignore[arg-type]


class ScriptedClient:
    """Answers calls of any operation in order: raises exceptions, calls functions, returns the rest."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.requests: list[dict[str, Any]] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            self.requests.append(request)
            answer = next(self.answers)
            if isinstance(answer, Exception):
                raise answer
            return answer(**request) if callable(answer) else answer

        return call


def a_caller(world: World | None = None, remaining_ms: int = 60_000) -> Caller:
    clock = FakeClock(world or World())
    budget = Budget(clock, longest_call_ms=0)
    budget.renew(remaining_ms)
    return Caller(budget, clock, lambda seconds: seconds)


def decisions(count: int) -> list[StoredDecision]:
    world = World()
    deliver(service_on(world), records_of(*(a_transaction(f"t{n:04d}") for n in range(count))))
    return [StoredDecision(decode_decision(document), document) for _, document in sorted(world.decisions.items())]


def ids(stored: list[StoredDecision]) -> list[str]:
    return [one.decision.transaction_id for one in stored]


# --- calls -------------------------------------------------------------------------------------------------------


def test_a_call_that_works_at_the_last_try_has_worked() -> None:
    client = ScriptedClient(TIMEOUT, client_error("ThrottlingException"), "answer")
    assert a_caller().call(lambda: client.ask(), what="Ask") == "answer"


def test_a_call_that_keeps_failing_is_a_port_failure_after_a_bounded_number_of_tries() -> None:
    client = ScriptedClient(*[REFUSED] * 10)
    with pytest.raises(PortFailure, match="Ask: EndpointConnectionError"):
        a_caller().call(lambda: client.ask(), what="Ask")
    assert len(client.requests) == TRIES


def test_no_try_begins_when_time_is_up() -> None:
    world = World()
    caller = a_caller(world, remaining_ms=2_500)

    def slow_failure() -> None:
        world.clock_s += 1.0
        raise TIMEOUT

    client = ScriptedClient(lambda: slow_failure(), "answer")
    with pytest.raises(OutOfTime):
        caller.call(lambda: client.ask(), what="Ask")
    assert len(client.requests) == 1


def test_chunks_keep_order_and_limits() -> None:
    chunks = list(in_chunks([5, 5, 5, 9, 1, 30, 1, 1, 1], most=3, most_bytes=12, size=lambda n: n))
    assert chunks == [[5, 5], [5], [9, 1], [30], [1, 1, 1]]


# --- DynamoDB ----------------------------------------------------------------------------------------------------


def batch_answer(found: list[str], unprocessed: list[str]) -> dict[str, Any]:
    return {
        "Responses": {"table": [{"transaction_id": {"S": key}, "document": {"S": key.upper()}} for key in found]},
        "UnprocessedKeys": {"table": {"Keys": [{"transaction_id": {"S": key}} for key in unprocessed]}}
        if unprocessed
        else {},
    }


def test_unprocessed_keys_are_asked_for_until_they_are_all_read() -> None:
    client = ScriptedClient(
        batch_answer(["a"], ["b", "c"]),
        batch_answer([], ["b", "c"]),
        TIMEOUT,
        batch_answer(["c"], ["b"]),
        batch_answer(["b"], []),
    )
    store = DynamoDecisionStore(client, "table", a_caller())
    assert store.get(["a", "b", "c", "unknown"]) == {"a": b"A", "b": b"B", "c": b"C"}
    assert all(request["RequestItems"]["table"]["ConsistentRead"] for request in client.requests)
    assert [len(request["RequestItems"]["table"]["Keys"]) for request in client.requests] == [4, 2, 2, 2, 1]


def test_keys_that_stay_unprocessed_are_a_port_failure_never_taken_for_unknown() -> None:
    client = ScriptedClient(*[batch_answer([], ["a"])] * 50)
    with pytest.raises(PortFailure, match="unprocessed"):
        DynamoDecisionStore(client, "table", a_caller()).get(["a"])
    assert len(client.requests) < 10


def a_ledger(client: ScriptedClient) -> DynamoLedger:
    return DynamoLedger(
        client,
        decisions_table="d",
        entity_state_table="s",
        effects_table="e",
        counter_shard=3,
        caller=a_caller(),
    )


def cancelled(*codes: str) -> ClientError:
    return client_error("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (cancelled("None", "ConditionalCheckFailed"), ConditionFailed),
        (cancelled("TransactionConflict", "ConditionalCheckFailed"), ConditionFailed),
        (cancelled("None", "TransactionConflict"), PortFailure),
        (cancelled("ProvisionedThroughputExceeded"), PortFailure),
        (cancelled("ThrottlingError"), PortFailure),
        (cancelled("ValidationError"), PortFailure),
        (client_error("TransactionCanceledException"), PortFailure),
        (client_error("TransactionInProgressException"), PortFailure),
        (client_error("InternalServerError"), PortFailure),
        (TIMEOUT, PortFailure),
        (REFUSED, PortFailure),
    ],
)
def test_only_a_failed_condition_is_a_conflict_and_a_transaction_is_tried_once(
    error: Exception, expected: type[Exception]
) -> None:
    client = ScriptedClient(error)
    with pytest.raises(expected):
        a_ledger(client).transact([PutEffect("e1", 0)], {"duplicates": 1}, token="t")
    assert [request["ClientRequestToken"] for request in client.requests] == ["t"]


def test_other_errors_have_no_cancellation_codes() -> None:
    assert cancellation_codes(TIMEOUT) == []
    assert cancellation_codes(client_error("ValidationException")) == []


# --- Kinesis and SNS ---------------------------------------------------------------------------------------------


def put_records_refusing(*refused: int) -> Callable[..., dict[str, Any]]:
    def answer(StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "FailedRecordCount": len(refused),
            "Records": [
                {"ErrorCode": "ProvisionedThroughputExceededException"} if n in refused else {"SequenceNumber": "1"}
                for n in range(len(Records))
            ],
        }

    return answer


def test_exactly_the_refused_records_are_put_again() -> None:
    client = ScriptedClient(put_records_refusing(1, 3), put_records_refusing(0), put_records_refusing())
    stored = decisions(5)
    KinesisDecisionPublisher(client, "decisions", a_caller()).publish(stored)
    sent = [[record["PartitionKey"] for record in request["Records"]] for request in client.requests]
    assert sent == [ids(stored), ["t0001", "t0003"], ["t0001"]]
    assert client.requests[0]["Records"][2]["Data"] == stored[2].document


def test_records_that_stay_refused_are_named_and_the_other_requests_still_go_out() -> None:
    stored = decisions(700)
    client = ScriptedClient(
        put_records_refusing(0, 9), put_records_refusing(1), put_records_refusing(0), put_records_refusing()
    )
    with pytest.raises(NotPublished) as error:
        KinesisDecisionPublisher(client, "decisions", a_caller()).publish(stored)
    assert error.value.transaction_ids == {"t0009"}
    assert [len(request["Records"]) for request in client.requests] == [500, 2, 1, 200]


def test_a_stream_that_does_not_answer_leaves_every_record_unpublished() -> None:
    client = ScriptedClient(*[TIMEOUT] * TRIES)
    with pytest.raises(NotPublished, match="ReadTimeoutError") as error:
        KinesisDecisionPublisher(client, "decisions", a_caller()).publish(decisions(3))
    assert error.value.transaction_ids == {"t0000", "t0001", "t0002"}


def test_alerts_that_stay_refused_are_named() -> None:
    client = ScriptedClient(
        {"Failed": [{"Id": "3"}, {"Id": "7"}]}, {"Failed": [{"Id": "1"}]}, {"Failed": [{"Id": "0"}]}, {"Successful": []}
    )
    with pytest.raises(NotPublished) as error:
        SnsAlerts(client, "topic", a_caller()).raise_alerts(decisions(12))
    assert error.value.transaction_ids == {"t0007"}
    assert [len(request["PublishBatchRequestEntries"]) for request in client.requests] == [10, 2, 1, 2]


def test_an_alert_carries_the_decision_its_three_strongest_reasons_and_an_attribute_to_filter_on() -> None:
    world = World()
    deliver(service_on(world), records_of(a_transaction()))
    document = world.decisions["t1"]
    decision = decode_decision(document)
    reasons = [Reason(f"f{n}", 1.0 - n / 10) for n in range(5)]
    changed = {name: getattr(decision, name) for name in decision.__struct_fields__} | {
        "reasons": reasons,
        "decision": "decline",
    }
    client = ScriptedClient({})
    SnsAlerts(client, "topic", a_caller()).raise_alerts([StoredDecision.of(type(decision)(**changed))])
    [entry] = client.requests[0]["PublishBatchRequestEntries"]
    assert json.loads(entry["Message"]) == {
        "transaction_id": "t1",
        "card_id": "card-a",
        "score": decision.score,
        "decision": "decline",
        "reasons": [{"feature": f"f{n}", "contribution": 1.0 - n / 10} for n in range(3)],
        "event_time_ms": decision.event_time_ms,
        "merchant_id": "merchant-a",
        "amount_minor": 1_250,
        "currency": "USD",
        "type": "purchase",
        "rules": [],
        "model_version": "model-1",
        "policy_version": "p1",
        "scored_at_ms": NOW_MS,
        "degraded": False,
        "rescored_at_ms": None,
        "schema_version": 1,
    }
    assert entry["MessageAttributes"]["decision"]["StringValue"] == "decline"


def test_the_index_of_what_is_to_be_rescored_is_read_page_by_page() -> None:
    items = [
        {"transaction_id": {"S": key}, "to_rescore_ms": {"N": "5"}, "expires_at": {"N": "9"}} for key in ("t1", "t2")
    ]
    client = ScriptedClient({"Items": items[:1], "LastEvaluatedKey": {"here": {"S": "t1"}}}, {"Items": items[1:]})
    found = list(DynamoRescoreIndex(client, "decisions", a_caller()).entries())
    assert found == [ToRescore("t1", 5, 9), ToRescore("t2", 5, 9)]
    assert [request.get("ExclusiveStartKey") for request in client.requests] == [None, {"here": {"S": "t1"}}]


# --- SageMaker ---------------------------------------------------------------------------------------------------

FEATURES = feature_set("core")


def endpoint_answer(scores: list[Any], **changes: Any) -> dict[str, Any]:
    predictions = [{"score": score, "margin": 0.1, "base": 0.0, "reasons": []} for score in scores]
    body = {"model_version": "core-abc", "predictions": predictions} | changes
    return {"Body": io.BytesIO(json.dumps(body).encode()), "InvokedProductionVariant": "blue"}


def model_error(status: int, body: str) -> ClientError:
    return client_error("ModelError", OriginalStatusCode=status, OriginalMessage=body)


def rows(count: int) -> list[tuple[float, ...]]:
    return [tuple(float(n) for _ in FEATURES.names) for n in range(count)]


def scorer(client: ScriptedClient) -> SageMakerScorer:
    return SageMakerScorer(client, "fraud", FEATURES, a_caller())


def test_a_request_names_its_columns_and_their_definitions_and_missing_values_are_null() -> None:
    client = ScriptedClient(endpoint_answer([0.25, 0.5]))
    first, second = rows(2)
    first = (*first[:-1], math.nan)
    predictions = scorer(client).score([first, second], explain_from=0.5)
    assert [(p.score, p.model_version, p.variant) for p in predictions] == [
        (0.25, "core-abc", "blue"),
        (0.5, "core-abc", "blue"),
    ]
    request = client.requests[0]
    assert (request["EndpointName"], request["ContentType"]) == ("fraud", "application/json")
    body = json.loads(request["Body"])
    assert body == {
        "feature_set_id": FEATURES.feature_set_id,
        "columns": list(FEATURES.names),
        "definitions": list(FEATURES.definitions),
        "rows": [[*first[:-1], None], list(second)],
        "explain_from": 0.5,
    }


def test_reasons_are_read() -> None:
    client = ScriptedClient(
        endpoint_answer(
            [], predictions=[{"score": 0.9, "reasons": [{"feature": "amount", "contribution": 1.5}], "margin": 2.0}]
        )
    )
    assert scorer(client).score(rows(1), explain_from=0.5)[0].reasons == [Reason("amount", 1.5)]


def test_many_rows_take_several_requests() -> None:
    client = ScriptedClient(endpoint_answer([0.1] * ROWS_PER_REQUEST), endpoint_answer([0.2] * 5))
    predictions = scorer(client).score(rows(ROWS_PER_REQUEST + 5), explain_from=0.5)
    assert [p.score for p in predictions] == [0.1] * ROWS_PER_REQUEST + [0.2] * 5
    assert all(len(request["Body"]) < 5_000_000 for request in client.requests)


@pytest.mark.parametrize(
    "error",
    [
        TIMEOUT,
        REFUSED,
        model_error(500, "{}"),
        model_error(503, ""),
        client_error("ServiceUnavailable"),
        client_error("ModelNotReadyException"),
        client_error("ThrottlingException"),
        ClientError({"Error": {"Code": "ValidationError", "Message": "Endpoint fraud not found."}}, "InvokeEndpoint"),
        ClientError({"Error": {"Code": "502"}, "ResponseMetadata": {"HTTPStatusCode": 502}}, "InvokeEndpoint"),  # type: ignore[typeddict-item]
    ],
)
def test_an_endpoint_that_is_down_says_so(error: Exception) -> None:
    with pytest.raises(ScorerDown, match="InvokeEndpoint"):
        scorer(ScriptedClient(*[error] * TRIES)).score(rows(1), explain_from=0.5)


@pytest.mark.parametrize(
    "error",
    [client_error("ValidationError"), client_error("AccessDeniedException"), NoCredentialsError()],
    ids=["a request of ours", "a permission", "credentials"],
)
def test_what_no_waiting_cures_is_a_failure_but_not_an_endpoint_that_is_down(error: Exception) -> None:
    with pytest.raises(PortFailure, match="InvokeEndpoint") as failure:
        scorer(ScriptedClient(*[error] * TRIES)).score(rows(1), explain_from=0.5)
    assert not isinstance(failure.value, ScorerDown)


def test_out_of_time_is_not_an_endpoint_that_is_down() -> None:
    clock = FakeClock(World())
    budget = Budget(clock, longest_call_ms=4_000)
    budget.renew(100)
    late = SageMakerScorer(ScriptedClient(), "fraud", FEATURES, Caller(budget, clock, lambda seconds: seconds))
    with pytest.raises(OutOfTime) as failure:
        late.score(rows(1), explain_from=0.5)
    assert not isinstance(failure.value, ScorerDown)


def test_asked_once_it_is_tried_once() -> None:
    client = ScriptedClient(TIMEOUT, endpoint_answer([0.25]))
    with pytest.raises(ScorerDown):
        scorer(client).score(rows(1), explain_from=0.5, once=True)
    assert len(client.requests) == 1


@pytest.mark.parametrize("body", ['{"error": {"code": "definition_mismatch", "message": "amount"}}', "Bad Request", ""])
def test_a_refusal_is_a_contract_mismatch_at_once(body: str) -> None:
    client = ScriptedClient(model_error(400, body))
    with pytest.raises(ContractMismatch, match="refused the request") as error:
        scorer(client).score(rows(1), explain_from=0.5)
    assert not isinstance(error.value, RowRefused)


def test_a_refused_row_is_named_as_the_caller_counts() -> None:
    body = json.dumps({"error": {"code": "not_finite", "message": "row 3", "row": 3}})
    client = ScriptedClient(endpoint_answer([0.1] * ROWS_PER_REQUEST), model_error(400, body))
    with pytest.raises(RowRefused) as error:
        scorer(client).score(rows(ROWS_PER_REQUEST + 5), explain_from=0.5)
    assert error.value.row == ROWS_PER_REQUEST + 3


@pytest.mark.parametrize(
    "answer",
    [
        endpoint_answer([0.1]),
        endpoint_answer([0.1, 1.01]),
        endpoint_answer([0.1, -0.01]),
        endpoint_answer([0.1, None]),
        endpoint_answer([0.1, 0.2], model_version=None),
    ],
)
def test_an_answer_that_was_not_agreed_on_is_a_contract_mismatch(answer: dict[str, Any]) -> None:
    with pytest.raises(ContractMismatch):
        scorer(ScriptedClient(answer)).score(rows(2), explain_from=0.5)
