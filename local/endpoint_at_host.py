"""The endpoint's template carried out at our SageMaker host, where CloudFormation makes dummies of SageMaker's types.

Activating a model deploys a stack; this stands in for CloudFormation there, with the few calls that it takes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError

from local.plain_template import Resolver, read_template
from local.run import write_atomically

_IN_SERVICE_DEADLINE_S: Final = 120.0
_POLL_S: Final = 0.1
_NUMBERS: Final = {"InitialInstanceCount": int, "InitialVariantWeight": float, "InitialSamplingPercentage": int}


class _Stack(msgspec.Struct, kw_only=True):
    parameters: dict[str, str]
    outputs: dict[str, str]
    model: str
    configuration: str


class EndpointAtHost:
    """The calls of CloudFormation's client that `model.registry.activate` makes, for one stack.

    Args:
        sagemaker: boto3 client of the host.
        state: file that remembers the stack; it goes with the run.
        region: for what the template says of it.
    """

    def __init__(self, sagemaker: Any, state: Path, region: str) -> None:
        self._sagemaker = sagemaker
        self._state = state
        self._pseudo = {
            "AWS::Region": region,
            "AWS::AccountId": "000000000000",
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
        }

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:
        """The stack as CloudFormation shows it.

        Raises:
            ClientError: there is none.
        """
        stack = self._read()
        if stack is None:
            raise _refusal(f"Stack with id {StackName} does not exist", "DescribeStacks")
        return {
            "Stacks": [
                {
                    "StackName": StackName,
                    "StackStatus": "CREATE_COMPLETE",
                    "Parameters": _pairs(stack.parameters, "ParameterKey", "ParameterValue"),
                    "Outputs": _pairs(stack.outputs, "OutputKey", "OutputValue"),
                }
            ]
        }

    def create_stack(
        self, *, StackName: str, TemplateBody: str, Parameters: Sequence[Mapping[str, str]], **_: object
    ) -> None:
        """Make model, configuration and endpoint; return once the endpoint is in service, or failed."""
        self._deploy(StackName, TemplateBody, {one["ParameterKey"]: one["ParameterValue"] for one in Parameters}, None)

    def update_stack(
        self, *, StackName: str, TemplateBody: str, Parameters: Sequence[Mapping[str, Any]], **_: object
    ) -> None:
        """Make a new model and configuration, move the endpoint onto them, delete the old ones.

        Raises:
            ClientError: nothing changes.
        """
        stack = self._read()
        if stack is None:
            raise _refusal(f"Stack with id {StackName} does not exist", "UpdateStack")
        changed = {one["ParameterKey"]: one["ParameterValue"] for one in Parameters if not one.get("UsePreviousValue")}
        if stack.parameters | changed == stack.parameters:
            raise _refusal("No updates are to be performed.", "UpdateStack")
        self._deploy(StackName, TemplateBody, stack.parameters | changed, stack)

    def _deploy(self, name: str, template_body: str, parameters: dict[str, str], before: _Stack | None) -> None:
        template = read_template(template_body)
        resolver = Resolver(template, parameters, self._pseudo)
        token = secrets.token_hex(4)
        for logical_id, resource in template["Resources"].items():
            if resource["Type"] == "AWS::IAM::Role":
                resolver.made(logical_id, f"{name}-role", Arn=f"arn:aws:iam::000000000000:role/{name}-role")
            elif resource["Type"] == "AWS::CloudWatch::Alarm":  # the host has no metrics that one could watch
                resolver.made(logical_id, f"{name}-{logical_id}")
        made = {}
        for kind in ("Model", "EndpointConfig", "Endpoint"):
            ((logical_id, resource),) = (
                (key, one) for key, one in template["Resources"].items() if one["Type"] == f"AWS::SageMaker::{kind}"
            )
            properties = _numbers(resolver.resolved(resource["Properties"]))
            made[kind] = properties.setdefault(f"{kind}Name", f"{name}-{kind}-{token}".lower())
            self._make(kind, properties, exists=before is not None)
            resolver.made(logical_id, made[kind], **{f"{kind}Name": made[kind]})
        outputs = {key: str(resolver.resolved(one["Value"])) for key, one in template["Outputs"].items()}
        made_now = _Stack(
            parameters=parameters, outputs=outputs, model=made["Model"], configuration=made["EndpointConfig"]
        )
        if self._settled(made["Endpoint"]) == made_now.configuration:
            write_atomically(self._state, msgspec.json.encode(made_now))
            gone = before
        else:
            gone = made_now  # the endpoint went back to what it had
        if gone is not None:
            self._sagemaker.delete_endpoint_config(EndpointConfigName=gone.configuration)
            self._sagemaker.delete_model(ModelName=gone.model)

    def _make(self, kind: str, properties: dict[str, Any], *, exists: bool) -> None:
        if kind == "Endpoint" and exists:
            self._sagemaker.update_endpoint(**properties)
            return
        method = {"Model": "create_model", "EndpointConfig": "create_endpoint_config", "Endpoint": "create_endpoint"}
        getattr(self._sagemaker, method[kind])(**properties)

    def _settled(self, endpoint: str) -> str:
        """The configuration that the endpoint has once nothing moves any more."""
        ends_at_s = time.monotonic() + _IN_SERVICE_DEADLINE_S
        while True:
            found = self._sagemaker.describe_endpoint(EndpointName=endpoint)
            if found["EndpointStatus"] not in ("Creating", "Updating", "RollingBack") or time.monotonic() > ends_at_s:
                return str(found["EndpointConfigName"])
            time.sleep(_POLL_S)

    def _read(self) -> _Stack | None:
        return msgspec.json.decode(self._state.read_bytes(), type=_Stack) if self._state.exists() else None


def _pairs(values: Mapping[str, str], key: str, value: str) -> list[dict[str, str]]:
    return [{key: name, value: one} for name, one in values.items()]


def _refusal(message: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": "ValidationError", "Message": message}}, operation)


def _numbers(value: Any) -> Any:
    """Template parameters arrive as text; the API wants numbers."""
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, dict):
        return {name: _NUMBERS[name](one) if name in _NUMBERS else _numbers(one) for name, one in value.items()}
    return value
