"""Write units are counted as DynamoDB's documentation says."""

from __future__ import annotations

from benchmarks.write_units import item_bytes, measure, units


def test_an_item_s_size_is_its_names_and_values() -> None:
    assert item_bytes({"ab": {"S": "héé"}}) == 2 + 5
    assert item_bytes({"a": {"B": b"\0" * 10}, "b": {"N": "1234"}}) == 1 + 10 + 1 + 4


def test_a_unit_is_a_started_kilobyte() -> None:
    assert units({"a": {"B": b"\0" * 1_023}}) == 1
    assert units({"a": {"B": b"\0" * 1_024}}) == 2


def test_a_hot_card_costs_its_larger_state_twice() -> None:
    found = measure()
    (median_bytes, median_units), (hot_bytes, hot_units) = found["median"], found["hot"]
    assert median_bytes < 8 * 1_024
    assert hot_bytes <= 64 * 1_024
    assert abs((hot_units - median_units) - 2 * (hot_bytes - median_bytes) / 1_024) < 3
