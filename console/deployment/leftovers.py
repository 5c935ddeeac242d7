"""Tables and buckets that outlive their stack: found by name, taken in again by a new stack, or deleted on demand."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from console.deployment.account import Account
from console.deployment.buckets import bucket_is_ours, delete_bucket
from console.deployment.stacks import Progress
from console.deployment.templates import Template, parse_template

_KEY_WAITS_DAYS: Final = 30  # what was encrypted with it can be saved until then
# Where a kind's name stands in a template.
_NAMES: Final = {"AWS::DynamoDB::Table": "TableName", "AWS::S3::Bucket": "BucketName"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A resource that a stack leaves behind when it is deleted."""

    logical_id: str
    kind: str
    name: str


def retained(template: Template) -> list[Leftover]:
    """What the template's stack leaves behind, of the kinds that are found by name."""
    return [
        Leftover(logical_id=each.logical_id, kind=each.kind, name=str(each.properties[_NAMES[each.kind]]))
        for each in template.resources(*_NAMES)
        if each.retained and isinstance(each.properties.get(_NAMES[each.kind]), str)
    ]


def existing_leftovers(account: Account, template: Template) -> list[Leftover]:
    """Those of `retained` that exist."""
    return [each for each in retained(template) if exists(account, each)]


def exists(account: Account, leftover: Leftover) -> bool:
    """Whether it is there, in this account and region."""
    if leftover.kind == "AWS::S3::Bucket":
        return bucket_is_ours(account.client("s3"), leftover.name, account.account_id)
    try:
        account.client("dynamodb").describe_table(TableName=leftover.name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return False
        raise
    return True


def retained_by(template: Template, resources: Collection[dict[str, Any]]) -> list[Leftover]:
    """What a stack that exists leaves behind, whatever its kind; `resources` are those of CloudFormation's list."""
    keeps = {each.logical_id for each in template.resources() if each.retained}
    return [
        Leftover(logical_id=each["LogicalResourceId"], kind=each["ResourceType"], name=each["PhysicalResourceId"])
        for each in resources
        if each["LogicalResourceId"] in keeps and each.get("PhysicalResourceId")
    ]


def with_static_names(text: str, found: Collection[Leftover]) -> str:
    """The template `text` with the names of `found` written out: CloudFormation imports by a name that is no function.

    The names are those that the functions give, so the next deployment changes nothing.
    """
    document: dict[str, Any] = parse_template(text)
    for each in found:
        document["Resources"][each.logical_id]["Properties"][_NAMES[each.kind]] = each.name
    return json.dumps(document, default=str)


def delete(account: Account, leftover: Leftover, progress: Progress) -> bool:
    """Delete it with everything in it; false where this command knows no way to."""
    match leftover.kind:
        case "AWS::S3::Bucket":
            progress(f"emptying and deleting bucket {leftover.name}")
            delete_bucket(account.client("s3"), leftover.name)
        case "AWS::DynamoDB::Table":
            progress(f"deleting table {leftover.name}")
            _delete_table(account.client("dynamodb"), leftover.name)
        case "AWS::Logs::LogGroup":
            progress(f"deleting log group {leftover.name}")
            account.client("logs").delete_log_group(logGroupName=leftover.name)
        case "AWS::KMS::Key":
            progress(
                f"key {leftover.name} will be deleted in {_KEY_WAITS_DAYS} days (kms cancel-key-deletion keeps it)"
            )
            account.client("kms").schedule_key_deletion(KeyId=leftover.name, PendingWindowInDays=_KEY_WAITS_DAYS)
        case _:
            return False
    return True


def _delete_table(dynamodb: Any, name: str) -> None:
    if dynamodb.describe_table(TableName=name)["Table"].get("DeletionProtectionEnabled"):
        dynamodb.update_table(TableName=name, DeletionProtectionEnabled=False)
    dynamodb.delete_table(TableName=name)
    dynamodb.get_waiter("table_not_exists").wait(TableName=name, WaiterConfig={"Delay": 2, "MaxAttempts": 150})
