"""Reading templates: the functions that names, counts and conditions are made of."""

from __future__ import annotations

from typing import Any

import pytest

from console.deployment.templates import Template, parse_template

TEXT = """
Parameters:
  Prefix: {Type: String, Default: ""}
  Count: {Type: Number, Default: 2}
Mappings: {Places: {here: {Account: "1"}, there: {Account: "2"}}}
Conditions:
  Many: !Not [!Equals [!Ref Count, "1"]]
  Named: !Not [!Equals [!Ref Prefix, ""]]
  Both: !And [!Condition Many, !Condition Named]
  Either: !Or [!Condition Many, !Condition Named]
Resources:
  Stream:
    Type: Stream
    DeletionPolicy: RetainExceptOnCreate
    Properties: {Name: !Sub "${Prefix}transactions", Shards: !Ref Count, Role: !GetAtt Role.Arn}
  OnlyBoth: {Type: Other, Condition: Both}
  OnlyEither: {Type: Other, Condition: Either, DeletionPolicy: Retain}
"""


def template(**given: str) -> Template:
    return Template(parse_template(TEXT), given, {"AWS::Region": "here"})


def test_names_and_counts_are_known_before_anything_is_deployed() -> None:
    (stream,) = template(Prefix="dev-", Count="5").resources("Stream")
    assert stream.properties == {"Name": "dev-transactions", "Shards": "5", "Role": {"Fn::GetAtt": ["Role", "Arn"]}}
    assert stream.retained


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ({}, {"Stream", "OnlyEither"}),
        ({"Count": "1"}, {"Stream"}),
        ({"Prefix": "dev-"}, {"Stream", "OnlyBoth", "OnlyEither"}),
        ({"Prefix": "dev-", "Count": "1"}, {"Stream", "OnlyEither"}),
    ],
)
def test_conditions_say_which_resources_there_are(given: dict[str, str], there: set[str]) -> None:
    assert {each.logical_id for each in template(**given).resources()} == there


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("!If [Many, a, b]", "a"),
        ('!If [Named, a, !Ref "AWS::NoValue"]', None),
        ('!Join ["-", [a, !Ref Count]]', "a-2"),
        ('!Select [1, !Split ["://", "s3://bucket/key"]]', "bucket/key"),
        ('!FindInMap [Places, !Ref "AWS::Region", Account]', "1"),
        ('!Sub ["${Region}/${Key}", {Region: x, Key: !Ref Count}]', "x/2"),
        ('!Sub "${Prefix}${!literal}"', "${!literal}"),
        ('!Sub "${Role.Arn}/*"', {"Fn::Sub": "${Role.Arn}/*"}),
        ("!Ref Role", {"Ref": "Role"}),
    ],
)
def test_functions(written: str, read: Any) -> None:
    value = parse_template(f"Value: {written}")
    assert template().resolve(value) == ({} if read is None else {"Value": read})


def test_an_item_without_a_value_is_left_out_of_a_list() -> None:
    assert template().resolve(parse_template('V: [!If [Named, a, !Ref "AWS::NoValue"], b]')) == {"V": ["b"]}


def test_json_templates_are_read_as_well() -> None:
    assert parse_template('{"Resources": {"A": {"Type": "T"}}}') == {"Resources": {"A": {"Type": "T"}}}
