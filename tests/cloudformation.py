"""The templates as data: short forms long, and what is conditional decided as CloudFormation decides it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from local.run import CHECKOUT

MAIN: Final = CHECKOUT / "template.yaml"
ENDPOINT: Final = CHECKOUT / "endpoint" / "template.yaml"
NETWORK: Final = CHECKOUT / "network.yaml"
TEMPLATES: Final = (MAIN, ENDPOINT)

# Every switch on, so that nothing conditional is left out.
EVERYTHING: Final = {
    MAIN: {
        "Engine": "flink",
        "FlinkCodeKey": f"flink/{'0' * 64}.zip",
        "FlinkSubnetIds": "subnet-1",
        "FlinkSecurityGroupIds": "sg-1",
        "VpcSubnetIds": "subnet-1",
        "VpcSecurityGroupIds": "sg-1",
        "AlarmTopicArn": "arn:aws:sns:eu-central-1:000000000000:operators",
        "DecisionEvents": "true",
        "EnhancedFanOut": "true",
        "XRay": "true",
    },
    ENDPOINT: {
        "MaxInstanceCount": "2",
        "DataCaptureS3Uri": "s3://bucket/captured",
        "VpcSubnetIds": "subnet-1",
        "VpcSecurityGroupIds": "sg-1",
        "AlarmTopicArn": "arn:aws:sns:eu-central-1:000000000000:operators",
    },
}


class _Loader(yaml.SafeLoader):
    """Short forms as their long ones: `!Ref X` is {"Ref": "X"}, `!Sub x` is {"Fn::Sub": "x"}."""


def _long_form(loader: yaml.Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _long_form)


def load(path: Path) -> dict[str, Any]:
    """A template as it is written."""
    found: dict[str, Any] = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a SafeLoader
    return found


def decided(path: Path, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A template with these parameters: resources whose condition is false are gone, and so is every `Fn::If`.

    Args:
        path: of the template.
        parameters: those that are not to have their default.
    """
    template = load(path)
    values = {name: str(each.get("Default", "")) for name, each in template["Parameters"].items()}
    assert not set(parameters or {}) - set(values)
    values |= parameters or {}
    conditions = template.get("Conditions", {})
    holds = {name: _holds(condition, values, conditions) for name, condition in conditions.items()}
    template["Resources"] = {
        name: each for name, each in template["Resources"].items() if holds.get(each.get("Condition"), True)
    }
    chosen: dict[str, Any] = _chosen(template, holds)
    return chosen


def resources(path: Path, kind: str, parameters: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Properties of the resources of a type by logical id, decided."""
    found = decided(path, parameters)["Resources"]
    return {name: each.get("Properties", {}) for name, each in found.items() if each["Type"] == kind}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allow_statements(path: Path, parameters: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(logical id of the role or policy, statement) for everything that is allowed, with every switch on by default."""
    parameters = EVERYTHING[path] if parameters is None else parameters
    for role, properties in resources(path, "AWS::IAM::Role", parameters).items():
        for policy in properties["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                assert statement["Effect"] == "Allow"
                yield role, statement
    for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        for name, properties in resources(path, kind, parameters).items():
            for statement in properties["PolicyDocument"]["Statement"]:
                assert statement["Effect"] == "Allow"
                yield name, statement


def _holds(condition: Any, values: Mapping[str, str], conditions: Mapping[str, Any]) -> bool:
    ((function, arguments),) = condition.items()
    if function == "Condition":
        return _holds(conditions[arguments], values, conditions)
    if function == "Fn::Equals":
        first, second = (values[each["Ref"]] if isinstance(each, dict) else str(each) for each in arguments)
        return first == second
    if function == "Fn::Not":
        return not _holds(arguments[0], values, conditions)
    assert function in ("Fn::And", "Fn::Or"), function
    return (all if function == "Fn::And" else any)(_holds(each, values, conditions) for each in arguments)


_NOTHING: Final = {"Ref": "AWS::NoValue"}


def _chosen(value: Any, holds: Mapping[str, bool]) -> Any:
    if isinstance(value, list):
        found = (_chosen(each, holds) for each in value)
        return [each for each in found if each != _NOTHING]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Fn::If"}:
        condition, then, otherwise = value["Fn::If"]
        return _chosen(then if holds[condition] else otherwise, holds)
    pairs = ((name, _chosen(each, holds)) for name, each in value.items())
    return {name: each for name, each in pairs if each != _NOTHING}
