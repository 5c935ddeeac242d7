"""Conditions, maps and literals are resolved as CloudFormation does it, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.deployment.build import SAM
from local.plain_template import Resolver, plain_template, read_template
from local.run import RunFailed

ROOT = Path(__file__).resolve().parents[3]
PSEUDO = {"AWS::Region": "us-east-1", "AWS::AccountId": "000000000000", "AWS::Partition": "aws"}
TEMPLATE: dict[str, Any] = {
    "Parameters": {"Engine": {"Type": "String", "Default": "lambda"}, "Count": {"Type": "Number", "Default": 1}},
    "Mappings": {"Accounts": {"us-east-1": {"Account": "42"}}},
    "Conditions": {
        "Flink": {"Fn::Equals": [{"Ref": "Engine"}, "flink"]},
        "Scales": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Count"}, "1"]}]},
        "Both": {"Fn::And": [{"Condition": "Flink"}, {"Condition": "Scales"}]},
        "Either": {"Fn::Or": [{"Condition": "Flink"}, {"Condition": "Scales"}]},
    },
    "Resources": {
        "Job": {"Type": "A", "Condition": "Both", "Properties": {"Name": {"Ref": "Gone"}}},
        "Table": {
            "Type": "B",
            "Properties": {
                "Enabled": {"Fn::If": ["Flink", True, False]},
                "Actions": [{"Fn::If": ["Either", "x", {"Ref": "AWS::NoValue"}]}],
                "Account": {"Fn::FindInMap": ["Accounts", {"Ref": "AWS::Region"}, "Account"]},
                "Location": {"Fn::Sub": "s3://${Bucket}/dt=${!dt}/"},
                "Arn": {"Fn::GetAtt": ["Bucket", "Arn"]},
                "Policy": {"Statement": {"Condition": {"Bool": {"aws:SecureTransport": "false"}}}},
            },
        },
    },
    "Outputs": {"Job": {"Condition": "Flink", "Value": "j"}, "Table": {"Value": {"Ref": "Table"}}},
}


def test_false_conditions_take_their_resources_and_outputs_away() -> None:
    plain = plain_template(TEMPLATE, {}, PSEUDO)
    assert set(plain) == {"Parameters", "Resources", "Outputs"}
    assert set(plain["Resources"]) == set(plain["Outputs"]) == {"Table"}
    assert plain["Resources"]["Table"]["Properties"] == {
        "Enabled": False,
        "Actions": [],
        "Account": "42",
        "Location": {"Fn::Join": ["", [{"Fn::Sub": "s3://${Bucket}/dt="}, "${dt}", "/"]]},
        "Arn": {"Fn::GetAtt": ["Bucket", "Arn"]},
        "Policy": {"Statement": {"Condition": {"Bool": {"aws:SecureTransport": "false"}}}},
    }


def test_true_conditions_leave_them() -> None:
    plain = plain_template(TEMPLATE, {"Engine": "flink", "Count": "2"}, PSEUDO)
    assert set(plain["Resources"]) == {"Job", "Table"}
    assert "Condition" not in plain["Resources"]["Job"]
    assert plain["Resources"]["Table"]["Properties"]["Enabled"] is True
    assert plain["Resources"]["Table"]["Properties"]["Actions"] == ["x"]


def test_what_was_made_can_be_referred_to() -> None:
    resolver = Resolver(TEMPLATE, {}, PSEUDO)
    with pytest.raises(KeyError):
        resolver.resolved({"Ref": "Bucket"})
    resolver.made("Bucket", "lake", Arn="arn:aws:s3:::lake")
    assert resolver.resolved({"Fn::GetAtt": "Bucket.Arn"}) == "arn:aws:s3:::lake"
    assert resolver.resolved([{"Fn::Sub": "${Bucket}/${Bucket.Arn}/${AWS::Region}/${!x}"}]) == [
        "lake/arn:aws:s3:::lake/us-east-1/${x}"
    ]
    assert resolver.resolved({"Fn::Sub": ["${A}-${Bucket}", {"A": {"Ref": "Engine"}}]}) == "lambda-lake"


@pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam: make setup")
@pytest.mark.parametrize("name", ["template.yaml", "endpoint/template.yaml"])
def test_our_templates_become_plain(name: str) -> None:
    template = read_template((ROOT / name).read_text())
    given = {"ModelDataUrl": "s3://bucket/model.tar.gz", "ImageUri": "image"}
    plain = plain_template(template, given, PSEUDO | {"AWS::URLSuffix": "amazonaws.com"})
    text = str(plain)
    for gone in ("Fn::If", "Fn::FindInMap", "${!", "AWS::NoValue"):
        assert gone not in text
    assert 0 < len(plain["Resources"]) < len(template["Resources"])
    with pytest.raises(RunFailed, match="cannot be read"):
        read_template("{")
