"""The optional network, and the main template inside it with its switches on, deployed into the embedded AWS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from console.deployment.build import SAM, package
from console.deployment.stacks import deploy_stack
from stream_features.names import STACK
from tests.cloudformation import MAIN, NETWORK, resources
from tests.integration.embedded_aws import INTERPRETER, EmbeddedAws, embedded_aws

pytestmark = [
    pytest.mark.skipif(not INTERPRETER.exists(), reason="no .venv-embedded (make setup)"),
    pytest.mark.skipif(not SAM.exists(), reason="no .venv-sam (make setup)"),
]

BUCKET = f"{STACK}-deployment"
# What the embedded AWS takes, alone: no consumers of streams, no alarms over several metrics, no saved queries.
SWITCHES = {
    **{"OnDemand": "true", "XRay": "true", "DecisionEvents": "true"},
    **{"DeployMetricMath": "false", "DeployNamedQueries": "false"},
}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    with embedded_aws(tmp_path_factory.mktemp("embedded")) as started:
        yield started


@pytest.fixture(scope="module")
def network(aws: EmbeddedAws) -> dict[str, str]:
    return deploy_stack(aws.client("cloudformation"), f"{STACK}-network", NETWORK.read_text(), {})


@pytest.fixture(scope="module")
def outputs(aws: EmbeddedAws, network: dict[str, str]) -> dict[str, str]:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    template = package(s3, BUCKET, aws.environment(), lambda line: None)

    def upload(text: str) -> str:
        s3.put_object(Bucket=BUCKET, Key="template.yaml", Body=text.encode())
        return f"{aws.url}/{BUCKET}/template.yaml"

    return deploy_stack(aws.client("cloudformation"), STACK, template, {**SWITCHES, **network}, upload=upload)


def test_the_network_routes_nothing_out(aws: EmbeddedAws, network: dict[str, str]) -> None:
    ec2 = aws.client("ec2")
    (vpc,) = {
        subnet["VpcId"] for subnet in ec2.describe_subnets(SubnetIds=network["VpcSubnetIds"].split(","))["Subnets"]
    }
    routes = [
        route
        for table in ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
        for route in table["Routes"]
    ]
    assert routes
    assert all(route.get("GatewayId", "").startswith(("local", "vpce-")) for route in routes)
    endpoints = ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["VpcEndpoints"]
    assert len(endpoints) == len(resources(NETWORK, "AWS::EC2::VPCEndpoint"))


def test_on_demand_streams_are_on_demand(aws: EmbeddedAws, outputs: dict[str, str]) -> None:
    kinesis = aws.client("kinesis")
    names = [name for output, name in outputs.items() if output.endswith("StreamName")]
    assert len(names) == len(resources(MAIN, "AWS::Kinesis::Stream"))
    for name in names:
        summary = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
        assert summary["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
