"""`up --target localstack` on a LocalStack that somebody else started, without our CloudFormation and SageMaker."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from console.deployment.build import SAM
from local.activation import activate_model
from local.localstack.host import STOOD_IN_FOR, dummies, missing
from local.processes import processes_of_run
from local.starter_model import starter_artifact
from model.artifact import ARTIFACT_NAME, pack_artifact, read_artifact
from stream_features.names import STACK
from tests.e2e.driver import COMMAND, ROOT, Installation, settled, stored_decisions
from tests.e2e.judge import score_mismatches
from tests.e2e.test_first_path import released_artifact
from tests.integration.hosted_localstack import HostedLocalStack, hosted_localstack
from tests.integration.test_up_down import with_thresholds

if lacks := missing() or (None if SAM.exists() else "no .venv-sam: make setup"):
    pytest.skip(lacks, allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]

COUNT = 80


@pytest.fixture(scope="module")
def somebodys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedLocalStack]:
    with hosted_localstack(tmp_path_factory.mktemp("somebody"), settings={"PLAIN_LOCALSTACK": "1"}) as localstack:
        yield localstack


@pytest.fixture(scope="module")
def attached(somebodys: HostedLocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    state_dir = tmp_path_factory.mktemp("attached") / "state"
    installed = Installation(state_dir, {"AWS_ENDPOINT_URL": somebodys.url}, "attached")
    try:
        installed.run("up", "--target", "localstack", timeout_s=450)
        run = installed.pipeline().run
        yield installed
    finally:
        installed.run("down")
    # Here, not in a test of its own: tests come in any order.
    assert processes_of_run(run.run_id, run.supervisor_pid) == []
    assert stacks(somebodys) == {}
    assert somebodys.client("s3").list_buckets()["Buckets"] == []
    assert somebodys.client("lambda").list_functions()["Functions"] == []
    tables = somebodys.client("dynamodb").list_tables()["TableNames"]
    assert not set(run.outputs.values()) & set(tables), tables  # Firehose's client library leaves its leases


def stacks(localstack: HostedLocalStack) -> dict[str, str]:
    """Name to status of the stacks that are there; LocalStack lists deleted ones as well."""
    found = localstack.client("cloudformation").describe_stacks()["Stacks"]
    return {one["StackName"]: one["StackStatus"] for one in found if one["StackStatus"] != "DELETE_COMPLETE"}


def test_it_starts_what_is_lacking_and_deploys_to_what_is_there(
    somebodys: HostedLocalStack, attached: Installation
) -> None:
    run = attached.pipeline().run
    assert (run.endpoint_url, run.place, set(run.parts)) == (somebodys.url, "attached", {"sagemaker"})
    cloudformation = somebodys.client("cloudformation")
    assert stacks(somebodys) == {STACK: "CREATE_COMPLETE"}
    assert {kind for _, kind in dummies(cloudformation, STACK)} <= STOOD_IN_FOR
    ours = processes_of_run(run.run_id, run.supervisor_pid)
    assert not [pid for pid in ours if "localstack.runtime" in " ".join(psutil.Process(pid).cmdline())]


def test_transactions_are_decided_there_by_the_model_here(attached: Installation, tmp_path: Path) -> None:
    attached.run("publish", "--simulate", COUNT, "--seed", 19, "--wait")
    pipeline = attached.pipeline()
    decisions = stored_decisions(pipeline)
    assert len(decisions) == COUNT
    assert not [one.transaction_id for one in decisions.values() if one.degraded]
    assert score_mismatches(list(decisions.values()), released_artifact(attached, tmp_path), tmp_path) == []

    starter = read_artifact(starter_artifact("core", print))
    other = tmp_path / ARTIFACT_NAME
    other.write_bytes(pack_artifact(with_thresholds(starter, review_from=0.25, decline_from=0.75)))
    version = activate_model(pipeline.run, other, print)
    assert version != starter.manifest.model_version
    published = attached.status()["published"]
    attached.run("publish", "--simulate", 20, "--seed", 20)
    settled(attached, published + 20)
    versions = {one.model_version for key, one in stored_decisions(pipeline).items() if key not in decisions}
    assert versions == {version}


def test_nobody_else_deploys_over_it(somebodys: HostedLocalStack, attached: Installation, tmp_path: Path) -> None:
    assert attached.run("up", "--target", "localstack").startswith("ready: localstack AWS")
    environment = {**os.environ, "FRAUDSTREAM_STATE": str(tmp_path / "another")}
    another = subprocess.run(
        [*COMMAND, "up", "--target", "localstack", "--endpoint-url", somebodys.url],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert another.returncode == 1
    assert f"has a stack {STACK} already" in another.stderr
    assert attached.pipeline().run.place == "attached"  # the first one goes on
    assert stacks(somebodys) == {STACK: "CREATE_COMPLETE"}


def test_down_takes_away_what_was_deployed_and_leaves_the_localstack(
    somebodys: HostedLocalStack, tmp_path: Path
) -> None:
    """Without a pipeline: `down` of a run whose processes are gone already."""
    from local.attached import Deployment, note_deployment, remove_deployment

    stack, bucket = "left-behind", "left-behind-code"
    deployment = Deployment(endpoint_url=somebodys.url, region="us-east-1", stack=stack, bucket=bucket)
    note_deployment(tmp_path, deployment)
    cloudformation, s3 = somebodys.client("cloudformation"), somebodys.client("s3")
    s3.create_bucket(Bucket=bucket)
    template = '{"Resources": {"Lake": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "left-behind-lake"}}}}'
    cloudformation.create_stack(StackName=stack, TemplateBody=template)
    cloudformation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    for name in (bucket, "left-behind-lake"):
        s3.put_object(Bucket=name, Key="a", Body=b"a")
    note_deployment(tmp_path, deployment)  # the same run again is no stranger
    remove_deployment(tmp_path)
    assert stack not in stacks(somebodys)
    assert not {bucket, "left-behind-lake"} & {one["Name"] for one in s3.list_buckets()["Buckets"]}
    assert not any(tmp_path.iterdir())
