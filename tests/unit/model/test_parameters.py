"""`--param name=value`."""

from __future__ import annotations

import pytest

from model.parameters import DEFAULTS, complete, parse_parameters
from stream_features.errors import UsageError


def test_values_get_the_type_of_their_parameter_and_the_last_one_holds():
    parsed = parse_parameters(["max_depth=3", "learning_rate=1", "max_depth = 4", "tree_method=exact"])
    assert parsed == {"max_depth": 4, "learning_rate": 1.0, "tree_method": "exact"}
    assert isinstance(parsed["learning_rate"], float)


def test_xgboosts_other_names_mean_the_same_parameter():
    assert parse_parameters(["eta=0.1", "num_boost_round=5", "lambda=2"]) == {
        "learning_rate": 0.1,
        "n_estimators": 5,
        "reg_lambda": 2.0,
    }


@pytest.mark.parametrize("text", ["max_depth", "max_depth=deep", "max_depth=3.5", "objective=reg:squarederror", "=3"])
def test_what_cannot_be_passed_on_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_parameters([text])


def test_the_defaults_are_the_ones_that_do_not_lose_precision_on_rare_fraud():
    settings = complete({})
    assert (settings["base_score"], settings["max_bin"], settings["tree_method"]) == (0.5, 4096, "hist")
    assert settings == DEFAULTS


def test_no_round_at_all_is_a_usage_error():
    with pytest.raises(UsageError, match="n_estimators"):
        complete({"n_estimators": 0})
