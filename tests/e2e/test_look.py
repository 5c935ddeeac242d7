"""Looking into a running pipeline as an analyst does: explain, label, watch, doctor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from console.options import iso_utc
from producers.file_writer import write_transactions
from producers.files import read_transactions
from stream_features.decision import Decision, encode_decision
from stream_features.transaction import Transaction, encode_transaction
from tests.e2e.driver import COMMAND, ROOT, Installation, publish_all, settled, stored_decisions, stored_labels

pytestmark = pytest.mark.e2e

COUNT = 420
SERVED = 60  # the last ones, in 20 minutes; those before are loaded by bootstrap
GAP_MS = 20_000
DAY_MS = 86_400_000


@dataclass
class Scene:
    """What was published, and under which id each kind of record is to be found."""

    installation: Installation
    decisions: dict[str, Decision]
    ids: dict[str, str]


@pytest.fixture(scope="module")
def scene(own_installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    # its scene counts everything there is, so it has a pipeline to itself
    file = tmp_path_factory.mktemp("look") / "transactions.parquet"
    own_installation.run("simulate", COUNT, "--seed", 9, "--days", 4, "--until", "2026-01-05", "--out", file)
    rows = list(read_transactions(file))
    from_ms = rows[-SERVED].transaction.event_time_ms
    for number in range(COUNT - SERVED, COUNT):
        time_ms = from_ms + (number - COUNT + SERVED) * GAP_MS
        one = msgspec.structs.replace(rows[number].transaction, event_time_ms=time_ms)
        rows[number] = rows[number]._replace(transaction=one)
    write_transactions(file, rows)
    own_installation.run("bootstrap", file, "--until", iso_utc(from_ms))
    own_installation.run("publish", file, "--from", iso_utc(from_ms), "--lockstep", "--wait")
    served = [row.transaction for row in rows[-SERVED:]]
    known = next(one for one in served if one.type == "purchase")

    def like(name: str, **changes: Any) -> Transaction:
        return msgspec.structs.replace(known, transaction_id=name, **changes)

    published = own_installation.status()["published"]
    newest_ms = served[-1].event_time_ms
    publish_all(
        own_installation,
        [
            like("newest", event_time_ms=newest_ms + 600_000),
            like("late", event_time_ms=newest_ms - 1_000),
            like("stateless", event_time_ms=newest_ms - 40 * DAY_MS),
            # elsewhere: the purchases before it are only milliseconds old, and may not have reached their merchant
            like("refund", type="refund", event_time_ms=newest_ms + 700_000, merchant_id="elsewhere"),
            known,
            like(known.transaction_id, amount_minor=known.amount_minor + 1),
        ],
    )
    pipeline = own_installation.pipeline()
    pipeline.client("kinesis").put_record(
        StreamName=pipeline.output("TransactionsStreamName"),
        PartitionKey="c",
        Data=encode_transaction(like("garbage", currency="usd")),
    )
    settled(own_installation, published + 7)
    kinds = {name: name for name in ("newest", "late", "stateless", "refund", "garbage")}
    ids = kinds | {"repeated": known.transaction_id, "served": served[-1].transaction_id}
    return Scene(own_installation, stored_decisions(pipeline), ids)


def explained(scene: Scene, kind: str, expect: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        scene.installation.run("explain", scene.ids.get(kind, kind), "--json", expect=expect)
    )
    return answer


@pytest.mark.parametrize("kind", ["served", "newest", "late", "stateless", "refund", "repeated"])
def test_a_decision_of_any_kind_is_found_equal_when_computed_again(scene: Scene, kind: str) -> None:
    said = explained(scene, kind)
    decision = scene.decisions[scene.ids[kind]]
    explanation = said["explanation"]
    assert (said["state"], said["score"], said["features"]) == ("decided", decision.score, decision.features)
    assert [check["holds"] for check in explanation["checks"]] == [True] * 5, explanation["checks"]
    assert {one["name"]: one["recomputed"] for one in explanation["features"]} == decision.features
    total = explanation["base_value"] + sum(one["contribution"] for one in explanation["features"])
    assert total == pytest.approx(explanation["margin"], abs=1e-4)
    words = " ".join(explanation["notes"])
    assert ("late:" in words) is decision.late
    assert ("stateless:" in words) is (kind == "stateless")
    assert ("a refund:" in words) is (kind == "refund")
    assert (explanation["published"], explanation["conflicting"]) == ((2, 1) if kind == "repeated" else (1, 0))


def test_features_name_the_past_they_came_from_loaded_and_streamed(scene: Scene) -> None:
    explanation = explained(scene, "newest")["explanation"]
    counts = {one["name"]: one for one in explanation["features"]}
    assert counts["card_count_30d"]["purchases"] + 1 == counts["card_count_30d"]["value"]
    history = {one["transaction_id"]: one for one in explanation["history"]}
    assert set(counts["card_count_1h"]["from"]) <= set(history)
    assert scene.ids["repeated"] in history
    assert history[scene.ids["repeated"]]["decision"] is not None
    text = scene.installation.run("explain", "newest", "--history", 50)
    assert scene.ids["repeated"] in text
    assert "DIFF" not in text


def test_what_has_no_decision_is_told_apart(scene: Scene) -> None:
    said = explained(scene, "garbage")
    assert said["state"] == "quarantined"
    assert said["quarantined"][0]["field"] == "currency"
    shown = scene.installation.run("quarantine", "show", said["quarantined"][0]["position"], "--json")
    assert json.loads(shown)["rule"] == said["quarantined"][0]["rule"]
    assert explained(scene, "never-published", expect=1)["state"] == "unknown"


def test_a_bit_changed_in_the_table_is_found_and_named(scene: Scene) -> None:
    pipeline = scene.installation.pipeline()
    decision = scene.decisions[scene.ids["served"]]
    features = {**decision.features, "card_sum_30d": (decision.features["card_sum_30d"] or 0.0) + 1.0}
    dynamodb, table = pipeline.client("dynamodb"), pipeline.output("DecisionsTableName")
    item = dynamodb.get_item(TableName=table, Key={"transaction_id": {"S": decision.transaction_id}})["Item"]
    spoilt = encode_decision(msgspec.structs.replace(decision, features=features)).decode()
    try:
        dynamodb.put_item(TableName=table, Item=item | {"document": {"S": spoilt}})
        said = explained(scene, "served", expect=1)
    finally:
        dynamodb.put_item(TableName=table, Item=item)
    (check,) = [check for check in said["explanation"]["checks"] if check["name"].startswith("features")]
    assert check["holds"] is False
    assert "1 of 34 differ: card_sum_30d" in check["detail"]


def test_an_analyst_s_label_is_recorded_with_its_merchant(scene: Scene) -> None:
    run = scene.installation.run
    assert json.loads(run("label", "newest", "--fraud", "--json"))["holds"] is True
    label = stored_labels(scene.installation.pipeline())["newest"]
    decision = scene.decisions["newest"]
    assert (label.is_fraud, label.source, label.waiting) == (True, "analyst", False)
    assert (label.merchant_id, label.event_time_ms) == (decision.merchant_id, decision.event_time_ms)
    earlier = run("label", "newest", "--legitimate", "--source", "customer", "--reported-at", "2026-01-06")
    assert "fraud by analyst, reported later" in earlier
    run("label", "never-published", "--fraud", expect=1)


def test_watch_prints_lines_and_ends_on_ctrl_c_as_done(scene: Scene) -> None:
    environment = {**os.environ, "FRAUDSTREAM_STATE": str(scene.installation.state_dir), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*COMMAND, "watch", "--interval", "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as watching:
        assert watching.stdout is not None
        first = watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=60)
    assert first.startswith("published 67  decided 64  in_flight 0  quarantined 2  duplicates 1  late 2  degraded 0")
    assert "lag score-transactions " in first
    assert (watching.returncode, errors) == (0, "")


def test_the_doctor_finds_every_part_alive(scene: Scene) -> None:
    said = json.loads(scene.installation.run("doctor", "--json"))
    of_pipeline = {one["what"]: one for one in said["findings"] if one["area"] == "pipeline"}
    for part in ("aws", "sagemaker", "mappings", "firehose"):
        assert of_pipeline[f"{part} runs"]["ok"], said
    assert said["well"] is True
    assert of_pipeline["2 records in quarantine"]["standing"] == "note"
    assert any("was trained on core-" in what for what in of_pipeline)
