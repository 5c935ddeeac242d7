"""The score API through the running pipeline: asked first, published afterwards, decided once."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest

from console.asking import client_of, local_url
from local.run import aws_environment
from producers.publisher import TransactionPublisher
from producers.score_client import ScoreClient
from stream_features.codec import unpack
from stream_features.decision import Decision, encode_decision
from stream_features.decision_event import DETAIL_TYPE, EVENT_SOURCE, decision_event, encode_decision_event
from stream_features.errors import MalformedRecord
from stream_features.json_schemas import json_schema
from stream_features.names import card_key
from stream_features.transaction import Transaction, encode_transaction
from tests.e2e.conftest import Start
from tests.e2e.driver import (
    ROOT,
    Installation,
    publish_all,
    publish_in_lockstep,
    settled,
    stored_decisions,
    stored_states,
)
from tests.e2e.judge import feature_mismatches, score_mismatches
from tests.e2e.test_first_path import released_artifact

pytestmark = pytest.mark.e2e

MINUTE_MS = 60_000


def a_transaction(transaction_id: str, event_time_ms: int, **changes: object) -> Transaction:
    values: dict[str, object] = {
        "card_id": "card-asked",
        "merchant_id": "Käse & Brot",
        "amount_minor": 1_250,
        "currency": "EUR",
        "country": "DE",
        "latitude": 52.5,
        "longitude": 13.4,
    }
    return Transaction(transaction_id=transaction_id, event_time_ms=event_time_ms, **(values | changes))  # type: ignore[arg-type]


@dataclass
class Scene:
    """What was asked and published, and the counts after each step."""

    installation: Installation
    client: ScoreClient
    history: list[Transaction]  # in order of arrival
    asked: Transaction
    answers: list[Decision]
    counts: list[dict[str, Any]]  # after the past, the request, its record, the record once more
    decisions: dict[str, Decision]


def counted(status: dict[str, Any]) -> dict[str, int]:
    names = ("published", "decided", "duplicates", "quarantined", "in_flight")
    return {name: status[name] for name in names} | {f"api_{name}": n for name, n in status["api"].items()}


@pytest.fixture(scope="module")
def installation(start: Start) -> Iterator[Installation]:
    """With a bus of events, which other modules do without."""
    with start(environment={"FRAUDSTREAM_DECISION_EVENTS": "1"}) as installed:
        yield installed


@pytest.fixture(scope="module")
def events(installation: Installation) -> Callable[[], list[dict[str, Any]]]:
    """What a subscriber of one card's decisions has got so far, by a rule and a queue."""
    pipeline = installation.pipeline()
    bus, sqs = pipeline.client("events"), pipeline.client("sqs")
    queue_url = sqs.create_queue(QueueName="subscriber")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
    pattern = {"source": [EVENT_SOURCE], "detail-type": [DETAIL_TYPE], "detail": {"card_id": ["card-asked"]}}
    names = {"EventBusName": pipeline.output("DecisionEventBusName")}
    bus.put_rule(Name="asked", EventPattern=json.dumps(pattern), **names)
    bus.put_targets(Rule="asked", Targets=[{"Id": "queue", "Arn": attributes["QueueArn"]}], **names)
    seen: list[dict[str, Any]] = []

    def received() -> list[dict[str, Any]]:
        while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                seen.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return seen

    return received


@pytest.fixture(scope="module")
def scene(installation: Installation, events: Callable[[], list[dict[str, Any]]]) -> Scene:
    pipeline = installation.pipeline()
    client = client_of(pipeline.run)
    now_ms = time.time_ns() // 1_000_000
    # One card's and one merchant's last half hour; in lockstep, so that the merchant knows them all by now.
    past = [
        a_transaction(
            f"past-{n}",
            now_ms - (24 - 2 * n) * MINUTE_MS,
            amount_minor=100 + 7 * n,
            card_id="card-other" if n % 2 else "card-asked",
        )
        for n in range(9)
    ]
    publish_in_lockstep(pipeline, past)
    counts = [counted(settled(installation, len(past)))]
    asked = a_transaction("asked", now_ms, amount_minor=9_900)
    answers = [client.score(asked), client.score(asked)]
    counts.append(counted(installation.status()))
    for published in (1, 2):
        publish_all(installation, [asked])
        counts.append(counted(settled(installation, len(past) + published)))
    decisions = stored_decisions(pipeline)
    return Scene(installation, client, [*past, asked], asked, answers, counts, decisions)


def test_the_first_record_counts_as_decided_and_the_next_as_duplicate(scene: Scene) -> None:
    after_past, after_request, after_record, after_second = scene.counts
    n = len(scene.history) - 1
    assert after_past == {
        **{"published": n, "decided": n, "duplicates": 0, "quarantined": 0, "in_flight": 0},
        **{"api_decided": 0, "api_awaiting_record": 0},
    }
    assert after_request == after_past | {"api_decided": 1, "api_awaiting_record": 1}
    assert after_record == after_past | {"published": n + 1, "decided": n + 1, "api_decided": 1}
    assert after_second == after_record | {"published": n + 2, "duplicates": 1}


def test_every_answer_is_the_stored_decision(scene: Scene) -> None:
    stored = scene.decisions["asked"]
    assert stored.stream_position.of_request
    assert [encode_decision(answer) for answer in scene.answers] == [encode_decision(stored)] * 2
    assert scene.client.decision("asked") == stored
    assert scene.client.decision("past-3") == scene.decisions["past-3"]
    assert scene.client.decision("never-seen") is None
    assert "asked for through the score API" in scene.installation.run("explain", "asked")


def test_features_and_score_are_those_of_the_stream_to_the_bit(scene: Scene, tmp_path: Path) -> None:
    assert scene.decisions["asked"].features["card_count_1h"] == 6
    assert scene.decisions["asked"].features["merchant_count_10m"] > 0  # type: ignore[operator]
    assert feature_mismatches(scene.history, scene.decisions, "core") == []
    artifact = released_artifact(scene.installation, tmp_path)
    assert score_mismatches([scene.decisions["asked"]], artifact, tmp_path) == []
    features = dict(scene.decisions["asked"].features)
    features["amount"] = (features["amount"] or 0.0) + 1e-9
    spoilt = {**scene.decisions, "asked": msgspec.structs.replace(scene.decisions["asked"], features=features)}
    assert feature_mismatches(scene.history, spoilt, "core") == ["asked"]


def test_a_subscriber_hears_of_every_decision_once(scene: Scene, events: Callable[[], list[dict[str, Any]]]) -> None:
    """The request published the decision, its record again, the duplicate once more: one event."""
    wanted = sorted(one.transaction_id for one in scene.history if one.card_id == "card-asked")
    ends_at = time.monotonic() + 30
    while not {"asked", "past-8"} <= {event["detail"]["transaction_id"] for event in events()}:
        assert time.monotonic() < ends_at, events()
        time.sleep(0.2)
    heard = [event for event in events() if event["detail"]["transaction_id"] in wanted]
    assert sorted(event["detail"]["transaction_id"] for event in heard) == wanted
    (of_asked,) = (event for event in heard if event["detail"]["transaction_id"] == "asked")
    assert (of_asked["source"], of_asked["detail-type"]) == (EVENT_SOURCE, DETAIL_TYPE)
    jsonschema.Draft202012Validator(json_schema("decision_event")).validate(of_asked["detail"])
    assert of_asked["detail"] == json.loads(encode_decision_event(decision_event(scene.decisions["asked"])))


def test_another_transaction_under_a_decided_id_is_refused(scene: Scene) -> None:
    for transaction_id in ("asked", "past-1"):
        with pytest.raises(MalformedRecord) as refused:
            scene.client.score(msgspec.structs.replace(scene.asked, transaction_id=transaction_id, amount_minor=1))
        assert refused.value.rule == "conflicting_duplicate"


def test_bad_requests_are_answered_and_count_nothing(scene: Scene) -> None:
    before = counted(scene.installation.status())
    good = encode_transaction(msgspec.structs.replace(scene.asked, transaction_id="bad"))
    said = [
        raw(scene, "POST", "/score", b""),
        raw(scene, "POST", "/score", b"{"),
        raw(scene, "POST", "/score", good.replace(b"card-asked", b"4111111111111111")),
        raw(scene, "POST", "/score", good[:-1] + b',"own":"' + b"x" * 262_144 + b'"}'),
        raw(scene, "POST", "/score", good, content_type="text/plain"),
        raw(scene, "POST", "/score?budget_ms=1", good),
        raw(scene, "POST", "/score?publish=perhaps", good),
        raw(scene, "POST", "/score?color=red", good),
        raw(scene, "GET", "/score"),
        raw(scene, "POST", "/decisions/bad", b"{}"),
        raw(scene, "GET", "/decisions/a%20b"),
        raw(scene, "GET", "/decisions/bad"),
    ]
    assert said == [
        (400, "invalid_transaction", "$", "empty"),
        (400, "invalid_transaction", "$", "not_json"),
        (400, "invalid_transaction", "card_id", "card_number"),
        (413, "too_large", "$", "too_large"),
        (415, "unsupported_media_type", None, None),
        (400, "invalid_parameter", "budget_ms", "out_of_range"),
        (400, "invalid_parameter", "publish", "not_boolean"),
        (400, "invalid_parameter", "color", "unknown"),
        (405, "method_not_allowed", None, None),
        (405, "method_not_allowed", None, None),
        (400, "invalid_transaction", "transaction_id", "bad_characters"),
        (404, "unknown_transaction", None, None),
    ]
    assert counted(scene.installation.status()) == before


def raw(
    scene: Scene, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
) -> tuple[int, str, str | None, str | None]:
    """Status, code, field and rule of an error."""
    headers = {"Content-Type": content_type} if method == "POST" else {}
    reply = scene.client.request(method, path, body, headers)
    assert b"Traceback" not in reply.body
    error = json.loads(reply.body)["error"]
    assert error["message"]
    return reply.status, error["code"], error.get("field"), error.get("rule")


def test_a_request_without_a_signature_is_refused(scene: Scene) -> None:
    if scene.installation.place != "embedded":
        pytest.skip("LocalStack does not look whether a request is signed")
    request = urllib.request.Request(f"{local_url(scene.installation.pipeline().run)}/decisions/asked")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_both_writers_at_one_card_lose_nothing(scene: Scene) -> None:
    before = scene.installation.status()
    now_ms = time.time_ns() // 1_000_000
    transactions = [a_transaction(f"race-{n:02d}", now_ms + n, card_id="card-raced", amount_minor=n) for n in range(48)]
    of_api, of_stream = transactions[::2], transactions[1::2]
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(scene.client.score, one) for one in of_api]
        pipeline = scene.installation.pipeline()
        with TransactionPublisher(pipeline.client("kinesis"), pipeline.output("TransactionsStreamName")) as publisher:
            for one in of_stream:
                publisher.publish(one)
                publisher.flush()  # a batch of its own, most of them
        assert [answer.result().transaction_id for answer in answers] == [one.transaction_id for one in of_api]
    publish_all(scene.installation, of_api)
    after = settled(scene.installation, before["published"] + 48)
    assert after["decided"] - before["decided"] == 48
    assert after["duplicates"] == before["duplicates"]
    assert after["api"]["awaiting_record"] == before["api"]["awaiting_record"]
    assert {one.transaction_id for one in transactions} <= set(stored_decisions(pipeline))
    assert len(unpack(stored_states(pipeline, "card#")[card_key("card-raced")], None).times) == 48


def test_a_transaction_asked_for_many_times_at_once_has_one_decision(scene: Scene) -> None:
    before = scene.installation.status()
    wanted = a_transaction("at-once", time.time_ns() // 1_000_000, card_id="card-at-once")
    with ThreadPoolExecutor(4) as threads:
        answers = {encode_decision(one) for one in threads.map(scene.client.score, [wanted] * 8)}
    assert len(answers) == 1
    publish_all(scene.installation, [wanted])
    after = settled(scene.installation, before["published"] + 1)
    assert after["api"]["decided"] == before["api"]["decided"] + 1
    assert (after["decided"], after["duplicates"]) == (before["decided"] + 1, before["duplicates"])


def test_whoever_came_first_every_vector_can_be_computed_again(scene: Scene) -> None:
    found = json.loads(scene.installation.run("consistency", "--json"))
    assert found["holds"], found
    assert found["compared"] >= len(scene.history)


def test_a_function_killed_after_its_commit_has_decided_and_the_next_try_answers_it(scene: Scene) -> None:
    scene.installation.needs("failpoints")
    before = scene.installation.status()["api"]["decided"]
    killed = a_transaction("killed", time.time_ns() // 1_000_000, card_id="card-killed")
    (scene.installation.state_dir / "failpoint").write_text("score_api:after_commit")
    answer = scene.client.score(killed, publish=True)
    assert not (scene.installation.state_dir / "failpoint").exists()
    assert scene.installation.status()["api"]["decided"] == before + 1
    assert stored_decisions(scene.installation.pipeline())["killed"] == answer


def test_the_command_asks_publishes_and_names_what_has_no_decision(scene: Scene, tmp_path: Path) -> None:
    before = scene.installation.status()
    lines = [encode_transaction(a_transaction(f"line-{n}", time.time_ns() // 1_000_000)) for n in range(2)]
    file = tmp_path / "some.jsonl"
    file.write_bytes(b"\n\n".join(lines) + b"\n")
    said = scene.installation.run("score", file, "--publish", "--budget-ms", 20_000)
    assert [json.loads(line)["transaction_id"] for line in said.splitlines()] == ["line-0", "line-1"]
    after = settled(scene.installation, before["published"] + 2)
    assert (after["duplicates"], after["api"]["awaiting_record"]) == (
        before["duplicates"],
        before["api"]["awaiting_record"],
    )
    file.write_bytes(lines[0] + b"\n{}\n")
    assert len(scene.installation.run("score", file, expect=1).splitlines()) == 1


def example(name: str) -> str:
    """The Python of one example in the application developer's page."""
    text = (ROOT / "docs" / "application-developer.md").read_text()
    return text.split(f"<!-- example: {name} -->\n```python\n")[1].split("```\n")[0]


def test_the_web_application_of_the_page_answers_payments(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scene.installation.pipeline().run
    for name, value in {**aws_environment(run), "SCORE_API_URL": local_url(run)}.items():
        monkeypatch.setenv(name, value)
    before = scene.installation.status()
    names: dict[str, Any] = {}
    exec(example("web application"), names)  # noqa: S102 - our own page

    def ask(method: str, path: str, document: object = None) -> tuple[int, dict[str, Any]]:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(names["app"])
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
                return await browser.request(method, path, json=document)

        answer = asyncio.run(asked())
        return answer.status_code, answer.json()

    payment = json.loads(encode_transaction(a_transaction("order-1", time.time_ns() // 1_000_000)))
    answer = ask("POST", "/payments", payment)
    stored = scene.client.decision("order-1")
    assert stored is not None
    assert answer == (200, {"decision": stored.decision, "score": stored.score})
    assert ask("GET", "/payments/order-1") == (200, {"decision": stored.decision})
    assert ask("GET", "/payments/order-2") == (200, {"decision": "pending"})
    refused = ask("POST", "/payments", {**payment, "amount_minor": 1})
    assert refused == (422, {"field": "transaction_id", "rule": "conflicting_duplicate"})
    monkeypatch.setattr(names["client"], "_url", "http://127.0.0.1:9")
    assert ask("POST", "/payments", payment) == (202, {"decision": "pending"})
    after = settled(scene.installation, before["published"] + 1)
    assert after["api"]["awaiting_record"] == before["api"]["awaiting_record"]
