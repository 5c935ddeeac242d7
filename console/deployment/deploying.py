"""`deploy`: code, stack, image, model, endpoint and thresholds, in this order, each asked about and each repeatable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from console.deployment.account import Account, step
from console.deployment.buckets import ensure_code_bucket, upload_template
from console.deployment.build import CHECKOUT, package
from console.deployment.changes import Changes
from console.deployment.endpoints import EndpointPlan, EndpointStep, plan_endpoint
from console.deployment.environments import choose_parameters, effective
from console.deployment.failures import DeploymentFailed
from console.deployment.flink import deploy_flink_code, require_connector
from console.deployment.leftovers import Leftover, existing_leftovers, with_static_names
from console.deployment.quotas import check_quotas
from console.deployment.stacks import Stacks, Waiting
from console.deployment.templates import Template, parse_template
from console.deployment.wish import Deployed, Talk, Wish
from stream_features.errors import UsageError

MAIN: Final = CHECKOUT / "template.yaml"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the main stack will be; `wanted` has the values, `parameters` what to tell CloudFormation of them."""

    parameters: dict[str, str | None]
    wanted: Template
    endpoint: EndpointPlan
    leftovers: list[Leftover]


class Deployment:
    """One run of `deploy`."""

    def __init__(self, account: Account, wish: Wish, talk: Talk) -> None:
        environment = wish.environment
        self._account = account
        self._wish = wish
        self._talk = talk
        self._stack = environment.stack
        self._code_bucket = environment.code_bucket(account.account_id, account.region)
        self._stacks = Stacks(
            cloudformation=account.client("cloudformation"),
            upload=lambda template: upload_template(account.client("s3"), self._code_bucket, template),
            role_arn=environment.role_arn,
            waiting=Waiting(poll_s=account.poll_s),
        )
        tags = {"project": "fraudstream", "environment": environment.name} | environment.tags
        where = f"account {account.account_id} in {account.region}"
        self._changes = Changes(self._stacks, talk, where, tags, wish.allow_replacement)

    def run(self) -> Deployed:
        """Carry everything out.

        Raises:
            UsageError: what is asked for contradicts itself, the template or what runs.
            PipelineError: a step failed; the same command goes on from there.
        """
        done = Deployed(stack=self._stack)
        account, wish = self._account, self._wish
        with step("looking at the stacks"):
            plan = self._plan()
        with step("the deployment bucket"):
            ensure_code_bucket(
                account.client("s3"), self._code_bucket, account.account_id, account.region, self._talk.progress
            )
        with step(f"stack {self._stack}"):
            outputs = self._main_stack(plan, done)
        if outputs is None:  # a dry run of a first deployment: there is nothing yet that an endpoint could belong to
            return done
        done.outputs = outputs
        in_force = self._stacks.parameters(self._stack)
        if in_force.get("Engine") == "flink" and not wish.dry_run and self._brings_the_job:
            with step("the Flink job"):
                done.outputs = deploy_flink_code(account, self._changes, self._stack)
        if not wish.without_endpoint:
            with step(f"stack {wish.environment.endpoint_stack}"):
                main = Template(plan.wanted.document, in_force, plan.wanted.pseudo)
                EndpointStep(account, self._changes, wish, self._code_bucket).run(plan.endpoint, main, outputs, done)
        return done

    def _plan(self) -> _Plan:
        """Look at everything, before anything is made."""
        wish, account, stack = self._wish, self._account, self._stack
        document = parse_template(MAIN.read_text())
        in_force = self._stacks.parameters(stack)
        chosen = choose_parameters(document, wish.environment.parameters, in_force, "template.yaml")
        pseudo = account.pseudo_parameters(stack)
        wanted = Template(document, effective(chosen, in_force), pseudo)
        present = Template(document, in_force, pseudo) if in_force else None
        if wish.endpoint_only and present is None:
            raise UsageError(f"stack {stack} does not stand yet: deploy it first, without --endpoint-only")
        self._keep_engine(in_force, wanted.values["Engine"])
        if wanted.values["Engine"] == "flink" and self._brings_the_job:
            require_connector()
        leftovers = [] if in_force or wish.change_set else existing_leftovers(account, wanted)
        if leftovers and not wish.import_existing:
            raise UsageError(
                f"a former stack {stack} left {', '.join(each.name for each in leftovers)}, whose names are taken: "
                f"delete them with their data (fraudstream destroy --env {wish.environment.name} --delete-data), or "
                "add --import-existing (docs/deploy.md says what that means)"
            )
        endpoint = plan_endpoint(account, self._stacks, wish, wanted.values["FeatureSet"], self._talk.progress)
        instances = 0 if wish.without_endpoint else endpoint.most_instances
        for finding in check_quotas(account.client, wanted, present, endpoint.values["InstanceType"], instances):
            if finding.fails:
                raise DeploymentFailed(f"a quota of the account is too small: {finding.what}")
            self._talk.progress(f"note: {finding.what}")
        return _Plan(chosen, wanted, endpoint, leftovers)

    @property
    def _brings_the_job(self) -> bool:
        """With engine flink: not where the key of the job's package was given, or given as none (it runs elsewhere)."""
        return not self._wish.endpoint_only and "FlinkCodeKey" not in self._wish.environment.parameters

    def _keep_engine(self, in_force: dict[str, str], engine: str) -> None:
        before = in_force.get("Engine")
        if before and engine != before and not self._wish.allow_engine_change:
            raise UsageError(
                f"stack {self._stack} runs engine {before}: changing it to {engine} is one step of a sequence "
                "(docs/engines.md); add --allow-engine-change when you are at that step"
            )

    def _main_stack(self, plan: _Plan, done: Deployed) -> dict[str, str] | None:
        """Its outputs; None where it does not stand, after a dry run."""
        wish, stack = self._wish, self._stack
        if wish.endpoint_only:
            return self._stacks.outputs(stack)
        if wish.change_set is not None:
            change_set = self._stacks.change_set(stack, wish.change_set)
            if change_set is not None:
                self._changes.show(change_set)
        else:
            account = self._account
            template = package(account.client("s3"), self._code_bucket, account.environment(), self._talk.progress)
            if plan.leftovers:
                template = with_static_names(template, plan.leftovers)
            change_set = self._changes.make(stack, template, plan.parameters, import_existing=bool(plan.leftovers))
        if change_set is None:
            return self._stacks.outputs(stack)
        done.changes = len(change_set.changes)
        if wish.dry_run:
            done.change_set = change_set.name
            return self._stacks.outputs(stack) if self._stacks.exists(stack) else None
        return self._changes.execute(change_set, keep_if_refused=wish.change_set is not None)
