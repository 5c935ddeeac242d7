"""The job of engine `flink` on Managed Service for Apache Flink: its package into the stack's bucket, then started.

The package can only be uploaded once the stack has its bucket, so it comes with a change set of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from console.deployment.account import Account
from console.deployment.changes import Changes
from console.deployment.failures import DeploymentFailed
from console.deployment.stacks import Waiting
from console.deployment.wish import Talk
from console.packaging import CONNECTOR_JAR, build_flink_package, upload_flink_package

_STARTS_FROM: Final = "READY"
_UNDER_WAY: Final = frozenset({"STARTING", "UPDATING", "AUTOSCALING", "STOPPING", "FORCE_STOPPING", "ROLLING_BACK"})


def deploy_flink_code(account: Account, changes: Changes, stack: str) -> dict[str, str]:
    """Bring this checkout's job to the service and start it; return the stack's outputs.

    Raises:
        DeploymentFailed: the answer was no, or the job does not run.
    """
    talk, stacks = changes.talk, changes.stacks
    talk.progress("building the package of the Flink job")
    with tempfile.TemporaryDirectory() as folder:
        package = build_flink_package(Path(folder) / "app.zip")
        upload_flink_package(account.client("s3"), stacks.outputs(stack)["ArtifactsBucketName"], package)
    in_force = stacks.parameters(stack)
    if in_force.get("FlinkCodeKey") != package.key:
        template = stacks.cloudformation.get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
        if not isinstance(template, str):
            raise DeploymentFailed(f"stack {stack}: its template cannot be read back; deploy it again")
        change_set = changes.make(stack, template, {**dict.fromkeys(in_force), "FlinkCodeKey": package.key})
        if change_set is not None:
            changes.execute(change_set)
    outputs = stacks.outputs(stack)
    start_application(account.client("kinesisanalyticsv2"), outputs["FlinkApplicationName"], stacks.waiting, talk)
    return outputs


def require_connector(jar: Path = CONNECTOR_JAR) -> None:
    """Refuse a package that the service could not run, before it is built. Raises DeploymentFailed."""
    if not jar.is_file():
        raise DeploymentFailed(
            "the package of the Flink job would lack lib/pyflink-dependencies.jar, which the managed service needs: "
            "run `make setup-flink` where Maven Central can be reached (docs/managed-flink.md); a job that runs "
            "elsewhere is --parameter FlinkCodeKey="
        )


def start_application(service: Any, name: str, waiting: Waiting, talk: Talk) -> None:
    """Return when the application runs; one that runs already is left alone.

    Raises:
        DeploymentFailed: it did not come to run in time.
    """
    began_s = waiting.clock()
    started = False
    while True:
        status = service.describe_application(ApplicationName=name)["ApplicationDetail"]["ApplicationStatus"]
        if status == "RUNNING":
            return
        if status == _STARTS_FROM and not started:
            talk.progress(f"starting the Flink application {name}")
            service.start_application(ApplicationName=name)
            started = True
        elif status not in _UNDER_WAY and status != _STARTS_FROM:
            raise DeploymentFailed(
                f"the Flink application {name} is {status}; its log says why (docs/managed-flink.md)"
            )
        if waiting.clock() - began_s > waiting.deadline_s:
            raise DeploymentFailed(f"the Flink application {name} is {status} after {waiting.deadline_s:.0f} s")
        waiting.sleep(waiting.poll_s)
