"""What an account may have against what a deployment needs."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from console.deployment.build import CHECKOUT
from console.deployment.costs import main_template
from console.deployment.environments import read_environment
from console.deployment.quotas import Finding, check_quotas, concurrent_calls, provisioned_shards
from console.deployment.templates import Template

ENVIRONMENT = read_environment(CHECKOUT / "samconfig.toml", "dev")


class Services:
    """An account with these limits; `refuses` names services that answer with an error."""

    def __init__(self, *, shards: int = 100, calls: int = 1000, instances: float = 10, refuses: str = "") -> None:
        self._limits = {"shards": shards, "calls": calls, "instances": instances}
        self._refuses = refuses
        self.asked: list[str] = []

    def __call__(self, service: str) -> Services:
        self.asked.append(service)
        if service == self._refuses:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "Describe")
        return self

    def describe_limits(self) -> dict[str, int]:
        return {"ShardLimit": self._limits["shards"], "OpenShardCount": 3}

    def get_account_settings(self) -> dict[str, Any]:
        return {"AccountLimit": {"UnreservedConcurrentExecutions": self._limits["calls"]}}

    def get_paginator(self, operation: str) -> Services:
        assert operation == "list_service_quotas"
        return self

    def paginate(self, ServiceCode: str) -> list[dict[str, Any]]:
        quota = {"QuotaName": "ml.c6i.large for endpoint usage", "Value": self._limits["instances"]}
        return [{"Quotas": [{"QuotaName": "other", "Value": 0.0}]}, {"Quotas": [quota]}]


def wanted(**changed: str) -> Template:
    return main_template(ENVIRONMENT, **changed)


def findings(services: Services, present: Template | None = None, kind: str = "ml.c6i.large") -> list[Finding]:
    return check_quotas(services, wanted(ShardCount="4"), present, kind, 2)


def test_enough_of_everything_is_not_worth_a_word() -> None:
    assert findings(Services()) == []


def test_shards_are_counted_over_all_streams() -> None:
    assert provisioned_shards(wanted(ShardCount="4")) == 3 * 4 + 2
    assert provisioned_shards(wanted(OnDemand="true")) == 0


def test_too_few_shards_stop_a_deployment_before_it_begins() -> None:
    (finding,) = findings(Services(shards=16))
    assert finding.fails
    assert "14 more shards are needed, 13 of 16 are free" in finding.what


def test_shards_a_stack_has_already_need_not_be_free() -> None:
    assert findings(Services(shards=4), present=wanted(ShardCount="4")) == []


def test_calls_are_those_of_the_mappings_that_run() -> None:
    # score_transactions reads 4 shards, record_labels and update_entities one each; score_features does not run.
    assert concurrent_calls(wanted(ShardCount="4")) == 4 + 1 + 1
    assert concurrent_calls(wanted(ShardCount="4", ParallelBatchesPerShard="3", EnhancedFanOut="true")) >= 4 * 3 + 1
    (finding,) = findings(Services(calls=5))
    assert not finding.fails
    assert "up to 6 calls" in finding.what


@pytest.mark.parametrize(
    ("instances", "fails", "said"),
    [(1.0, True, "may grow to 2"), (2.0, False, "side by side, 4 ml.c6i.large"), (4.0, None, "")],
)
def test_an_update_needs_twice_the_instances(instances: float, fails: bool | None, said: str) -> None:
    found = findings(Services(instances=instances))
    assert [each.fails for each in found] == ([] if fails is None else [fails])
    assert said in "".join(each.what for each in found)


def test_an_instance_type_without_a_quota_is_said() -> None:
    (finding,) = findings(Services(), kind="ml.moon.large")
    assert "no quota 'ml.moon.large for endpoint usage'" in finding.what


@pytest.mark.parametrize("service", ["kinesis", "lambda", "service-quotas"])
def test_what_cannot_be_looked_up_is_said_and_stops_nothing(service: str) -> None:
    services = Services(refuses=service)
    (finding,) = findings(services)
    assert not finding.fails
    assert "could not be looked up" in finding.what
    assert services.asked == ["kinesis", "lambda", "service-quotas"]
