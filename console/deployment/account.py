"""The AWS account a deployment goes to, by the caller's own configuration: profile, region, AWS_ENDPOINT_URL."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from console.deployment.failures import DeploymentFailed
from stream_features.errors import UsageError

_NO_CREDENTIALS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
_REFUSED_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_WHAT_TO_TYPE: Final = (
    "sign in with `aws sso login --profile NAME` (or `aws configure`), then name it: "
    "fraudstream deploy --target aws --profile NAME"
)


@dataclass(frozen=True)
class Account:
    """Who deploys, and where to. `is_local` says that the endpoint is on this machine."""

    session: Any
    account_id: str
    arn: str
    region: str
    is_local: bool
    _clients: dict[str, Any] = field(default_factory=dict)

    @property
    def partition(self) -> str:
        """`aws`, `aws-cn` or `aws-us-gov`: the second part of every ARN."""
        return self.arn.split(":")[1]

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at something that takes minutes, unless it is on this machine."""
        return 0.1 if self.is_local else 5.0

    def client(self, service: str) -> Any:
        """A boto3 client, made once."""
        if service not in self._clients:
            self._clients[service] = _client(self.session, service)
        return self._clients[service]

    def pseudo_parameters(self, stack: str) -> dict[str, str]:
        """What `AWS::Region` and its like stand for in a template of `stack`."""
        return {
            "AWS::AccountId": self.account_id,
            "AWS::Partition": self.partition,
            "AWS::Region": self.region,
            "AWS::StackName": stack,
            "AWS::URLSuffix": "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com",
        }

    def environment(self) -> dict[str, str]:
        """In which a child process, such as the SAM CLI, is the same caller, whatever else its environment says."""
        credentials = self.session.get_credentials().get_frozen_credentials()
        return {
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": credentials.access_key,  # these hold over a profile, so all three are set
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_SESSION_TOKEN": credentials.token or "",
        }


def connect(profile: str | None, region: str | None, *, allow_local: bool) -> Account:
    """The account that the caller's configuration leads to.

    Args:
        profile: of the AWS configuration; None: as the environment says.
        region: None: as the environment or the profile says.
        allow_local: an endpoint on this machine is meant.

    Raises:
        UsageError: the profile does not exist, no region is named, or the endpoint is on this machine unasked.
        DeploymentFailed: there are no credentials, or AWS refuses them; says what to type.
    """
    try:
        # The AWS CLI and every other SDK know AWS_REGION; boto3 alone does not.
        session = boto3.session.Session(profile_name=profile, region_name=region or os.environ.get("AWS_REGION"))
        found = session.get_credentials()
    except ProfileNotFound as error:
        raise UsageError(f"{error}; `aws configure list-profiles` lists yours") from error
    except BotoCoreError as error:
        raise DeploymentFailed(f"no AWS credentials ({error}); {_WHAT_TO_TYPE}") from error
    if found is None:
        raise DeploymentFailed(f"no AWS credentials; {_WHAT_TO_TYPE}")
    if session.region_name is None:
        raise UsageError("no region: add --region NAME (such as eu-west-1), or set AWS_REGION")
    sts = _client(session, "sts")
    is_local = _on_this_machine(_client(session, "cloudformation").meta.endpoint_url)
    if is_local and not allow_local:
        raise UsageError(
            f"AWS_ENDPOINT_URL leads to {sts.meta.endpoint_url}, a local AWS: `fraudstream up` deploys there. For AWS, "
            f"unset {' '.join(sorted(name for name in os.environ if name.startswith('AWS_ENDPOINT_URL')))}; "
            "if it is meant, add --allow-local"
        )
    try:
        caller = sts.get_caller_identity()
    except _NO_CREDENTIALS as error:
        raise DeploymentFailed(f"no AWS credentials ({error}); {_WHAT_TO_TYPE}") from error
    except ClientError as error:
        if error.response["Error"]["Code"] in _REFUSED_CREDENTIALS:
            raise DeploymentFailed(f"AWS refuses the credentials ({error}); {_WHAT_TO_TYPE}") from error
        raise DeploymentFailed(f"AWS does not say who you are: {error}") from error
    except BotoCoreError as error:
        raise DeploymentFailed(f"{sts.meta.endpoint_url} cannot be reached: {error}") from error
    return Account(session, caller["Account"], caller["Arn"], session.region_name, is_local)


@contextmanager
def step(what: str) -> Iterator[None]:
    """What AWS refuses inside becomes a message that says which step it was."""
    try:
        yield
    except ClientError as error:
        code, operation = error.response["Error"].get("Code", "?"), error.operation_name
        message = error.response["Error"].get("Message") or code
        hint = "; you lack the permission" if "Denied" in code or "Unauthorized" in code else ""
        raise DeploymentFailed(f"{what}: AWS refused {operation} ({code}): {message}{hint}") from error
    except BotoCoreError as error:
        raise DeploymentFailed(f"{what}: {error}") from error


def _client(session: Any, service: str) -> Any:
    config = Config(connect_timeout=10, read_timeout=70, retries={"mode": "standard", "max_attempts": 5})
    return session.client(service, config=config)


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
