"""Files written from code are up to date: JSON Schemas, the page of features."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from stream_features.decision import encode_decision
from stream_features.feature_docs import features_page
from stream_features.json_schemas import CONTRACTS, json_schema, schema_text, write_schemas
from stream_features.transaction import encode_transaction
from tests.unit.stream_features.cards import a_full_transaction, a_transaction
from tests.unit.stream_features.test_decision import a_decision
from tests.unit.stream_features.test_transaction import ACCEPTED, REFUSED

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_schemas_in_the_repository_are_those_of_the_code(name: str) -> None:
    """Write them anew with `make schemas`."""
    assert (ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8") == schema_text(name)


def test_writing_writes_one_file_per_contract(tmp_path: Path) -> None:
    write_schemas(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"{name}.schema.json" for name in CONTRACTS}


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(name))


def test_what_the_code_writes_its_schema_accepts() -> None:
    for transaction in (a_transaction(), a_full_transaction()):
        jsonschema.Draft202012Validator(json_schema("transaction")).validate(
            json.loads(encode_transaction(transaction))
        )
    jsonschema.Draft202012Validator(json_schema("decision")).validate(json.loads(encode_decision(a_decision())))


@pytest.mark.parametrize("case", ACCEPTED)
def test_the_transaction_schema_accepts_what_the_contract_accepts(case: str) -> None:
    jsonschema.Draft202012Validator(json_schema("transaction")).validate(json.loads(ACCEPTED[case]))


SCHEMA_RULES = {
    "missing",
    "wrong_type",
    "empty",
    "too_long",
    "out_of_range",
    "not_in_set",
    "unknown_currency",
    "card_number",
}
BEYOND_SCHEMA = {
    "a latitude alone",
    "a longitude alone",
    "a whole float time",
    "a float time",
    "a whole float amount",
    "an amount of 5,000 digits",
    "a negative amount of 5,000 digits",
}


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (_, field, rule) in REFUSED.items()
        if field != "$" and rule in SCHEMA_RULES and case not in BEYOND_SCHEMA
    ],
)
def test_the_transaction_schema_refuses_what_a_schema_can_refuse(case: str) -> None:
    validator = jsonschema.Draft202012Validator(json_schema("transaction"))
    assert not validator.is_valid(json.loads(REFUSED[case][0]))


def test_the_page_of_features_is_up_to_date() -> None:
    """Write it anew with `python -m stream_features.feature_docs docs/features.md`."""
    assert (ROOT / "docs" / "features.md").read_text(encoding="utf-8") == features_page()
