"""What is special about the pipeline on LocalStack (docs/localstack.md); the other modules run there too.

Clients are those of LocalStack's own client library: what they show does not depend on how ours are made.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from console.deployment.stacks import deploy_stack
from local.activation import activate_model
from local.localstack.host import STOOD_IN_FOR, dummies
from local.processes import processes_of_run
from local.run import RunState
from local.starter_model import starter_artifact
from local.up import down
from model.artifact import ARTIFACT_NAME, pack_artifact, read_artifact
from stream_features.errors import UsageError
from stream_features.names import ENDPOINT_STACK, STACK
from tests.e2e.driver import Installation
from tests.integration.hosted_localstack import localstack_client
from tests.integration.test_up_down import with_thresholds

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(480),
    pytest.mark.parametrize("target", ["localstack"], indirect=True, scope="session"),
]

# Known by name: a typo in a type would give another one.
DUMMIES = {
    ("GlueDatabase", "AWS::Glue::Database"),
    ("RawTransactionsTable", "AWS::Glue::Table"),
    ("DecisionsLakeTable", "AWS::Glue::Table"),
    ("AthenaWorkgroup", "AWS::Athena::WorkGroup"),
    ("DecisionsPerHourQuery", "AWS::Athena::NamedQuery"),
    ("Dashboard", "AWS::CloudWatch::Dashboard"),
}
# Their condition is false on AWS; LocalStack compares the number 1 with the text "1".
ENDPOINT_DUMMIES = {
    ("ScalableTarget", "AWS::ApplicationAutoScaling::ScalableTarget"),
    ("ScalingPolicy", "AWS::ApplicationAutoScaling::ScalingPolicy"),
}


@pytest.fixture
def run(hosted: Installation) -> RunState:
    return hosted.pipeline().run


def client(run: RunState, service: str) -> Any:
    return localstack_client(run.endpoint_url, service)


def test_localstack_delivers_and_archives_itself(run: RunState) -> None:
    assert set(run.parts) == {"aws", "sagemaker"}  # no mapping and no Firehose of ours


def test_the_templates_deploy_and_only_known_resources_are_dummies(run: RunState) -> None:
    cloudformation = client(run, "cloudformation")
    assert set(dummies(cloudformation, STACK)) == DUMMIES
    assert set(dummies(cloudformation, ENDPOINT_STACK)) == ENDPOINT_DUMMIES
    assert {kind for _, kind in DUMMIES | ENDPOINT_DUMMIES} == STOOD_IN_FOR


def test_a_misspelt_type_is_seen(run: RunState) -> None:
    template = {"Resources": {"Stream": {"Type": "AWS::Kinesis::Steam", "Properties": {"ShardCount": 1}}}}
    deploy_stack(client(run, "cloudformation"), "misspelt", json.dumps(template), {})
    assert list(dummies(client(run, "cloudformation"), "misspelt")) == [("Stream", "AWS::Kinesis::Steam")]


def test_what_the_template_asks_of_tables_is_set(run: RunState) -> None:
    dynamodb = client(run, "dynamodb")
    for output in ("DecisionsTableName", "EntityStateTableName", "LabelsTableName", "EffectsTableName"):
        found = dynamodb.describe_time_to_live(TableName=run.outputs[output])["TimeToLiveDescription"]
        assert (found["TimeToLiveStatus"], found["AttributeName"]) == ("ENABLED", "expires_at")


def test_a_second_model_takes_over_through_the_endpoints_template(run: RunState, tmp_path: Path) -> None:
    before = client(run, "sagemaker").list_models()["Models"]
    starter = read_artifact(starter_artifact("core", print))
    other = tmp_path / ARTIFACT_NAME
    other.write_bytes(pack_artifact(with_thresholds(starter, review_from=0.25, decline_from=0.75)))
    version = activate_model(run, other, print)
    assert version != starter.manifest.model_version
    after = client(run, "sagemaker").list_models()["Models"]
    assert len(before) == len(after) == 1
    assert before != after
    assert set(dummies(client(run, "cloudformation"), ENDPOINT_STACK)) == ENDPOINT_DUMMIES


PROBE = """
import importlib.util, os, sys, time

def handler(event, context):
    if event["do"] == "find":
        return {name: importlib.util.find_spec(name) is not None for name in event["names"]}
    if event["do"] == "raise":
        raise ValueError("on purpose")
    if event["do"] == "sleep":
        time.sleep(30)
    os._exit(3)
"""


def test_a_function_sees_its_package_only_and_its_failures_are_those_of_lambda(run: RunState) -> None:
    functions = client(run, "lambda")
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("probe.py", PROBE)
        archive.writestr("brought_along.py", "")
    functions.create_function(
        FunctionName="probe",
        Runtime="python3.11",
        Role="arn:aws:iam::000000000000:role/probe",
        Handler="probe.handler",
        Timeout=2,
        Code={"ZipFile": package.getvalue()},
    )
    functions.get_waiter("function_active_v2").wait(FunctionName="probe", WaiterConfig={"Delay": 1})

    def call(**event: Any) -> tuple[str | None, Any]:
        answer = functions.invoke(FunctionName="probe", Payload=json.dumps(event))
        return answer.get("FunctionError"), json.loads(answer["Payload"].read())

    foreign = ["localstack", "boto3", "numpy", "stream_features", "requests"]
    assert call(do="find", names=[*foreign, "brought_along"]) == (
        None,
        {**dict.fromkeys(foreign, False), "brought_along": True},
    )
    error, payload = call(do="raise")
    assert (error, payload["errorType"], payload["errorMessage"]) == ("Unhandled", "ValueError", "on purpose")
    error, payload = call(do="sleep")
    assert (error, payload["errorType"]) == ("Unhandled", "Sandbox.Timedout")
    error, payload = call(do="exit")
    assert (error, payload["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert call(do="find", names=["json"]) == (None, {"json": True})  # a new environment took over


def test_only_dynamodb_local_listens_beyond_loopback(run: RunState) -> None:
    open_to_all = set()
    for pid in processes_of_run(run.run_id, run.supervisor_pid):
        process = psutil.Process(pid)
        listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        if set(listening) - {"127.0.0.1"}:
            open_to_all.add("DynamoDBLocal.jar" in " ".join(process.cmdline()))
    assert open_to_all <= {True}


def test_it_keeps_nothing_and_says_so(run: RunState) -> None:
    with pytest.raises(UsageError, match="memory"):
        down(keep=True, state_dir=run.state_dir)
