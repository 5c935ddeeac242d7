"""Publishing a model and putting it into service.

An artefact's place in S3 is a function of its version, so publishing twice is harmless. Activation changes the endpoint
stack (never the endpoint behind its back), and the policy's thresholds only after the endpoint serves the new model: in
the seconds between, the new model's scores meet the former thresholds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError

from model.artifact import ARTIFACT_NAME, Manifest, unpack_artifact
from model.live_policy import Policy, PolicyUnreadable, parameter_with
from stream_features.errors import PipelineError

MODELS_PREFIX: Final = "models/"
MODEL_DATA_PARAMETER: Final = "ModelDataUrl"
ENDPOINT_NAME_OUTPUT: Final = "EndpointName"

_STACK_DONE: Final = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE"})
_STACK_DEAD: Final = frozenset({"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_COMPLETE"})


class ActivationFailed(PipelineError):
    """The new model is not in service; the message says which step failed and what AWS said."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A model that is in service."""

    model_version: str
    model_data_url: str
    endpoint_name: str
    policy: Policy


def artifact_key(model_version: str) -> str:
    """The S3 key of a model's artefact."""
    return f"{MODELS_PREFIX}{model_version}/{ARTIFACT_NAME}"


def policy_of(manifest: Manifest) -> Policy:
    """The policy that goes with a model: its own thresholds, under its version."""
    return Policy(
        policy_version=manifest.model_version,
        review_from=manifest.thresholds.review_from,
        decline_from=manifest.thresholds.decline_from,
    )


def publish(s3: Any, artifact_path: Path, bucket: str, *, key: str | None = None) -> tuple[Manifest, str]:
    """Check and upload an artefact; return its manifest and its s3:// URL.

    Args:
        s3: boto3 client.
        artifact_path: a `model.tar.gz`.
        bucket: where artefacts are kept.
        key: another place than its version's, for an artefact that carries more than the model.

    Raises:
        ContractMismatch: the file is no valid artefact.
    """
    packed = artifact_path.read_bytes()
    manifest = unpack_artifact(packed, str(artifact_path)).manifest
    key = key or artifact_key(manifest.model_version)
    s3.put_object(Bucket=bucket, Key=key, Body=packed, ContentType="application/gzip")
    return manifest, f"s3://{bucket}/{key}"


def activate(
    s3: Any,
    cloudformation: Any,
    ssm: Any,
    sagemaker: Any,
    *,
    artifact_path: Path,
    bucket: str,
    stack_name: str,
    template_body: str,
    policy_parameter: str,
    stack_parameters: Mapping[str, str] | None = None,
    timeout_s: float = 900.0,
    poll_s: float = 0.25,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Activation:
    """Put a model into service; return once the endpoint serves it and the policy names its thresholds.

    The rules and lists of a policy in force stay in force beside the new thresholds.

    Args:
        s3: boto3 client, as are the next three.
        cloudformation: see s3.
        ssm: see s3.
        sagemaker: see s3.
        artifact_path: a `model.tar.gz`.
        bucket: where artefacts are kept.
        stack_name: the endpoint stack; created if absent.
        template_body: its template.
        policy_parameter: name of the SSM parameter that holds the policy document.
        stack_parameters: further parameters of the stack; on an update those not named keep their values.
        timeout_s: for the stack and the endpoint together.
        poll_s: seconds between two looks at them.
        sleep: waits so many seconds.
        clock: monotonic seconds.

    Raises:
        ContractMismatch: the file is no valid artefact.
        ActivationFailed: stack or endpoint failed, or time ran out; the policy is then unchanged.
    """
    manifest, model_data_url = publish(s3, artifact_path, bucket)
    wait = _Wait(clock() + timeout_s, poll_s, sleep, clock)
    stack = _EndpointStack(cloudformation, stack_name, wait)
    outputs = stack.deploy(template_body, {**(stack_parameters or {}), MODEL_DATA_PARAMETER: model_data_url})
    endpoint_name = outputs.get(ENDPOINT_NAME_OUTPUT)
    if endpoint_name is None:
        raise ActivationFailed(f"stack {stack_name} has no output {ENDPOINT_NAME_OUTPUT}")
    _await_endpoint(sagemaker, endpoint_name, model_data_url, wait)
    return _put_thresholds_in_force(
        s3, ssm, manifest, model_data_url, endpoint_name, bucket=bucket, policy_parameter=policy_parameter
    )


def take_over(
    s3: Any,
    ssm: Any,
    sagemaker: Any,
    manifest: Manifest,
    model_data_url: str,
    endpoint_name: str,
    *,
    bucket: str,
    policy_parameter: str,
    timeout_s: float = 900.0,
    poll_s: float = 5.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Activation:
    """The last steps of `activate`, for who changes the endpoint's stack otherwise; arguments as there.

    Raises:
        ActivationFailed: the endpoint does not serve `model_data_url`, or the policy cannot be read.
    """
    _await_endpoint(sagemaker, endpoint_name, model_data_url, _Wait(clock() + timeout_s, poll_s, sleep, clock))
    return _put_thresholds_in_force(
        s3, ssm, manifest, model_data_url, endpoint_name, bucket=bucket, policy_parameter=policy_parameter
    )


def _put_thresholds_in_force(
    s3: Any,
    ssm: Any,
    manifest: Manifest,
    model_data_url: str,
    endpoint_name: str,
    *,
    bucket: str,
    policy_parameter: str,
) -> Activation:
    policy = policy_of(manifest)
    try:
        value = parameter_with(s3, ssm, bucket=bucket, parameter=policy_parameter, thresholds=policy)
    except PolicyUnreadable as error:
        raise ActivationFailed(
            f"model {manifest.model_version} is served, but {error}; activate a policy, then the model again"
        ) from error
    ssm.put_parameter(Name=policy_parameter, Value=value, Type="String", Overwrite=True)
    return Activation(manifest.model_version, model_data_url, endpoint_name, policy)


@dataclass(frozen=True, slots=True)
class _Wait:
    deadline_s: float
    poll_s: float
    sleep: Callable[[float], None]
    clock: Callable[[], float]

    def once(self, what: str) -> None:
        if self.clock() >= self.deadline_s:
            raise ActivationFailed(f"time ran out while {what}")
        self.sleep(self.poll_s)


class _EndpointStack:
    def __init__(self, cloudformation: Any, name: str, wait: _Wait) -> None:
        self._cloudformation = cloudformation
        self._name = name
        self._wait = wait

    def deploy(self, template_body: str, parameters: Mapping[str, str]) -> dict[str, str]:
        """Create or update the stack, wait for it, return its outputs."""
        existing = self._settled()
        if existing is not None and existing["StackStatus"] in _STACK_DEAD:
            # A stack whose creation failed takes no updates; there is nothing in it to lose.
            self._cloudformation.delete_stack(StackName=self._name)
            while self._describe() is not None:
                self._wait.once(f"deleting the failed stack {self._name}")
            existing = None
        if existing is None:
            self._cloudformation.create_stack(
                StackName=self._name,
                TemplateBody=template_body,
                Parameters=_as_parameters(parameters),
                Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
            )
        elif not self._update(template_body, parameters, existing):
            return _outputs(existing)
        stack = self._settled()
        if stack is None or stack["StackStatus"] not in _STACK_DONE:
            status = "gone" if stack is None else f"{stack['StackStatus']}: {stack.get('StackStatusReason', '')}"
            raise ActivationFailed(f"stack {self._name} is {status} {self._first_failure()}".strip())
        return _outputs(stack)

    def _update(self, template_body: str, parameters: Mapping[str, str], existing: Mapping[str, Any]) -> bool:
        """Begin an update; false where the stack already is as asked."""
        kept = [
            {"ParameterKey": parameter["ParameterKey"], "UsePreviousValue": True}
            for parameter in existing.get("Parameters", [])
            if parameter["ParameterKey"] not in parameters
        ]
        try:
            self._cloudformation.update_stack(
                StackName=self._name,
                TemplateBody=template_body,
                Parameters=[*_as_parameters(parameters), *kept],
                Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
            )
        except ClientError as error:
            if "No updates are to be performed" not in error.response["Error"].get("Message", ""):
                raise ActivationFailed(f"stack {self._name} cannot be updated: {error}") from error
            return False
        return True

    def _settled(self) -> dict[str, Any] | None:
        """The stack once nothing is in progress; None where there is none."""
        while True:
            stack = self._describe()
            if stack is None or not stack["StackStatus"].endswith("_IN_PROGRESS"):
                return stack
            self._wait.once(f"stack {self._name} is {stack['StackStatus']}")

    def _describe(self) -> dict[str, Any] | None:
        try:
            stacks = self._cloudformation.describe_stacks(StackName=self._name)["Stacks"]
        except ClientError as error:
            if "does not exist" in error.response["Error"].get("Message", ""):
                return None
            raise
        live: list[dict[str, Any]] = [stack for stack in stacks if stack["StackStatus"] != "DELETE_COMPLETE"]
        return live[0] if live else None

    def _first_failure(self) -> str:
        """What the newest failed resource said, which the stack's own status does not."""
        events = self._cloudformation.describe_stack_events(StackName=self._name)["StackEvents"]
        reasons = [
            f"({event['LogicalResourceId']}: {event['ResourceStatusReason']})"
            for event in events
            if event.get("ResourceStatus", "").endswith("_FAILED") and event.get("ResourceStatusReason")
        ]
        return reasons[-1] if reasons else ""


def _outputs(stack: Mapping[str, Any]) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def _as_parameters(parameters: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]


def _await_endpoint(sagemaker: Any, endpoint_name: str, model_data_url: str, wait: _Wait) -> None:
    """Return once the endpoint is in service *with the new model*: a rolled-back update is in service, too."""
    while True:
        endpoint = sagemaker.describe_endpoint(EndpointName=endpoint_name)
        status = endpoint["EndpointStatus"]
        if status == "InService":
            served = served_model_data(sagemaker, endpoint["EndpointConfigName"])
            if model_data_url in served:
                return
            reason = endpoint.get("FailureReason", "it gave no reason")
            raise ActivationFailed(f"endpoint {endpoint_name} still serves {', '.join(served)}: {reason}")
        if status in ("Failed", "UpdateRollbackFailed", "OutOfService"):
            raise ActivationFailed(f"endpoint {endpoint_name} is {status}: {endpoint.get('FailureReason', '')}")
        wait.once(f"endpoint {endpoint_name} is {status}")


def served_model_data(sagemaker: Any, config_name: str) -> list[str]:
    """The S3 URLs of the artefacts behind an endpoint configuration, in the order of its variants."""
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config_name)["ProductionVariants"]
    models = [sagemaker.describe_model(ModelName=variant["ModelName"]) for variant in variants]
    containers = [model.get("PrimaryContainer") or model["Containers"][0] for model in models]
    return [container.get("ModelDataUrl", "") for container in containers]
