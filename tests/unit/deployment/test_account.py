"""Whose account it is, and what is said where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from click.testing import CliRunner, Result

from console.cli import main
from console.deployment import account as module
from console.deployment.account import Account, connect, step
from console.deployment.failures import DeploymentFailed
from stream_features.errors import UsageError


@pytest.fixture(autouse=True)
def nobodys_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have credentials; these tests have none."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def command(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_without_credentials_it_says_what_to_type() -> None:
    for words in (("deploy", "--target", "aws", "--yes", "--without-endpoint"), ("destroy", "--yes")):
        done = command(*words, "--region", "eu-west-1")
        assert done.exit_code == 1, done.output
        assert done.stdout == ""
        assert "no AWS credentials" in done.stderr
        assert "aws sso login" in done.stderr
        assert "--profile NAME" in done.stderr


def test_credentials_are_asked_for_before_a_region() -> None:
    assert command("deploy", "--target", "aws", "--yes").exit_code == 1


def test_without_a_region_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    done = command("deploy", "--yes")
    assert done.exit_code == 2
    assert "--region NAME" in done.stderr


def test_without_a_terminal_it_does_nothing_unasked() -> None:
    for words in (("deploy",), ("destroy",), ("destroy", "--delete-data")):
        done = command(*words, "--region", "eu-west-1")
        assert done.exit_code == 2
        assert "--yes" in done.stderr


def test_a_local_aws_is_not_mistaken_for_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:4590")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")  # which boto3 by itself does not know
    done = command("deploy", "--yes")
    assert done.exit_code == 2
    assert "unset AWS_ENDPOINT_URL AWS_ENDPOINT_URL_SAGEMAKER" in done.stderr
    assert "--allow-local" in done.stderr


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:4566", True),
        ("http://bucket.localhost:4566", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:1", True),
        ("https://cloudformation.eu-west-1.amazonaws.com", False),
        ("http://10.0.0.1", False),
    ],
)
def test_which_endpoints_are_on_this_machine(url: str, local: bool) -> None:
    assert module._on_this_machine(url) is local


def test_an_unknown_profile_and_environment_are_named() -> None:
    assert "(nobody)" in command("deploy", "--yes", "--profile", "nobody").stderr
    done = command("deploy", "--yes", "--env", "moon")
    assert done.exit_code == 2
    assert "no environment 'moon'" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--image", "u", "--build-image"), "exclude each other"),
        (("--change-set", "c", "--dry-run"), "as it was made"),
        (("--change-set", "c", "--parameter", "A=1"), "as it was made"),
        (("--parameter", "A"), "NAME=VALUE"),
    ],
)
def test_contradictions_are_refused(words: tuple[str, ...], said: str) -> None:
    done = command("deploy", "--yes", "--region", "eu-west-1", *words)
    assert done.exit_code == 2
    assert said in done.stderr


class Sts:
    meta = type("Meta", (), {"endpoint_url": "https://sts.eu-west-1.amazonaws.com"})

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def get_caller_identity(self) -> dict[str, str]:
        if self._error is not None:
            raise self._error
        return {"Account": "123456789012", "Arn": "arn:aws-cn:iam::123456789012:user/u"}


def connected(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> Account:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(module, "_client", lambda session, service: Sts(error))
    return connect(None, "eu-west-1", allow_local=False)


def refused(code: str, message: str = "m", operation: str = "GetCallerIdentity") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoCredentialsError(), "no AWS credentials"),
        (refused("ExpiredToken"), "refuses the credentials"),
        (refused("InvalidClientTokenId"), "refuses the credentials"),
        (refused("Throttling"), "does not say who you are"),
        (EndpointConnectionError(endpoint_url="u"), "cannot be reached"),
    ],
)
def test_what_aws_says_of_the_caller(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    with pytest.raises(DeploymentFailed, match=said):
        connected(monkeypatch, error)


def test_the_account_as_templates_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    account = connected(monkeypatch)
    assert account.pseudo_parameters("s")["AWS::URLSuffix"] == "amazonaws.com.cn"
    assert account.partition == "aws-cn"


def test_a_child_process_is_the_same_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of somebody else")
    session = boto3.session.Session(aws_access_key_id="id", aws_secret_access_key="secret", region_name="r")
    assert Account(session, "1", "arn:aws:iam::1:u", "r", False).environment() == {
        "AWS_REGION": "r",
        "AWS_DEFAULT_REGION": "r",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "",
    }


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            refused("AccessDenied", "no", "CreateBucket"),
            r"stack s: AWS refused CreateBucket \(AccessDenied\): no; you lack",
        ),
        (refused("LimitExceeded", "full", "CreateStream"), r"AWS refused CreateStream \(LimitExceeded\): full$"),
        (EndpointConnectionError(endpoint_url="u"), r"stack s: Could not connect"),
    ],
)
def test_a_step_that_fails_says_which_and_what_to_do(error: Exception, said: str) -> None:
    with pytest.raises(DeploymentFailed, match=said), step("stack s"):
        raise error


def test_our_own_errors_pass_a_step_as_they_are() -> None:
    def fail() -> Any:
        raise UsageError("as it is")

    with pytest.raises(UsageError, match=r"^as it is$"), step("stack s"):
        fail()
