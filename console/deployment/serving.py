"""The endpoint's part of a deployment: artefact, container, stack, and the thresholds once the model serves.

The default container is AWS's own for XGBoost, with our code inside the artefact: nothing has to be built or kept in a
registry, and AWS patches it. An image of one's own is for who needs another Python or must scan what runs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from botocore.exceptions import ClientError

from console.deployment.account import Account
from console.deployment.failures import DeploymentFailed
from console.deployment.stacks import Progress
from endpoint.script_package import code_files, vendored, with_code
from model.artifact import ARTIFACT_NAME, Manifest, read_artifact
from model.registry import MODEL_DATA_PARAMETER, MODELS_PREFIX, artifact_key, publish, take_over
from stream_features.errors import UsageError

Container = Literal["prebuilt-xgboost", "own-image"]
# What this command sets itself; given by hand they would contradict it.
OWN_PARAMETERS: Final = frozenset(
    {"EndpointName", "DataKeyArn", MODEL_DATA_PARAMETER, "Container", "ImageUri", "ImageRepositoryName"}
)
# Said once, for the main stack; they hold for the endpoint's too, unless it is told otherwise.
SHARED_PARAMETERS: Final = ("AlarmTopicArn", "VpcSubnetIds", "VpcSecurityGroupIds")


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model ready to be uploaded: what the user gave, and the file that the chosen container takes."""

    manifest: Manifest
    given: Path
    served: bytes
    key: str


def check_artefact(model: Path, feature_set: str) -> Manifest:
    """The manifest of a model that fits what the stack computes.

    Raises:
        UsageError: it was trained on another feature set.
        ContractMismatch: it is no valid artefact of this code's features.
    """
    manifest = read_artifact(model).manifest
    if manifest.feature_set != feature_set:
        raise UsageError(
            f"{model} was trained on the {manifest.feature_set} set, the stack computes {feature_set}: "
            f"train another model, or deploy with --parameter FeatureSet={manifest.feature_set}"
        )
    return manifest


def prepare_artefact(model: Path, manifest: Manifest, container: Container) -> Artefact:
    """The file that the container takes: with our code in it for AWS's container, as it is for an image of ours.

    The code brings its packages along: the container has no way out, and an instance added at night must not depend
    on a package index. The key of an artefact with code names the code, so that new code is a change of the stack.

    Raises:
        DeploymentFailed: the packages that go with the code could not be had.
    """
    packed = model.read_bytes()
    if container == "own-image":
        return Artefact(manifest, model, packed, artifact_key(manifest.model_version))
    try:
        added = code_files() | vendored()
    except subprocess.CalledProcessError as error:
        raise DeploymentFailed(
            "the packages of the endpoint's code cannot be downloaded from PyPI (pip says why above); "
            "run the same command again where it can be reached"
        ) from error
    scripted = with_code(packed, added)
    code = hashlib.sha256(scripted).hexdigest()[:16]
    return Artefact(
        manifest, model, scripted, f"{MODELS_PREFIX}{manifest.model_version}/scripted-{code}/{ARTIFACT_NAME}"
    )


def upload_artefact(s3: Any, bucket: str, artefact: Artefact) -> None:
    """Put the model under its version, where every command looks for it, and what is served under its own key."""
    publish(s3, artefact.given, bucket)
    if artefact.key != artifact_key(artefact.manifest.model_version):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / ARTIFACT_NAME
            file.write_bytes(artefact.served)
            publish(s3, file, bucket, key=artefact.key)


def model_url(bucket: str, artefact: Artefact) -> str:
    """What `ModelDataUrl` is to be."""
    return f"s3://{bucket}/{artefact.key}"


@dataclass(frozen=True, slots=True)
class ThresholdsNote:
    """Which model's thresholds a deployment last put into force, kept beside the artefacts.

    A policy that was activated since holds over a deployment that changes no model; a deployment that died between the
    endpoint and the policy is finished by the next one.
    """

    s3: Any
    bucket: str
    endpoint_name: str

    @property
    def _key(self) -> str:
        return f"deployments/{self.endpoint_name}.json"

    def read(self) -> str | None:
        """The `ModelDataUrl` of that model."""
        try:
            found = json.loads(self.s3.get_object(Bucket=self.bucket, Key=self._key)["Body"].read())
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise
        return str(found["model_data_url"])

    def write(self, model_data_url: str, model_version: str) -> None:
        """Note it."""
        document = {"model_data_url": model_data_url, "model_version": model_version}
        self.s3.put_object(
            Bucket=self.bucket, Key=self._key, Body=json.dumps(document).encode(), ContentType="application/json"
        )


def put_thresholds(
    account: Account, outputs: dict[str, str], artefact: Artefact, progress: Progress, *, timeout_s: float
) -> bool:
    """Once the endpoint serves the model, have its thresholds decide; false where that was done before.

    Raises:
        ActivationFailed: the endpoint does not serve it, or the policy in force cannot be read.
    """
    bucket, endpoint_name = outputs["ArtifactsBucketName"], outputs["EndpointName"]
    url = model_url(bucket, artefact)
    note = ThresholdsNote(account.client("s3"), bucket, endpoint_name)
    if note.read() == url:
        return False
    progress(f"waiting for endpoint {endpoint_name} to serve {artefact.manifest.model_version}")
    take_over(
        account.client("s3"),
        account.client("ssm"),
        account.client("sagemaker"),
        artefact.manifest,
        url,
        endpoint_name,
        bucket=bucket,
        policy_parameter=outputs["PolicyParameterName"],
        timeout_s=timeout_s,
        poll_s=account.poll_s,
    )
    note.write(url, artefact.manifest.model_version)
    return True
