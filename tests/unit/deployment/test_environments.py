"""Environments of samconfig.toml, and the parameters a deployment ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.deployment.build import CHECKOUT
from console.deployment.deploying import MAIN
from console.deployment.endpoints import ENDPOINT
from console.deployment.environments import choose_parameters, effective, parse_pairs, read_environment
from console.deployment.serving import OWN_PARAMETERS
from console.deployment.templates import parse_template
from stream_features.errors import UsageError

TEMPLATE: dict[str, Any] = {
    "Parameters": {
        "Shards": {"Type": "Number", "Default": 2, "MinValue": 1, "MaxValue": 9},
        "Engine": {"Type": "String", "Default": "lambda", "AllowedValues": ["lambda", "flink"]},
        "Prefix": {"Type": "String", "Default": "", "AllowedPattern": "^([a-z]+-)?$"},
        "Url": {"Type": "String"},
    }
}


def written(folder: Path, text: str) -> Path:
    file = folder / "samconfig.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_the_environments_of_this_repository_fit_its_templates(name: str) -> None:
    found = read_environment(CHECKOUT / "samconfig.toml", name)
    main, endpoint = parse_template(MAIN.read_text()), parse_template(ENDPOINT.read_text())
    choose_parameters(main, found.parameters, {}, "template.yaml")
    choose_parameters(endpoint, {"ModelDataUrl": "s3://bucket/m"} | found.endpoint_parameters, {}, "endpoint")
    assert not OWN_PARAMETERS & found.endpoint_parameters.keys()
    # The longest account region there is must leave room for the name of a bucket.
    assert len(found.code_bucket("123456789012", "ap-southeast-1")) <= 63


def test_environments_of_one_account_share_no_name() -> None:
    found = [read_environment(CHECKOUT / "samconfig.toml", name) for name in ("dev", "staging", "prod")]
    for distinct in (
        [each.stack for each in found],
        [each.parameters.get("NamePrefix", "") for each in found],
        [each.parameters.get("EndpointName", "fraudstream") for each in found],
    ):
        assert len(set(distinct)) == len(found)


def test_overrides_may_be_text_as_sam_writes_it_or_a_list(tmp_path: Path) -> None:
    text = 'stack_name = "s"\nparameter_overrides = "A=1 B=\\"two words\\""\n'
    file = written(tmp_path, f'[a.deploy.parameters]\n{text}[b.deploy.parameters]\nstack_name = "t"\n')
    assert read_environment(file, "a").parameters == {"A": "1", "B": "two words"}
    assert read_environment(file, "b").parameters == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[other.deploy.parameters]\nstack_name = "s"\n', "no environment 'dev'.*it has other"),
        ('[dev.deploy.parameters]\nstack_name = "Big_Name"\n', "stack_name: 'Big_Name'"),
        ('[dev.deploy.parameters]\nstack_name = "s"\nparameter_overrides = ["A"]\n', "parameter_overrides 'A'"),
        ('[dev.deploy.parameters]\nstack_name = "s"\nparameter_overrides = 3\n', "expected text or a list"),
        ("[dev", "samconfig.toml"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_environment(written(tmp_path, text), "dev")


def test_what_is_asked_for_holds_over_what_is_in_force_and_that_over_the_default() -> None:
    chosen = choose_parameters(TEMPLATE, {"Shards": "4", "Url": "u"}, {"Shards": "3", "Engine": "flink"}, "t")
    assert chosen == {"Shards": "4", "Engine": None, "Url": "u"}
    assert effective(chosen, {"Shards": "3", "Engine": "flink"}) == {"Shards": "4", "Engine": "flink", "Url": "u"}


def test_a_parameter_the_template_no_longer_has_is_not_carried_along() -> None:
    assert "Gone" not in choose_parameters(TEMPLATE, {"Url": "u"}, {"Gone": "1"}, "t")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"Shard": "4"}, "no parameter Shard; did you mean Shards?"),
        ({"Zebra": "4"}, "no parameter Zebra; it has Shards, Engine, Prefix, Url"),
        ({"Shards": "0"}, "Shards of t: '0' is below 1"),
        ({"Shards": "10"}, "is above 9"),
        ({"Shards": "many"}, "is not a number"),
        ({"Engine": "abacus"}, "is not one of lambda, flink"),
        ({"Prefix": "Dev"}, "does not match"),
        ({}, "Url of t has no value"),
    ],
)
def test_a_value_that_the_template_does_not_allow_is_refused_before_anything_is_made(
    asked: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        choose_parameters(TEMPLATE, asked, {}, "t")


def test_pairs_keep_equal_signs_in_values() -> None:
    assert parse_pairs(["A=b=c", "A=d=e"], "--parameter") == {"A": "d=e"}
    for bad in ("A", "=1", ""):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            parse_pairs([bad], "--parameter")
