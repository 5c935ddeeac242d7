from __future__ import annotations

import re
from pathlib import Path

import pytest

from producers.mappings import HANDBOOK, OWN_NAMES, SPARKOV, Column, load_mapping
from stream_features.errors import UsageError
from stream_features.transaction import FIELDS

ROOT = Path(__file__).parents[3]


def saved(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mapping.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_built_in_mappings_are_found_by_name() -> None:
    assert load_mapping("handbook") is HANDBOOK
    assert load_mapping("sparkov") is SPARKOV
    assert load_mapping(None) is OWN_NAMES
    assert set(OWN_NAMES.columns) == {*FIELDS, "is_fraud"}


def test_the_example_of_the_documentation_is_a_mapping(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "mappings.md").read_text("utf-8"), re.DOTALL)
    mapping = load_mapping(saved(tmp_path, example))
    assert mapping.name == "acme"
    assert mapping.columns["event_time_ms"] == (Column(name="booked_at", time="%d.%m.%Y %H:%M:%S"),)
    assert mapping.columns["card_id"] == (Column(name="pan", tokenise=True),)
    assert mapping.columns["merchant_id"] == (Column(name="shop"), Column(name="merchant"))
    assert mapping.columns["amount_minor"] == (Column(name="amount", digits=2),)
    assert mapping.constants == {"currency": "EUR", "channel": "pos"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("columns = 3", "columns and constants must be tables"),
        ("[colums]", "unknown entry 'colums'"),
        ("[columns]\ncard = 'x'", "no field 'card'"),
        ("[columns]\ncard_id = 3", "columns.card_id: must be a column name"),
        ("[columns]\ncard_id = []", "names no column"),
        ("[columns]\ncard_id = {column = 'x', digits = 2}", "unknown option 'digits'"),
        ("[columns]\ncard_id = {column = 'x', tokenise = 'yes'}", "tokenise is true or false"),
        ("[columns]\namount_minor = {column = 'x', digits = 9}", "digits is 0 to 4"),
        ("[columns]\nevent_time_ms = {column = 'x', time = 'epoch'}", "time is timestamp"),
        ("[columns]\ncurrency = 'c'\n[constants]\ncurrency = 'USD'", "a column and a constant"),
        ("[constants]\namount_minor = '1'", "only text fields can be constant"),
        ("[constants]\ncurrency = 1", "the value is text"),
        ("[columns", "cannot read mapping"),
    ],
)
def test_a_mistake_in_a_mapping_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = saved(tmp_path, text)
    with pytest.raises(UsageError, match=re.escape(says)) as raised:
        load_mapping(path)
    assert "mapping.toml" in str(raised.value)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="handbook, sparkov"):
        load_mapping("kaggle")


def test_a_mapping_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        load_mapping(tmp_path / "nowhere.toml")
