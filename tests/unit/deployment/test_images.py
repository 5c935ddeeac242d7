"""The endpoint's image: what a build reads, when one is started, and what is said when it fails."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

from console.deployment.build import CHECKOUT
from console.deployment.failures import DeploymentFailed
from console.deployment.images import BUILDSPEC, TEMPLATE, build_image, image_sources, source_zip
from console.deployment.stacks import Waiting
from console.deployment.templates import parse_template

OUTPUTS = {"ProjectName": "p", "RepositoryName": "r", "RepositoryUri": "1.dkr.ecr.eu-west-1.amazonaws.com/r"}
DIGEST = f"sha256:{'a' * 64}"


class Aws:
    """S3, CodeBuild and ECR; a build ends with `ends` after two looks and puts its image into the repository."""

    def __init__(self, *, ends: str = "SUCCEEDED", pushes: bool = True) -> None:
        self._ends = ends
        self._pushes = pushes
        self.tags: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.builds: list[dict[str, Any]] = []
        self._looks = 0
        self.now_s = 0.0

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        self.objects[f"{Bucket}/{Key}"] = Body

    def describe_images(self, *, repositoryName: str, imageIds: list[dict[str, str]]) -> dict[str, Any]:
        if imageIds[0]["imageTag"] not in self.tags:
            raise ClientError({"Error": {"Code": "ImageNotFoundException", "Message": "none"}}, "DescribeImages")
        return {"imageDetails": [{"imageDigest": DIGEST}]}

    def start_build(self, **request: Any) -> dict[str, Any]:
        self.builds.append(request)
        return {"build": {"id": "p:1"}}

    def batch_get_builds(self, *, ids: list[str]) -> dict[str, Any]:
        self._looks += 1
        if self._looks < 3:
            return {"builds": [{"buildStatus": "IN_PROGRESS", "currentPhase": "BUILD"}]}
        if self._ends == "SUCCEEDED" and self._pushes:
            self.tags.add(self.builds[-1]["environmentVariablesOverride"][0]["value"])
        phases = [{"phaseType": "BUILD", "phaseStatus": "FAILED", "contexts": [{"message": "exit status 1"}]}]
        return {"builds": [{"buildStatus": self._ends, "phases": phases, "logs": {"deepLink": "https://log"}}]}

    def build(self) -> str:
        def sleep(seconds: float) -> None:
            self.now_s += seconds

        waiting = Waiting(clock=lambda: self.now_s, sleep=sleep)
        return build_image(self, self, self, OUTPUTS, "code", waiting, lambda line: None)


def test_an_image_is_named_by_its_digest() -> None:
    aws = Aws()
    assert aws.build() == f"{OUTPUTS['RepositoryUri']}@{DIGEST}"
    (build,) = aws.builds
    assert build["projectName"] == "p"
    assert build["sourceLocationOverride"] in aws.objects


def test_the_same_sources_are_built_once() -> None:
    aws = Aws()
    assert aws.build() == aws.build()
    assert len(aws.builds) == 1


@pytest.mark.parametrize("ends", ["FAILED", "STOPPED", "TIMED_OUT", "FAULT"])
def test_a_failed_build_says_where_why_and_where_its_log_is(ends: str) -> None:
    with pytest.raises(DeploymentFailed, match=f"p:1 {ends} in BUILD: exit status 1; its log: https://log"):
        Aws(ends=ends).build()


def test_a_build_that_leaves_no_image_is_no_success() -> None:
    with pytest.raises(DeploymentFailed, match="holds no image"):
        Aws(pushes=False).build()


def test_a_build_reads_all_that_the_dockerfile_copies_and_the_buildspec() -> None:
    sources = image_sources()
    dockerfile = (CHECKOUT / "endpoint" / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]]
    named = {word for word in copied if "*" not in word}
    assert named
    assert named | {"endpoint/Dockerfile", "endpoint/Dockerfile.dockerignore", BUILDSPEC} <= sources.keys()
    assert any(name.startswith("stream_features/") for name in sources)
    assert not [name for name in sources if name.startswith(("tests", ".", "lambdas"))]


def test_the_same_sources_give_the_same_name() -> None:
    files = {"b": b"2", "a": b"1"}
    packed, name = source_zip(files)
    assert source_zip(dict(reversed(files.items()))) == (packed, name)
    assert source_zip(files | {"a": b"other"})[1] != name
    assert zipfile.ZipFile(io.BytesIO(packed)).namelist() == ["a", "b"]


def test_the_buildspec_uses_what_the_project_and_the_caller_give_it() -> None:
    spec = yaml.safe_load((CHECKOUT / BUILDSPEC).read_text())
    commands = "\n".join(command for phase in spec["phases"].values() for command in phase["commands"])
    project = parse_template(TEMPLATE.read_text())["Resources"]["Project"]["Properties"]
    given = {each["Name"] for each in project["Environment"]["EnvironmentVariables"]}
    used = set(re.findall(r"\$\{?([A-Z_]+)", commands))
    assert used == given | {"IMAGE_TAG", "AWS_DEFAULT_REGION", "CODEBUILD_BUILD_SUCCEEDING"}
    assert project["Source"]["BuildSpec"] == BUILDSPEC
    assert "-f endpoint/Dockerfile" in commands


def test_the_build_may_push_to_its_repository_and_read_its_sources_only() -> None:
    resources = parse_template(TEMPLATE.read_text())["Resources"]
    (policy,) = resources["BuildRole"]["Properties"]["Policies"]
    statements = {each["Sid"]: each for each in policy["PolicyDocument"]["Statement"]}
    assert {sid for sid, each in statements.items() if each["Resource"] == "*"} == {"SignInToRegistry"}
    assert statements["PushImage"]["Resource"] == {"Fn::GetAtt": ["Repository", "Arn"]}
    assert statements["ReadSources"]["Resource"]["Fn::Sub"].endswith("${SourceBucket}/image-sources/*")
    assert not [each for each in statements.values() for action in each["Action"] if action == "*"]
