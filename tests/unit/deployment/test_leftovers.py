"""What outlives a stack: known by name, named before anything is deleted, and taken in again."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from console.deployment.build import CHECKOUT
from console.deployment.costs import main_template
from console.deployment.destroying import StackFound, Survey
from console.deployment.environments import read_environment
from console.deployment.leftovers import Leftover, existing_leftovers, retained, retained_by, with_static_names
from console.deployment.templates import Template, parse_template

TEXT = """
Parameters: {Prefix: {Type: String, Default: ""}}
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: RetainExceptOnCreate
    Properties: {TableName: !Sub "${Prefix}decisions", Key: !GetAtt DataKey.Arn}
  Bucket: {Type: "AWS::S3::Bucket", DeletionPolicy: Retain, Properties: {BucketName: !Sub "lake-${AWS::Region}"}}
  Scratch: {Type: "AWS::S3::Bucket", Properties: {BucketName: scratch}}
  DataKey: {Type: "AWS::KMS::Key", DeletionPolicy: Retain}
"""
TABLE = Leftover(logical_id="Table", kind="AWS::DynamoDB::Table", name="dev-decisions")
BUCKET = Leftover(logical_id="Bucket", kind="AWS::S3::Bucket", name="lake-here")


def template() -> Template:
    return Template(parse_template(TEXT), {"Prefix": "dev-"}, {"AWS::Region": "here"})


class Account:
    """One that holds these tables and buckets."""

    account_id = "1"

    def __init__(self, *names: str) -> None:
        self._names = names

    def client(self, _service: str) -> Account:
        return self

    def describe_table(self, *, TableName: str) -> dict[str, Any]:
        if TableName not in self._names:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "no"}}, "DescribeTable")
        return {"Table": {}}

    def head_bucket(self, *, Bucket: str, ExpectedBucketOwner: str) -> None:
        if Bucket not in self._names:
            raise ClientError({"Error": {"Code": "404", "Message": "no"}}, "HeadBucket")


def test_what_a_stack_leaves_is_known_by_name_before_it_stands() -> None:
    assert retained(template()) == [TABLE, BUCKET]


def test_only_what_exists_is_in_the_way() -> None:
    assert existing_leftovers(Account("dev-decisions"), template()) == [TABLE]  # type: ignore[arg-type]
    assert existing_leftovers(Account("scratch"), template()) == []  # type: ignore[arg-type]


def test_keys_are_known_by_the_stack_alone() -> None:
    listed = [
        {"LogicalResourceId": "DataKey", "ResourceType": "AWS::KMS::Key", "PhysicalResourceId": "k-1"},
        {"LogicalResourceId": "Scratch", "ResourceType": "AWS::S3::Bucket", "PhysicalResourceId": "scratch"},
        {"LogicalResourceId": "Table", "ResourceType": "AWS::DynamoDB::Table"},  # was never made
    ]
    assert retained_by(template(), listed) == [Leftover(logical_id="DataKey", kind="AWS::KMS::Key", name="k-1")]


def test_names_are_written_out_for_an_import_and_nothing_else_changes() -> None:
    written = parse_template(with_static_names(TEXT, [TABLE]))
    assert written["Resources"]["Table"]["Properties"]["TableName"] == "dev-decisions"
    written["Resources"]["Table"]["Properties"]["TableName"] = {"Fn::Sub": "${Prefix}decisions"}
    assert written == parse_template(TEXT)
    again = Template(written, {"Prefix": "dev-"}, {"AWS::Region": "here"})
    assert retained(again) == retained(template())  # so the next deployment changes no name


def test_the_template_of_this_repository_leaves_its_tables_and_buckets() -> None:
    environment = read_environment(CHECKOUT / "samconfig.toml", "dev")
    kinds = [each.kind for each in retained(main_template(environment))]
    assert kinds.count("AWS::DynamoDB::Table") == 5
    assert kinds.count("AWS::S3::Bucket") >= 2


def test_a_survey_says_what_goes_and_what_stays_and_what_that_costs() -> None:
    stack = StackFound("s", [{"ResourceType": "A"}, {"ResourceType": "A"}, {"ResourceType": "B"}])
    key = Leftover(logical_id="", kind="AWS::KMS::Key", name="k-1")
    survey = Survey([stack], [TABLE, key])
    kept = survey.lines(delete_data=False)
    assert kept[0] == "deleted: stack s: 2 A, 1 B"
    assert kept[1].startswith("kept: AWS::DynamoDB::Table dev-decisions (idle: $0; ")
    assert kept[2] == "kept: AWS::KMS::Key k-1 ($1 a month)"
    assert all(line.startswith("deleted") for line in survey.lines(delete_data=True))
    assert Survey().is_empty
    assert not survey.is_empty
