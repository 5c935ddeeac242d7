"""Deploying through change sets, on a CloudFormation in memory."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from console.deployment.failures import DeploymentFailed
from console.deployment.stacks import Change, ChangeSet, Stacks, Waiting, deploy_stack


class FakeCloudFormation:
    """One stack; `refuses` fails the deployment, `unchanged` makes an empty change set."""

    def __init__(self, *, refuses: str = "", unchanged: bool = False, status: str | None = None) -> None:
        self._refuses = refuses
        self._unchanged = unchanged
        self.status = status
        self.kinds: list[str] = []
        self.sources: list[str] = []
        self.deleted: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.events: list[dict[str, str]] | None = None

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        if self.status is None:
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "does not exist"}}, "DescribeStacks")
        outputs = [{"OutputKey": "Name", "OutputValue": StackName}]
        return {"Stacks": [{"StackStatus": self.status, "Outputs": outputs}]}

    def create_change_set(self, **request: Any) -> None:
        self.requests.append(request)
        self.kinds.append(request["ChangeSetType"])
        self.sources.append("TemplateURL" if "TemplateURL" in request else "TemplateBody")
        self.parameters = request["Parameters"]

    def describe_change_set(self, **_request: Any) -> dict[str, str]:
        if self._unchanged:
            return {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}
        return {"Status": "CREATE_COMPLETE"}

    def delete_change_set(self, **request: Any) -> None:
        self.deleted.append(request["ChangeSetName"])

    def delete_stack(self, **_request: Any) -> None:
        self.status = None

    def execute_change_set(self, **_request: Any) -> None:
        self.status = "ROLLBACK_COMPLETE" if self._refuses else "CREATE_COMPLETE"

    def describe_stack_events(self, StackName: str) -> dict[str, Any]:
        if self.events is not None:
            return {"StackEvents": self.events}
        return {
            "StackEvents": [
                {"LogicalResourceId": "Last", "ResourceStatus": "DELETE_COMPLETE"},
                {
                    "LogicalResourceId": "Table",
                    "ResourceStatus": "CREATE_FAILED",
                    "ResourceStatusReason": self._refuses,
                },
            ]
        }


def test_a_new_stack_is_created_and_its_outputs_returned() -> None:
    cloudformation = FakeCloudFormation()
    assert deploy_stack(cloudformation, "s", "{}", {"A": "1"}) == {"Name": "s"}
    assert cloudformation.kinds == ["CREATE"]
    assert cloudformation.parameters == [{"ParameterKey": "A", "ParameterValue": "1"}]


def test_an_existing_stack_is_updated() -> None:
    cloudformation = FakeCloudFormation(status="CREATE_COMPLETE")
    deploy_stack(cloudformation, "s", "{}", {})
    assert cloudformation.kinds == ["UPDATE"]


def test_nothing_to_change_is_no_failure() -> None:
    cloudformation = FakeCloudFormation(status="CREATE_COMPLETE", unchanged=True)
    assert deploy_stack(cloudformation, "s", "{}", {}) == {"Name": "s"}
    assert len(cloudformation.deleted) == 1


def test_a_refused_stack_says_which_resource_and_why() -> None:
    with pytest.raises(DeploymentFailed, match="s ROLLBACK_COMPLETE: Table: no such luck"):
        deploy_stack(FakeCloudFormation(refuses="no such luck"), "s", "{}", {})


def test_a_template_too_large_for_the_request_goes_through_s3() -> None:
    cloudformation = FakeCloudFormation()
    uploaded: list[str] = []

    def upload(template: str) -> str:
        uploaded.append(template)
        return "http://bucket/template.yaml"

    deploy_stack(cloudformation, "s", "x" * 60_000, {}, upload=upload)
    deploy_stack(cloudformation, "s", "small", {}, upload=upload)
    assert cloudformation.sources == ["TemplateURL", "TemplateBody"]
    assert uploaded == ["x" * 60_000]


def stacks(cloudformation: FakeCloudFormation, **settings: Any) -> Stacks:
    return Stacks(cloudformation=cloudformation, waiting=Waiting(sleep=lambda seconds: None), **settings)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("UPDATE_IN_PROGRESS", "another deployment is under way"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name s"),
        ("DELETE_FAILED", "fraudstream destroy"),
    ],
)
def test_a_state_that_a_person_has_to_end_says_what_to_type(status: str, said: str) -> None:
    with pytest.raises(DeploymentFailed, match=said):
        stacks(FakeCloudFormation(status=status)).ready_for_changes("s", print)


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "CREATE_FAILED", "ROLLBACK_FAILED"])
def test_the_shell_of_a_failed_creation_is_removed_and_created_anew(status: str) -> None:
    cloudformation = FakeCloudFormation(status=status)
    told: list[str] = []
    assert stacks(cloudformation).ready_for_changes("s", told.append) is False
    assert cloudformation.status is None
    assert status in told[0]
    assert stacks(FakeCloudFormation(status=status)).parameters("s") == {}


def test_a_stack_that_only_waits_for_its_first_change_set_is_created() -> None:
    cloudformation = FakeCloudFormation(status="REVIEW_IN_PROGRESS")
    assert stacks(cloudformation).ready_for_changes("s", print) is False
    assert cloudformation.status == "REVIEW_IN_PROGRESS"


def test_a_change_set_says_what_the_deployment_is_to_be() -> None:
    cloudformation = FakeCloudFormation(status="UPDATE_COMPLETE")
    made = stacks(cloudformation, role_arn="arn:role").make_change_set(
        "s", "{}", {"A": "1", "B": None}, update=True, tags={"k": "v"}, import_existing=True
    )
    assert made is not None
    assert cloudformation.parameters == [
        {"ParameterKey": "A", "ParameterValue": "1"},
        {"ParameterKey": "B", "UsePreviousValue": True},
    ]
    request = cloudformation.requests[-1]
    assert request["RoleARN"] == "arn:role"
    assert request["Tags"] == [{"Key": "k", "Value": "v"}]
    assert request["ImportExistingResources"] is True


def test_what_is_removed_or_replaced_stands_last_where_it_is_seen() -> None:
    changes = (
        Change(action="Remove", logical_id="Table", kind="Table"),
        Change(action="Modify", logical_id="Stream", kind="Stream", replacement="True"),
        Change(action="Modify", logical_id="Alarm", kind="Alarm", replacement="Conditional"),
        Change(action="Add", logical_id="Zoo", kind="Zoo"),
    )
    change_set = ChangeSet(stack="s", name="c", changes=changes)
    assert {each.logical_id for each in change_set.endangers} == {"Table", "Stream", "Alarm"}
    lines = change_set.lines()
    assert "Zoo" in lines[0]
    assert [line for line in lines if line.endswith("REPLACED")]
    assert [line for line in lines if line.endswith("may be replaced")]


def test_reasons_are_those_of_the_last_attempt_without_what_was_only_cancelled() -> None:
    def event(name: str, status: str, reason: str = "", kind: str = "T") -> dict[str, str]:
        return {
            "LogicalResourceId": name,
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
            "ResourceType": kind,
        }

    events = [
        event("s", "UPDATE_ROLLBACK_COMPLETE", kind="AWS::CloudFormation::Stack"),
        event("Bystander", "UPDATE_FAILED", "Resource update cancelled"),
        event("Stream", "CREATE_FAILED", "already exists"),
        event("s", "UPDATE_IN_PROGRESS", kind="AWS::CloudFormation::Stack"),
        event("Former", "CREATE_FAILED", "last week"),
    ]
    cloudformation = FakeCloudFormation(status="UPDATE_ROLLBACK_COMPLETE")
    cloudformation.events = events
    assert stacks(cloudformation).reasons("s") == "Stream: already exists"


def test_a_discarded_change_set_leaves_no_shell() -> None:
    cloudformation = FakeCloudFormation(status="REVIEW_IN_PROGRESS")
    stacks(cloudformation).discard(ChangeSet(stack="s", name="c", changes=()))
    assert (cloudformation.deleted, cloudformation.status) == (["c"], None)
