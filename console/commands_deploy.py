"""`deploy` and `destroy`: the pipeline in an AWS account."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console.options import exit_codes, progress
from stream_features.errors import PipelineError, UsageError

if TYPE_CHECKING:  # boto3 is loaded by the commands that need it
    from console.deployment.account import Account
    from console.deployment.environments import Environment
    from console.deployment.wish import Deployed


@dataclasses.dataclass(frozen=True, slots=True)
class _Where:
    """The options of both commands: an environment, an account, and how the command is to behave."""

    target: str
    environment_name: str
    profile: str | None
    region: str | None
    role_arn: str | None
    allow_local: bool
    yes: bool
    as_json: bool

    def environment(self, parameters: tuple[str, ...] = (), endpoint_parameters: tuple[str, ...] = ()) -> Environment:
        from console.deployment.build import CHECKOUT
        from console.deployment.environments import parse_pairs, read_environment

        found = read_environment(CHECKOUT / "samconfig.toml", self.environment_name)
        return dataclasses.replace(
            found,
            role_arn=self.role_arn or found.role_arn,
            parameters=found.parameters | parse_pairs(parameters, "--parameter"),
            endpoint_parameters=found.endpoint_parameters | parse_pairs(endpoint_parameters, "--endpoint-parameter"),
        )

    def account(self, environment: Environment) -> Account:
        from console.deployment.account import connect

        return connect(self.profile, self.region or environment.region, allow_local=self.allow_local)

    def check_it_can_ask(self) -> None:
        if not self.yes and not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask on: add --yes (for deploy, --dry-run asks nothing either)")


_SHARED = (
    click.option("--target", type=click.Choice(["aws"]), default="aws", show_default=True, help="Where to."),
    click.option("--env", "environment_name", default="dev", show_default=True, help="A section of samconfig.toml."),
    click.option("--profile", default=None, metavar="NAME", help="Of your AWS configuration."),
    click.option("--region", default=None, metavar="NAME", help="Instead of the profile's."),
    click.option("--role-arn", default=None, metavar="ARN", help="The role CloudFormation acts in."),
    click.option("--allow-local", is_flag=True, help="AWS_ENDPOINT_URL leads to this machine, and that is meant."),
    click.option("--yes", is_flag=True, help="Ask nothing; needed where there is no terminal."),
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
)


def _shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of both commands; `command` gets them as one `_Where`, before its own."""

    @functools.wraps(command)
    def gathered(**options: Any) -> None:
        shared = {field.name: options.pop(field.name) for field in dataclasses.fields(_Where)}
        command(_Where(**shared), **options)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_SHARED), gathered)


@click.command("deploy")
@_shared_options
@click.option("--parameter", "parameters", multiple=True, metavar="K=V", help="Of template.yaml; repeats.")
@click.option(
    "--endpoint-parameter", "endpoint_parameters", multiple=True, metavar="K=V", help="Of endpoint/template.yaml."
)
@click.option(
    "--model", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=None, help="What `train` wrote."
)
@click.option("--image", default=None, metavar="URI", help="Serve with this image instead of AWS's container.")
@click.option("--build-image", is_flag=True, help="Build endpoint/Dockerfile with CodeBuild and serve with it.")
@click.option("--script-mode", is_flag=True, help="Go back to AWS's XGBoost container (what a first deployment uses).")
@click.option("--without-endpoint", is_flag=True, help="Leave the endpoint alone; on a first deployment none is made.")
@click.option("--endpoint-only", is_flag=True, help="Leave the main stack alone: a model, an image.")
@click.option("--allow-engine-change", is_flag=True, help="Change Engine: one step of docs/engines.md.")
@click.option("--allow-replacement", is_flag=True, help="Tables, buckets, streams and keys may be removed or replaced.")
@click.option("--import-existing", is_flag=True, help="Take in tables and buckets that a former stack left.")
@click.option("--dry-run", is_flag=True, help="Make the change set and show it; execute nothing.")
@click.option("--change-set", default=None, metavar="NAME", help="Execute what a dry run made, exactly that.")
@exit_codes
def deploy_command(
    where: _Where,
    parameters: tuple[str, ...],
    endpoint_parameters: tuple[str, ...],
    model: Path | None,
    image: str | None,
    build_image: bool,
    script_mode: bool,
    without_endpoint: bool,
    endpoint_only: bool,
    allow_engine_change: bool,
    allow_replacement: bool,
    import_existing: bool,
    dry_run: bool,
    change_set: str | None,
) -> None:
    r"""Deploy to AWS, or bring a deployment up to date: streams, tables, functions, lake, endpoint, model.

    Shows what would change and asks before it does anything. The same command again changes what has changed since,
    and goes on where it failed. docs/deploy.md has the rights it needs and what it costs.

    \b
    Example:
      fraudstream deploy --target aws --env dev --model models/first/model.tar.gz
      fraudstream deploy --env prod --parameter ShardCount=8 --dry-run
      fraudstream deploy --env prod --change-set deploy-1795176000000000000 --yes
    """
    if sum((image is not None, build_image, script_mode)) > 1:
        raise UsageError("--image, --build-image and --script-mode exclude each other")
    if change_set is not None and (dry_run or parameters):
        raise UsageError("--change-set is executed as it was made: leave --dry-run and --parameter out")
    if endpoint_only and (without_endpoint or change_set is not None or parameters):
        raise UsageError("--endpoint-only does not go with --parameter, --change-set or --without-endpoint")
    if not dry_run:
        where.check_it_can_ask()
    from console.deployment.deploying import Deployment
    from console.deployment.wish import Talk, Wish

    environment = where.environment(parameters, endpoint_parameters)
    account = where.account(environment)
    wish = Wish(
        environment=environment,
        model=model,
        image=image,
        build_image=build_image,
        script_mode=script_mode,
        without_endpoint=without_endpoint,
        endpoint_only=endpoint_only,
        dry_run=dry_run,
        change_set=change_set,
        allow_engine_change=allow_engine_change,
        allow_replacement=allow_replacement,
        import_existing=import_existing,
    )
    talk = Talk(progress=progress, confirm=lambda question: where.yes or click.confirm(question, err=True))
    deployed = Deployment(account, wish, talk).run()
    if where.as_json:
        click.echo(json.dumps(dataclasses.asdict(deployed) | {"dry_run": dry_run}, sort_keys=True))
        return
    for line in _summary(deployed, environment, dry_run):
        click.echo(line)


def _summary(deployed: Deployed, environment: Environment, dry_run: bool) -> list[str]:
    again = f"fraudstream deploy --env {environment.name}"
    if dry_run:
        if deployed.change_set is None:
            return [f"stack {deployed.stack}: nothing to change"]
        return [
            f"nothing was executed; change set {deployed.change_set} of stack {deployed.stack} waits:",
            f"  {again} --change-set {deployed.change_set}",
        ]
    lines = [f"{name:30} {value}" for name, value in sorted(deployed.outputs.items())]
    if deployed.model_version is not None:
        policy = "its thresholds decide" if deployed.thresholds_put else "the policy in force was kept"
        lines.append(f"serving {deployed.model_version}; {policy}")
    return [
        *lines,
        "next:",
        "  aws cloudwatch describe-alarms --state-value ALARM --query 'MetricAlarms[].AlarmName'",
        f"  aws logs tail /aws/lambda/{environment.parameters.get('NamePrefix', '')}score-transactions --follow",
        f"  {again} --model FILE       # another model",
        f"  fraudstream destroy --env {environment.name}       # data stay",
    ]


@click.command("destroy")
@_shared_options
@click.option("--delete-data", is_flag=True, help="Tables, buckets and logs too. What was decided is gone then.")
@exit_codes
def destroy_command(where: _Where, delete_data: bool) -> None:
    r"""Delete a deployment; tables and buckets are kept unless --delete-data says otherwise.

    The endpoint goes first, since it costs by the hour. What is kept is named with what it costs; the next deployment
    of the environment takes it in again.

    \b
    Example:
      fraudstream destroy --target aws --env dev
      fraudstream destroy --env dev --delete-data --yes
    """
    where.check_it_can_ask()
    from console.deployment.destroying import Destruction
    from console.deployment.prices import idle_words

    environment = where.environment()
    account = where.account(environment)
    destruction = Destruction(account, environment, progress)
    found = destruction.survey()
    for line in found.lines(delete_data=delete_data):
        progress(line)
    if found.is_empty:
        progress(f"nothing of environment {environment.name} is in account {account.account_id}, {account.region}")
    elif not where.yes:
        _confirm_destruction(environment, account, delete_data and bool(found.keeps))
    left = destruction.carry_out(found, delete_data=delete_data)
    gone = [stack.name for stack in found.stacks]
    if where.as_json:
        kept = [{"kind": each.kind, "name": each.name} for each in left]
        click.echo(
            json.dumps({"deleted_stacks": gone, "left": kept, "tagged": destruction.still_tagged()}, sort_keys=True)
        )
        return
    click.echo(f"deleted: {', '.join(gone) or 'no stack'}")
    for each in left:
        click.echo(f"left: {each.kind} {each.name} ({idle_words(each.kind)})")
    if left and not delete_data:
        click.echo(f"  fraudstream destroy --env {environment.name} --delete-data       # deletes these as well")
    for arn in destruction.still_tagged() if delete_data else ():
        click.echo(f"still in AWS's register of tags, which lags behind: {arn}")


def _confirm_destruction(environment: Environment, account: Account, data_go: bool) -> None:
    where = f"account {account.account_id}, {account.region}"
    if not data_go:
        agreed = click.confirm(f"Delete environment {environment.name} of {where}?", err=True)
    else:
        typed = click.prompt(f"All data of {where} go. Type the stack's name, {environment.stack}", err=True)
        agreed = typed.strip() == environment.stack
    if not agreed:
        raise PipelineError("not confirmed: nothing was deleted")
