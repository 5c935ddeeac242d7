"""What an account may have, held against what a deployment would need, before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from console.deployment.templates import Template

_ASK: Final = "ask for more: https://console.aws.amazon.com/servicequotas"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at. `fails` is set where the deployment would not succeed; else it is worth knowing."""

    what: str
    fails: bool = False


def check_quotas(
    client: Callable[[str], Any], wanted: Template, present: Template | None, instance_type: str, instances: int
) -> list[Finding]:
    """What stands in the way of `wanted`, and what could not be found out.

    Args:
        client: makes a boto3 client for a service.
        wanted: the main template with the values it will have.
        present: the same with those it has; None where there is no stack.
        instance_type: of the endpoint.
        instances: it may have at most.
    """
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("Kinesis shards", lambda: _shards(client("kinesis"), wanted, present)),
        ("concurrent Lambda calls", lambda: _concurrency(client("lambda"), wanted)),
        (f"{instance_type} for endpoints", lambda: _instances(client("service-quotas"), instance_type, instances)),
    )
    findings = []
    for name, check in checks:
        try:
            findings += list(check())
        except (ClientError, BotoCoreError) as error:
            findings.append(Finding(f"the quota of {name} could not be looked up: {error}"))
    return findings


def provisioned_shards(template: Template) -> int:
    """Shards of the streams that are not on demand."""
    return sum(
        int(stream.properties["ShardCount"])
        for stream in template.resources("AWS::Kinesis::Stream")
        if "ShardCount" in stream.properties
    )


def concurrent_calls(template: Template) -> int:
    """Calls that the event source mappings can have under way at once."""
    shards = {
        stream.logical_id: int(stream.properties.get("ShardCount", 4))
        for stream in template.resources("AWS::Kinesis::Stream")
    }
    consumers = {
        consumer.logical_id: _named(consumer.properties["StreamARN"])
        for consumer in template.resources("AWS::Kinesis::StreamConsumer")
    }
    calls = 0
    for function in template.resources("AWS::Serverless::Function"):
        for event in function.properties.get("Events", {}).values():
            source = event["Properties"].get("Stream")
            if event["Type"] == "Kinesis" and event["Properties"].get("Enabled", True) is True:
                stream = consumers.get(_named(source), _named(source))
                calls += shards.get(stream, 1) * int(event["Properties"].get("ParallelizationFactor", 1))
    return calls


def _named(reference: object) -> str:
    """The logical id that an attribute is of; empty for anything else."""
    return str(reference["Fn::GetAtt"][0]) if isinstance(reference, dict) and "Fn::GetAtt" in reference else ""


def _shards(kinesis: Any, wanted: Template, present: Template | None) -> Iterator[Finding]:
    more = provisioned_shards(wanted) - (0 if present is None else provisioned_shards(present))
    if more <= 0:
        return
    limits = kinesis.describe_limits()
    free = limits["ShardLimit"] - limits["OpenShardCount"]
    if more > free:
        yield Finding(
            f"{more} more shards are needed, {free} of {limits['ShardLimit']} are free: "
            f"lower --parameter ShardCount, or {_ASK}",
            fails=True,
        )


def _concurrency(functions: Any, wanted: Template) -> Iterator[Finding]:
    limit = functions.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    calls = concurrent_calls(wanted)
    if calls > limit:
        yield Finding(f"up to {calls} calls at once can be under way, the account allows {limit}: {_ASK}")


def _instances(quotas: Any, instance_type: str, instances: int) -> Iterator[Finding]:
    name = f"{instance_type} for endpoint usage"
    for page in quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker"):
        for quota in page["Quotas"]:
            if quota["QuotaName"] == name:
                if quota["Value"] < instances:
                    yield Finding(
                        f"the endpoint may grow to {instances} {instance_type}, the account may have "
                        f"{quota['Value']:.0f}: {_ASK}",
                        fails=True,
                    )
                elif quota["Value"] < 2 * instances:
                    yield Finding(
                        f"an update of the endpoint runs the old and the new fleet side by side, "
                        f"{2 * instances} {instance_type}; the account may have {quota['Value']:.0f}: {_ASK}"
                    )
                return
    yield Finding(f"SageMaker names no quota {name!r}; is the instance type right?")
