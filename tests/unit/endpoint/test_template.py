"""endpoint/template.yaml: the choice of container, and what is kept of the invocations."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from endpoint import script_mode
from endpoint.script_package import code_files

TEMPLATE = Path(script_mode.__file__).with_name("template.yaml")


class _Loader(yaml.SafeLoader):
    """Short forms as pairs: `!Ref X` is ("Ref", "X")."""


def _pair(loader: yaml.Loader, suffix: str, node: yaml.Node) -> tuple[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return suffix, loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return suffix, loader.construct_sequence(node, deep=True)
    return suffix, loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]


_Loader.add_multi_constructor("!", _pair)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text(), _Loader)  # noqa: S506 - a SafeLoader
    return loaded


def properties(template: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"][name]["Properties"]
    return found


def test_cfn_lint_finds_nothing():
    done = subprocess.run(
        [Path(sys.executable).parent / "cfn-lint", TEMPLATE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_prebuilt_container_is_told_to_run_the_packed_entry_point(template):
    kind, (condition, prebuilt, own) = properties(template, "Model")["PrimaryContainer"]["Environment"]
    assert (kind, condition, own) == ("If", "RunsPrebuilt", ("Ref", "AWS::NoValue"))
    assert f"code/{prebuilt['SAGEMAKER_PROGRAM']}" in code_files()
    assert prebuilt["SAGEMAKER_SUBMIT_DIRECTORY"] == "/opt/ml/model/code"


def test_the_prebuilt_image_is_awss_own_in_every_region_and_the_role_may_pull_it(template):
    _, (_, (_, (image, values)), own) = properties(template, "Model")["PrimaryContainer"]["Image"]
    assert image == "${Account}.dkr.ecr.${AWS::Region}.${AWS::URLSuffix}/sagemaker-xgboost:${PrebuiltVersion}"
    assert values == {"Account": ("FindInMap", ["PrebuiltRegistry", ("Ref", "AWS::Region"), "Account"])}
    assert own == ("Ref", "ImageUri")
    registry = template["Mappings"]["PrebuiltRegistry"]
    assert all(re.fullmatch(r"\d{12}", region["Account"]) for region in registry.values())
    assert len(registry) > 30
    policy = properties(template, "ExecutionRole")["Policies"][0]
    [read] = [each for each in policy["PolicyDocument"]["Statement"] if each["Sid"] == "ReadImage"]
    _, (condition, (_, (prebuilt, _)), _) = read["Resource"]
    assert condition == "RunsPrebuilt"
    assert prebuilt == "arn:${AWS::Partition}:ecr:${AWS::Region}:${Account}:repository/sagemaker-xgboost"


def test_an_own_image_has_to_be_named_and_is_the_default(template):
    rule = template["Rules"]["OwnImageIsNamed"]
    assert rule["RuleCondition"] == ("Equals", [("Ref", "Container"), "own-image"])
    assert rule["Assertions"][0]["Assert"] == ("Not", [("Equals", [("Ref", "ImageUri"), "none"])])
    assert template["Parameters"]["ImageUri"]["Default"] == "none"
    assert template["Parameters"]["Container"]["Default"] == "own-image"


def test_capture_is_off_unless_a_place_is_named_and_may_write_there_only(template):
    assert template["Parameters"]["DataCaptureS3Uri"]["Default"] == ""
    kind, (condition, capture, off) = properties(template, "EndpointConfig")["DataCaptureConfig"]
    assert (kind, condition, off) == ("If", "Captures", ("Ref", "AWS::NoValue"))
    assert capture["CaptureOptions"] == [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}]
    [statement] = properties(template, "CapturePolicy")["PolicyDocument"]["Statement"]
    assert statement["Action"] == "s3:PutObject"
    assert statement["Resource"][1][0] == "arn:${AWS::Partition}:s3:::${BucketAndPrefix}/*"


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("", True),
        ("s3://lake", True),
        ("s3://lake/a/b", True),
        ("s3://lake/", False),
        ("https://lake/a", False),
        ("lake", False),
    ],
)
def test_the_place_of_captured_data_is_an_s3_url(template, uri, allowed):
    assert bool(re.fullmatch(template["Parameters"]["DataCaptureS3Uri"]["AllowedPattern"], uri)) == allowed
