"""What a deployment costs while nothing happens."""

from __future__ import annotations

import re
from typing import Any

import pytest

from console.deployment.build import CHECKOUT
from console.deployment.costs import ENVIRONMENTS, idle_costs, is_priced, main_template, markdown, totals
from console.deployment.environments import Environment, read_environment
from console.deployment.templates import Template, parse_template


def costs(resources: dict[str, Any], **given: str) -> dict[str, float]:
    return {cost.what: round(cost.dollars, 6) for cost in idle_costs(Template({"Resources": resources}, given, {}))}


def dev() -> Environment:
    return read_environment(CHECKOUT / "samconfig.toml", "dev")


@pytest.mark.parametrize(
    ("kind", "properties", "dollars"),
    [
        ("AWS::Kinesis::Stream", {"ShardCount": 3}, 3 * 730 * 0.015),
        ("AWS::Kinesis::Stream", {"ShardCount": 3, "RetentionPeriodHours": 48}, 3 * 730 * 0.035),
        ("AWS::Kinesis::Stream", {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}, 730 * 0.04),
        ("AWS::CloudWatch::Alarm", {"MetricName": "Errors"}, 0.1),
        ("AWS::CloudWatch::Alarm", {"Metrics": [{"Expression": "a+b"}, {"MetricStat": 1}, {"MetricStat": 2}]}, 0.2),
        ("AWS::KMS::Key", {}, 1.0),
        ("AWS::DynamoDB::Table", {}, 0.0),
        ("AWS::KinesisFirehose::DeliveryStream", {}, 0.0),
        ("AWS::EC2::VPCEndpoint", {"ServiceName": "s3"}, 0.0),
        ("AWS::EC2::VPCEndpoint", {"VpcEndpointType": "Interface", "SubnetIds": ["a", "b"]}, 2 * 730 * 0.01),
        (
            "AWS::SageMaker::EndpointConfig",
            {"ProductionVariants": [{"InstanceType": "ml.c6i.large", "InitialInstanceCount": "2"}]},
            2 * 730 * 0.102,
        ),
    ],
)
def test_prices(kind: str, properties: dict[str, Any], dollars: float) -> None:
    found = costs({"One": {"Type": kind, "Properties": properties}})
    assert sum(found.values()) == pytest.approx(dollars)


def test_a_resource_without_a_known_price_is_no_free_one() -> None:
    with pytest.raises(ValueError, match=r"Zoo: what a AWS::Zoo::Animal costs is not in"):
        costs({"Zoo": {"Type": "AWS::Zoo::Animal"}})
    config = {"ProductionVariants": [{"InstanceType": "ml.new.large", "InitialInstanceCount": 1}]}
    with pytest.raises(ValueError, match=r"an hour of ml\.new\.large"):
        costs({"C": {"Type": "AWS::SageMaker::EndpointConfig", "Properties": config}})


def test_every_shard_of_the_template_is_counted() -> None:
    of = totals(dev())
    (shards,) = (dollars for (what, _), dollars in of.items() if what == "Kinesis, provisioned")
    template = main_template(dev())
    count = sum(int(each.properties["ShardCount"]) for each in template.resources("AWS::Kinesis::Stream"))
    assert shards == pytest.approx(count * 730 * 0.015)


def test_the_flink_engine_costs_two_units_at_least() -> None:
    template = main_template(dev(), Engine="flink", FlinkCodeKey=f"flink/{'0' * 64}.zip")
    assert {cost.what: cost.dollars for cost in idle_costs(template)}["Managed Flink"] == pytest.approx(2 * 730 * 0.11)


@pytest.mark.parametrize("name", ["template.yaml", "endpoint/template.yaml", "endpoint/build.yaml", "network.yaml"])
def test_no_resource_of_any_template_lacks_a_price_whatever_its_condition(name: str) -> None:
    for logical_id, resource in parse_template((CHECKOUT / name).read_text())["Resources"].items():
        assert is_priced(resource["Type"]), (logical_id, resource["Type"])
    assert not is_priced("AWS::Zoo::Animal")


def test_the_page_shows_what_the_optional_network_costs() -> None:
    network = Template(parse_template((CHECKOUT / "network.yaml").read_text()), {}, {"AWS::Region": "us-east-1"})
    found = list(idle_costs(network))
    assert {cost.what for cost in found} == {"VPC interface endpoints"}
    reckoned = (
        f"{len(found)} interface endpoints x 2 zones x 730 h x $0.01 = ${sum(cost.dollars for cost in found):.2f}"
    )
    assert reckoned in (CHECKOUT / "docs" / "deploy.md").read_text()


def test_the_page_shows_what_the_templates_cost() -> None:
    page = (CHECKOUT / "docs" / "deploy.md").read_text()
    (shown,) = re.findall(r"<!-- costs -->\n(.*?)<!-- /costs -->", page, re.DOTALL)
    assert shown.strip() == markdown().strip(), "run `python -m console.deployment.costs` and put its table there"
    assert all(f" {name} " in markdown() for name in ENVIRONMENTS)
