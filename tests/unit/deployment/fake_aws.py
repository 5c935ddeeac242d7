"""An AWS account in memory: as much of it as a deployment looks at before and while it changes stacks."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from console.deployment.templates import Template, parse_template

parsed = functools.cache(parse_template)  # nobody changes what it returns

ACCOUNT, REGION = "123456789012", "eu-west-1"


def refused(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message or code}}, "Operation")


@dataclass
class FakeStack:
    """A stack that stands, or the shell of one."""

    status: str
    template: str = "{}"
    parameters: dict[str, str] = field(default_factory=dict)


class FakeAccount:
    """Every client is the account itself; `calls` are the operations that changed something."""

    account_id, region, partition, is_local, poll_s = ACCOUNT, REGION, "aws", False, 0.0

    def __init__(self) -> None:
        self.stacks: dict[str, FakeStack] = {}
        self.change_sets: dict[str, dict[str, Any]] = {}
        self.buckets: set[str] = set()
        self.tables: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.policy: str | None = None
        self.free_shards = 1_000
        self.change: dict[str, str] = {}  # what else there is to say of a change set's one change
        self.calls: list[str] = []
        self.meta = SimpleNamespace(endpoint_url="https://s3.eu-west-1.amazonaws.com")

    def client(self, _service: str) -> FakeAccount:
        return self

    def pseudo_parameters(self, stack: str) -> dict[str, str]:
        return {"AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::StackName": stack, "AWS::Partition": "aws"}

    def environment(self) -> dict[str, str]:
        return {}

    # -- CloudFormation

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:
        stack = self.stacks.get(StackName)
        if stack is None:
            raise refused("ValidationError", "does not exist")
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in stack.parameters.items()]
        return {
            "Stacks": [{"StackStatus": stack.status, "Parameters": parameters, "Outputs": self._outputs(StackName)}]
        }

    def _outputs(self, name: str) -> list[dict[str, str]]:
        stack = self.stacks[name]
        template = Template(parsed(stack.template), stack.parameters, self.pseudo_parameters(name))
        outputs = {key: f"{name}/{key}" for key in (template.outputs() if template.document else ())}
        if "EndpointName" in outputs:
            outputs["EndpointName"] = template.values["EndpointName"]
        if "DataKeyArn" in outputs:
            outputs["DataKeyArn"] = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k"
        if "ArtifactsBucketName" in outputs:
            outputs["ArtifactsBucketName"] = f"{name}-artifacts-{ACCOUNT}-{REGION}"
        return [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()]

    def create_change_set(self, **request: Any) -> None:
        self.calls.append(f"create_change_set {request['StackName']}")
        stack = self.stacks.setdefault(request["StackName"], FakeStack("REVIEW_IN_PROGRESS"))
        body = request.get("TemplateBody") or self.objects[request["TemplateURL"].partition(".com/")[2]].decode()
        declared = parsed(body).get("Parameters", {})
        parameters = {name: str(each["Default"]) for name, each in declared.items() if "Default" in each}
        for entry in request["Parameters"]:
            name = entry["ParameterKey"]
            kept = entry.get("UsePreviousValue")
            parameters[name] = stack.parameters[name] if kept else entry["ParameterValue"]
        self.change_sets[request["ChangeSetName"]] = {
            "request": request,
            "stack": FakeStack("CREATE_COMPLETE", body, parameters),
        }

    def describe_change_set(self, *, StackName: str, ChangeSetName: str) -> dict[str, Any]:
        if ChangeSetName not in self.change_sets:
            raise refused("ChangeSetNotFound")
        wanted, there = self.change_sets[ChangeSetName]["stack"], self.stacks[StackName]
        if (wanted.template, wanted.parameters) == (there.template, there.parameters):
            return {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}
        change = {"Action": "Add", "LogicalResourceId": "Thing", "ResourceType": "AWS::Thing"} | self.change
        return {"Status": "CREATE_COMPLETE", "Changes": [{"ResourceChange": change}]}

    def get_template(self, *, StackName: str, TemplateStage: str) -> dict[str, Any]:
        return {"TemplateBody": self.stacks[StackName].template}

    def delete_change_set(self, *, StackName: str, ChangeSetName: str) -> None:
        del self.change_sets[ChangeSetName]

    def execute_change_set(self, *, StackName: str, ChangeSetName: str) -> None:
        self.calls.append(f"execute_change_set {StackName}")
        self.stacks[StackName] = self.change_sets.pop(ChangeSetName)["stack"]

    def delete_stack(self, *, StackName: str) -> None:
        self.calls.append(f"delete_stack {StackName}")
        self.stacks.pop(StackName)

    # -- S3

    def head_bucket(self, *, Bucket: str, ExpectedBucketOwner: str) -> None:
        if Bucket not in self.buckets:
            raise refused("404")

    def create_bucket(self, *, Bucket: str, **_place: Any) -> None:
        self.calls.append("create_bucket")
        self.buckets.add(Bucket)

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        self.objects[f"{Bucket}/{Key}"] = Body

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if f"{Bucket}/{Key}" not in self.objects:
            raise refused("NoSuchKey")
        return {"Body": io.BytesIO(self.objects[f"{Bucket}/{Key}"])}

    def put_public_access_block(self, **_settings: Any) -> None: ...

    def put_bucket_encryption(self, **_settings: Any) -> None: ...

    def put_bucket_ownership_controls(self, **_settings: Any) -> None: ...

    def put_bucket_versioning(self, **_settings: Any) -> None: ...

    def put_bucket_lifecycle_configuration(self, **_settings: Any) -> None: ...

    def put_bucket_policy(self, **_settings: Any) -> None: ...

    # -- the rest

    def describe_table(self, *, TableName: str) -> dict[str, Any]:
        if TableName not in self.tables:
            raise refused("ResourceNotFoundException")
        return {"Table": {}}

    def describe_limits(self) -> dict[str, int]:
        return {"ShardLimit": self.free_shards, "OpenShardCount": 0}

    def get_account_settings(self) -> dict[str, Any]:
        return {"AccountLimit": {"UnreservedConcurrentExecutions": 1_000}}

    def get_paginator(self, _operation: str) -> Any:
        raise refused("AccessDenied", "service-quotas")

    def describe_endpoint(self, *, EndpointName: str) -> dict[str, Any]:
        return {"EndpointStatus": "InService", "EndpointConfigName": "c"}

    def describe_endpoint_config(self, *, EndpointConfigName: str) -> dict[str, Any]:
        return {"ProductionVariants": [{"ModelName": "m"}]}

    def describe_model(self, *, ModelName: str) -> dict[str, Any]:
        (stack,) = (each for name, each in self.stacks.items() if name.endswith("-endpoint"))
        return {"PrimaryContainer": {"ModelDataUrl": stack.parameters["ModelDataUrl"]}}

    def get_parameter(self, *, Name: str) -> dict[str, Any]:
        if self.policy is None:
            raise refused("ParameterNotFound")
        return {"Parameter": {"Value": self.policy}}

    def put_parameter(self, *, Name: str, Value: str, Type: str, Overwrite: bool) -> None:
        self.calls.append("put_parameter")
        self.policy = Value
