"""What the template's roles allow, against what their functions ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from stream_features.names import STACK
from tests.cloudformation import as_list
from tests.e2e.noted_calls import Call

Template = Mapping[str, Any]


class Permission(NamedTuple):
    """One action that one statement of a function's role allows on one pattern of ARNs."""

    function: str
    sid: str
    action: str
    resource: str

    def covers(self, call: Call) -> bool:
        same = (self.function, self.action) == (call.function, call.action)
        return same and fnmatchcase(call.resource, self.resource)


class Excess(NamedTuple):
    """Permissions that no run of ours needs, and why they stay."""

    why: str
    covers: Callable[[Permission], bool]


def permissions(template: Template, *, region: str, account: str) -> list[Permission]:
    """What each function's role allows, by the function's name.

    Args:
        template: decided, without conditions.
        region: of the run.
        account: of the run.
    """
    arns = _Arns(template, region, account)
    found = []
    for function in template["Resources"].values():
        if function["Type"] != "AWS::Serverless::Function":
            continue
        name = arns.text(function["Properties"]["FunctionName"])
        role = template["Resources"][function["Properties"]["Role"]["Fn::GetAtt"].removesuffix(".Arn")]
        for statement in _statements(role):
            found += [
                Permission(name, statement["Sid"], action, arns.text(resource))
                for action in as_list(statement["Action"])
                for resource in as_list(statement["Resource"])
            ]
    return found


def missing(calls: Iterable[Call], allowed: Iterable[Permission]) -> list[Call]:
    """Calls that no permission covers."""
    allowed = list(allowed)
    return sorted(call for call in set(calls) if not any(permission.covers(call) for permission in allowed))


def unused(calls: Iterable[Call], allowed: Iterable[Permission], excess: Iterable[Excess] = ()) -> list[Permission]:
    """Permissions that no call needs and no `excess` explains."""
    calls, excess = set(calls), list(excess)
    return sorted(
        permission
        for permission in set(allowed)
        if not any(permission.covers(call) for call in calls) and not any(each.covers(permission) for each in excess)
    )


def _statements(role: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (s for policy in role["Properties"]["Policies"] for s in policy["PolicyDocument"]["Statement"])


class _Arns:
    """Names and ARNs as CloudFormation gives them, of what our templates refer to."""

    def __init__(self, template: Template, region: str, account: str) -> None:
        self._template = template
        self._place = f"{region}:{account}"
        self._pseudo = {
            "AWS::Partition": "aws",
            "AWS::Region": region,
            "AWS::AccountId": account,
            "AWS::StackName": STACK,
        }

    def text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        ((function, argument),) = value.items()
        if function == "Ref":
            return self._ref(argument)
        if function == "Fn::GetAtt":
            return self._arn(argument)
        assert function == "Fn::Sub", function
        return re.sub(r"\$\{([^}]+)\}", lambda found: self._named(found[1]), argument)

    def _named(self, name: str) -> str:
        return self._arn(name) if "." in name else self._ref(name)

    def _ref(self, name: str) -> str:
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._template["Parameters"]:
            return str(self._template["Parameters"][name]["Default"])
        resource = self._template["Resources"][name]
        properties = resource["Properties"]
        if resource["Type"] == "AWS::SNS::Topic":
            return f"arn:aws:sns:{self._place}:{self.text(properties['TopicName'])}"
        return self.text(properties[{"AWS::SSM::Parameter": "Name", "AWS::S3::Bucket": "BucketName"}[resource["Type"]]])

    def _arn(self, name: str) -> str:
        logical_id, _, attribute = name.partition(".")
        assert attribute == "Arn", name
        resource = self._template["Resources"][logical_id]
        if resource["Type"] == "AWS::KMS::Key":
            return f"arn:aws:kms:{self._place}:key/{logical_id}"
        before, name_property, after = _ARNS[resource["Type"]]
        name = self.text(resource["Properties"][name_property])
        return f"{before.replace('PLACE', self._place)}{name}{after}"


# What stands before the name, the property that holds the name, what stands behind it.
_ARNS = {
    "AWS::Events::EventBus": ("arn:aws:events:PLACE:event-bus/", "Name", ""),
    "AWS::Kinesis::Stream": ("arn:aws:kinesis:PLACE:stream/", "Name", ""),
    "AWS::DynamoDB::Table": ("arn:aws:dynamodb:PLACE:table/", "TableName", ""),
    "AWS::S3::Bucket": ("arn:aws:s3:::", "BucketName", ""),
    "AWS::SQS::Queue": ("arn:aws:sqs:PLACE:", "QueueName", ""),
    "AWS::Logs::LogGroup": ("arn:aws:logs:PLACE:log-group:", "LogGroupName", ":*"),
}
