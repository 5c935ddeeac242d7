"""Publishing and activation, against small stand-ins of the four services."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from model.artifact import write_artifact
from model.registry import ActivationFailed, activate, artifact_key, publish
from stream_features.errors import ContractMismatch
from tests.unit.endpoint.models import an_artifact

TEMPLATE = "Resources: {}"
MANIFEST = an_artifact().manifest
URL = f"s3://bucket/models/{MANIFEST.model_version}/model.tar.gz"


class Aws:
    """One account: an endpoint stack that moves one step per look, and the endpoint behind it."""

    def __init__(self, stack_status: str | None = None, *, served: str = "s3://bucket/former") -> None:
        self.stack_status = stack_status
        self.parameters: dict[str, str] = {"ModelDataUrl": served, "InstanceType": "ml.c6i.large"}
        self.calls: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.policy: dict[str, Any] | None = None
        self.served = served
        self.endpoint_steps = ["InService"]
        self.update_ends_as = "UPDATE_COMPLETE"
        self.switches = True
        self.reason = ""
        self.now_s = 0.0

    # s3, ssm

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        self.calls.append("put_object")
        self.objects[Key] = Body

    def get_parameter(self, *, Name: str) -> dict[str, Any]:
        if self.policy is None:
            raise ClientError({"Error": {"Code": "ParameterNotFound", "Message": Name}}, "GetParameter")
        return {"Parameter": {"Value": json.dumps(self.policy[Name])}}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": Key}}, "GetObject")
        return {"Body": io.BytesIO(self.objects[Key])}

    def put_parameter(self, *, Name: str, Value: str, Type: str, Overwrite: bool) -> None:
        self.calls.append("put_parameter")
        self.policy = {Name: json.loads(Value)}

    # cloudformation

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:
        if self.stack_status is None:
            raise ClientError(
                {"Error": {"Code": "ValidationError", "Message": f"Stack {StackName} does not exist"}}, "D"
            )
        stack = {
            "StackStatus": self.stack_status,
            "Parameters": [{"ParameterKey": name} for name in self.parameters],
            "Outputs": [{"OutputKey": "EndpointName", "OutputValue": "fraud"}],
        }
        following = {
            "CREATE_IN_PROGRESS": "CREATE_COMPLETE",
            "UPDATE_IN_PROGRESS": self.update_ends_as,
            "DELETE_IN_PROGRESS": None,
        }
        self.stack_status = following.get(self.stack_status, self.stack_status)
        return {"Stacks": [stack]}

    def describe_stack_events(self, *, StackName: str) -> dict[str, Any]:
        failed = {"LogicalResourceId": "Endpoint", "ResourceStatus": "UPDATE_FAILED", "ResourceStatusReason": "no room"}
        return {"StackEvents": [failed]}

    def create_stack(self, *, StackName: str, TemplateBody: str, Parameters: Any, Capabilities: Any) -> None:
        self.calls.append("create_stack")
        self.stack_status = "CREATE_IN_PROGRESS"
        self._take(Parameters)

    def update_stack(self, *, StackName: str, TemplateBody: str, Parameters: Any, Capabilities: Any) -> None:
        self.calls.append("update_stack")
        given = {entry["ParameterKey"]: entry.get("ParameterValue") for entry in Parameters}
        assert set(self.parameters) <= set(given), "an update must name every parameter"
        if given["ModelDataUrl"] == self.parameters["ModelDataUrl"]:
            message = "No updates are to be performed."
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "UpdateStack")
        self.stack_status = "UPDATE_IN_PROGRESS"
        self._take(Parameters)

    def delete_stack(self, *, StackName: str) -> None:
        self.calls.append("delete_stack")
        self.stack_status = "DELETE_IN_PROGRESS"

    def _take(self, parameters: list[dict[str, Any]]) -> None:
        for entry in parameters:
            if not entry.get("UsePreviousValue"):
                self.parameters[entry["ParameterKey"]] = entry["ParameterValue"]
        if self.switches:
            self.served = self.parameters["ModelDataUrl"]

    # sagemaker

    def describe_endpoint(self, *, EndpointName: str) -> dict[str, Any]:
        status = self.endpoint_steps[0] if len(self.endpoint_steps) == 1 else self.endpoint_steps.pop(0)
        self.calls.append(f"endpoint {status}")
        return {"EndpointStatus": status, "EndpointConfigName": "config", "FailureReason": self.reason}

    def describe_endpoint_config(self, *, EndpointConfigName: str) -> dict[str, Any]:
        return {"ProductionVariants": [{"ModelName": "model"}]}

    def describe_model(self, *, ModelName: str) -> dict[str, Any]:
        return {"PrimaryContainer": {"ModelDataUrl": self.served}}


def activated(aws: Aws, tmp_path: Path, **changed: Any) -> Any:
    def sleep(seconds: float) -> None:
        aws.now_s += seconds

    settings: dict[str, Any] = {
        "artifact_path": write_artifact(an_artifact(), tmp_path),
        "bucket": "bucket",
        "stack_name": "endpoint",
        "template_body": TEMPLATE,
        "policy_parameter": "/policy",
        "sleep": sleep,
        "clock": lambda: aws.now_s,
        **changed,
    }
    return activate(aws, aws, aws, aws, **settings)


def test_an_artifact_is_published_under_its_version(tmp_path):
    aws = Aws()
    path = write_artifact(an_artifact(), tmp_path)
    assert publish(aws, path, "bucket") == (MANIFEST, URL)
    assert aws.objects == {artifact_key(MANIFEST.model_version): path.read_bytes()}


def test_a_damaged_artifact_is_never_published(tmp_path):
    aws = Aws()
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(b"nonsense")
    with pytest.raises(ContractMismatch):
        activated(aws, tmp_path, artifact_path=damaged)
    assert aws.calls == []


def test_the_first_activation_creates_the_stack_and_writes_the_policy_last(tmp_path):
    aws = Aws()
    aws.endpoint_steps = ["Creating", "Creating", "InService"]
    done = activated(aws, tmp_path, stack_parameters={"EndpointName": "fraud"})
    assert aws.parameters["ModelDataUrl"] == URL
    assert aws.parameters["EndpointName"] == "fraud"
    assert (done.model_version, done.model_data_url, done.endpoint_name) == (MANIFEST.model_version, URL, "fraud")
    assert aws.policy == {
        "/policy": {"policy_version": MANIFEST.model_version, "review_from": 0.5, "decline_from": 0.9}
    }
    assert aws.calls[0] == "put_object"
    assert aws.calls[1] == "create_stack"
    assert aws.calls[-2:] == ["endpoint InService", "put_parameter"]


def test_the_rules_in_force_stay_beside_the_thresholds_of_a_new_model(tmp_path):
    aws = Aws("CREATE_COMPLETE")
    rules = [{"id": "r", "expression": "score > 0.5", "action": "review"}]
    former = {"policy_version": "p7+old", "review_from": 0.1, "decline_from": 0.2, "rules": rules}
    aws.objects["policies/p7+old.json"] = json.dumps(former).encode()
    aws.policy = {"/policy": {"bucket": "bucket", "key": "policies/p7+old.json", "sha256": "abc"}}
    activated(aws, tmp_path)
    version = f"p7+{MANIFEST.model_version}"
    pointer = aws.policy["/policy"]
    document = aws.objects[pointer["key"]]
    assert json.loads(document) == {"policy_version": version, "review_from": 0.5, "decline_from": 0.9, "rules": rules}
    assert pointer == {
        "bucket": "bucket",
        "key": f"policies/{version}.json",
        "sha256": hashlib.sha256(document).hexdigest(),
        "previous_key": "policies/p7+old.json",
        "previous_sha256": "abc",
    }


def test_rules_that_cannot_be_carried_over_are_not_dropped_in_silence(tmp_path):
    aws = Aws("CREATE_COMPLETE")
    pointer = {"bucket": "bucket", "key": "policies/gone.json", "sha256": "abc"}
    aws.policy = {"/policy": pointer}
    with pytest.raises(ActivationFailed, match=r"policies/gone\.json"):
        activated(aws, tmp_path)
    assert aws.policy == {"/policy": pointer}


def test_a_later_activation_updates_the_stack_and_keeps_its_other_parameters(tmp_path):
    aws = Aws("CREATE_COMPLETE")
    activated(aws, tmp_path)
    assert "update_stack" in aws.calls
    assert aws.parameters == {"ModelDataUrl": URL, "InstanceType": "ml.c6i.large"}


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"])
def test_activating_what_is_active_only_writes_the_policy(tmp_path, status):
    aws = Aws(status, served=URL)
    activated(aws, tmp_path)
    assert aws.policy is not None


def test_a_stack_whose_creation_failed_is_made_anew(tmp_path):
    aws = Aws("ROLLBACK_COMPLETE")
    activated(aws, tmp_path)
    assert [call for call in aws.calls if call.endswith("_stack")] == ["delete_stack", "create_stack"]


def test_a_rolled_back_update_is_no_success_and_leaves_the_policy_alone(tmp_path):
    aws = Aws("CREATE_COMPLETE")
    aws.update_ends_as = "UPDATE_ROLLBACK_COMPLETE"
    with pytest.raises(ActivationFailed, match="no room"):
        activated(aws, tmp_path)
    assert aws.policy is None


def test_an_endpoint_in_service_with_the_former_model_is_no_success(tmp_path):
    aws = Aws("CREATE_COMPLETE")
    aws.switches = False
    aws.reason = "the container ended"
    with pytest.raises(ActivationFailed, match="the container ended"):
        activated(aws, tmp_path)
    assert aws.policy is None


def test_a_failed_endpoint_is_no_success(tmp_path):
    aws = Aws()
    aws.endpoint_steps = ["Creating", "Failed"]
    with pytest.raises(ActivationFailed, match="Failed"):
        activated(aws, tmp_path)
    assert aws.policy is None


def test_an_endpoint_that_never_comes_up_ends_in_a_failure(tmp_path):
    aws = Aws()
    aws.endpoint_steps = ["Creating"]
    with pytest.raises(ActivationFailed, match="time ran out"):
        activated(aws, tmp_path, timeout_s=5.0)
    assert aws.policy is None
