"""The endpoint's own image, built by CodeBuild from the files that endpoint/Dockerfile copies; no Docker here.

An image is tagged with the hash of what it was built from, so the same sources are built once.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError

from console.deployment.build import CHECKOUT
from console.deployment.failures import DeploymentFailed
from console.deployment.stacks import Progress, Waiting

TEMPLATE: Final = CHECKOUT / "endpoint" / "build.yaml"
BUILDSPEC: Final = "endpoint/buildspec.yml"
SOURCES_PREFIX: Final = "image-sources/"
_DOCKERFILE: Final = "endpoint/Dockerfile"
_IGNORE_FILE: Final = "endpoint/Dockerfile.dockerignore"
_OLDEST_TIME: Final = (1980, 1, 1, 0, 0, 0)


def image_sources(root: Path = CHECKOUT) -> dict[str, bytes]:
    """Name to content of what a build of the image reads: its context, the Dockerfile and the buildspec."""
    patterns = [
        line.removeprefix("!") for line in (root / _IGNORE_FILE).read_text().splitlines() if line.startswith("!")
    ]
    context = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for pattern in patterns
        for path in sorted(root.glob(pattern))
        if path.is_file() and fnmatch.fnmatch(path.relative_to(root).as_posix(), pattern)
    }
    return context | {name: (root / name).read_bytes() for name in (_DOCKERFILE, _IGNORE_FILE, BUILDSPEC)}


def source_zip(files: dict[str, bytes]) -> tuple[bytes, str]:
    """A zip that is the same for the same files, and 16 hex that name it."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, _OLDEST_TIME)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content)
    packed = written.getvalue()
    return packed, hashlib.sha256(packed).hexdigest()[:16]


def build_image(
    s3: Any, codebuild: Any, ecr: Any, outputs: dict[str, str], bucket: str, waiting: Waiting, progress: Progress
) -> str:
    """The URI, by digest, of the image of this checkout; built now if the repository does not hold it.

    Args:
        s3: a boto3 client, as are the next two.
        codebuild: see s3.
        ecr: see s3.
        outputs: of the stack of endpoint/build.yaml.
        bucket: the deployment bucket, which the project may read.
        waiting: how long, and how often to look.
        progress: told what takes long.

    Raises:
        DeploymentFailed: the build failed; names its log.
    """
    packed, tag = source_zip(image_sources())
    repository, address = outputs["RepositoryName"], outputs["RepositoryUri"]
    digest = _digest(ecr, repository, tag)
    if digest is None:
        key = f"{SOURCES_PREFIX}{tag}.zip"
        s3.put_object(Bucket=bucket, Key=key, Body=packed, ContentType="application/zip")
        build = codebuild.start_build(
            projectName=outputs["ProjectName"],
            sourceTypeOverride="S3",
            sourceLocationOverride=f"{bucket}/{key}",
            environmentVariablesOverride=[{"name": "IMAGE_TAG", "value": tag, "type": "PLAINTEXT"}],
        )["build"]
        progress(f"building the endpoint's image in CodeBuild ({build['id']})")
        _wait(codebuild, build["id"], waiting, progress)
        digest = _digest(ecr, repository, tag)
        if digest is None:
            raise DeploymentFailed(f"build {build['id']} succeeded, but {repository} holds no image {tag}")
    return f"{address}@{digest}"


def _digest(ecr: Any, repository: str, tag: str) -> str | None:
    try:
        (image,) = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])["imageDetails"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ImageNotFoundException":
            return None
        raise
    return str(image["imageDigest"])


def _wait(codebuild: Any, build_id: str, waiting: Waiting, progress: Progress) -> None:
    started_s = told_at_s = waiting.clock()
    while True:
        (build,) = codebuild.batch_get_builds(ids=[build_id])["builds"]
        if build["buildStatus"] == "SUCCEEDED":
            return
        if build["buildStatus"] != "IN_PROGRESS":
            log = build.get("logs", {}).get("deepLink") or build.get("logs", {}).get("groupName") or "none"
            phases: list[dict[str, Any]] = build.get("phases", [])
            phase = next((each for each in phases if each.get("phaseStatus") not in (None, "SUCCEEDED")), {})
            said = "; ".join(context.get("message", "") for context in phase.get("contexts", []) if context)
            raise DeploymentFailed(
                f"build {build_id} {build['buildStatus']} in {phase.get('phaseType', 'no phase')}: "
                f"{said or 'no reason'}; its log: {log}"
            )
        if waiting.clock() - started_s > waiting.deadline_s:
            raise DeploymentFailed(f"build {build_id} is still under way after {waiting.deadline_s:.0f} s")
        if waiting.clock() - told_at_s >= waiting.tell_every_s:
            told_at_s = waiting.clock()
            progress(f"build {build_id} is in {build.get('currentPhase', 'no phase')}")
        waiting.sleep(waiting.poll_s)
