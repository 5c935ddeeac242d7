"""`destroy`: what costs by the hour goes first, what holds data stays unless asked for, and everything is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from console.deployment.account import Account, step
from console.deployment.buckets import bucket_is_ours
from console.deployment.deploying import MAIN
from console.deployment.environments import Environment
from console.deployment.failures import DeploymentFailed
from console.deployment.leftovers import Leftover, delete, existing_leftovers, exists, retained_by
from console.deployment.prices import idle_words
from console.deployment.stacks import Progress, Stacks, Waiting
from console.deployment.templates import Template, parse_template


@dataclass(frozen=True, slots=True)
class StackFound:
    """A stack that is to go, and its resources as CloudFormation lists them."""

    name: str
    resources: list[dict[str, Any]]

    def line(self) -> str:
        """The stack in one line: how many of what."""
        kinds = Counter(each["ResourceType"] for each in self.resources)
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return f"stack {self.name}: {counted or 'nothing in it'}"


@dataclass(slots=True)
class Survey:
    """What there is of an environment. `keeps` are resources that deleting the stacks leaves behind."""

    stacks: list[StackFound] = field(default_factory=list)
    keeps: list[Leftover] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Nothing is there."""
        return not self.stacks and not self.keeps

    def lines(self, *, delete_data: bool) -> list[str]:
        """For people, before they are asked."""
        told = [f"deleted: {stack.line()}" for stack in self.stacks]
        verb = "deleted with all data" if delete_data else "kept"
        return told + [f"{verb}: {each.kind} {each.name} ({idle_words(each.kind)})" for each in self.keeps]


class Destruction:
    """One run of `destroy`."""

    def __init__(self, account: Account, environment: Environment, progress: Progress) -> None:
        self._account = account
        self._environment = environment
        self._progress = progress
        self._stacks = Stacks(
            cloudformation=account.client("cloudformation"),
            role_arn=environment.role_arn,
            waiting=Waiting(poll_s=account.poll_s),
        )

    def survey(self) -> Survey:
        """Look; change nothing.

        Raises:
            DeploymentFailed: a stack is being changed, or AWS does not answer.
        """
        found = Survey()
        environment, account = self._environment, self._account
        with step("looking at the stacks"):
            for name in (environment.endpoint_stack, environment.image_stack, environment.stack):
                stack = self._stacks.describe(name)
                if stack is None:
                    continue
                status = stack["StackStatus"]
                if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
                    raise DeploymentFailed(f"stack {name} is {status}: wait until it is done, then run this again")
                found.stacks.append(StackFound(name, self._stacks.resources(name)))
            found.keeps = self._kept(found)
            code_bucket = environment.code_bucket(account.account_id, account.region)
            if bucket_is_ours(account.client("s3"), code_bucket, account.account_id):
                found.keeps.append(Leftover(logical_id="", kind="AWS::S3::Bucket", name=code_bucket))
            found.keeps += self._endpoint_logs()
        return found

    def _kept(self, found: Survey) -> list[Leftover]:
        environment = self._environment
        kept: list[Leftover] = []
        for stack in found.stacks:
            if stack.resources:
                answer = self._stacks.cloudformation.get_template(StackName=stack.name, TemplateStage="Original")
                body = answer["TemplateBody"]
                document = parse_template(body) if isinstance(body, str) else body
                pseudo = self._account.pseudo_parameters(stack.name)
                template = Template(document, self._stacks.parameters(stack.name), pseudo)
                kept += retained_by(template, stack.resources)
        if not any(stack.name == environment.stack and stack.resources for stack in found.stacks):
            pseudo = self._account.pseudo_parameters(environment.stack)
            template = Template(parse_template(MAIN.read_text()), environment.parameters, pseudo)
            kept += existing_leftovers(self._account, template)
        known = {each.name for each in kept}
        return kept + [key for key in self._keys_in_use() if key.name not in known]

    def _keys_in_use(self) -> list[Leftover]:
        """Keys of this environment, which have no name to be found by, unless they are on their way out."""
        kms = self._account.client("kms")
        keys = [arn.partition("key/")[2] for arn in self.tagged() if ":kms:" in arn and ":key/" in arn]
        return [
            Leftover(logical_id="", kind="AWS::KMS::Key", name=key)
            for key in keys
            if kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] != "PendingDeletion"
        ]

    def _endpoint_logs(self) -> list[Leftover]:
        """SageMaker makes the log group of an endpoint; no stack knows it."""
        name = f"/aws/sagemaker/Endpoints/{self._endpoint_name()}"
        found = self._account.client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        return [
            Leftover(logical_id="", kind="AWS::Logs::LogGroup", name=group["logGroupName"])
            for group in found
            if group["logGroupName"] == name
        ]

    def _endpoint_name(self) -> str:
        environment = self._environment
        defaults = Template(parse_template(MAIN.read_text()), environment.parameters, {}).values
        return (defaults | self._stacks.parameters(environment.stack))["EndpointName"]

    def carry_out(self, found: Survey, *, delete_data: bool) -> list[Leftover]:
        """Delete what the survey lists; return what is left of it.

        Raises:
            DeploymentFailed: something could not be deleted; the same command goes on from there.
        """
        for stack in found.stacks:
            self._progress(f"deleting stack {stack.name}")
            with step(f"deleting stack {stack.name}"):
                self._stacks.delete(stack.name, self._progress)
        if not delete_data:
            return found.keeps
        left = []
        for each in found.keeps:
            with step(f"deleting {each.kind} {each.name}"):
                # A resource that never held anything is deleted with its stack, whatever its policy says.
                known = each.kind not in ("AWS::S3::Bucket", "AWS::DynamoDB::Table") or exists(self._account, each)
                if known and not delete(self._account, each, self._progress):
                    left.append(each)
        return left

    def still_tagged(self) -> list[str]:
        """What `tagged` lists, without keys that are on their way out."""
        in_use = {each.name for each in self._keys_in_use()}
        return [arn for arn in self.tagged() if ":kms:" not in arn or arn.partition("key/")[2] in in_use]

    def tagged(self) -> list[str]:
        """ARNs that AWS's register of tags still lists for this environment; it lags behind by some minutes.

        Empty where the register cannot be asked, which is said.
        """
        filters = [
            {"Key": "project", "Values": ["fraudstream"]},
            {"Key": "environment", "Values": [self._environment.name]},
        ]
        arns: list[str] = []
        ask: Callable[..., Any] = self._account.client("resourcegroupstaggingapi").get_resources
        try:
            token = ""
            while True:
                page = ask(TagFilters=filters, **({"PaginationToken": token} if token else {}))
                arns += [entry["ResourceARN"] for entry in page["ResourceTagMappingList"]]
                token = page.get("PaginationToken", "")
                if not token:
                    return arns
        except ClientError as error:
            self._progress(f"note: what is still tagged with this environment could not be looked up: {error}")
            return []
