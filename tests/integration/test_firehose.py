"""The Firehose worker as a process, on the embedded AWS, with the template's settings, up to what Athena answers."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from console.lake import QueryAnswer, named_query, query_names, run_query
from local.firehose.control import read_worker_status, request_flush
from stream_features.decision import Decision, encode_decision
from stream_features.errors import PortFailure, UsageError
from tests.integration.embedded_aws import EmbeddedAws, embedded_aws
from tests.integration.lake_stack import (
    LakeStack,
    a_decision,
    create_lake_stack,
    firehose_worker,
    missing_and_extra,
    put,
    template_resources,
)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    with embedded_aws(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture
def stack(aws: EmbeddedAws, request: pytest.FixtureRequest) -> Iterator[LakeStack]:
    made = create_lake_stack(aws, f"s{abs(hash(request.node.name)) % 10**8}")
    yield made
    firehose = aws.client("firehose")
    for name in ("raw", "decisions"):
        firehose.delete_delivery_stream(DeliveryStreamName=f"{made.prefix}-{name}")


def archived(stack: LakeStack) -> list[bytes]:
    """Every payload of `transactions` that stands in the lake, as a line or below the error prefix."""
    payloads: list[bytes] = []
    for body in stack.objects("raw/").values():
        payloads += gzip.decompress(body).split(b"\n")[:-1]
    for body in stack.objects("errors/raw/").values():
        payloads += [base64.b64decode(json.loads(line)["rawData"]) for line in body.splitlines()]
    return payloads


def lake_decision_ids(stack: LakeStack) -> list[bytes]:
    """Transaction ids of the decisions' Parquet files, as often as they stand there."""
    return [
        transaction_id.encode()
        for body in stack.objects("decisions/").values()
        for transaction_id in pq.read_table(io.BytesIO(body)).column("transaction_id").to_pylist()
    ]


def ask(stack: LakeStack, sql: str) -> QueryAnswer:
    return run_query(stack.aws.client("athena"), sql, workgroup=stack.workgroup, database=stack.database)


def test_everything_published_is_in_the_lake_once_below_its_arrival_hour(stack: LakeStack, tmp_path: Path) -> None:
    good = [json.dumps({"transaction_id": f"t-{n}", "amount_minor": n, "card_id": "c"}).encode() for n in range(3000)]
    bad = [b"\xff\xfe\x00", b"", b"{}\n{}", b"[1]", b'{"a":NaN}', b"x" * 1000]
    decisions = [a_decision(number) for number in range(700)]
    with firehose_worker(stack.aws, tmp_path):
        put(stack.aws, stack.transactions, good[:1500] + bad)
        request_flush(tmp_path, 60)
        put(stack.aws, stack.transactions, good[1500:])
        put(stack.aws, stack.decisions, [encode_decision(decision) for decision in decisions] + [b'{"score":"x"}'])
        request_flush(tmp_path, 60)
        hours = {datetime.now(UTC).strftime("dt=%Y-%m-%d/hour=%H")}

        assert missing_and_extra(good + bad, archived(stack)) == ([], [])
        assert missing_and_extra([d.transaction_id.encode() for d in decisions], lake_decision_ids(stack)) == ([], [])
        folders = {key.split("/", 1)[1].rsplit("/", 1)[0] for key in stack.objects("decisions/")}
        assert folders <= hours | {datetime.fromtimestamp(time.time() - 120, UTC).strftime("dt=%Y-%m-%d/hour=%H")}
        failed = [
            json.loads(line) for body in stack.objects("errors/decisions/").values() for line in body.splitlines()
        ]
        assert [base64.b64decode(failure["rawData"]) for failure in failed] == [b'{"score":"x"}']
        assert all(
            key.startswith("errors/decisions/format-conversion-failed/dt=")
            for key in stack.objects("errors/decisions/")
        )
        status: Any = read_worker_status(tmp_path)
        raw = status["deliveries"][f"{stack.prefix}-raw"]
        assert (raw["delivered_records"], raw["failed_records"]) == (len(good), len(bad))
        assert raw["buffered_records"] == 0
        assert set(raw["millis_behind"].values()) == {0}
        assert status["errors"] == {}
        assert len(stack.objects("raw/")) <= 2 * len(hours) + 2  # buffered, not an object a record


def test_the_check_sees_a_record_lost_from_the_lake(stack: LakeStack, tmp_path: Path) -> None:
    payloads = [b'{"n":%d}' % number for number in range(50)]
    with firehose_worker(stack.aws, tmp_path):
        put(stack.aws, stack.transactions, payloads)
        request_flush(tmp_path, 60)
    key, body = next(iter(stack.objects("raw/").items()))
    lines = gzip.decompress(body).split(b"\n")
    lost = lines.pop(3)
    stack.aws.client("s3").put_object(Bucket=stack.bucket, Key=key, Body=gzip.compress(b"\n".join(lines)))
    assert missing_and_extra(payloads, archived(stack)) == ([lost], [])


def test_a_decision_reads_back_from_parquet_bit_for_bit(stack: LakeStack, tmp_path: Path) -> None:
    decisions = {d.transaction_id: d for d in (a_decision(number) for number in range(200))}
    with firehose_worker(stack.aws, tmp_path):
        put(stack.aws, stack.decisions, [encode_decision(d) for d in decisions.values()])
        request_flush(tmp_path, 60)
    rows = [row for body in stack.objects("decisions/").values() for row in pq.read_table(io.BytesIO(body)).to_pylist()]
    assert len(rows) == len(decisions)
    for row in rows:
        decision = decisions[row["transaction_id"]]
        expected = json.loads(encode_decision(decision))
        expected["features"] = list(expected["features"].items())
        assert row == expected


def test_every_field_of_a_decision_is_a_column_of_the_lake() -> None:
    table = template_resources()["DecisionsLakeTable"]["Properties"]["TableInput"]
    columns = [column["Name"] for column in table["StorageDescriptor"]["Columns"]]
    assert columns == list(Decision.__struct_fields__)


@pytest.mark.parametrize("kill_at_put", [1, 2, 3])
def test_a_worker_killed_between_put_and_checkpoint_loses_nothing(
    stack: LakeStack, tmp_path: Path, kill_at_put: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of the real process; more records arrive before the next one starts."""
    monkeypatch.setenv("KILL_AT_PUT", str(kill_at_put))
    payloads = [b'{"n":%d}' % number for number in range(400)]
    decisions = [a_decision(number) for number in range(300)]
    put(stack.aws, stack.transactions, [*payloads[:300], b"garbage"])
    put(stack.aws, stack.decisions, [encode_decision(d) for d in decisions[:200]])
    waiting = tmp_path / "flush-requests" / "of-a-caller-that-died"
    waiting.parent.mkdir()
    waiting.touch()
    with firehose_worker(stack.aws, tmp_path, "tests.integration.firehose_killed_after_put") as worker:
        assert worker.wait(timeout=30) == -signal.SIGKILL
    assert waiting.exists()  # not answered: not everything was delivered
    written = set(stack.objects("raw/")) | set(stack.objects("errors/")) | set(stack.objects("decisions/"))
    assert len(written) == kill_at_put

    put(stack.aws, stack.transactions, payloads[300:])
    # Republished, as after a redelivery: the stream itself holds these decisions twice.
    put(stack.aws, stack.decisions, [encode_decision(d) for d in decisions[150:]])
    with firehose_worker(stack.aws, tmp_path):
        request_flush(tmp_path, 60)
    assert missing_and_extra([*payloads, b"garbage"], archived(stack)) == ([], [])
    ids = [d.transaction_id.encode() for d in [*decisions[:200], *decisions[150:]]]
    assert missing_and_extra(ids, lake_decision_ids(stack)) == ([], [])
    assert written <= {*stack.objects("raw/"), *stack.objects("errors/"), *stack.objects("decisions/")}
    answer = ask(stack, named_query("decisions_by_outcome"))
    counts = dict(zip(answer.columns, zip(*answer.rows, strict=True), strict=True))
    assert sum(counts["transactions"]) == len(decisions)


def test_sigterm_delivers_what_was_read_and_ends_cleanly(stack: LakeStack, tmp_path: Path) -> None:
    payloads = [b'{"n":%d}' % number for number in range(100)]
    with firehose_worker(stack.aws, tmp_path) as worker:
        request_flush(tmp_path, 60)  # it runs
        put(stack.aws, stack.transactions, payloads)
        ends_at = time.monotonic() + 30
        while time.monotonic() < ends_at and not _buffered(tmp_path, f"{stack.prefix}-raw"):
            time.sleep(0.05)
        worker.terminate()
        assert worker.wait(timeout=20) == 0
    assert missing_and_extra(payloads, archived(stack)) == ([], [])


def _buffered(state_dir: Path, delivery: str) -> int:
    status: Any = read_worker_status(state_dir)
    return int(status["deliveries"][delivery]["buffered_records"])


def test_the_interval_alone_delivers(aws: EmbeddedAws, tmp_path: Path) -> None:
    stack = create_lake_stack(aws, "interval", interval_s=1)
    with firehose_worker(aws, tmp_path):
        put(aws, stack.transactions, [b'{"n":1}'])
        ends_at = time.monotonic() + 30
        while time.monotonic() < ends_at and not archived(stack):
            time.sleep(0.1)
        assert archived(stack) == [b'{"n":1}']
    for name in ("raw", "decisions"):
        aws.client("firehose").delete_delivery_stream(DeliveryStreamName=f"interval-{name}")


def test_a_flush_while_records_pour_in_covers_those_published_before_it(stack: LakeStack, tmp_path: Path) -> None:
    before = [b'{"before":%d}' % number for number in range(500)]
    stop = threading.Event()

    def pour() -> None:
        number = 0
        while not stop.is_set():
            put(stack.aws, stack.transactions, [b'{"after":%d}' % n for n in range(number, number + 50)])
            number += 50

    with firehose_worker(stack.aws, tmp_path):
        put(stack.aws, stack.transactions, before)
        pouring = threading.Thread(target=pour)
        pouring.start()
        try:
            request_flush(tmp_path, 60)
            missing, _ = missing_and_extra(before, archived(stack))
        finally:
            stop.set()
            pouring.join()
    assert missing == []


def test_asking_for_a_flush_without_a_worker_says_so(tmp_path: Path) -> None:
    with pytest.raises(PortFailure, match="no worker has reported"):
        request_flush(tmp_path, 0.1)
    assert not os.listdir(tmp_path / "flush-requests")


def test_every_shipped_query_gives_the_aggregate_over_the_decisions(stack: LakeStack, tmp_path: Path) -> None:
    decisions = [a_decision(number) for number in range(900)]
    with firehose_worker(stack.aws, tmp_path):
        put(stack.aws, stack.decisions, [encode_decision(d) for d in decisions])
        request_flush(tmp_path, 60)
        put(stack.aws, stack.decisions, [encode_decision(d) for d in decisions[::3]])  # published again
        request_flush(tmp_path, 60)
    assert ask(stack, "select count(*) as copies from decisions").rows == [(1200,)]
    expected = expected_answers(decisions)
    assert sorted(expected) == query_names()
    for name, rows in expected.items():
        answer = ask(stack, named_query(name))
        assert not [column for column in answer.columns if not column.isidentifier()], name
        assert len(answer.rows) == len(rows), name
        for row, wanted in zip(answer.rows, rows, strict=True):
            for value, wanted_value in zip(row, wanted, strict=True):
                inexact = isinstance(wanted_value, float)
                assert value == (pytest.approx(wanted_value, rel=1e-12) if inexact else wanted_value), (name, row)


def expected_answers(decisions: list[Decision]) -> dict[str, list[tuple[Any, ...]]]:
    """The shipped queries, restated over the decisions."""

    def grouped(key: Any) -> dict[Any, list[Decision]]:
        groups: dict[Any, list[Decision]] = defaultdict(list)
        for decision in decisions:
            groups[key(decision)].append(decision)
        return dict(sorted(groups.items()))

    def declined(group: list[Decision]) -> int:
        return sum(d.decision == "decline" for d in group)

    merchants = [
        (merchant, len(group), declined(group), declined(group) / len(group))
        for merchant, group in grouped(lambda d: d.merchant_id).items()
        if declined(group)
    ]
    alerts = [d for d in decisions if d.decision != "approve"]
    first_reasons = sorted({d.reasons[0].feature for d in alerts})
    reasons = [
        (name, len(pushes), sum(pushes) / len(pushes))
        for name in first_reasons
        for pushes in [[d.reasons[0].contribution for d in alerts if d.reasons[0].feature == name]]
    ]
    return {
        "decisions_by_outcome": [
            (
                verdict,
                len(g),
                sum(d.amount_minor for d in g),
                sum(d.score for d in g) / len(g),
                min(d.score for d in g),
                max(d.score for d in g),
            )
            for verdict, g in grouped(lambda d: d.decision).items()
        ],
        "alerts_by_hour": [
            (hour * 3_600_000, len(g), sum(d.decision == "review" for d in g), declined(g))
            for hour, g in grouped(lambda d: d.arrival_ms // 3_600_000).items()
        ],
        "top_reasons": sorted(reasons, key=lambda row: (-row[1], row[0])),
        "decline_rate_by_merchant": sorted(merchants, key=lambda row: (-row[2], -row[3], row[0])),
        "score_histogram": [
            (b, min(d.score for d in g), max(d.score for d in g), len(g))
            for b, g in grouped(lambda d: min(int(d.score * 20), 19)).items()
        ],
        "count_and_amount": [
            (currency, len(g), sum(d.amount_minor for d in g), sum(d.amount_minor for d in g) / len(g))
            for currency, g in grouped(lambda d: d.currency).items()
        ],
    }


def test_a_wrong_query_is_the_users_error_and_names_the_reason(stack: LakeStack) -> None:
    with pytest.raises(UsageError, match="no_such_column"):
        ask(stack, "select no_such_column from decisions")
    with pytest.raises(UsageError, match="decisions_by_outcome"):
        named_query("decisions_by_colour")


def test_long_answers_are_paged_and_typed(stack: LakeStack) -> None:
    answer = ask(
        stack,
        "select n, cast(n as double) / 2 as half, n % 2 = 0 as even, cast(null as varchar) as nothing "
        "from unnest(sequence(1, 2500)) as numbers(n) order by n",
    )
    assert answer.columns == ("n", "half", "even", "nothing")
    assert answer.rows == [(n, n / 2, n % 2 == 0, None) for n in range(1, 2501)]


def test_the_raw_archive_can_be_queried_though_garbage_was_published(stack: LakeStack, tmp_path: Path) -> None:
    good = [json.dumps({"transaction_id": f"t-{n}", "amount_minor": n}).encode() for n in range(20)]
    odd = [b'{"transaction_id":5,"amount_minor":"12"}', b'{"x":' + b"[" * 500 + b"]" * 500 + b"}", b"\x00\n\x00"]
    with firehose_worker(stack.aws, tmp_path):
        put(stack.aws, stack.transactions, good + odd)
        request_flush(tmp_path, 60)
    answer = ask(stack, "select count(*) as lines, count(distinct transaction_id) as ids from raw_transactions")
    assert answer.rows == [(21, 21)]  # twenty good ones and the first odd one; the others are kept as errors
