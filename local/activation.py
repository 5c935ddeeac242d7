"""Serving a model: its artefact into the bucket, the endpoint's stack onto it, its thresholds into the policy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError

from local.capabilities import supplied
from local.endpoint_at_host import EndpointAtHost
from local.run import CHECKOUT, RunFailed, RunState, client
from model.artifact import Manifest, read_artifact
from model.registry import ActivationFailed, activate
from stream_features.errors import UsageError
from stream_features.names import ENDPOINT_STACK

# The local host runs the checkout's own server, whatever the image; on AWS this is endpoint/Dockerfile in a registry.
_LOCAL_IMAGE: Final = "local/fraudstream-endpoint:checkout"
_ANSWERS_DEADLINE_S: Final = 30.0


def activate_model(run: RunState, artifact_path: Path, progress: Callable[[str], None]) -> str:
    """Return, with its version, when the endpoint of `run` answers with the model in `artifact_path`.

    Raises:
        UsageError: the model is of another feature set than the run.
        ContractMismatch: the file is not an artefact of this code's features.
        RunFailed: the endpoint did not come up on it; the former model still serves.
    """
    manifest = read_artifact(artifact_path).manifest
    if manifest.feature_set != run.feature_set:
        raise UsageError(
            f"{artifact_path} was trained on the {manifest.feature_set} set, this run computes {run.feature_set}: "
            f"start it with --feature-set {manifest.feature_set}"
        )
    progress(f"activating model {manifest.model_version}")
    try:
        activation = activate(
            client(run, "s3"),
            _deployer(run),
            client(run, "ssm"),
            client(run, "sagemaker"),
            artifact_path=artifact_path,
            bucket=run.outputs["ArtifactsBucketName"],
            stack_name=ENDPOINT_STACK,
            template_body=(CHECKOUT / "endpoint" / "template.yaml").read_text(),
            policy_parameter=run.outputs["PolicyParameterName"],
            stack_parameters={
                "EndpointName": run.outputs["EndpointName"],
                "ImageUri": _LOCAL_IMAGE,
                "DataKeyArn": run.outputs["DataKeyArn"],
            },
        )
    except ActivationFailed as error:
        raise RunFailed(str(error)) from error
    _wait_until_it_answers(client(run, "sagemaker-runtime"), activation.endpoint_name, manifest)
    return activation.model_version


def _deployer(run: RunState) -> Any:
    """What deploys the endpoint's template."""
    if supplied(run.place, "sagemaker in templates"):
        return EndpointAtHost(client(run, "sagemaker"), run.state_dir / "sagemaker" / "endpoint-stack.json", run.region)
    return client(run, "cloudformation")


def serves(run: RunState) -> bool:
    """Whether the endpoint of `run` is in service."""
    try:
        found = client(run, "sagemaker").describe_endpoint(EndpointName=run.outputs["EndpointName"])
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationException":
            return False
        raise
    return bool(found["EndpointStatus"] == "InService")


def _wait_until_it_answers(runtime: Any, endpoint: str, manifest: Manifest) -> None:
    request = {
        "feature_set_id": manifest.feature_set_id,
        "columns": manifest.columns,
        "definitions": manifest.definitions,
        "rows": [[None] * len(manifest.columns)],
        "explain_from": 1.1,
    }
    deadline_s = time.monotonic() + _ANSWERS_DEADLINE_S
    while True:
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType="application/json", Accept="application/json", Body=json.dumps(request)
        )
        version = json.loads(answer["Body"].read())["model_version"]
        if version == manifest.model_version:
            return
        if time.monotonic() > deadline_s:
            raise RunFailed(f"endpoint {endpoint} still answers with {version} instead of {manifest.model_version}")
        time.sleep(0.1)
