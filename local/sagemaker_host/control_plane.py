"""The `sagemaker` API's operations on models, endpoint configurations and endpoints.

Requests and answers are the JSON of AWS's service model. Errors carry AWS's codes and, where we know it, its wording.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from local.sagemaker_host.capture import capture_spec, described
from local.sagemaker_host.errors import AwsError, invalid
from local.sagemaker_host.fleet import CREATING, DELETING, FAILED, IN_SERVICE, UPDATING, Fleet
from local.sagemaker_host.state import CaptureSpec, Deployment, Described, Endpoint, HostState, VariantSpec

Request = Mapping[str, Any]

_NAME: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_DEFAULT_STARTUP_TIMEOUT_S: Final = 60
# What AWS would do with these, this host does not do at all: better refused than silently left out.
_UNSUPPORTED_IN_CONFIG: Final = ("ShadowProductionVariants", "AsyncInferenceConfig", "ExplainerConfig")


class ControlPlane:
    """Dispatches operations by name. `account` and `region` only appear in ARNs."""

    def __init__(self, state: HostState, fleet: Fleet, *, region: str, account: str = "000000000000") -> None:
        self._state = state
        self._fleet = fleet
        self._arn_prefix = f"arn:aws:sagemaker:{region}:{account}"
        self._operations: dict[str, Callable[[Request], dict[str, Any]]] = {
            "CreateModel": self._create_model,
            "DescribeModel": self._describe_model,
            "DeleteModel": self._delete_model,
            "ListModels": lambda request: _page(request, "Models", map(_model_summary, self._state.models.values())),
            "CreateEndpointConfig": self._create_config,
            "DescribeEndpointConfig": self._describe_config,
            "DeleteEndpointConfig": self._delete_config,
            "ListEndpointConfigs": lambda request: _page(
                request, "EndpointConfigs", map(_config_summary, self._state.configs.values())
            ),
            "CreateEndpoint": self._create_endpoint,
            "UpdateEndpoint": self._update_endpoint,
            "DescribeEndpoint": self._describe_endpoint,
            "DeleteEndpoint": self._delete_endpoint,
            "ListEndpoints": lambda request: _page(
                request, "Endpoints", map(_endpoint_summary, self._state.endpoints.values())
            ),
        }

    def call(self, operation: str, request: Request) -> dict[str, Any]:
        """Carry out one operation; its effect is saved when this returns.

        Raises:
            AwsError: unknown operation, or the request cannot be carried out.
        """
        implementation = self._operations.get(operation)
        if implementation is None:
            raise AwsError("UnknownOperationException", f"this local SageMaker has no operation {operation}")
        return implementation(request)

    # -- models ------------------------------------------------------------------------------------------------------

    def _create_model(self, request: Request) -> dict[str, Any]:
        name = _name(request, "ModelName")
        arn = self._arn("model", name)
        _refuse_existing(self._state.models, name, f'Cannot create already existing model "{arn}".')
        _model_data_url(request)
        self._state.models[name] = Described(name, arn, time.time(), dict(request))
        self._state.save()
        return {"ModelArn": arn}

    def _describe_model(self, request: Request) -> dict[str, Any]:
        model = self._model(_name(request, "ModelName"))
        return {**_without_tags(model.request), "ModelArn": model.arn, "CreationTime": model.created_at_s}

    def _delete_model(self, request: Request) -> dict[str, Any]:
        model = self._model(_name(request, "ModelName"))
        del self._state.models[model.name]
        self._state.save()
        return {}

    def _model(self, name: str) -> Described:
        if name not in self._state.models:
            raise invalid(f'Could not find model "{self._arn("model", name)}".')
        return self._state.models[name]

    # -- endpoint configurations -------------------------------------------------------------------------------------

    def _create_config(self, request: Request) -> dict[str, Any]:
        name = _name(request, "EndpointConfigName")
        arn = self._arn("endpoint-config", name)
        _refuse_existing(self._state.configs, name, f'Cannot create already existing endpoint configuration "{arn}".')
        if unsupported := [member for member in _UNSUPPORTED_IN_CONFIG if request.get(member)]:
            raise invalid(f"this local SageMaker does not support {', '.join(unsupported)}")
        _capture(request)
        variants = request.get("ProductionVariants") or []
        names = [_name(variant, "VariantName") for variant in variants]
        if not variants or len(set(names)) != len(names):
            raise invalid("ProductionVariants needs at least one variant, each with a name of its own.")
        for variant in variants:
            self._model(_name(variant, "ModelName"))
        self._state.configs[name] = Described(name, arn, time.time(), dict(request))
        self._state.save()
        return {"EndpointConfigArn": arn}

    def _describe_config(self, request: Request) -> dict[str, Any]:
        config = self._config(_name(request, "EndpointConfigName"))
        return {**_without_tags(config.request), "EndpointConfigArn": config.arn, "CreationTime": config.created_at_s}

    def _delete_config(self, request: Request) -> dict[str, Any]:
        config = self._config(_name(request, "EndpointConfigName"))
        del self._state.configs[config.name]
        self._state.save()
        return {}

    def _config(self, name: str) -> Described:
        if name not in self._state.configs:
            raise invalid(f'Could not find endpoint configuration "{self._arn("endpoint-config", name)}".')
        return self._state.configs[name]

    # -- endpoints ---------------------------------------------------------------------------------------------------

    def _create_endpoint(self, request: Request) -> dict[str, Any]:
        name = _name(request, "EndpointName")
        arn = self._arn("endpoint", name)
        _refuse_existing(self._state.endpoints, name, f'Cannot create already existing endpoint "{arn}".')
        target = self._deployment(_name(request, "EndpointConfigName"))
        now_s = time.time()
        endpoint = Endpoint(
            name, arn, now_s, now_s, CREATING, target=target, deployment_config=request.get("DeploymentConfig")
        )
        self._state.endpoints[name] = endpoint
        self._state.save()
        self._fleet.deploy(endpoint)
        return {"EndpointArn": arn}

    def _update_endpoint(self, request: Request) -> dict[str, Any]:
        endpoint = self._endpoint(_name(request, "EndpointName"))
        if endpoint.status == FAILED:
            raise invalid(f'Cannot update failed endpoint "{endpoint.arn}"; delete it.')
        if endpoint.status != IN_SERVICE:
            raise invalid(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        endpoint.target = self._deployment(_name(request, "EndpointConfigName"))
        endpoint.status = UPDATING
        endpoint.failure_reason = None
        endpoint.modified_at_s = time.time()
        if request.get("DeploymentConfig"):
            endpoint.deployment_config = request["DeploymentConfig"]
        self._state.save()
        self._fleet.deploy(endpoint)
        return {"EndpointArn": endpoint.arn}

    def _describe_endpoint(self, request: Request) -> dict[str, Any]:
        endpoint = self._endpoint(_name(request, "EndpointName"))
        deployment = endpoint.live or endpoint.target
        answer: dict[str, Any] = {
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint.arn,
            "EndpointStatus": endpoint.status,
            "CreationTime": endpoint.created_at_s,
            "LastModifiedTime": endpoint.modified_at_s,
        }
        if deployment is not None:
            answer["EndpointConfigName"] = deployment.config_name
        if endpoint.live is not None:
            answer["ProductionVariants"] = [_variant_summary(spec) for spec in endpoint.live.variants]
            if endpoint.live.capture is not None:
                answer["DataCaptureConfig"] = described(endpoint.live.capture)
        if endpoint.failure_reason is not None:
            answer["FailureReason"] = endpoint.failure_reason
        if endpoint.deployment_config is not None:
            answer["LastDeploymentConfig"] = endpoint.deployment_config
        return answer

    def _delete_endpoint(self, request: Request) -> dict[str, Any]:
        endpoint = self._endpoint(_name(request, "EndpointName"))
        if endpoint.status != DELETING:
            endpoint.status = DELETING
            endpoint.modified_at_s = time.time()
            self._state.save()
            self._fleet.remove(endpoint)
        return {}

    def _endpoint(self, name: str) -> Endpoint:
        if name not in self._state.endpoints:
            raise invalid(f'Could not find endpoint "{self._arn("endpoint", name)}".')
        return self._state.endpoints[name]

    def _deployment(self, config_name: str) -> Deployment:
        request = self._config(config_name).request
        variants = [self._variant_spec(variant) for variant in request["ProductionVariants"]]
        return Deployment(config_name, variants, _capture(request))

    def _variant_spec(self, variant: Request) -> VariantSpec:
        request = self._model(variant["ModelName"]).request
        container = _container(request)
        return VariantSpec(
            name=variant["VariantName"],
            weight=float(variant.get("InitialVariantWeight", 1.0)),
            instance_count=int(variant.get("InitialInstanceCount", 1)),
            image=container.get("Image", ""),
            model_data_url=_model_data_url(request),
            environment={str(name): str(value) for name, value in container.get("Environment", {}).items()},
            startup_timeout_s=float(
                variant.get("ContainerStartupHealthCheckTimeoutInSeconds", _DEFAULT_STARTUP_TIMEOUT_S)
            ),
        )

    def _arn(self, kind: str, name: str) -> str:
        return f"{self._arn_prefix}:{kind}/{name.lower()}"  # AWS lowers names in these ARNs


def _name(request: Request, member: str) -> str:
    value = request.get(member)
    if not isinstance(value, str) or len(value) > 63 or not _NAME.fullmatch(value):
        raise invalid(
            f"1 validation error detected: Value {value!r} at '{member}' failed to satisfy constraint: "
            f"Member must satisfy regular expression pattern: {_NAME.pattern}"
        )
    return value


def _refuse_existing(records: Mapping[str, object], name: str, message: str) -> None:
    if name in records:
        raise invalid(message)


def _container(model_request: Request) -> Mapping[str, Any]:
    containers = [model_request["PrimaryContainer"]] if model_request.get("PrimaryContainer") else []
    containers += model_request.get("Containers") or []
    if len(containers) != 1:
        raise invalid("A model needs exactly one container here.")
    container: Mapping[str, Any] = containers[0]
    return container


def _model_data_url(model_request: Request) -> str:
    container = _container(model_request)
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    url = container.get("ModelDataUrl") or source.get("S3Uri") or ""
    if not isinstance(url, str) or not re.fullmatch(r"s3://[^/]+/.+", url) or source.get("CompressionType") == "None":
        raise invalid(f"Could not find model data at {url!r}: it must be the s3:// URL of a model.tar.gz.")
    return url


def _capture(config_request: Request) -> CaptureSpec | None:
    try:
        return capture_spec(config_request.get("DataCaptureConfig") or {})
    except ValueError as error:
        raise invalid(str(error)) from error


def _without_tags(request: Request) -> dict[str, Any]:
    return {member: value for member, value in request.items() if member != "Tags"}


def _model_summary(model: Described) -> dict[str, Any]:
    return {"ModelName": model.name, "ModelArn": model.arn, "CreationTime": model.created_at_s}


def _config_summary(config: Described) -> dict[str, Any]:
    return {
        "EndpointConfigName": config.name,
        "EndpointConfigArn": config.arn,
        "CreationTime": config.created_at_s,
    }


def _endpoint_summary(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "CreationTime": endpoint.created_at_s,
        "LastModifiedTime": endpoint.modified_at_s,
        "EndpointStatus": endpoint.status,
    }


def _variant_summary(spec: VariantSpec) -> dict[str, Any]:
    return {
        "VariantName": spec.name,
        "DeployedImages": [{"SpecifiedImage": spec.image, "ResolvedImage": spec.image}] if spec.image else [],
        "CurrentWeight": spec.weight,
        "DesiredWeight": spec.weight,
        "CurrentInstanceCount": spec.instance_count,  # as asked for: locally one process serves them all
        "DesiredInstanceCount": spec.instance_count,
    }


def _page(request: Request, member: str, summaries: Any) -> dict[str, Any]:
    """Filter, sort and cut a list as the List operations do; NextToken is the offset of the next page."""
    name_member = f"{member[:-1]}Name"
    wanted = [
        summary
        for summary in summaries
        if request.get("NameContains", "") in summary[name_member]
        and request.get("StatusEquals") in (None, summary.get("EndpointStatus"))
    ]
    key = name_member if request.get("SortBy") == "Name" else "CreationTime"
    wanted.sort(key=lambda summary: summary[key], reverse=request.get("SortOrder", "Descending") != "Ascending")
    try:
        start = int(request.get("NextToken") or 0)
    except ValueError as error:
        raise invalid("Invalid NextToken.") from error
    end = start + int(request.get("MaxResults", 100))
    return {member: wanted[start:end], **({"NextToken": str(end)} if end < len(wanted) else {})}
