"""The doctor: what it finds missing, what it says to type, and when that is a failure."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from botocore.exceptions import EndpointConnectionError
from click.testing import CliRunner

from console import doctor, pipeline_doctor
from console.cli import main
from console.doctor import examine, lock_differences
from console.findings import Finding, finding_lines, findings_document, is_well
from console.pipeline_doctor import part_findings, pipeline_findings, progress_findings
from local.run import CHECKOUT, RunRecord, record_path
from model.artifact import pack_artifact
from stream_features.feature_sets import feature_set
from tests.unit.console.fake_pipeline import FakePipeline
from tests.unit.console.test_status import a_status
from tests.unit.endpoint.models import an_artifact


def a_record(**replaced: Any) -> RunRecord:
    facts: dict[str, Any] = {
        "run_id": "r",
        "status": "ready",
        "target": "embedded",
        "engine": "lambda",
        "feature_set": "core",
        "endpoint_url": "http://127.0.0.1:1",
        "sagemaker_url": "http://127.0.0.1:2",
        "region": "us-east-1",
        "ports": {},
        "started_at_ms": 0,
    }
    return RunRecord(**(facts | replaced))


def by_what(findings: list[Finding], words: str) -> Finding:
    (found,) = [finding for finding in findings if words in finding.what]
    return found


def test_only_what_is_needed_makes_it_fail() -> None:
    note = Finding("Node.js", False, "apt install nodejs", optional=True)
    missing = Finding("make", False, "apt install make")
    fine = Finding("Python", True, "never shown")
    assert is_well([note, fine])
    assert not is_well([note, missing, fine])
    assert list(finding_lines([fine, note, missing, Finding("aws runs", True, area="pipeline")])) == [
        "machine",
        "  ok   Python",
        "  note Node.js",
        "         apt install nodejs",
        "  MISS make",
        "         apt install make",
        "pipeline",
        "  ok   aws runs",
    ]
    document = findings_document([note, missing])
    assert document["well"] is False
    assert [one["standing"] for one in document["findings"]] == ["note", "MISS"]


def test_this_checkout_is_well_and_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(tmp_path))
    findings = examine()
    assert {finding.area for finding in findings} == {"machine", "virtual environments", "optional engines", "pipeline"}
    assert all(finding.remedy for finding in findings if not finding.ok)
    result = CliRunner().invoke(main, ["doctor", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == (0 if document["well"] else 1)
    assert document["well"] is is_well(findings)
    text = CliRunner().invoke(main, ["doctor"]).stdout
    for finding in document["findings"]:
        if not finding["ok"]:
            assert finding["remedy"] in text


def test_a_missing_environment_makes_the_command_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(tmp_path))
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "console").mkdir()
    (tmp_path / "requirements").symlink_to(CHECKOUT / "requirements")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "  MISS .venv-embedded for the local AWS\n         make setup" in result.stdout


def test_a_stale_environment_is_told_by_its_packages(tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("boto3-1.43.1", "PyYAML-6.0", "ruamel_yaml-0.19"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    lock = tmp_path / "x.lock"
    lock.write_text("boto3==1.43.1 \\\n    --hash=sha256:00\npyyaml==6.0\nruamel-yaml==0.19\n# a==1\n")
    assert lock_differences(tmp_path / ".venv", lock) == []
    lock.write_text("boto3==1.43.2 \\\n    --hash=sha256:00\nclick==8.0\npyyaml==6.0\n")
    assert lock_differences(tmp_path / ".venv", lock) == ["boto3==1.43.2", "click==8.0"]


def test_a_clock_behind_the_files_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: 0.0))
    finding = by_what(examine(), "the clock is not behind")
    assert (finding.ok, finding.optional) == (False, False)


def test_a_port_that_was_asked_for_has_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_PORT", "eighty")
    assert not by_what(examine(), "FRAUDSTREAM_PORT=eighty").ok
    monkeypatch.setenv("FRAUDSTREAM_PORT", "4566")
    assert by_what(examine(), "FRAUDSTREAM_PORT=4566").ok


@pytest.mark.parametrize(
    ("record", "words", "needed"),
    [
        (None, "a running pipeline", False),
        (a_record(status="stopped"), "a running pipeline", False),
        (a_record(status="failed", error="aws does not start", error_log="aws.log"), "aws does not start", True),
        (a_record(), "was killed", True),
    ],
)
def test_a_pipeline_that_does_not_run_is_said_to_be_so(
    record: RunRecord | None, words: str, needed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(tmp_path))
    if record is not None:
        record_path(tmp_path).write_bytes(msgspec.json.encode(record))
    (finding,) = pipeline_findings()
    assert words in finding.what
    assert (finding.ok, finding.optional) == (False, not needed)
    assert "fraudstream up" in finding.remedy


def test_parts_that_are_dead_or_were_started_again_are_named(tmp_path: Path) -> None:
    record = a_record(parts={"aws": 11, "mappings": 12}, restarts={"mappings": 3})
    found = list(
        part_findings(record, ["aws", "mappings", "firehose"], tmp_path, lives=lambda pid, run: pid in (11, 12))
    )
    assert [(finding.what, finding.standing) for finding in found] == [
        ("aws runs", "ok"),
        ("mappings runs", "ok"),
        ("mappings was never started again: it was, 3 times", "note"),
        ("firehose runs", "MISS"),
    ]
    assert str(tmp_path / "logs" / "firehose.log") in found[-1].remedy


def test_what_does_not_keep_up_or_waits_for_people_is_named(tmp_path: Path) -> None:
    assert is_well(progress_findings(a_status(published=5, decided=5, lag={"score/shard-0": 20}), tmp_path))
    status = a_status(
        quarantined=2,
        lag={"score/shard-0": 61_000, "score/shard-1": 5},
        labels={"labels_waiting": 3, "labels_quarantined": 0},
        lake={"raw": {"failed_records": 4}},
        flink={"state": "DOWN"},
    )
    found = list(progress_findings(status, tmp_path))
    assert by_what(found, "score is 61000 ms behind").standing == "MISS"
    assert by_what(found, "Flink job is DOWN").standing == "MISS"
    assert by_what(found, "2 records in quarantine").standing == "note"
    assert "docs/quarantine.md" in by_what(found, "2 records in quarantine").remedy
    assert by_what(found, "labels waiting: 3").standing == "note"
    assert by_what(found, "lake raw: 4 records").standing == "note"
    assert not [finding for finding in found if "labels quarantined" in finding.what]


class FakeSageMaker:
    """One endpoint that serves one artefact."""

    def __init__(self, url: str, status: str = "InService") -> None:
        self.url, self.status = url, status

    def describe_endpoint(self, **_: str) -> dict[str, str]:
        return {"EndpointStatus": self.status, "EndpointConfigName": "c"}

    def describe_endpoint_config(self, **_: str) -> dict[str, Any]:
        return {"ProductionVariants": [{"ModelName": "m"}]}

    def describe_model(self, **_: str) -> dict[str, Any]:
        return {"PrimaryContainer": {"ModelDataUrl": self.url}}


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    made: Any = FakePipeline(feature_set("core"), tmp_path)
    made.s3.objects["models/m/model.tar.gz"] = pack_artifact(an_artifact())
    made.sagemaker = FakeSageMaker("s3://b/models/m/model.tar.gz")
    return made


def test_the_served_model_has_to_be_of_the_running_feature_set(pipeline: Any) -> None:
    assert is_well(pipeline_doctor._endpoint(pipeline))
    pipeline.features = feature_set("handbook")
    found = list(pipeline_doctor._endpoint(pipeline))
    assert "handbook" in by_what(found, "was trained on core").what
    assert not is_well(found)
    pipeline.features = feature_set("core")
    pipeline.s3.objects["models/m/model.tar.gz"] = b"no archive"
    assert not is_well(pipeline_doctor._endpoint(pipeline))
    pipeline.sagemaker.status = "Failed"
    assert by_what(list(pipeline_doctor._endpoint(pipeline)), "is Failed").standing == "MISS"


def test_an_invalid_policy_is_named(pipeline: Any) -> None:
    pipeline.ssm.value = '{"policy_version": "p", "review_from": 0.5, "decline_from": 0.9}'
    assert is_well(pipeline_doctor._policy(pipeline))
    pipeline.ssm.value = '{"policy_version": "p", "review_from": 0.9, "decline_from": 0.5}'
    (finding,) = pipeline_doctor._policy(pipeline)
    assert not finding.ok
    assert "fraudstream policy" in finding.remedy


@pytest.mark.parametrize(("discarded", "ahead_s", "well"), [(0, 0, True), (2, 0, False), (0, 90, False)])
def test_discarded_batches_and_a_wrong_clock_are_found(pipeline: Any, discarded: int, ahead_s: int, well: bool) -> None:
    pipeline.sqs = SimpleNamespace(
        get_queue_attributes=lambda **_: {
            "Attributes": {"ApproximateNumberOfMessages": str(discarded)},
            "ResponseMetadata": {"HTTPHeaders": {"date": formatdate(time.time() - ahead_s, usegmt=True)}},
        }
    )
    assert is_well([*pipeline_doctor._clock(pipeline), *pipeline_doctor._queues(pipeline)]) is well


def test_that_aws_does_not_answer_is_a_finding(pipeline: Any) -> None:
    def silent(**_: str) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    pipeline.cloudformation = SimpleNamespace(describe_stacks=silent)
    (finding,) = pipeline_doctor._guarded(pipeline_doctor._stacks, pipeline)
    assert "The stacks are deployed: Could not connect" in finding.what
    assert "fraudstream up" in finding.remedy
