"""From a publisher to a decision: the deployed pipeline, real parts only."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from console.options import iso_utc
from producers.file_writer import write_transactions
from producers.files import read_transactions
from producers.labels import labels_of
from stream_features.decision import Decision
from stream_features.label import Label
from stream_features.transaction import Transaction, encode_transaction
from tests.e2e.driver import Installation, stored_decisions
from tests.e2e.judge import (
    assert_sets_hold,
    decision_differences,
    feature_mismatches,
    features_of_the_card,
    score_mismatches,
)

pytestmark = pytest.mark.e2e

COUNT = 3_000
DENSE = 400  # the last ones, brought together into 40 minutes, so that lockstep takes few steps
DENSE_GAP_MS = 6_000


@dataclass
class Scene:
    """A file published whole, its last part in lockstep, and what became of it."""

    installation: Installation
    file: Path
    valid: list[Transaction]
    labels: list[Label]
    decisions: dict[str, Decision]
    folder: Path


@pytest.fixture(scope="module")
def scene(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    file = folder / "transactions.parquet"
    installation.run("simulate", COUNT, "--seed", 5, "--days", 20, "--out", file)
    rows = list(read_transactions(file))
    dense_from_ms = rows[-DENSE].transaction.event_time_ms
    for number, row in enumerate(rows[-DENSE:], start=COUNT - DENSE):
        time_ms = dense_from_ms + (number - COUNT + DENSE) * DENSE_GAP_MS
        rows[number] = row._replace(transaction=msgspec.structs.replace(row.transaction, event_time_ms=time_ms))
    write_transactions(file, rows)
    installation.run("publish", file, "--until", iso_utc(dense_from_ms), "--wait")
    installation.run("publish", file, "--from", iso_utc(dense_from_ms), "--lockstep", "--wait")
    valid = [row.transaction for row in rows]
    return Scene(installation, file, valid, list(labels_of(rows)), stored_decisions(installation.pipeline()), folder)


def test_every_valid_transaction_has_one_decision(scene: Scene) -> None:
    assert len(scene.valid) == COUNT
    assert_sets_hold(scene.installation.pipeline(), scene.installation.status(), scene.decisions, scene.valid)


def test_served_features_of_cards_equal_the_slow_oracle_to_the_bit(scene: Scene) -> None:
    of_cards = features_of_the_card("core")
    assert feature_mismatches(scene.valid, scene.decisions, "core", only=of_cards) == []


def test_in_lockstep_those_of_merchants_do_too(scene: Scene) -> None:
    dense = {one.transaction_id: scene.decisions[one.transaction_id] for one in scene.valid[-DENSE:]}
    assert feature_mismatches(scene.valid, dense, "core", scene.labels) == []
    assert sum((decision.features["merchant_count_10m"] or 0) > 0 for decision in dense.values()) > 20
    assert sum((decision.features["merchant_risk_30d"] or 0) > 0 for decision in dense.values()) > 5


def test_one_changed_feature_is_noticed(scene: Scene) -> None:
    victim = scene.valid[COUNT // 2].transaction_id
    features = dict(scene.decisions[victim].features)
    features["amount"] = (features["amount"] or 0.0) + 1e-9
    spoilt = {**scene.decisions, victim: msgspec.structs.replace(scene.decisions[victim], features=features)}
    of_cards = features_of_the_card("core")
    assert feature_mismatches(scene.valid, spoilt, "core", only=of_cards) == [victim]
    assert decision_differences(scene.decisions, spoilt) == [victim]


def test_scores_equal_the_released_model(scene: Scene, tmp_path: Path) -> None:
    artifact = released_artifact(scene.installation, tmp_path)
    ordered = list(scene.decisions.values())
    assert score_mismatches(ordered, artifact, tmp_path) == []
    spoilt = [msgspec.structs.replace(ordered[0], score=ordered[0].score + 1e-3), *ordered[1:]]
    assert score_mismatches(spoilt, artifact, tmp_path) == [ordered[0].transaction_id]


def test_decisions_name_the_released_model_and_policy(scene: Scene, tmp_path: Path) -> None:
    pipeline = scene.installation.pipeline()
    policy = json.loads(scene.installation.run("policy", "show", "--json"))
    assert {d.policy_version for d in scene.decisions.values()} == {policy["policy_version"]}
    assert {d.feature_set_id for d in scene.decisions.values()} == {pipeline.features.feature_set_id}
    for decision in scene.decisions.values():
        outcome = "approve"
        if decision.score >= policy["decline_from"]:
            outcome = "decline"
        elif decision.score >= policy["review_from"]:
            outcome = "review"
        assert decision.decision == outcome
        assert bool(decision.reasons) == (outcome != "approve")


def test_the_lake_says_what_the_table_says(scene: Scene) -> None:
    from console.demo import lake_answer, outcomes_in_table

    scene.installation.needs("lake queries", "firehose format")
    pipeline = scene.installation.pipeline()
    answer = lake_answer(pipeline)  # raises when they differ
    assert sum(count for _, count, _ in answer) == COUNT
    assert answer == outcomes_in_table(pipeline)


def test_the_raw_archive_holds_every_record_as_published(scene: Scene) -> None:
    from console.demo import lake_answer

    scene.installation.needs("lake queries", "firehose format")
    pipeline = scene.installation.pipeline()
    lake_answer(pipeline)  # flushes
    s3, bucket = pipeline.client("s3"), pipeline.output("LakeBucketName")
    lines: list[bytes] = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="raw/"):
        for entry in page.get("Contents", []):
            assert "/dt=" in "/" + entry["Key"]
            assert "/hour=" in entry["Key"]
            lines += gzip.decompress(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()).splitlines()
    assert sorted(lines) == sorted(encode_transaction(t) for t in scene.valid)


def test_export_has_one_row_per_transaction_and_a_double_per_feature(scene: Scene) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = scene.folder / "decisions.parquet"
    scene.installation.run("export", "decisions", "--out", out)
    exported = pq.read_table(out)
    table = exported.filter(pa.array(one in scene.decisions for one in exported["transaction_id"].to_pylist()))
    assert table.num_rows == COUNT
    columns = [name for name in table.column_names if name.startswith("f_")]
    assert columns == [f"f_{name}" for name in scene.installation.pipeline().features.names]
    assert {str(table.schema.field(name).type) for name in columns} == {"double"}
    row = {name: table.column(name)[0].as_py() for name in table.column_names}
    decision = scene.decisions[row["transaction_id"]]
    assert {name: row[f"f_{name}"] for name in decision.features} == decision.features
    pq.write_table(table, out)  # a shared pipeline has decided others as well
    answer = json.loads(scene.installation.run("evaluate", out, "--truth", scene.file, "--json"))
    assert answer["decisions"] == COUNT


def test_explain_shows_the_stored_decision(scene: Scene) -> None:
    wanted = scene.valid[-1].transaction_id
    archive = [] if scene.installation.has("firehose format") else ["--no-archive"]
    shown = json.loads(scene.installation.run("explain", wanted, "--json", *archive))
    assert shown["transaction_id"] == wanted
    assert shown["score"] == scene.decisions[wanted].score
    scene.installation.run("explain", "no-such-id", expect=1)


def released_artifact(installation: Installation, folder: Path) -> Path:
    """The artefact that the endpoint serves, fetched from where its model says it lies."""
    pipeline = installation.pipeline()
    sagemaker = pipeline.client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=pipeline.output("EndpointName"))
    config = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    model = sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    bucket, _, key = model["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").partition("/")
    path = folder / "model.tar.gz"
    pipeline.client("s3").download_file(bucket, key, str(path))
    return path
