"""Change sets shown to whoever deploys, and executed when they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from console.deployment.failures import DeploymentFailed
from console.deployment.stacks import ChangeSet, Stacks
from console.deployment.wish import Talk

# What goes with one of these cannot be had back.
HOLDS_DATA: Final = frozenset({"AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::Kinesis::Stream", "AWS::KMS::Key"})


@dataclass(frozen=True, slots=True)
class Changes:
    """How a deployment changes stacks.

    Attributes:
        stacks: CloudFormation.
        talk: whom to show and to ask.
        where: account and region, for the question.
        tags: of every stack.
        allow_replacement: what holds data may be removed or replaced.
    """

    stacks: Stacks
    talk: Talk
    where: str
    tags: Mapping[str, str]
    allow_replacement: bool = False

    def show(self, change_set: ChangeSet) -> None:
        """Tell every change, what is lost or replaced last."""
        self.talk.progress(f"change set {change_set.name} of stack {change_set.stack}:")
        for line in change_set.lines():
            self.talk.progress(line)

    def execute(self, change_set: ChangeSet, *, keep_if_refused: bool = False) -> dict[str, str]:
        """Ask, then carry it out; return the stack's outputs.

        Raises:
            DeploymentFailed: something that holds data would go, the answer was no (the change set is gone unless it is
                to be kept), or the stack failed.
        """
        held = [
            change.logical_id
            for change in change_set.changes
            if change.kind in HOLDS_DATA and (change.action == "Remove" or change.replacement == "True")
        ]
        if held and not self.allow_replacement:
            if not keep_if_refused:
                self.stacks.discard(change_set)
            raise DeploymentFailed(
                f"stack {change_set.stack} would lose or replace what holds data: {', '.join(held)}; "
                "if that is meant, add --allow-replacement"
            )
        lost = len(change_set.endangers)
        question = f"Deploy these {len(change_set.changes)} changes to stack {change_set.stack} of {self.where}?"
        if lost:
            question += f" {lost} of them remove or replace something."
        if not self.talk.confirm(question):
            if not keep_if_refused:
                self.stacks.discard(change_set)
            raise DeploymentFailed(f"not confirmed: stack {change_set.stack} is as it was")
        self.talk.progress(f"deploying stack {change_set.stack}: {len(change_set.changes)} changes")
        return self.stacks.execute(change_set, self.talk.progress)

    def make(
        self, stack: str, template: str, parameters: Mapping[str, str | None], *, import_existing: bool = False
    ) -> ChangeSet | None:
        """A change set, shown; None, which is said, where nothing would change.

        Raises:
            DeploymentFailed: the stack takes none, or CloudFormation refuses it.
        """
        update = self.stacks.ready_for_changes(stack, self.talk.progress)
        change_set = self.stacks.make_change_set(
            stack, template, parameters, update=update, tags=self.tags, import_existing=import_existing
        )
        if change_set is None:
            self.talk.progress(f"stack {stack}: nothing to change")
        else:
            self.show(change_set)
        return change_set
