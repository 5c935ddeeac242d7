"""Conditions are parsed once by the patched emulator; what they mean must not depend on who asked before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.integration.embedded_aws import INTERPRETER, embedded_aws

ABSENT = "attribute_not_exists(pk)"
VERSION = "#v = :expected"


@pytest.fixture(scope="module")
def dynamodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not INTERPRETER.exists():
        pytest.skip("the embedded AWS is not installed (.venv-embedded): make setup")
    with embedded_aws(tmp_path_factory.mktemp("embedded")) as aws:
        client = aws.client("dynamodb")
        client.create_table(
            TableName="things",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield client


def put(client: Any, key: str, version: int, condition: str, **values: Any) -> None:
    client.put_item(
        TableName="things",
        Item={"pk": {"S": key}, "version": {"N": str(version)}},
        ConditionExpression=condition,
        **values,
    )


def test_one_expression_holds_for_one_item_and_not_for_another(dynamodb: Any) -> None:
    for key in ("a", "b"):
        put(dynamodb, key, 1, ABSENT)
        with pytest.raises(ClientError, match="ConditionalCheckFailed"):
            put(dynamodb, key, 1, ABSENT)


def test_one_expression_takes_the_values_of_each_request(dynamodb: Any) -> None:
    put(dynamodb, "c", 1, ABSENT)
    for expected in (1, 2):
        values = {":expected": {"N": str(expected)}}
        put(
            dynamodb,
            "c",
            expected + 1,
            VERSION,
            ExpressionAttributeNames={"#v": "version"},
            ExpressionAttributeValues=values,
        )
        with pytest.raises(ClientError, match="ConditionalCheckFailed"):
            put(
                dynamodb,
                "c",
                9,
                VERSION,
                ExpressionAttributeNames={"#v": "version"},
                ExpressionAttributeValues=values,
            )


def test_a_broken_expression_is_refused_every_time_and_names_its_own_parameter(dynamodb: Any) -> None:
    broken = "attribute_not_exists(pk) AND AND"
    dynamodb.put_item(TableName="things", Item={"pk": {"S": "e"}})  # a filter is only read where there is an item
    for _ in range(2):
        with pytest.raises(ClientError, match="Invalid ConditionExpression"):
            put(dynamodb, "d", 1, broken)
        with pytest.raises(ClientError, match="Invalid FilterExpression"):
            dynamodb.scan(TableName="things", FilterExpression=broken)
