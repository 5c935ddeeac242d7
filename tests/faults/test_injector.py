"""The injector itself: boto3 on one side, a recorded stand-in for AWS on the other."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import boto3
import pytest
import uvicorn
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ReadTimeoutError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.faults.effects import (
    Abandon,
    CutAnswer,
    Delay,
    Effect,
    HalveAnswer,
    LeaveUnprocessed,
    LoseAnswer,
    Refuse,
    RefuseEntries,
    Silence,
    Twice,
)
from tests.faults.injector import FaultInjector, Injection, NothingInjected, Upstream

STREAM = "transactions"


class StandIn:
    """Answers like AWS, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.status = 200
        self._lock = threading.Lock()
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST", "PUT"])])

    async def answer(self, request: Request) -> Response:
        return await run_in_threadpool(self._answer, request, await request.body())

    def _answer(self, request: Request, body: bytes) -> Response:
        operation = request.headers.get("x-amz-target", request.url.path).rsplit(".", 1)[-1]
        document = json.loads(body) if body[:1] == b"{" else {}
        with self._lock:
            self.asked.append((operation, document))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        if "/invocations" in operation:
            time.sleep(0.2)
        with self._lock:
            self.at_once -= 1
        return Response(json.dumps(self._said(operation, document)), self.status, media_type="application/json")

    def _said(self, operation: str, document: dict[str, Any]) -> dict[str, Any]:
        if operation == "PutRecords":
            accepted = [{"SequenceNumber": record["PartitionKey"], "ShardId": "0"} for record in document["Records"]]
            return {"FailedRecordCount": 0, "Records": accepted, "EncryptionType": "KMS"}
        if operation == "BatchGetItem":
            return {
                "Responses": {table: request["Keys"] for table, request in document["RequestItems"].items()},
                "UnprocessedKeys": {},
            }
        return {"said": "done"}

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.asked)


@pytest.fixture
def aws() -> Iterator[tuple[StandIn, str]]:
    stand_in = StandIn()
    server = uvicorn.Server(
        uvicorn.Config(stand_in.app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield stand_in, f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True
    thread.join(10)


@pytest.fixture
def injector(aws: tuple[StandIn, str]) -> Iterator[FaultInjector]:
    with FaultInjector(lambda: Upstream(aws=aws[1], sagemaker=aws[1]), seed=3) as running:
        yield running


OPEN: list[Any] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Every client of a test is closed with it."""
    yield
    while OPEN:
        OPEN.pop().close()


def client(injector: FaultInjector, service: str, *, read_timeout_s: float = 5.0) -> Any:
    config = Config(
        retries={"total_max_attempts": 1}, read_timeout=read_timeout_s, proxies={}, parameter_validation=False
    )
    made = boto3.client(
        service,
        endpoint_url=injector.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )
    OPEN.append(made)
    return made


def injection(effect: Effect, service: str, *operations: str, **others: Any) -> Injection:
    return Injection(name="fault", effect=effect, service=service, operations=frozenset(operations), **others)


def put(kinesis: Any, count: int = 10) -> dict[str, Any]:
    records = [{"PartitionKey": str(number), "Data": b"x"} for number in range(count)]
    answer: dict[str, Any] = kinesis.put_records(StreamName=STREAM, Records=records)
    return answer


CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "kinesis": ("GetRecords", lambda c: c.get_records(ShardIterator="i")),
    "dynamodb": ("GetItem", lambda c: c.get_item(TableName="t", Key={})),
    "sqs": ("SendMessage", lambda c: c.send_message(QueueUrl=f"{c.meta.endpoint_url}/0/q", MessageBody="m")),
    "ssm": ("GetParameter", lambda c: c.get_parameter(Name="n")),
    "lambda": ("Invoke", lambda c: c.invoke(FunctionName="f", Payload=b"{}")),
    "sagemaker-runtime": ("InvokeEndpoint", lambda c: c.invoke_endpoint(EndpointName="e", Body=b"{}")),
    "s3": ("PutObject", lambda c: c.put_object(Bucket="b", Key="k/e y", Body=b"x")),
    "sns": ("PublishBatch", lambda c: c.publish_batch(TopicArn="a", PublishBatchRequestEntries=[])),
}


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize(("status", "code"), [(400, "ThrottlingException"), (503, "ServiceUnavailable")])
def test_a_refusal_is_the_services_own_error(
    injector: FaultInjector, aws: tuple[StandIn, str], service: str, status: int, code: str
) -> None:
    operation, call = CALLS[service]
    signed_as = "sagemaker" if service == "sagemaker-runtime" else service
    with (
        injector.injecting(injection(Refuse(((status, code),)), signed_as, operation)),
        pytest.raises(ClientError) as said,
    ):
        call(client(injector, service))
    assert said.value.response["Error"]["Code"] == code
    assert said.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert not aws[0].asked
    assert injector.happened == {"fault": 1}


@pytest.mark.parametrize("service", [name for name in CALLS if name not in ("s3", "sns")])
def test_what_is_not_planned_goes_through(injector: FaultInjector, aws: tuple[StandIn, str], service: str) -> None:
    CALLS[service][1](client(injector, service))
    assert len(aws[0].asked) == 1
    assert sum(injector.passed.values()) == 1
    assert not injector.happened


def test_an_injection_that_never_happens_is_noticed(injector: FaultInjector) -> None:
    other_stream = injection(
        Refuse(((500, "InternalFailure"),)), "kinesis", "PutRecords", resources=frozenset({"another"})
    )
    with pytest.raises(NothingInjected, match="fault"), injector.injecting(other_stream):
        put(client(injector, "kinesis"))
    with pytest.raises(NothingInjected), injector.injecting(other_stream):
        pass


def test_what_aws_itself_refuses_is_not_counted(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    aws[0].status = 400
    effects = (LoseAnswer(), CutAnswer(), RefuseEntries(share=0.5), Twice(at_once=False))
    for effect in effects:
        injector.set_plan(injection(effect, "kinesis"))
        with pytest.raises(ClientError):
            put(client(injector, "kinesis"))
    assert not +injector.happened


def test_an_answer_is_lost_after_the_call_took_effect(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    kinesis = client(injector, "kinesis", read_timeout_s=0.3)
    with injector.injecting(injection(LoseAnswer(hold_s=5.0), "kinesis")), pytest.raises(ReadTimeoutError):
        put(kinesis)
    with injector.injecting(injection(LoseAnswer(), "kinesis")), pytest.raises(ConnectionClosedError):
        put(kinesis)
    with injector.injecting(injection(CutAnswer(), "kinesis")):
        assert "Records" not in put(kinesis)  # botocore takes half a document for an empty one
    assert aws[0].count("PutRecords") == 3
    assert put(kinesis)["FailedRecordCount"] == 0


def test_silence_reaches_nobody(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    kinesis = client(injector, "kinesis", read_timeout_s=0.3)
    with injector.injecting(injection(Silence(hold_s=5.0), "kinesis")), pytest.raises(ReadTimeoutError):
        put(kinesis)
    with injector.injecting(injection(Silence(hold_s=0.0), "kinesis")), pytest.raises(ConnectionClosedError):
        put(kinesis)
    assert not aws[0].asked


def test_a_cut_body_of_a_streamed_answer_is_an_error_too(injector: FaultInjector) -> None:
    with injector.injecting(injection(CutAnswer(), "sagemaker")):
        answer = client(injector, "sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=b"{}")
        with pytest.raises(BotoCoreError):
            answer["Body"].read()


def test_some_entries_are_refused_and_the_others_arrive(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    with injector.injecting(
        injection(RefuseEntries(share=0.4), "kinesis", "PutRecords", resources=frozenset({STREAM}))
    ):
        answer = put(client(injector, "kinesis"), 20)
    refused = [index for index, one in enumerate(answer["Records"]) if "ErrorCode" in one]
    arrived = [record["PartitionKey"] for record in aws[0].asked[0][1]["Records"]]
    assert 0 < len(refused) < 20
    assert answer["FailedRecordCount"] == len(refused)
    assert arrived == [str(index) for index in range(20) if index not in refused]
    # every accepted entry carries its own result, not its neighbour's
    assert all(answer["Records"][int(key)]["SequenceNumber"] == key for key in arrived)


def test_a_lone_entry_is_refused_without_asking_aws(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    with injector.injecting(injection(RefuseEntries(share=0.0), "kinesis", "PutRecords")):
        answer = put(client(injector, "kinesis"), 1)
    assert answer["FailedRecordCount"] == 1
    assert not aws[0].asked


def test_unprocessed_keys_and_answers_make_the_whole(injector: FaultInjector) -> None:
    keys = [{"id": {"S": str(number)}} for number in range(9)]
    dynamodb = client(injector, "dynamodb")
    with injector.injecting(injection(LeaveUnprocessed(share=0.4), "dynamodb", "BatchGetItem")):
        answer = dynamodb.batch_get_item(RequestItems={"t": {"Keys": keys, "ConsistentRead": True}})
    left = answer["UnprocessedKeys"]["t"]
    assert left["ConsistentRead"] is True
    assert len(left["Keys"]) == 4
    together = [*answer["Responses"]["t"], *left["Keys"]]
    assert sorted(key["id"]["S"] for key in together) == [str(number) for number in range(9)]
    with injector.injecting(injection(LeaveUnprocessed(share=1.0), "dynamodb", "BatchGetItem")):
        answer = dynamodb.batch_get_item(RequestItems={"t": {"Keys": keys}})
    assert answer["Responses"] == {"t": []}
    assert len(answer["UnprocessedKeys"]["t"]["Keys"]) == 9


def test_half_an_answer_is_one_without_members_to_its_reader(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    with injector.injecting(injection(HalveAnswer(), "kinesis", "PutRecords")):
        answer = put(client(injector, "kinesis"))
    assert set(answer) == {"ResponseMetadata"}
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert aws[0].count("PutRecords") == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_a_call_is_made_twice(injector: FaultInjector, aws: tuple[StandIn, str], at_once: bool) -> None:
    with injector.injecting(injection(Twice(at_once=at_once), "lambda", "Invoke", resources=frozenset({"f"}))):
        client(injector, "lambda").invoke(FunctionName="f", Payload=b"{}")
    assert len(aws[0].asked) == 2
    assert aws[0].most_at_once == (2 if at_once else 1)


def test_an_abandoned_call_still_runs_to_its_end(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    with injector.injecting(injection(Abandon(after_s=0.02), "lambda")), pytest.raises(ConnectionClosedError):
        client(injector, "lambda").invoke(FunctionName="f", Payload=b"{}")
    client(injector, "lambda").invoke(FunctionName="f", Payload=b"{}")
    assert len(aws[0].asked) == 2
    assert aws[0].most_at_once == 2


def test_a_delayed_call_is_answered(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    with injector.injecting(injection(Delay(seconds=0.3), "kinesis")), pytest.raises(ReadTimeoutError):
        put(client(injector, "kinesis", read_timeout_s=0.1))
    with injector.injecting(injection(Delay(seconds=0.05), "kinesis")):
        assert put(client(injector, "kinesis"))["FailedRecordCount"] == 0


def test_counts_are_exact_and_a_limit_holds(injector: FaultInjector, aws: tuple[StandIn, str]) -> None:
    kinesis = client(injector, "kinesis")
    refused = injection(Refuse(((500, "InternalFailure"),)), "kinesis", share=0.5, most=7)
    errors = 0
    with injector.injecting(refused):
        for _ in range(40):
            try:
                put(kinesis)
            except ClientError:
                errors += 1
    assert errors == injector.happened["fault"] == 7
    assert aws[0].count("PutRecords") == injector.passed["kinesis:PutRecords"] == 33
    assert injector.require([refused], since=Counter()) == 7


def test_the_same_seed_chooses_the_same_calls(aws: tuple[StandIn, str]) -> None:
    def refused(seed: int) -> Sequence[bool]:
        outcomes = []
        with FaultInjector(lambda: Upstream(aws=aws[1], sagemaker=aws[1]), seed=seed) as injector:
            kinesis = client(injector, "kinesis")
            injector.set_plan(injection(Refuse(((500, "InternalFailure"),)), "kinesis", share=0.5))
            for _ in range(30):
                try:
                    put(kinesis)
                    outcomes.append(False)
                except ClientError:
                    outcomes.append(True)
        return outcomes

    assert refused(1) == refused(1)
    assert refused(1) != refused(2)
    assert any(refused(1))


def test_of_two_matching_injections_the_first_acts(injector: FaultInjector) -> None:
    first = injection(Refuse(((500, "InternalFailure"),)), "kinesis", holding=b'"PartitionKey": "3"')
    second = Injection(name="second", effect=Refuse(((400, "LimitExceededException"),)), service="kinesis")
    injector.set_plan(first, second)
    kinesis = client(injector, "kinesis")
    codes = []
    for count in (2, 5):
        with pytest.raises(ClientError) as said:
            put(kinesis, count)
        codes.append(said.value.response["Error"]["Code"])
    assert codes == ["LimitExceededException", "InternalFailure"]


def test_streams_may_be_elsewhere_than_the_rest(aws: tuple[StandIn, str]) -> None:
    nowhere = "http://127.0.0.1:1"
    with FaultInjector(lambda: Upstream(aws=nowhere, sagemaker=nowhere, kinesis=aws[1])) as injector:
        assert put(client(injector, "kinesis"))["FailedRecordCount"] == 0
        with pytest.raises(BotoCoreError):
            client(injector, "dynamodb").get_item(TableName="t", Key={})
    assert [operation for operation, _ in aws[0].asked] == ["PutRecords"]


def test_an_aws_that_is_away_breaks_the_connection_and_counts_nothing() -> None:
    def nowhere() -> Upstream:
        raise LookupError("no run yet")

    with FaultInjector(nowhere) as injector:
        injector.set_plan(injection(LoseAnswer(), "kinesis"))
        with pytest.raises(BotoCoreError):
            put(client(injector, "kinesis"))
        assert not +injector.happened


def test_every_effect_draws_from_the_calls_own_chance() -> None:
    draws = [Random("1/fault/1").random(), Random("1/fault/2").random()]
    assert draws[0] != draws[1]
