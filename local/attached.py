"""A LocalStack that somebody else started: whether it may be used, what is deployed there, and how that goes away."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from local.localstack.host import HEALTH_PATH
from local.plain_template import plain_template, read_template
from local.run import RunFailed, RunState, client_at, write_atomically
from stream_features.errors import UsageError

_ANSWERS_WITHIN_S: Final = 5.0
_GONE_WITHIN_S: Final = 180.0
_POLL_S: Final = 0.2
_ACCOUNT: Final = "000000000000"
_LOOPBACK: Final = "127.0.0.1"
# How functions reach our SageMaker host. A function in a container has a loopback of its own.
FUNCTIONS_ADDRESS: Final = "FRAUDSTREAM_SAGEMAKER_FOR_FUNCTIONS"
LISTEN_ADDRESS: Final = "FRAUDSTREAM_SAGEMAKER_LISTEN"


class Deployment(msgspec.Struct, kw_only=True):
    """`attached.json`: what a run has put into somebody's LocalStack and must take away again."""

    endpoint_url: str
    region: str
    stack: str
    bucket: str  # of the code


def checked_url(url: str) -> str:
    """`url` without a trailing slash, if a LocalStack on this machine or in a private network answers there.

    Raises:
        UsageError: it is no such address, or something else answers, or nothing.
    """
    found = urlsplit(url)
    if found.scheme not in ("http", "https") or not found.hostname or found.path.strip("/") or found.query:
        raise UsageError(f"{url} is not the address of a LocalStack, such as http://127.0.0.1:4566")
    port = found.port or (443 if found.scheme == "https" else 80)
    try:
        addresses = {one[4][0] for one in socket.getaddrinfo(found.hostname, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise UsageError(f"{url}: {found.hostname} is not known here: {error}") from error
    if not all(_is_private(str(address)) for address in addresses):
        raise UsageError(
            f"{url} is neither on this machine nor in a private network; `up` never deploys to AWS: use sam deploy"
        )
    url = f"{found.scheme}://{found.netloc}"
    if _answer(f"{url}/_ministack/health") is not None:
        raise UsageError(f"{url} is an embedded AWS, not a LocalStack; unset AWS_ENDPOINT_URL to start one here")
    health = _answer(f"{url}{HEALTH_PATH}")
    if health is None or "services" not in health:
        raise UsageError(
            f"no LocalStack answers at {url}{HEALTH_PATH}; start it, or unset AWS_ENDPOINT_URL to have one started here"
        )
    return url


def listen_address() -> str:
    """Where our SageMaker host listens: FRAUDSTREAM_SAGEMAKER_LISTEN, else loopback.

    Raises:
        UsageError: the setting is no IP address.
    """
    asked = os.environ.get(LISTEN_ADDRESS) or _LOOPBACK
    try:
        return str(ipaddress.IPv4Address(asked))
    except ValueError as error:
        raise UsageError(f"{LISTEN_ADDRESS}={asked} is not an IPv4 address of this machine") from error


def sagemaker_url(port: int) -> str:
    """Where we reach the host that listens at `listen_address`."""
    address = ipaddress.IPv4Address(listen_address())
    return f"http://{_LOOPBACK if address.is_unspecified else address}:{port}"


def functions_sagemaker_url(port: int) -> str:
    """Where functions find our SageMaker host: FRAUDSTREAM_SAGEMAKER_FOR_FUNCTIONS, else where we do.

    Raises:
        UsageError: the setting is no http address.
    """
    asked = os.environ.get(FUNCTIONS_ADDRESS)
    if asked is None:
        return sagemaker_url(port)
    found = urlsplit(asked)
    if found.scheme != "http" or not found.hostname:
        raise UsageError(f"{FUNCTIONS_ADDRESS}={asked} is not an address such as http://host.docker.internal")
    return asked.rstrip("/") if found.port else f"http://{found.hostname}:{port}"


def adapted_template(text: str, run: RunState, parameters: Mapping[str, str]) -> str:
    """The packaged template as a LocalStack without our plugin takes it.

    Conditions and maps are resolved, functions are told where our SageMaker host is, and nothing outlives the stack.
    """
    pseudo = {"AWS::Region": run.region, "AWS::AccountId": _ACCOUNT, "AWS::Partition": "aws"}
    plain = plain_template(read_template(text), parameters, pseudo | {"AWS::URLSuffix": "amazonaws.com"})
    for resource in plain["Resources"].values():
        resource.pop("DeletionPolicy", None)
        resource.pop("UpdateReplacePolicy", None)
        if resource["Type"] == "AWS::Serverless::Function":
            variables = resource["Properties"].setdefault("Environment", {}).setdefault("Variables", {})
            variables["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = run.functions_sagemaker_url
    return json.dumps(plain)


def note_deployment(folder: Path, deployment: Deployment) -> None:
    """Remember it before the first resource is made.

    Raises:
        RunFailed: the stack is there already, and not from this folder.
    """
    path = folder / "attached.json"
    if not path.exists() and deployment.stack in _stacks(_clients(deployment)("cloudformation")):
        raise RunFailed(
            f"{deployment.endpoint_url} has a stack {deployment.stack} already: of another run, or left behind. "
            f"End that run, or: aws --endpoint-url {deployment.endpoint_url} cloudformation delete-stack "
            f"--stack-name {deployment.stack}"
        )
    write_atomically(path, msgspec.json.encode(deployment))


def remove_deployment(folder: Path, progress: Callable[[str], None] = lambda _line: None) -> None:
    """Delete the stack and the buckets that a run of `folder` has left in a LocalStack; nothing if there are none.

    A LocalStack that does not answer any more has nothing left of them: it keeps everything in memory, or is gone.

    Raises:
        RunFailed: the stack could not be deleted.
    """
    path = folder / "attached.json"
    if not path.exists():
        return
    deployment = msgspec.json.decode(path.read_bytes(), type=Deployment)
    if _answer(f"{deployment.endpoint_url}{HEALTH_PATH}") is not None:
        progress(f"deleting what was deployed to {deployment.endpoint_url}")
        _remove(_clients(deployment), deployment)
    path.unlink()


def _remove(clients: Callable[[str], Any], deployment: Deployment) -> None:
    cloudformation, s3 = clients("cloudformation"), clients("s3")
    buckets = [deployment.bucket]
    if deployment.stack in _stacks(cloudformation):
        pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=deployment.stack)
        resources = [resource for page in pages for resource in page["StackResourceSummaries"]]
        buckets += [one["PhysicalResourceId"] for one in resources if one["ResourceType"] == "AWS::S3::Bucket"]
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in (bucket for bucket in buckets if bucket in there):
        _empty(s3, bucket)
    cloudformation.delete_stack(StackName=deployment.stack)
    ends_at_s = time.monotonic() + _GONE_WITHIN_S
    while (status := _stacks(cloudformation).get(deployment.stack)) is not None:
        if status == "DELETE_FAILED" or time.monotonic() > ends_at_s:
            raise RunFailed(f"the stack {deployment.stack} at {deployment.endpoint_url} is {status}, not deleted")
        time.sleep(_POLL_S)
    for bucket in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} & set(buckets):
        _empty(s3, bucket)  # Firehose may have written once more
        s3.delete_bucket(Bucket=bucket)


def _empty(s3: Any, bucket: str) -> None:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        for one in found:
            s3.delete_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])


def _stacks(cloudformation: Any) -> dict[str, str]:
    """Name to status of the stacks that are there."""
    stacks = cloudformation.describe_stacks()["Stacks"]
    return {one["StackName"]: one["StackStatus"] for one in stacks if one["StackStatus"] != "DELETE_COMPLETE"}


def _clients(deployment: Deployment) -> Callable[[str], Any]:
    return lambda service: client_at(deployment.endpoint_url, service, deployment.region)


def _is_private(address: str) -> bool:
    found = ipaddress.ip_address(address.split("%")[0])
    return found.is_loopback or (found.is_private and not found.is_unspecified)


def _answer(url: str) -> dict[str, Any] | None:
    """The JSON object at `url`; None if nothing of the kind is there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWERS_WITHIN_S) as answer:
            found = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
