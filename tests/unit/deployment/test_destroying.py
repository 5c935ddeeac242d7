"""What `destroy` finds, in which order it deletes, and what it never touches unasked."""

from __future__ import annotations

from typing import Any

import pytest

from console.deployment.build import CHECKOUT
from console.deployment.deploying import MAIN
from console.deployment.destroying import Destruction
from console.deployment.environments import read_environment
from console.deployment.failures import DeploymentFailed
from tests.unit.deployment.fake_aws import ACCOUNT, REGION, FakeAccount, FakeStack

DEV = read_environment(CHECKOUT / "samconfig.toml", "dev")
TABLES = {f"dev-{name}" for name in ("decisions", "entity_state", "labels", "lists", "effects")}
CODE = DEV.code_bucket(ACCOUNT, REGION)
KEY = "0d9e"


class FakeDeployment(FakeAccount):
    """An environment that stands, or what a destroyed one left."""

    def __init__(self, *, stands: bool = True) -> None:
        super().__init__()
        self.tables = set(TABLES)
        self.buckets = {CODE, *(f"{DEV.stack}-{name}-{ACCOUNT}-{REGION}" for name in ("lake", "artifacts"))}
        self.key_state = "Enabled"
        self.log_groups = ["/aws/sagemaker/Endpoints/dev-fraudstream", "/aws/sagemaker/Endpoints/dev-fraudstream-2"]
        if stands:
            self.stacks = {
                DEV.stack: FakeStack("UPDATE_COMPLETE", MAIN.read_text(), dict(DEV.parameters)),
                DEV.endpoint_stack: FakeStack("CREATE_COMPLETE", '{"Resources": {"Endpoint": {"Type": "E"}}}'),
            }

    def list_stack_resources(self, *, StackName: str) -> dict[str, Any]:
        listed = [("Endpoint", "E", "endpoint-1")]
        if StackName == DEV.stack:
            listed = [("DecisionsTable", "AWS::DynamoDB::Table", "dev-decisions"), ("DataKey", "AWS::KMS::Key", KEY)]
            listed += [("TransactionsStream", "AWS::Kinesis::Stream", "dev-transactions")]
        names = ("LogicalResourceId", "ResourceType", "PhysicalResourceId")
        return {"StackResourceSummaries": [dict(zip(names, each, strict=True)) for each in listed]}

    def get_template(self, *, StackName: str, TemplateStage: str) -> dict[str, Any]:
        return {"TemplateBody": self.stacks[StackName].template}

    def describe_log_groups(self, *, logGroupNamePrefix: str) -> dict[str, Any]:
        return {"logGroups": [{"logGroupName": n} for n in self.log_groups if n.startswith(logGroupNamePrefix)]}

    def delete_log_group(self, *, logGroupName: str) -> None:
        self.log_groups.remove(logGroupName)

    def get_resources(self, **_filters: Any) -> dict[str, Any]:
        arns = [f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{KEY}", f"arn:aws:sqs:{REGION}:{ACCOUNT}:dev-quarantine"]
        return {"ResourceTagMappingList": [{"ResourceARN": arn} for arn in arns]}

    def describe_key(self, *, KeyId: str) -> dict[str, Any]:
        return {"KeyMetadata": {"KeyState": self.key_state}}

    def schedule_key_deletion(self, *, KeyId: str, PendingWindowInDays: int) -> None:
        assert PendingWindowInDays == 30
        self.key_state = "PendingDeletion"

    def list_object_versions(self, *, Bucket: str, MaxKeys: int) -> dict[str, Any]:
        return {}

    def delete_bucket(self, *, Bucket: str) -> None:
        self.buckets.remove(Bucket)

    def delete_table(self, *, TableName: str) -> None:
        self.tables.remove(TableName)

    def get_waiter(self, _name: str) -> FakeDeployment:
        return self

    def wait(self, **_settings: Any) -> None: ...


def destruction(account: FakeDeployment) -> Destruction:
    return Destruction(account, DEV, lambda line: None)  # type: ignore[arg-type]


def test_what_costs_by_the_hour_goes_first_and_data_stay_and_are_named() -> None:
    account = FakeDeployment()
    run = destruction(account)
    left = run.carry_out(run.survey(), delete_data=False)
    assert account.calls == [f"delete_stack {DEV.endpoint_stack}", f"delete_stack {DEV.stack}"]
    assert account.tables == TABLES
    assert {each.name for each in left} == {
        "dev-decisions",
        KEY,
        CODE,
        "/aws/sagemaker/Endpoints/dev-fraudstream",
    }


def test_data_go_when_asked_for_and_keys_with_time_to_change_ones_mind() -> None:
    account = FakeDeployment()
    run = destruction(account)
    assert run.carry_out(run.survey(), delete_data=True) == []
    assert CODE not in account.buckets
    assert account.key_state == "PendingDeletion"
    assert run.still_tagged() == [f"arn:aws:sqs:{REGION}:{ACCOUNT}:dev-quarantine"]
    assert account.log_groups == ["/aws/sagemaker/Endpoints/dev-fraudstream-2"]  # another endpoint's


def test_what_a_former_destroy_left_is_found_by_name_and_tag() -> None:
    account = FakeDeployment(stands=False)
    run = destruction(account)
    found = run.survey()
    assert found.stacks == []
    assert {each.name for each in found.keeps} == {*TABLES, *account.buckets, KEY, account.log_groups[0]}
    assert run.carry_out(found, delete_data=True) == []
    assert (account.tables, account.buckets, account.key_state) == (set(), set(), "PendingDeletion")
    assert destruction(account).survey().is_empty


def test_a_stack_that_is_being_changed_is_left_alone() -> None:
    account = FakeDeployment()
    account.stacks[DEV.stack].status = "UPDATE_IN_PROGRESS"
    with pytest.raises(DeploymentFailed, match="is UPDATE_IN_PROGRESS: wait"):
        destruction(account).survey()
    assert account.calls == []
