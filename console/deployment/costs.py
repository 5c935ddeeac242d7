"""What a deployment costs while nothing happens, counted from the templates and a table of list prices.

    python -m console.deployment.costs        # the table of docs/deploy.md, for the environments of samconfig.toml

Only what the templates make is counted; the prices are those of `console/deployment/prices.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from console.deployment import prices
from console.deployment.build import CHECKOUT
from console.deployment.environments import Environment, read_environment
from console.deployment.templates import Template, parse_template

HOURS: Final = 730  # a month
ENVIRONMENTS: Final = ("dev", "staging", "prod")


@dataclass(frozen=True, slots=True)
class Cost:
    """Part of a month's bill while nothing happens: what, how it is reckoned, US dollars."""

    what: str
    formula: str
    dollars: float


def is_priced(kind: str) -> bool:
    """Whether this module knows what a resource of `kind` costs."""
    known = (_PRICED, prices.FREE_WHILE_IDLE, prices.WITHOUT_PRICE, ("AWS::Kinesis::StreamConsumer",))
    return any(kind in each for each in known)


def idle_costs(template: Template) -> Iterator[Cost]:
    """What the resources of a template cost a month while nothing happens.

    Raises:
        ValueError: a resource whose price this module does not know; names it.
    """
    shards: dict[str, int] = {}
    for resource in template.resources():
        price = _PRICED.get(resource.kind)
        if resource.kind == "AWS::Kinesis::Stream":
            shards[resource.logical_id] = int(resource.properties.get("ShardCount", 4))
        if price is not None:
            yield from price(resource.properties)
        elif resource.kind == "AWS::Kinesis::StreamConsumer":
            stream = resource.properties["StreamARN"]
            count = shards.get(stream["Fn::GetAtt"][0], 1) if isinstance(stream, dict) else 1
            yield Cost(
                "Kinesis enhanced fan-out",
                f"consumer-shards x {HOURS} h x ${prices.CONSUMER_SHARD_HOUR}",
                count * HOURS * prices.CONSUMER_SHARD_HOUR,
            )
        elif resource.kind not in prices.FREE_WHILE_IDLE and resource.kind not in prices.WITHOUT_PRICE:
            raise ValueError(
                f"{resource.logical_id}: what a {resource.kind} costs is not in console/deployment/costs.py"
            )


def endpoint_template(environment: Environment) -> Template:
    """endpoint/template.yaml with the parameters of an environment, and stand-ins for what a deployment fills in."""
    document = parse_template((CHECKOUT / "endpoint" / "template.yaml").read_text())
    filled = {
        "ModelDataUrl": "s3://bucket/model.tar.gz",
        "Container": "prebuilt-xgboost",
        "DataKeyArn": "the main stack's",
    }
    return Template(document, filled | environment.endpoint_parameters, _PSEUDO)


def main_template(environment: Environment, **changed: str) -> Template:
    """template.yaml with the parameters of an environment, `changed` before them."""
    document = parse_template((CHECKOUT / "template.yaml").read_text())
    return Template(document, environment.parameters | changed, _PSEUDO)


def totals(environment: Environment) -> dict[tuple[str, str], float]:
    """Dollars a month by what and formula, of both templates."""
    summed: dict[tuple[str, str], float] = defaultdict(float)
    for template in (main_template(environment), endpoint_template(environment)):
        for cost in idle_costs(template):
            summed[cost.what, cost.formula] += cost.dollars
    return dict(summed)


def markdown() -> str:
    """The table of docs/deploy.md."""
    by_environment = {name: totals(read_environment(CHECKOUT / "samconfig.toml", name)) for name in ENVIRONMENTS}
    rows = sorted({row for found in by_environment.values() for row in found})
    lines = [
        f"| idle, US dollars a month | formula | {' | '.join(ENVIRONMENTS)} |",
        f"| --- | --- | {' | '.join('---:' for _ in ENVIRONMENTS)} |",
    ]
    for what, formula in rows:
        cells = " | ".join(f"{by_environment[name].get((what, formula), 0.0):.2f}" for name in ENVIRONMENTS)
        lines.append(f"| {what} | {formula} | {cells} |")
    sums = " | ".join(f"**{sum(by_environment[name].values()):.2f}**" for name in ENVIRONMENTS)
    lines.append(f"| **together** | | {sums} |")
    return "\n".join(lines) + "\n"


_PSEUDO: Final = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "fraudstream",
    "AWS::URLSuffix": "amazonaws.com",
}
_Properties = dict[str, Any]


def _stream(properties: _Properties) -> Iterator[Cost]:
    if properties.get("StreamModeDetails", {}).get("StreamMode") == "ON_DEMAND":
        formula = f"streams x {HOURS} h x ${prices.ON_DEMAND_STREAM_HOUR:.2f}"
        yield Cost("Kinesis, on demand", formula, HOURS * prices.ON_DEMAND_STREAM_HOUR)
        return
    count = int(properties["ShardCount"])
    yield Cost("Kinesis, provisioned", f"shards x {HOURS} h x ${prices.SHARD_HOUR}", count * HOURS * prices.SHARD_HOUR)
    if int(properties.get("RetentionPeriodHours", 24)) > 24:
        formula = f"shards x {HOURS} h x ${prices.SHARD_HOUR_PAST_A_DAY:.3f}"
        yield Cost("Kinesis, retention above a day", formula, count * HOURS * prices.SHARD_HOUR_PAST_A_DAY)


def _alarm(properties: _Properties) -> Iterator[Cost]:
    # Of a calculation each metric counts, a query as one.
    queries = [each for each in properties.get("Metrics", []) if "MetricStat" in each or "SELECT" in str(each)]
    yield Cost("CloudWatch alarms", f"metrics x ${prices.ALARM_METRIC:.2f}", max(1, len(queries)) * prices.ALARM_METRIC)


def _endpoint_config(properties: _Properties) -> Iterator[Cost]:
    for variant in properties["ProductionVariants"]:
        if "InstanceType" not in variant:  # serverless inference
            yield Cost("SageMaker, serverless", "by call", 0.0)
            continue
        kind, count = variant["InstanceType"], int(variant["InitialInstanceCount"])
        if kind not in prices.INSTANCE_HOUR:
            raise ValueError(f"what an hour of {kind} costs is not in console/deployment/costs.py")
        formula = f"instances x {HOURS} h x ${prices.INSTANCE_HOUR[kind]:.3f}"
        yield Cost(f"SageMaker {kind}", formula, count * HOURS * prices.INSTANCE_HOUR[kind])


def _flink(properties: _Properties) -> Iterator[Cost]:
    shape = properties["ApplicationConfiguration"]["FlinkApplicationConfiguration"]["ParallelismConfiguration"]
    units = -(-int(shape["Parallelism"]) // int(shape["ParallelismPerKPU"]))
    formula = f"(KPUs + 1) x {HOURS} h x ${prices.KPU_HOUR}"
    yield Cost("Managed Flink", formula, (units + 1) * HOURS * prices.KPU_HOUR)
    storage = f"KPUs x {prices.KPU_STORAGE_GB} GB x ${prices.RUNNING_STORAGE_GB:.2f}"
    yield Cost("Managed Flink, storage", storage, units * prices.KPU_STORAGE_GB * prices.RUNNING_STORAGE_GB)


def _vpc_endpoint(properties: _Properties) -> Iterator[Cost]:
    if properties.get("VpcEndpointType", "Gateway") == "Gateway":
        return
    subnets = properties.get("SubnetIds", [])
    zones = len(subnets) if isinstance(subnets, list) else 1
    formula = f"endpoints x zones x {HOURS} h x ${prices.INTERFACE_ENDPOINT_HOUR}"
    yield Cost("VPC interface endpoints", formula, zones * HOURS * prices.INTERFACE_ENDPOINT_HOUR)


def _alias(properties: _Properties) -> Iterator[Cost]:
    kept = properties.get("ProvisionedConcurrencyConfig", {}).get("ProvisionedConcurrentExecutions", 0)
    if int(kept):
        seconds = HOURS * 3_600
        formula = f"environments x GB x {seconds} s x ${prices.PROVISIONED_GB_SECOND}"
        yield Cost("Lambda, provisioned (1 GB)", formula, int(kept) * seconds * prices.PROVISIONED_GB_SECOND)


def _fixed(what: str, dollars: float, formula: str) -> Callable[[_Properties], Iterator[Cost]]:
    return lambda _properties: iter([Cost(what, formula, dollars)])


_PRICED: Final[Mapping[str, Callable[[_Properties], Iterator[Cost]]]] = {
    "AWS::Kinesis::Stream": _stream,
    "AWS::CloudWatch::Alarm": _alarm,
    "AWS::CloudWatch::CompositeAlarm": _fixed("CloudWatch composite alarms", prices.COMPOSITE_ALARM, "alarms x $0.50"),
    "AWS::CloudWatch::Dashboard": _fixed("CloudWatch dashboards", prices.DASHBOARD, "dashboards x $3.00"),
    "AWS::KMS::Key": _fixed("KMS keys", prices.KEY, "keys x $1.00"),
    "AWS::SecretsManager::Secret": _fixed("Secrets", prices.SECRET, "secrets x $0.40"),
    "AWS::SageMaker::EndpointConfig": _endpoint_config,
    "AWS::SageMaker::Endpoint": lambda _properties: iter(()),  # its configuration says what runs
    "AWS::ApplicationAutoScaling::ScalingPolicy": _fixed(
        "CloudWatch alarms of a scaling policy", 2 * prices.ALARM_METRIC, "policies x 2 x $0.10"
    ),
    "AWS::KinesisAnalyticsV2::Application": _flink,
    "AWS::EC2::VPCEndpoint": _vpc_endpoint,
    "AWS::EC2::NatGateway": _fixed(
        "NAT gateways", HOURS * prices.NAT_GATEWAY_HOUR, f"gateways x {HOURS} h x ${prices.NAT_GATEWAY_HOUR}"
    ),
    "AWS::Lambda::Alias": _alias,
}


def _main() -> None:
    print(markdown(), end="")


if __name__ == "__main__":
    _main()
