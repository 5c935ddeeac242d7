"""`fraudstream deploy` and `destroy` against an AWS on this machine: the real command, boto3, SAM, both templates.

One story for the whole file, told once; each test looks at a part of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from console.deployment.build import SAM
from local.run import addresses
from model.artifact import pack_artifact
from stream_features.transaction import encode_transaction
from tests.integration.embedded_aws import INTERPRETER, REGION, ROOT, EmbeddedAws, embedded_aws
from tests.integration.sagemaker_fixtures import Host, free_port, until
from tests.unit.endpoint.models import an_artifact
from tests.unit.lambdas.deliveries import a_transaction

pytestmark = pytest.mark.skipif(not (INTERPRETER.exists() and SAM.exists()), reason="no .venv-embedded: `make setup`")

STACK, ENDPOINT_STACK = "fraudstream-dev", "fraudstream-dev-endpoint"
CODE_BUCKET = f"{STACK}-deployment-000000000000-us-east-1"
ARTIFACTS_BUCKET = f"{STACK}-artifacts-000000000000-us-east-1"
FIRST, SECOND = an_artifact(seed=0), an_artifact(seed=1)


@dataclass
class Account:
    """An account with SageMaker beside it, and the command as its user types it."""

    aws: EmbeddedAws
    host: Host
    folder: Path

    def environment(self) -> dict[str, str]:
        return self.aws.environment() | addresses(self.aws.url, self.host.url, REGION)

    def fraudstream(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "fraudstream", *words],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def deploy(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.fraudstream("deploy", "--target", "aws", "--allow-local", "--json", *words)

    def policy(self) -> dict[str, Any]:
        value = self.aws.client("ssm").get_parameter(Name=f"/{STACK}/policy")["Parameter"]["Value"]
        found: dict[str, Any] = json.loads(value)
        return found

    def stacks(self) -> dict[str, str]:
        found = self.aws.client("cloudformation").describe_stacks()["Stacks"]
        return {stack["StackName"]: stack["StackStatus"] for stack in found}

    def parameters(self) -> dict[str, str]:
        (stack,) = self.aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        return {entry["ParameterKey"]: entry["ParameterValue"] for entry in stack["Parameters"]}

    def retention_days(self) -> int:
        groups = self.aws.client("logs").describe_log_groups(logGroupNamePrefix="/aws/lambda/dev-score-transactions")
        return int(groups["logGroups"][0]["retentionInDays"])

    def buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self.aws.client("s3").list_buckets()["Buckets"]}

    def tables(self) -> set[str]:
        return set(self.aws.client("dynamodb").list_tables()["TableNames"])

    def of_dev(self) -> tuple[set[str], set[str], set[str]]:
        """Stacks, buckets and tables of the environment."""
        of_stack = [{name for name in found if name.startswith(STACK)} for found in (self.stacks(), self.buckets())]
        return of_stack[0], of_stack[1], {name for name in self.tables() if name.startswith("dev-")}

    def served(self) -> str:
        endpoint = self.host.sagemaker.describe_endpoint(EndpointName="dev-fraudstream")
        config = self.host.sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
        model = self.host.sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
        return str(model["PrimaryContainer"]["ModelDataUrl"])


@dataclass
class Story:
    """What each step left behind, by the step's name."""

    done: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)

    def answer(self, step: str) -> dict[str, Any]:
        done = self.done[step]
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    folder, port = tmp_path_factory.mktemp("deploy"), free_port()
    with embedded_aws(folder, f"http://127.0.0.1:{port}") as aws:
        host = Host(folder, aws, port)
        with host.started():
            yield Account(aws, host, folder)


@pytest.fixture(scope="module")
def story(account: Account) -> Story:
    told = Story()
    models = {}
    for name, artifact in (("first", FIRST), ("second", SECOND)):
        file = account.folder / f"{name}.tar.gz"
        file.write_bytes(pack_artifact(artifact))
        models[name] = str(file)

    def step(name: str, *words: str, code: int = 0) -> None:
        told.done[name] = done = account.deploy(*words)
        assert done.returncode == code, f"{name}: {done.stderr}"

    # The emulator knows no alarm over more than one metric; later deployments keep what this one says.
    step("dry run", "--dry-run", "--model", models["first"], "--parameter", "DeployMetricMath=false")
    told.seen["dry run"] = account.stacks()
    told.seen["bucket"] = account.buckets()
    change_set = told.answer("dry run")["change_set"]
    step("first", "--yes", "--change-set", change_set, "--model", models["first"])
    told.seen["first"] = (account.stacks(), account.policy(), account.served())
    told.seen["decided"] = decided(account)
    account.aws.client("ssm").put_parameter(
        Name=f"/{STACK}/policy",
        Value='{"policy_version": "by-hand", "review_from": 0.4, "decline_from": 0.8}',
        Type="String",
        Overwrite=True,
    )
    step("again", "--yes", "--model", models["first"])
    told.seen["again"] = account.policy()
    by_hand = ("--parameter", "LogRetentionDays=14", "--parameter", "LabelTtlDays=200")
    step("changed", "--yes", "--without-endpoint", *by_hand)
    told.seen["changed"] = (account.retention_days(), account.parameters())
    step("second", "--yes", "--model", models["second"])
    told.seen["second"] = (account.policy(), account.served())
    told.seen["afterwards"] = (account.retention_days(), account.parameters())
    # A resource that cannot be made: here the alarm, which would not be refused on AWS.
    staging = ("--env", "staging", "--without-endpoint")
    step("refused", "--yes", *staging, code=1)
    told.seen["refused"] = account.stacks()
    step("tried again", "--dry-run", *staging, "--parameter", "DeployMetricMath=false")
    told.done["destroy"] = account.fraudstream("destroy", "--env", "dev", "--allow-local", "--yes", "--json")
    told.seen["destroy"] = account.of_dev()
    step("in the way", "--yes", "--without-endpoint", code=2)
    told.done["destroy data"] = account.fraudstream("destroy", "--allow-local", "--yes", "--json", "--delete-data")
    told.seen["destroy data"] = account.of_dev()
    told.done["nothing"] = account.fraudstream("destroy", "--allow-local", "--yes", "--json", "--delete-data")
    return told


def decided(account: Account) -> dict[str, Any]:
    """The decision on one transaction, with the mapping runner delivering as AWS Lambda would."""
    kinesis, dynamodb = account.aws.client("kinesis"), account.aws.client("dynamodb")
    transaction = a_transaction("t-deployed", event_time_ms=int(time.time() * 1_000))
    command = [sys.executable, "-m", "local.event_source_mappings", "--state-dir", account.folder / "mappings"]
    with (account.folder / "mappings.log").open("wb") as log:
        runner = subprocess.Popen(command, cwd=ROOT, env=account.environment(), stdout=log, stderr=log)
        try:
            kinesis.put_record(
                StreamName="dev-transactions", Data=encode_transaction(transaction), PartitionKey=transaction.card_id
            )
            found = until(
                lambda: dynamodb.get_item(TableName="dev-decisions", Key={"transaction_id": {"S": "t-deployed"}}).get(
                    "Item"
                ),
                "the decision",
            )
        finally:
            runner.terminate()
            runner.wait(timeout=60)
    document: dict[str, Any] = json.loads(found["document"]["S"])
    return document


def test_a_dry_run_shows_what_would_be_made_and_makes_none_of_it(story: Story) -> None:
    answer = story.answer("dry run")
    assert answer["changes"] > 50
    assert "Add     AWS::Kinesis::Stream" in story.done["dry run"].stderr
    assert story.seen["dry run"] == {STACK: "REVIEW_IN_PROGRESS"}
    assert story.seen["bucket"] == {CODE_BUCKET}


def test_the_bucket_for_code_is_made_once(story: Story) -> None:
    assert "making the deployment bucket" in story.done["dry run"].stderr
    assert "making the deployment bucket" not in story.done["first"].stderr


def test_what_was_approved_is_what_is_executed(story: Story) -> None:
    dry, first = story.answer("dry run"), story.answer("first")
    assert first["changes"] == dry["changes"]
    assert "sam build" not in story.done["first"].stderr


def test_a_first_deployment_serves_and_decides(story: Story) -> None:
    answer = story.answer("first")
    stacks, policy, served = story.seen["first"]
    assert stacks == {STACK: "CREATE_COMPLETE", ENDPOINT_STACK: "CREATE_COMPLETE"}
    assert answer["outputs"]["TransactionsStreamName"] == "dev-transactions"
    assert answer["model_version"] == FIRST.manifest.model_version
    assert policy["policy_version"] == FIRST.manifest.model_version
    assert policy["decline_from"] == FIRST.manifest.thresholds.decline_from
    # AWS's own container is the default, so the artefact carries our code, under a key that names it.
    assert served.startswith(f"s3://{ARTIFACTS_BUCKET}/models/{FIRST.manifest.model_version}/scripted-")
    decision = story.seen["decided"]
    assert decision["model_version"] == FIRST.manifest.model_version
    assert decision["policy_version"] == FIRST.manifest.model_version
    assert decision["degraded"] is False


def test_the_same_again_changes_nothing(story: Story) -> None:
    answer = story.answer("again")
    assert (answer["changes"], answer["endpoint_changes"], answer["thresholds_put"]) == (0, 0, False)


def test_a_changed_parameter_is_deployed_and_stays_unless_the_file_says_otherwise(story: Story) -> None:
    assert story.answer("changed")["changes"] > 0
    days, parameters = story.seen["changed"]
    assert (days, parameters["LogRetentionDays"], parameters["LabelTtlDays"]) == (14, "14", "200")
    days, parameters = story.seen["afterwards"]
    assert (days, parameters["LogRetentionDays"]) == (7, "7")  # a line of samconfig.toml holds over the stack's value
    assert (parameters["LabelTtlDays"], parameters["DeployMetricMath"]) == ("200", "false")


def test_a_policy_activated_by_hand_outlives_a_deployment_of_the_same_model(story: Story) -> None:
    assert story.seen["again"]["policy_version"] == "by-hand"


def test_another_model_takes_over_with_its_thresholds(story: Story) -> None:
    answer = story.answer("second")
    policy, served = story.seen["second"]
    assert answer["endpoint_changes"] > 0
    assert answer["thresholds_put"] is True
    assert policy["policy_version"] == SECOND.manifest.model_version
    assert f"/{SECOND.manifest.model_version}/" in served


def test_a_stack_that_cannot_be_says_which_resource_and_why_and_is_no_obstacle(story: Story) -> None:
    done = story.done["refused"]
    assert done.stdout == ""
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert error.startswith("Error: stack fraudstream-staging ROLLBACK_COMPLETE: ")
    assert re.search(r"\w+Alarm: AWS::CloudWatch::Alarm Properties\.Metrics \(metric math\) is not supported", error)
    assert "Next: mend what it says, then type the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert story.seen["refused"]["fraudstream-staging"] == "ROLLBACK_COMPLETE"
    assert "removing what its failed creation left" in story.done["tried again"].stderr
    assert story.answer("tried again")["changes"] > 50


def test_destroy_keeps_data_and_names_it(story: Story) -> None:
    answer = story.answer("destroy")
    stacks, buckets, tables = story.seen["destroy"]
    assert answer["deleted_stacks"] == [ENDPOINT_STACK, STACK]
    assert stacks == set()
    assert tables == {f"dev-{name}" for name in ("decisions", "entity_state", "labels", "lists", "effects")}
    assert {CODE_BUCKET, ARTIFACTS_BUCKET, f"{STACK}-lake-000000000000-us-east-1"} <= buckets
    kept = {each["name"] for each in answer["left"]}
    assert buckets | tables <= kept
    assert [each["kind"] for each in answer["left"]].count("AWS::KMS::Key") == 2


def test_what_was_kept_is_in_the_way_of_a_new_stack_and_the_way_out_is_named(story: Story) -> None:
    assert "a former stack fraudstream-dev left dev-decisions" in story.done["in the way"].stderr
    assert "--delete-data" in story.done["in the way"].stderr


def test_destroy_deletes_data_when_asked_and_leaves_nothing(story: Story) -> None:
    answer = story.answer("destroy data")
    assert answer["left"] == []
    assert answer["tagged"] == []
    assert story.seen["destroy data"] == (set(), set(), set())
    assert story.answer("nothing")["deleted_stacks"] == []
