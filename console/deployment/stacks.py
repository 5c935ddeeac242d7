"""CloudFormation stacks, changed by change sets only: made, looked at, executed, waited for.

A stack moves through states in which it takes no change set; `ready_for_changes` brings it out of those that hold
nothing worth keeping, and says what to type for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError

from console.deployment.failures import DeploymentFailed

_LARGEST_INLINE_TEMPLATE_BYTES: Final = 51_200
_NOTHING_TO_DO: Final = ("didn't contain changes", "No updates are to be performed")
_CAPABILITIES: Final = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
# Creation failed and was rolled back: nothing is in it, and it takes no updates.
_EMPTY_SHELLS: Final = frozenset({"ROLLBACK_COMPLETE", "CREATE_FAILED", "ROLLBACK_FAILED", "REVIEW_IN_PROGRESS"})
_GOOD: Final = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"})

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How to wait for CloudFormation. Seconds."""

    deadline_s: float = 3_600.0
    poll_s: float = 5.0
    tell_every_s: float = 20.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a change set. `replacement` is CloudFormation's own word: True, False, Conditional or empty."""

    action: str
    logical_id: str
    kind: str
    replacement: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """A change set that can be executed."""

    stack: str
    name: str
    changes: tuple[Change, ...]

    @property
    def endangers(self) -> tuple[Change, ...]:
        """What it removes or may replace."""
        return tuple(c for c in self.changes if c.action == "Remove" or c.replacement in ("True", "Conditional"))

    def lines(self) -> list[str]:
        """For people: one line a resource, what is lost or replaced last, where it is seen."""
        ordered = sorted(self.changes, key=lambda change: (change in self.endangers, change.kind, change.logical_id))
        marks = {"True": "  REPLACED", "Conditional": "  may be replaced"}
        return [
            f"  {change.action:7} {change.kind:45} {change.logical_id}{marks.get(change.replacement, '')}"
            for change in ordered
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """CloudFormation as deployments use it.

    Attributes:
        cloudformation: a boto3 client.
        upload: puts a template too large for a request into S3 and returns its URL.
        role_arn: the role CloudFormation acts in; None: the caller's own rights, or the role of the stack.
        waiting: how often to look and how long.
    """

    cloudformation: Any
    upload: Callable[[str], str] | None = None
    role_arn: str | None = None
    waiting: Waiting = field(default_factory=Waiting)

    def describe(self, name: str) -> dict[str, Any] | None:
        """The stack as CloudFormation describes it; None where there is none."""
        try:
            found: list[dict[str, Any]] = self.cloudformation.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":
                return None
            raise
        live = [stack for stack in found if stack["StackStatus"] != "DELETE_COMPLETE"]
        return live[0] if live else None

    def outputs(self, name: str) -> dict[str, str]:
        """The outputs of a stack by key; empty where there is none."""
        stack = self.describe(name) or {}
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def parameters(self, name: str) -> dict[str, str]:
        """The parameters in force by key; empty where there is no stack, or only the shell of one."""
        stack = self.describe(name)
        if stack is None or stack["StackStatus"] in _EMPTY_SHELLS:
            return {}
        return {entry["ParameterKey"]: entry.get("ParameterValue", "") for entry in stack.get("Parameters", [])}

    def exists(self, name: str) -> bool:
        """Whether there is a stack with something in it."""
        stack = self.describe(name)
        return stack is not None and stack["StackStatus"] not in _EMPTY_SHELLS

    def ready_for_changes(self, name: str, progress: Progress) -> bool:
        """Whether the stack is there to be updated (else: to be created), once it takes a change set.

        The shell of a creation that failed is deleted first.

        Raises:
            DeploymentFailed: it is in a state that a person has to end.
        """
        stack = self.describe(name)
        if stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS":
            return False
        status = stack["StackStatus"]
        if status in _EMPTY_SHELLS:
            progress(f"stack {name} is {status}: removing what its failed creation left")
            self.delete(name, progress)
            return False
        if status.endswith("_IN_PROGRESS"):
            raise DeploymentFailed(f"stack {name} is {status}: another deployment is under way; wait, then run again")
        if status == "UPDATE_ROLLBACK_FAILED":
            raise DeploymentFailed(
                f"stack {name} is {status}; finish the way back, then run again: "
                f"aws cloudformation continue-update-rollback --stack-name {name}"
            )
        if status == "DELETE_FAILED":
            raise DeploymentFailed(f"stack {name} is {status}: its deletion has to end first (fraudstream destroy)")
        return True

    def make_change_set(
        self,
        name: str,
        template: str,
        parameters: Mapping[str, str | None],
        *,
        update: bool,
        tags: Mapping[str, str] | None = None,
        import_existing: bool = False,
    ) -> ChangeSet | None:
        """A change set that waits to be executed; None where nothing would change.

        Args:
            name: of the stack.
            template: its text.
            parameters: by name; None keeps the stack's value, and those left out take the template's default.
            update: the stack exists.
            tags: of the stack and everything in it.
            import_existing: take resources that exist under their names into the stack, instead of failing.

        Raises:
            DeploymentFailed: CloudFormation refuses it.
        """
        request: dict[str, Any] = {
            "StackName": name,
            "ChangeSetName": f"deploy-{time.time_ns()}",
            "ChangeSetType": "UPDATE" if update else "CREATE",
            "Capabilities": _CAPABILITIES,
            "Parameters": [
                {"ParameterKey": key, **({"UsePreviousValue": True} if value is None else {"ParameterValue": value})}
                for key, value in parameters.items()
            ],
        }
        if len(template.encode()) > _LARGEST_INLINE_TEMPLATE_BYTES and self.upload is not None:
            request["TemplateURL"] = self.upload(template)
        else:
            request["TemplateBody"] = template
        if self.role_arn is not None:
            request["RoleARN"] = self.role_arn
        if tags:
            request["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        if import_existing:
            request["ImportExistingResources"] = True
        try:
            self.cloudformation.create_change_set(**request)
        except ClientError as error:
            raise DeploymentFailed(
                f"stack {name}: no change set can be made: {error.response['Error'].get('Message', error)}"
            ) from error
        return self.change_set(name, request["ChangeSetName"])

    def change_set(self, name: str, change_set: str) -> ChangeSet | None:
        """A change set by its name or ARN, once it is complete; None where it holds no change (it is then deleted).

        Raises:
            DeploymentFailed: there is none, or it failed.
        """
        ends_at_s = self.waiting.clock() + self.waiting.deadline_s
        while True:
            try:
                found = self.cloudformation.describe_change_set(StackName=name, ChangeSetName=change_set)
            except ClientError as error:
                if error.response["Error"]["Code"] in ("ChangeSetNotFound", "ChangeSetNotFoundException"):
                    raise DeploymentFailed(f"stack {name} has no change set {change_set}; make one again") from error
                raise
            if found["Status"] == "CREATE_COMPLETE":
                return ChangeSet(stack=name, name=change_set, changes=self._changes(found))
            if found["Status"] == "FAILED":
                reason = found.get("StatusReason", "no reason")
                if any(said in reason for said in _NOTHING_TO_DO):
                    self.cloudformation.delete_change_set(StackName=name, ChangeSetName=change_set)
                    return None
                raise DeploymentFailed(f"stack {name}: the change set failed: {reason}")
            if self.waiting.clock() > ends_at_s:
                raise DeploymentFailed(f"stack {name}: no change set after {self.waiting.deadline_s:.0f} s")
            self.waiting.sleep(min(self.waiting.poll_s, 2.0))

    def _changes(self, described: dict[str, Any]) -> tuple[Change, ...]:
        entries = list(described.get("Changes", []))
        while token := described.get("NextToken"):
            described = self.cloudformation.describe_change_set(
                StackName=described["StackName"], ChangeSetName=described["ChangeSetName"], NextToken=token
            )
            entries += described.get("Changes", [])
        return tuple(
            Change(
                action=entry["ResourceChange"]["Action"],
                logical_id=entry["ResourceChange"]["LogicalResourceId"],
                kind=entry["ResourceChange"]["ResourceType"],
                replacement=entry["ResourceChange"].get("Replacement", ""),
            )
            for entry in entries
            if "ResourceChange" in entry
        )

    def execute(self, change_set: ChangeSet, progress: Progress) -> dict[str, str]:
        """Carry a change set out; return the stack's outputs when it stands.

        Raises:
            DeploymentFailed: with the reason of every resource that failed; the stack is as before.
        """
        name = change_set.stack
        self.cloudformation.execute_change_set(StackName=name, ChangeSetName=change_set.name)
        status = self._settled(name, progress)
        if status not in _GOOD:
            raise DeploymentFailed(f"stack {name} {status or 'is gone'}: {self.reasons(name)}")
        return self.outputs(name)

    def discard(self, change_set: ChangeSet) -> None:
        """Delete a change set that nobody will execute, and the shell of a stack that was made for it."""
        self.cloudformation.delete_change_set(StackName=change_set.stack, ChangeSetName=change_set.name)
        stack = self.describe(change_set.stack)
        if stack is not None and stack["StackStatus"] == "REVIEW_IN_PROGRESS":
            self.cloudformation.delete_stack(StackName=change_set.stack)

    def delete(self, name: str, progress: Progress) -> None:
        """Delete a stack; return when it is gone.

        Raises:
            DeploymentFailed: a resource could not be deleted; the message says which and why.
        """
        role = {} if self.role_arn is None else {"RoleARN": self.role_arn}
        self.cloudformation.delete_stack(StackName=name, **role)
        if (status := self._settled(name, progress)) is not None:
            raise DeploymentFailed(f"stack {name} {status}: {self.reasons(name)}")

    def resources(self, name: str) -> list[dict[str, Any]]:
        """Every resource of a stack: LogicalResourceId, PhysicalResourceId, ResourceType, ResourceStatus."""
        found: list[dict[str, Any]] = []
        token: dict[str, str] = {}
        while True:
            page = self.cloudformation.list_stack_resources(StackName=name, **token)
            found += page["StackResourceSummaries"]
            if not page.get("NextToken"):
                return found
            token = {"NextToken": page["NextToken"]}

    def reasons(self, name: str) -> str:
        """What the resources that failed said, oldest first; those that were only cancelled are left out."""
        events = self.cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        begun = next(
            (
                index
                for index, event in enumerate(events)
                if event["ResourceStatus"] in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")
                and event.get("ResourceType") == "AWS::CloudFormation::Stack"
            ),
            len(events),
        )
        failed = [
            f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'no reason')}"
            for event in events[:begun]
            if event["ResourceStatus"].endswith("_FAILED") and event.get("LogicalResourceId") != name
        ]
        told = [line for line in failed if "cancelled" not in line] or failed
        return "; ".join(reversed(told)) or "no event says why"

    def _settled(self, name: str, progress: Progress) -> str | None:
        """The stack's status once nothing is in progress; None when it is gone."""
        clock, started_s = self.waiting.clock, self.waiting.clock()
        told_at_s = started_s
        while True:
            stack = self.describe(name)
            if stack is None:
                return None
            status = str(stack["StackStatus"])
            if not status.endswith("_IN_PROGRESS"):
                return status
            if clock() - started_s > self.waiting.deadline_s:
                raise DeploymentFailed(f"stack {name} is still {status} after {self.waiting.deadline_s:.0f} s")
            if clock() - told_at_s >= self.waiting.tell_every_s:
                told_at_s = clock()
                progress(f"stack {name} is {status} since {clock() - started_s:.0f} s{self._under_way(name)}")
            self.waiting.sleep(self.waiting.poll_s)

    def _under_way(self, name: str) -> str:
        resources = self.resources(name)
        busy = [each["LogicalResourceId"] for each in resources if each["ResourceStatus"].endswith("_IN_PROGRESS")]
        return f": {len(resources) - len(busy)} resources done, at work on {', '.join(busy[:3])}" if busy else ""


def deploy_stack(
    cloudformation: Any,
    name: str,
    template: str,
    parameters: Mapping[str, str],
    *,
    upload: Callable[[str], str] | None = None,
) -> dict[str, str]:
    """Create or update the stack `name` unasked and return its outputs; parameters left out take their defaults.

    Args:
        cloudformation: a boto3 client of a local AWS, which is quick.
        name: of the stack.
        template: its text.
        parameters: by name.
        upload: puts a template too large for the request into S3 and returns its URL.

    Raises:
        DeploymentFailed: with the reason of every resource that failed.
    """
    stacks = Stacks(cloudformation=cloudformation, upload=upload, waiting=Waiting(deadline_s=420.0, poll_s=0.1))
    update = stacks.ready_for_changes(name, lambda line: None)
    change_set = stacks.make_change_set(name, template, parameters, update=update)
    if change_set is not None:
        return stacks.execute(change_set, lambda line: None)
    return stacks.outputs(name)
