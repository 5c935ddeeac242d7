"""The SageMaker resources of a template, carried out through the SageMaker API; LocalStack has none of its own.

A model and an endpoint configuration cannot be changed, as on AWS: an update makes a new one, with a new name, and
deletes the old one. An endpoint is updated in place, and each step waits until it is in service.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return"
from __future__ import annotations

import time
from typing import Any, Final

import localstack.services.cloudformation.provider_utils as provider_utils
from localstack.services.cloudformation.resource_provider import (
    CloudFormationResourceProviderPlugin,
    OperationStatus,
    ProgressEvent,
    ResourceProvider,
)

from .plugins import completes_localstack

_IN_SERVICE_DEADLINE_S: Final = 120.0
_POLL_S: Final = 0.2
_LONGEST_NAME: Final = 63


class _SageMakerProvider(ResourceProvider):
    """Create, replace and delete one kind of resource. `kind` is what the API calls it: Model, EndpointConfig, ..."""

    kind: str
    operations: str  # as the client's methods end: model, endpoint_config, ...
    name_property: str
    arn_property: str

    def create(self, request: Any) -> ProgressEvent:
        properties = dict(request.desired_state)
        if not properties.get(self.name_property):
            properties[self.name_property] = provider_utils.generate_default_name(
                request.stack_name, request.logical_resource_id
            )[:_LONGEST_NAME].rstrip("-")
        client = request.aws_client_factory.sagemaker
        answer = self._call(client, "create", self._parameters(client, f"Create{self.kind}", properties))
        properties[self.arn_property] = answer[self.arn_property]
        return self._finished(client, properties)

    def update(self, request: Any) -> ProgressEvent:
        previous_name = request.previous_state[self.name_property]
        desired = {name: value for name, value in request.desired_state.items() if name != self.arn_property}
        if desired.get(self.name_property) == previous_name:
            del desired[self.name_property]  # it was generated: the new one gets another
        request.desired_state = desired
        created = self.create(request)
        self._call(request.aws_client_factory.sagemaker, "delete", {self.name_property: previous_name})
        return created

    def delete(self, request: Any) -> ProgressEvent:
        name = request.desired_state[self.name_property]
        self._call(request.aws_client_factory.sagemaker, "delete", {self.name_property: name})
        return ProgressEvent(OperationStatus.SUCCESS, resource_model={})

    def _finished(self, client: Any, properties: dict[str, Any]) -> ProgressEvent:
        """What to report once the API took the request."""
        return ProgressEvent(OperationStatus.SUCCESS, resource_model=properties)

    def _call(self, client: Any, verb: str, parameters: dict[str, Any]) -> dict[str, Any]:
        return getattr(client, f"{verb}_{self.operations}")(**parameters)

    @staticmethod
    def _parameters(client: Any, operation: str, properties: dict[str, Any]) -> dict[str, Any]:
        """What the operation knows of the properties; templates write numbers as text."""
        known = client.meta.service_model.operation_model(operation).input_shape.members
        taken = {name: value for name, value in properties.items() if name in known}
        return provider_utils.convert_values_to_numbers(taken)


def _schema(type_name: str, name_property: str, arn_property: str) -> dict[str, Any]:
    return {
        "typeName": type_name,
        "primaryIdentifier": [f"/properties/{name_property}"],
        "properties": {name_property: {}, arn_property: {}},
        "readOnlyProperties": [f"/properties/{arn_property}"],
    }


class ModelProvider(_SageMakerProvider):
    TYPE = "AWS::SageMaker::Model"
    SCHEMA = _schema(TYPE, "ModelName", "ModelArn")
    kind, operations, name_property, arn_property = "Model", "model", "ModelName", "ModelArn"


class EndpointConfigProvider(_SageMakerProvider):
    TYPE = "AWS::SageMaker::EndpointConfig"
    SCHEMA = _schema(TYPE, "EndpointConfigName", "EndpointConfigArn")
    kind, operations = "EndpointConfig", "endpoint_config"
    name_property, arn_property = "EndpointConfigName", "EndpointConfigArn"


class EndpointProvider(_SageMakerProvider):
    TYPE = "AWS::SageMaker::Endpoint"
    SCHEMA = _schema(TYPE, "EndpointName", "EndpointArn")
    kind, operations, name_property, arn_property = "Endpoint", "endpoint", "EndpointName", "EndpointArn"

    def update(self, request: Any) -> ProgressEvent:
        client = request.aws_client_factory.sagemaker
        properties = {**request.previous_state, **request.desired_state}
        client.update_endpoint(**self._parameters(client, "UpdateEndpoint", properties))
        return self._finished(client, properties)

    def _finished(self, client: Any, properties: dict[str, Any]) -> ProgressEvent:
        deadline_s = time.monotonic() + _IN_SERVICE_DEADLINE_S
        while True:
            found = client.describe_endpoint(EndpointName=properties["EndpointName"])
            if found["EndpointStatus"] == "InService":
                return ProgressEvent(OperationStatus.SUCCESS, resource_model=properties)
            if found["EndpointStatus"] == "Failed" or time.monotonic() > deadline_s:
                reason = found.get("FailureReason") or f"still {found['EndpointStatus']}"
                return ProgressEvent(OperationStatus.FAILED, resource_model=properties, message=reason)
            time.sleep(_POLL_S)


class _ProviderPlugin(CloudFormationResourceProviderPlugin):
    """LocalStack asks a plugin for the provider's class."""

    provider: type[_SageMakerProvider]

    def __init__(self) -> None:
        self.factory: type[_SageMakerProvider] | None = None

    def should_load(self) -> bool:
        return completes_localstack()

    def load(self) -> None:
        self.factory = self.provider


class ModelPlugin(_ProviderPlugin):
    name = ModelProvider.TYPE
    provider = ModelProvider


class EndpointConfigPlugin(_ProviderPlugin):
    name = EndpointConfigProvider.TYPE
    provider = EndpointConfigProvider


class EndpointPlugin(_ProviderPlugin):
    name = EndpointProvider.TYPE
    provider = EndpointProvider
