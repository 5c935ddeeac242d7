"""A deployment's decisions: what it refuses before it makes anything, what it asks, what it hands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from console.deployment import deploying, flink, serving
from console.deployment.build import CHECKOUT
from console.deployment.deploying import MAIN, Deployment
from console.deployment.environments import Environment, read_environment
from console.deployment.failures import DeploymentFailed
from console.deployment.wish import Deployed, Talk, Wish
from model.artifact import pack_artifact
from stream_features.errors import PipelineError, UsageError
from tests.unit.deployment.fake_aws import FakeAccount, FakeStack
from tests.unit.endpoint.models import an_artifact

DEV = read_environment(CHECKOUT / "samconfig.toml", "dev")
STACK, ENDPOINT_STACK = DEV.stack, DEV.endpoint_stack
URI = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/scorer:7"


@pytest.fixture(autouse=True)
def nothing_is_built_or_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploying, "package", lambda *_arguments: MAIN.read_text())
    monkeypatch.setattr(serving, "vendored", lambda: {"code/vendor/msgspec.py": b""})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.tar.gz"
    file.write_bytes(pack_artifact(an_artifact()))
    return file


def with_parameters(**parameters: str) -> Environment:
    return dataclasses.replace(DEV, parameters=DEV.parameters | parameters)


def deploy(account: FakeAccount, *, agree: Callable[[str], bool] = lambda question: True, **wish: Any) -> Deployed:
    talk = Talk(progress=lambda line: None, confirm=agree)
    return Deployment(account, Wish(**({"environment": DEV} | wish)), talk).run()  # type: ignore[arg-type]


@pytest.fixture
def deployed(model: Path) -> FakeAccount:
    """An account in which everything stands."""
    account = FakeAccount()
    deploy(account, model=model)
    account.calls.clear()
    return account


def test_a_first_deployment_makes_both_stacks_and_puts_the_thresholds(model: Path) -> None:
    account = FakeAccount()
    done = deploy(account, model=model)
    executed = [call for call in account.calls if call.startswith("execute")]
    assert executed == [f"execute_change_set {STACK}", f"execute_change_set {ENDPOINT_STACK}"]
    assert account.calls[-1] == "put_parameter"
    assert done.thresholds_put
    parameters = account.stacks[ENDPOINT_STACK].parameters
    assert parameters["EndpointName"] == "dev-fraudstream"
    assert parameters["Container"] == "prebuilt-xgboost"
    assert parameters["InstanceType"] == DEV.endpoint_parameters["InstanceType"]
    assert parameters["DataKeyArn"].startswith("arn:aws:kms:")
    assert parameters["ModelDataUrl"].removeprefix("s3://") in account.objects
    # The model itself stands under its version as well, where other commands look for it.
    version = an_artifact().manifest.model_version
    assert any(key.endswith(f"/models/{version}/model.tar.gz") for key in account.objects)


def test_the_same_again_executes_nothing(deployed: FakeAccount, model: Path) -> None:
    done = deploy(deployed, model=model)
    assert (done.changes, done.endpoint_changes, done.thresholds_put) == (0, 0, False)
    assert not [call for call in deployed.calls if not call.startswith("create_change_set")]


def test_a_run_that_died_before_the_thresholds_is_finished_by_the_next(model: Path) -> None:
    account = FakeAccount()

    def dies(**_request: Any) -> None:
        raise DeploymentFailed("the line went dead")

    account.put_parameter = dies  # type: ignore[method-assign]
    with pytest.raises(DeploymentFailed, match="the line went dead"):
        deploy(account, model=model)
    del account.put_parameter  # type: ignore[method-assign]
    done = deploy(account, model=model)
    assert (done.changes, done.endpoint_changes, done.thresholds_put) == (0, 0, True)


Refusal = tuple[dict[str, Any], str]
REFUSED: list[Refusal] = [
    ({}, "no model serves: add --model FILE"),
    ({"endpoint_only": True, "without_endpoint": True}, "does not stand yet"),
    ({"environment": with_parameters(Shards="1"), "without_endpoint": True}, "no parameter Shards"),
    ({"environment": with_parameters(ShardCount="0"), "without_endpoint": True}, "'0' is below 1"),
    (
        {"environment": dataclasses.replace(DEV, endpoint_parameters={"ImageUri": "x"}), "without_endpoint": True},
        "ImageUri of endpoint/template.yaml: --model, --image",
    ),
    (
        {"environment": dataclasses.replace(DEV, endpoint_parameters={"InstanceTyp": "x"}), "without_endpoint": True},
        "did you mean InstanceType",
    ),
]


@pytest.mark.parametrize(("wish", "said"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_made(wish: dict[str, Any], said: str) -> None:
    account = FakeAccount()
    with pytest.raises(UsageError, match=said):
        deploy(account, **wish)
    assert account.calls == []


def test_a_model_of_another_feature_set_is_refused_before_anything_is_made(model: Path) -> None:
    account = FakeAccount()
    with pytest.raises(UsageError, match=r"trained on the core set, the stack computes handbook.*FeatureSet=core"):
        deploy(account, model=model, environment=with_parameters(FeatureSet="handbook"))
    assert account.calls == []


def test_a_file_that_is_no_model_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_bytes(b"no")
    account = FakeAccount()
    with pytest.raises(PipelineError, match=r"model\.tar\.gz"):
        deploy(account, model=tmp_path / "model.tar.gz")
    assert account.calls == []


def test_a_quota_that_is_too_small_stops_it_before_anything_is_made() -> None:
    account = FakeAccount()
    account.free_shards = 3
    with pytest.raises(DeploymentFailed, match="5 more shards are needed, 3 of 3 are free"):
        deploy(account, without_endpoint=True)
    assert account.calls == []


def test_who_says_no_keeps_everything_as_it_was(deployed: FakeAccount) -> None:
    before = deployed.stacks[STACK]
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    with pytest.raises(DeploymentFailed, match="not confirmed: stack fraudstream-dev is as it was"):
        deploy(deployed, agree=no, environment=with_parameters(ShardCount="3"))
    assert deployed.stacks[STACK] is before
    assert deployed.change_sets == {}
    assert "account 123456789012 in eu-west-1" in asked[0]


@pytest.mark.parametrize("how", [{"Action": "Remove"}, {"Action": "Modify", "Replacement": "True"}])
def test_what_holds_data_is_not_lost_by_a_yes(deployed: FakeAccount, how: dict[str, str]) -> None:
    deployed.change = how | {"LogicalResourceId": "LabelsTable", "ResourceType": "AWS::DynamoDB::Table"}
    before, changed = deployed.stacks[STACK], with_parameters(ShardCount="3")
    with pytest.raises(DeploymentFailed, match=r"would lose or replace what holds data: LabelsTable; .*--allow-repl"):
        deploy(deployed, environment=changed)
    assert deployed.stacks[STACK] is before
    deploy(deployed, environment=changed, allow_replacement=True)
    assert deployed.stacks[STACK] is not before


def test_a_function_that_is_replaced_holds_no_data(deployed: FakeAccount) -> None:
    deployed.change = {"Action": "Modify", "Replacement": "True"}
    assert deploy(deployed, environment=with_parameters(ShardCount="3")).changes == 1


def test_a_dry_run_leaves_a_change_set_that_can_be_executed_as_it_is(deployed: FakeAccount) -> None:
    done = deploy(deployed, dry_run=True, environment=with_parameters(ShardCount="3"))
    assert done.change_set in deployed.change_sets
    assert deployed.stacks[STACK].parameters["ShardCount"] == "1"
    deploy(deployed, change_set=done.change_set, without_endpoint=True)
    assert deployed.stacks[STACK].parameters["ShardCount"] == "3"
    with pytest.raises(DeploymentFailed, match="has no change set"):
        deploy(deployed, change_set=done.change_set, without_endpoint=True)


def test_a_first_dry_run_makes_the_bucket_and_no_stack(model: Path) -> None:
    account = FakeAccount()
    done = deploy(account, model=model, dry_run=True)
    assert done.change_set is not None
    assert account.calls == ["create_bucket", f"create_change_set {STACK}"]
    assert {name: stack.status for name, stack in account.stacks.items()} == {STACK: "REVIEW_IN_PROGRESS"}


def test_the_engine_of_a_running_stack_is_not_changed_by_a_parameter(deployed: FakeAccount) -> None:
    on_flink = with_parameters(Engine="flink")
    with pytest.raises(UsageError, match=r"runs engine lambda.*docs/engines\.md.*--allow-engine-change"):
        deploy(deployed, environment=on_flink)
    assert deployed.calls == []
    # The job runs elsewhere, so none is brought.
    deploy(deployed, environment=with_parameters(Engine="flink", FlinkCodeKey=""), allow_engine_change=True)
    assert deployed.stacks[STACK].parameters["Engine"] == "flink"


def test_a_job_that_could_not_run_is_refused_before_anything_is_made(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks() -> None:
        raise DeploymentFailed("no connector")

    monkeypatch.setattr(deploying, "require_connector", lacks)
    account = FakeAccount()
    with pytest.raises(DeploymentFailed, match="no connector"):
        deploy(account, model=model, environment=with_parameters(Engine="flink"))
    assert account.calls == []


def test_the_job_comes_with_a_change_set_of_its_own_and_is_started(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"flink/{'0' * 64}.zip"
    package = SimpleNamespace(key=key)
    monkeypatch.setattr(deploying, "require_connector", lambda: None)
    monkeypatch.setattr(flink, "build_flink_package", lambda out: package)
    monkeypatch.setattr(flink, "upload_flink_package", lambda s3, bucket, built: built.key)
    started: list[str] = []
    monkeypatch.setattr(flink, "start_application", lambda service, name, waiting, talk: started.append(name))
    account = FakeAccount()
    wish = {"model": model, "environment": with_parameters(Engine="flink")}
    deploy(account, **wish)
    assert account.stacks[STACK].parameters["FlinkCodeKey"] == key
    assert account.calls.count(f"execute_change_set {STACK}") == 2
    deploy(account, **wish)  # the same package is no change; an application is only looked at
    assert account.calls.count(f"execute_change_set {STACK}") == 2
    assert len(started) == 2


def test_what_a_former_stack_left_is_in_the_way_until_it_is_taken_in(model: Path) -> None:
    account = FakeAccount()
    account.tables = {"dev-decisions"}
    with pytest.raises(UsageError, match=r"left dev-decisions.*--delete-data.*--import-existing"):
        deploy(account, model=model)
    assert account.calls == []
    done = deploy(account, model=model, import_existing=True, dry_run=True)
    request = account.change_sets[str(done.change_set)]["request"]
    assert request["ImportExistingResources"] is True


def test_a_parameter_given_once_stays(deployed: FakeAccount, model: Path) -> None:
    deploy(deployed, environment=with_parameters(BatchSize="50"))
    deploy(deployed, model=model)
    assert deployed.stacks[STACK].parameters["BatchSize"] == "50"


def test_an_image_of_ones_own_is_handed_on_with_its_repository(deployed: FakeAccount, model: Path) -> None:
    deploy(deployed, image=URI)
    parameters = deployed.stacks[ENDPOINT_STACK].parameters
    assert (parameters["Container"], parameters["ImageUri"]) == ("own-image", URI)
    assert parameters["ImageRepositoryName"] == "team/scorer"
    deploy(deployed, model=model)  # the image stays, the artefact goes without code
    parameters = deployed.stacks[ENDPOINT_STACK].parameters
    assert (parameters["Container"], parameters["ImageUri"]) == ("own-image", URI)
    assert "scripted" not in parameters["ModelDataUrl"]
    with pytest.raises(UsageError, match="add --model FILE to --script-mode"):
        deploy(deployed, script_mode=True)
    deploy(deployed, script_mode=True, model=model)
    assert "/scripted-" in deployed.stacks[ENDPOINT_STACK].parameters["ModelDataUrl"]


def test_a_model_alone_leaves_the_main_stack_alone(deployed: FakeAccount, tmp_path: Path) -> None:
    (tmp_path / "other.tar.gz").write_bytes(pack_artifact(an_artifact(seed=1)))
    done = deploy(deployed, model=tmp_path / "other.tar.gz", endpoint_only=True)
    assert done.thresholds_put
    assert f"create_change_set {STACK}" not in deployed.calls


def test_alarms_and_network_are_said_once_for_both_stacks(model: Path) -> None:
    account = FakeAccount()
    topic = "arn:aws:sns:eu-west-1:123456789012:ops"
    deploy(account, model=model, environment=with_parameters(AlarmTopicArn=topic))
    assert account.stacks[ENDPOINT_STACK].parameters["AlarmTopicArn"] == topic


def test_the_shell_of_a_failed_creation_is_no_obstacle(model: Path) -> None:
    account = FakeAccount()
    account.stacks[STACK] = FakeStack("ROLLBACK_COMPLETE")
    deploy(account, model=model)
    assert account.calls.index(f"delete_stack {STACK}") < account.calls.index(f"execute_change_set {STACK}")
