""".github/: the deployment pipeline says what this repository can do, and may do no more than it says."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from console.cli import main
from console.deployment.environments import read_environment
from console.deployment.templates import Template, parse_template

ROOT = Path(__file__).resolve().parents[3]
WORKFLOW = ROOT / ".github" / "workflows" / "deploy.yml"
ROLES = ROOT / ".github" / "deploy-role.yaml"


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())
    return found


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in workflow()["jobs"].items():
        yield from ((name, step) for step in job["steps"])


def commands() -> list[list[str]]:
    """The words of every command line that the pipeline runs."""
    lines = [line for _, step in steps() for line in step.get("run", "").splitlines()]
    return [shlex.split(line.partition("2>")[0].partition("||")[0]) for line in lines]


def test_every_action_is_pinned_to_a_commit_and_says_which_version_it_is() -> None:
    used = [line for line in WORKFLOW.read_text().splitlines() if "uses:" in line]
    assert used
    for line in used:
        assert re.search(r"uses: [a-z-]+/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {words[1] for words in commands() if words and words[0] == "make"}
    assert asked == {"check", "test", "setup"}
    assert asked <= targets


def test_every_command_and_option_exists() -> None:
    asked = [words for words in commands() if words and words[0] == ".venv/bin/fraudstream"]
    assert len(asked) == 3
    for words in asked:
        command = main.get_command(click.Context(main), words[1])
        assert command is not None, words
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_what_a_dry_run_made_is_what_is_executed_after_approval() -> None:
    jobs = workflow()["jobs"]
    assert list(jobs) == ["test", "change-set", "deploy"]
    assert (jobs["change-set"]["needs"], jobs["deploy"]["needs"]) == ("test", "change-set")
    assert "environment" not in jobs["change-set"]
    assert jobs["deploy"]["environment"] == "${{ inputs.environment }}"
    of = {name: " ".join(step.get("run", "") for job, step in steps() if job == name) for name in jobs}
    assert "make check" in of["test"]
    assert "make test" in of["test"]
    assert "--dry-run" in of["change-set"]
    assert "--yes" not in of["change-set"]
    assert '--change-set "$CHANGE_SET" --yes' in of["deploy"]
    # Only the second command may touch anything that was not approved as a change set: the endpoint's stack.
    assert of["deploy"].count("fraudstream deploy") == 2
    assert "--endpoint-only" in of["deploy"]


def test_it_may_read_the_repository_and_ask_for_a_token_and_has_no_secret() -> None:
    found = workflow()
    assert found["permissions"] == {"contents": "read"}
    allowed = [job.get("permissions") for job in found["jobs"].values()]
    assert allowed == [None, *[{"contents": "read", "id-token": "write"}] * 2]
    text = WORKFLOW.read_text()
    assert "secrets." not in text
    assert not re.search(r"https?://", text)
    # Whoever starts it chooses text; text in a command line is a command.
    assert not [step for _, step in steps() if "${{" in step.get("run", "")]


def test_environments_are_those_of_samconfig() -> None:
    inputs = workflow()[True]["workflow_dispatch"]["inputs"]  # YAML takes `on` for true
    parameters = parse_template(ROLES.read_text())["Parameters"]
    assert inputs["environment"]["options"] == parameters["Environment"]["AllowedValues"]
    for name in inputs["environment"]["options"]:
        environment = read_environment(ROOT / "samconfig.toml", name)
        assert re.fullmatch(parameters["StackName"]["AllowedPattern"], environment.stack)
        assert re.fullmatch(parameters["NamePrefix"]["AllowedPattern"], environment.parameters["NamePrefix"])
        assert environment.parameters["EndpointName"].startswith(environment.parameters["NamePrefix"])


@pytest.mark.parametrize("role", ["PlanRole", "DeployRole"])
def test_a_role_is_for_one_subject_of_one_repository(role: str) -> None:
    properties = parse_template(ROLES.read_text())["Resources"][role]["Properties"]
    (statement,) = properties["AssumeRolePolicyDocument"]["Statement"]
    conditions = statement["Condition"]["StringEquals"]
    assert conditions["token.actions.githubusercontent.com:aud"] == "sts.amazonaws.com"
    subject = conditions["token.actions.githubusercontent.com:sub"]["Fn::Sub"]
    assert subject.startswith("repo:${GitHubRepository}:")
    assert "*" not in subject
    assert ("environment:${Environment}" in subject) is (role == "DeployRole")


def test_who_plans_cannot_execute_and_neither_makes_resources_itself() -> None:
    resources = parse_template(ROLES.read_text())["Resources"]

    def actions(policy: str) -> set[str]:
        statements = resources[policy]["Properties"]["PolicyDocument"]["Statement"]
        return {
            action
            for each in statements
            for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
        }

    assert resources["PlanPolicy"]["Properties"]["Roles"] == [{"Ref": "PlanRole"}, {"Ref": "DeployRole"}]
    assert resources["DeployPolicy"]["Properties"]["Roles"] == [{"Ref": "DeployRole"}]
    assert "cloudformation:ExecuteChangeSet" in actions("DeployPolicy")
    assert not {"cloudformation:ExecuteChangeSet", "cloudformation:DeleteStack"} & actions("PlanPolicy")
    for policy in ("PlanPolicy", "DeployPolicy"):
        assert not [action for action in actions(policy) if "*" in action]
        made = {action for action in actions(policy) if action.partition(":")[2].startswith("Create")}
        assert made <= {"cloudformation:CreateChangeSet", "s3:CreateBucket"}


SERVICES = {
    "ApplicationAutoScaling": "application-autoscaling",
    "KinesisAnalyticsV2": "kinesisanalytics",
    "KinesisFirehose": "firehose",
    "Serverless": "lambda",
}


def test_cloudformations_role_knows_every_service_that_the_templates_use() -> None:
    resources = parse_template(ROLES.read_text())["Resources"]
    policies = resources["ExecutionRole"]["Properties"]["Policies"]
    may = {
        action.partition(":")[0]
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    for name in ("template.yaml", "endpoint/template.yaml", "endpoint/build.yaml"):
        for logical_id, resource in parse_template((ROOT / name).read_text())["Resources"].items():
            service = resource["Type"].split("::")[1]
            needs = (
                "apigateway" if resource["Type"] == "AWS::Serverless::Api" else SERVICES.get(service, service.lower())
            )
            assert needs in may, (name, logical_id)


def test_no_policy_is_longer_than_iam_takes() -> None:
    given = {"GitHubRepository": "owner/name", "StackName": "s" * 25, "NamePrefix": "p" * 21 + "-"}
    pseudo = {"AWS::AccountId": "1" * 12, "AWS::Partition": "aws-us-gov", "AWS::Region": "ap-southeast-1"}
    for resource in Template(parse_template(ROLES.read_text()), given, pseudo).resources():
        if resource.kind == "AWS::IAM::ManagedPolicy":
            assert length(resource.properties["PolicyDocument"]) < 6_144, resource.logical_id
        inline = [each["PolicyDocument"] for each in resource.properties.get("Policies", [])]
        assert sum(map(length, inline)) < 10_240, resource.logical_id


def length(document: dict[str, Any]) -> int:
    """In characters as IAM counts them, without white space."""
    return len(json.dumps(document, separators=(",", ":")).replace(" ", ""))
