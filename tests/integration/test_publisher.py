"""The publisher against a Kinesis API: the embedded AWS, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from producers.async_publisher import AsyncTransactionPublisher
from producers.injection import BadRecord, inject, plan_injection
from producers.labels import LabelPublisher, labels_of
from producers.publisher import Aggregation, RecordPublisher, RetryPolicy, TransactionPublisher
from producers.simulator import simulate
from stream_features.errors import PortFailure
from stream_features.label import parse_label
from stream_features.transaction import Transaction, encode_transaction, parse_transaction
from tests.unit.producers.aggregates import user_records

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_AWS = ROOT / ".venv-embedded" / "bin" / "ministack"
END_MS = 1_750_000_000_000
START_S = 60

pytestmark = pytest.mark.skipif(not EMBEDDED_AWS.exists(), reason="no .venv-embedded: run `make setup`")


def client_of(port: int) -> Any:
    return boto3.client(
        "kinesis",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def kinesis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("embedded-aws")
    port = free_port()
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "TMPDIR": str(folder),
        "STATE_DIR": str(folder / "state"),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [EMBEDDED_AWS], env=os.environ | settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        client = client_of(port)
        give_up_at = time.monotonic() + START_S
        while True:
            try:
                client.list_streams()
                break
            except BotoCoreError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < give_up_at, "the embedded AWS did not start"
                time.sleep(0.1)
        yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def stream(kinesis: Any, request: pytest.FixtureRequest) -> str:
    name = request.node.name[:128].replace("[", "-").replace("]", "")
    kinesis.create_stream(StreamName=name, ShardCount=3)
    return str(name)


def example(name: str) -> str:
    """The Python of one example in the publisher's README."""
    text = (ROOT / "producers" / "README.md").read_text()
    after = text.split(f"<!-- example: {name} -->\n```python\n")[1]
    return after.split("```\n")[0]


@pytest.fixture
def as_deployed(kinesis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a program that talks to this AWS."""
    for name, value in {
        "AWS_ENDPOINT_URL": kinesis.meta.endpoint_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)


def everything(kinesis: Any, stream: str) -> list[tuple[str, bytes]]:
    """(partition key, payload) of every record, shard by shard in order."""
    records = []
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            answer = kinesis.get_records(ShardIterator=iterator, Limit=10_000)
            if not answer["Records"]:
                break
            records += [(record["PartitionKey"], record["Data"]) for record in answer["Records"]]
            iterator = answer["NextShardIterator"]
    return records


def test_a_simulation_arrives_whole_and_in_order_per_card(kinesis: Any, stream: str) -> None:
    sent = [row.transaction for row in simulate(3_000, seed=5, end_ms=END_MS)]
    with TransactionPublisher(kinesis, stream) as publisher:
        for transaction in sent:
            publisher.publish(transaction)
    assert (publisher.counters.published, publisher.counters.retried, publisher.waiting) == (3_000, 0, 0)
    arrived: dict[str, list[Transaction]] = {}
    for key, payload in everything(kinesis, stream):
        arrived.setdefault(key, []).append(parse_transaction(payload, arrival_ms=END_MS))
    expected: dict[str, list[Transaction]] = {}
    for transaction in sent:
        expected.setdefault(transaction.card_id, []).append(transaction)
    assert arrived == expected


def test_bad_and_duplicate_records_arrive_byte_for_byte(kinesis: Any, stream: str) -> None:
    rows = [row.transaction for row in simulate(300, seed=6, end_ms=END_MS)]
    plan = plan_injection(300, seed=6, bad_share=0.1, duplicate_share=0.1)
    bad = []
    with TransactionPublisher(kinesis, stream) as publisher:
        for item in inject(rows, plan):
            if isinstance(item, BadRecord):
                bad.append((item.partition_key, item.payload))
                publisher.publish_raw(item.partition_key, item.payload)
            else:
                publisher.publish(item)
    arrived = everything(kinesis, stream)
    assert len(arrived) == 300 + plan.bad_count + plan.duplicate_count == publisher.counters.published
    assert sorted(record for record in arrived if record[0].startswith("bad-")) == sorted(bad)
    assert {kind for kind, count in plan.bad_by_kind.items() if count} >= {"empty", "large_record", "invalid_utf8"}


def test_labels_arrive(kinesis: Any, stream: str) -> None:
    labels = list(labels_of(simulate(200, seed=7, end_ms=END_MS)))
    with LabelPublisher(kinesis, stream) as publisher:
        for label in labels:
            publisher.publish(label)
    arrived = [parse_label(payload) for _, payload in everything(kinesis, stream)]
    assert sorted(arrived, key=lambda label: label.transaction_id) == sorted(
        labels, key=lambda label: label.transaction_id
    )


def test_a_stream_that_is_not_there_is_told_at_once(kinesis: Any) -> None:
    publisher = RecordPublisher(kinesis, "nowhere")
    publisher.publish_raw("a", b"1")
    with pytest.raises(PortFailure, match="stream nowhere did not take 1 records"):
        publisher.flush()
    assert publisher.counters.requests == 1


def test_an_endpoint_that_does_not_answer_is_tried_until_patience_ends() -> None:
    publisher = RecordPublisher(client_of(free_port()), "any", retry=RetryPolicy(max_attempts=3, base_s=0.001))
    publisher.publish_raw("a", b"1")
    with pytest.raises(PortFailure, match="after 3 attempts in a row"):
        publisher.flush()
    assert (publisher.counters.requests, publisher.waiting) == (3, 1)


def expected_by_card(sent: list[Transaction]) -> dict[str, list[Transaction]]:
    expected: dict[str, list[Transaction]] = {}
    for transaction in sent:
        expected.setdefault(transaction.card_id, []).append(transaction)
    return expected


def test_aggregates_arrive_whole_in_order_and_on_the_shard_of_their_cards(kinesis: Any) -> None:
    sent = [row.transaction for row in simulate(3_000, seed=8, end_ms=END_MS)]
    shard_of: dict[str, dict[str, str]] = {"plain-cards": {}, "aggregated-cards": {}}
    for stream, aggregation in (("plain-cards", None), ("aggregated-cards", Aggregation())):
        kinesis.create_stream(StreamName=stream, ShardCount=4)
        with TransactionPublisher(
            kinesis,
            stream,
            aggregation=aggregation,
            on_delivered=lambda one, found=shard_of[stream]: found.setdefault(one.partition_key, one.shard_id),
        ) as publisher:
            for transaction in sent:
                publisher.publish(transaction)
        assert publisher.counters.published == 3_000
    records = everything(kinesis, "aggregated-cards")
    assert len(records) < 500
    arrived: dict[str, list[Transaction]] = {}
    for _, data in records:
        for card_id, payload, _ in user_records(data):
            arrived.setdefault(card_id, []).append(parse_transaction(payload, arrival_ms=END_MS))
    assert arrived == expected_by_card(sent)
    assert shard_of["aggregated-cards"] == shard_of["plain-cards"]  # buckets divide four shards evenly
    assert len(set(shard_of["plain-cards"].values())) == 4


@pytest.mark.parametrize("aggregation", [None, Aggregation()], ids=["plain", "aggregated"])
def test_an_event_loop_publishes_whole_and_in_order(kinesis: Any, stream: str, aggregation: Aggregation | None) -> None:
    sent = [row.transaction for row in simulate(3_000, seed=9, end_ms=END_MS)]

    async def publish() -> None:
        async with AsyncTransactionPublisher(kinesis, stream, aggregation=aggregation, on_failed=print) as publisher:
            for transaction in sent[:-1]:
                await publisher.publish(transaction)
            delivered = await publisher.deliver(sent[-1])
            assert delivered.record_id == sent[-1].transaction_id

    asyncio.run(publish())
    arrived: dict[str, list[Transaction]] = {}
    for key, data in everything(kinesis, stream):
        for card_id, payload in [(key, data)] if aggregation is None else [one[:2] for one in user_records(data)]:
            arrived.setdefault(card_id, []).append(parse_transaction(payload, arrival_ms=END_MS))
    assert arrived == expected_by_card(sent)


@pytest.mark.usefixtures("as_deployed")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_parent_and_forked_child_publish_over_connections_of_their_own(kinesis: Any, stream: str) -> None:
    program = f"""
import os
from producers.publisher import RecordPublisher
from producers.put_records import kinesis_client

for client in (kinesis_client, kinesis_client()):
    publisher = RecordPublisher(client, {stream!r})
    publisher.publish_raw("before", b"before")
    publisher.flush()
    publisher.publish_raw("parent", b"parent")
    child = os.fork()
    who = "child" if child == 0 else "parent"
    for number in range(20):
        publisher.publish_raw(who, b"%d" % number)
        publisher.flush()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    records = everything(kinesis, stream)
    numbers = [b"%d" % number for number in range(20)]
    assert [data for key, data in records if key == "before"] == [b"before"] * 2
    assert [data for key, data in records if key == "child"] == numbers * 2
    assert [data for key, data in records if key == "parent"] == [b"parent", *numbers] * 2


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.usefixtures("as_deployed")
def test_the_web_application_of_the_readme(
    kinesis: Any, stream: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRANSACTIONS_STREAM", stream)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "shop.py").write_text(example("web application"))
    sent = [row.transaction for row in simulate(50, seed=10, end_ms=END_MS)]
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(port), "--log-level", "warning"],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        give_up_at = time.monotonic() + START_S
        while True:
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < give_up_at, "the application did not start"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}/payments"
        with ThreadPoolExecutor(10) as browsers:
            answers = list(browsers.map(lambda one: post(url, encode_transaction(one)), sent))
        assert {status for status, _ in answers} == {202}
        assert all(answer["shard"].startswith("shardId-") for _, answer in answers)
        bad = post(url, b'{"card_id": "4111111111111111"}')
        assert bad == (422, {"field": "transaction_id", "rule": "missing"})
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert (tmp_path / "log").read_text() == ""
    assert sorted(data for _, data in everything(kinesis, stream)) == sorted(map(encode_transaction, sent))


@pytest.mark.usefixtures("as_deployed")
def test_the_program_with_threads_of_the_readme(kinesis: Any) -> None:
    kinesis.create_stream(StreamName="transactions", ShardCount=1)
    exec(example("threads"), {})  # noqa: S102
    [(card_id, data)] = everything(kinesis, "transactions")
    assert card_id == parse_transaction(data, arrival_ms=1_770_000_000_000).card_id == "tok_4f1c"
