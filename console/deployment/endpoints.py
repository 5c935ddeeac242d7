"""The endpoint's stack in a deployment: planned before anything is made, deployed once the main stack stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from console.deployment.account import Account
from console.deployment.build import CHECKOUT
from console.deployment.changes import Changes
from console.deployment.environments import choose_parameters
from console.deployment.images import TEMPLATE as IMAGE_TEMPLATE
from console.deployment.images import build_image
from console.deployment.serving import (
    OWN_PARAMETERS,
    SHARED_PARAMETERS,
    Artefact,
    Container,
    check_artefact,
    model_url,
    prepare_artefact,
    put_thresholds,
    upload_artefact,
)
from console.deployment.stacks import Progress, Stacks
from console.deployment.templates import Template, parse_template
from console.deployment.wish import Deployed, Wish
from stream_features.errors import UsageError

ENDPOINT: Final = CHECKOUT / "endpoint" / "template.yaml"


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """What will serve. `in_force` are the stack's parameters, empty where there is none; `values` the future ones."""

    template: dict[str, Any]
    in_force: dict[str, str]
    container: Container
    artefact: Artefact | None
    values: dict[str, str]

    @property
    def most_instances(self) -> int:
        """How many instances the endpoint may have."""
        return max(int(self.values["InstanceCount"]), int(self.values["MaxInstanceCount"]))


def plan_endpoint(account: Account, stacks: Stacks, wish: Wish, feature_set: str, progress: Progress) -> EndpointPlan:
    """Decide what will serve, and refuse what could not.

    Raises:
        UsageError: no model, a model of another feature set, parameters that contradict the options or the template.
        ContractMismatch: the model is no valid artefact.
    """
    stack, asked = wish.environment.endpoint_stack, wish.environment.endpoint_parameters
    template = parse_template(ENDPOINT.read_text())
    in_force = stacks.parameters(stack)
    if clash := sorted(OWN_PARAMETERS & asked.keys()):
        raise UsageError(f"{', '.join(clash)} of endpoint/template.yaml: --model, --image and their like set these")
    if not in_force and wish.model is None and not wish.without_endpoint:
        raise UsageError(
            f"stack {stack} does not exist, so no model serves: add --model FILE (fraudstream train writes one), "
            "or --without-endpoint"
        )
    container = _container(wish, in_force)
    regions = template["Mappings"]["PrebuiltRegistry"]
    if container == "prebuilt-xgboost" and not wish.without_endpoint and account.region not in regions:
        raise UsageError(f"AWS's XGBoost container is not known in {account.region}: use --build-image")
    artefact = None
    if wish.model is not None:
        manifest = check_artefact(wish.model, feature_set)
        progress(f"preparing model {manifest.model_version} for {container}")
        artefact = prepare_artefact(wish.model, manifest, container)
    # Refused now, and not once the main stack stands; what a deployment fills in is not known yet.
    choose_parameters(template, {"ModelDataUrl": "s3://not-yet/known"} | asked, in_force, "endpoint/template.yaml")
    defaults = {name: str(each["Default"]) for name, each in template["Parameters"].items() if "Default" in each}
    return EndpointPlan(template, in_force, container, artefact, defaults | in_force | asked)


def _container(wish: Wish, in_force: dict[str, str]) -> Container:
    """The one asked for, else the one that runs, else AWS's."""
    if wish.image is not None or wish.build_image:
        return "own-image"
    runs_own = in_force.get("Container") == "own-image"
    if runs_own and not wish.script_mode:
        return "own-image"
    if runs_own and wish.model is None:
        raise UsageError("AWS's container takes an artefact with code in it: add --model FILE to --script-mode")
    return "prebuilt-xgboost"


class EndpointStep:
    """Brings the endpoint's stack to where the plan wants it, then the thresholds."""

    def __init__(self, account: Account, changes: Changes, wish: Wish, code_bucket: str) -> None:
        self._account = account
        self._changes = changes
        self._wish = wish
        self._code_bucket = code_bucket
        self._progress = changes.talk.progress

    def run(self, plan: EndpointPlan, main: Template, outputs: dict[str, str], done: Deployed) -> None:
        """Carry it out, or show it in a dry run; what came of it is written into `done`.

        Args:
            plan: of `plan_endpoint`.
            main: the main stack's template, with the values that it has now.
            outputs: of the main stack.
            done: the report.

        Raises:
            PipelineError: a step failed.
        """
        if not plan.in_force and plan.artefact is None:
            return
        stack, bucket = self._wish.environment.endpoint_stack, outputs["ArtifactsBucketName"]
        declared = plan.template["Parameters"]
        asked = {name: main.values[name] for name in SHARED_PARAMETERS if name in declared and main.values.get(name)}
        asked |= self._wish.environment.endpoint_parameters
        asked |= {name: outputs[name] for name in ("EndpointName", "DataKeyArn")}
        asked["Container"] = plan.container
        if plan.artefact is not None:
            asked["ModelDataUrl"] = model_url(bucket, plan.artefact)
        if self._wish.dry_run and not plan.in_force:
            of = f"{plan.values['InstanceCount']} {plan.values['InstanceType']}, {plan.container}"
            self._progress(f"would make stack {stack}: {of}, {asked['ModelDataUrl']}")
            return
        if plan.container == "own-image":
            asked |= self._image(done)
        if plan.artefact is not None and not self._wish.dry_run:
            upload_artefact(self._account.client("s3"), bucket, plan.artefact)
        chosen = choose_parameters(plan.template, asked, plan.in_force, "endpoint/template.yaml")
        change_set = self._changes.make(stack, ENDPOINT.read_text(), chosen)
        if change_set is not None:
            done.endpoint_changes = len(change_set.changes)
            if self._wish.dry_run:
                self._changes.stacks.discard(change_set)
                return
            self._progress("an endpoint takes five to fifteen minutes")
            self._changes.execute(change_set)
        if plan.artefact is not None and not self._wish.dry_run:
            done.model_version = plan.artefact.manifest.model_version
            timeout_s = self._changes.stacks.waiting.deadline_s
            done.thresholds_put = put_thresholds(
                self._account, outputs, plan.artefact, self._progress, timeout_s=timeout_s
            )

    def _image(self, done: Deployed) -> dict[str, str]:
        """Parameters for the image asked for; none of them where it is the one that runs."""
        if self._wish.image is not None:
            done.image = self._wish.image
            name = self._wish.image.partition("/")[2].partition("@")[0].partition(":")[0]
            return {"ImageUri": self._wish.image} | ({"ImageRepositoryName": name} if name else {})
        if not self._wish.build_image:
            return {}
        environment = self._wish.environment
        stack, repository = environment.image_stack, f"{environment.stack}-endpoint"
        if self._wish.dry_run:
            self._progress(f"would build endpoint/Dockerfile in CodeBuild (stack {stack})")
            return {"ImageUri": "built-by-the-deployment", "ImageRepositoryName": repository}
        stacks, template = self._changes.stacks, IMAGE_TEMPLATE.read_text()
        asked = {"RepositoryName": repository, "SourceBucket": self._code_bucket}
        chosen = choose_parameters(parse_template(template), asked, stacks.parameters(stack), "endpoint/build.yaml")
        change_set = self._changes.make(stack, template, chosen)
        if change_set is not None:
            self._changes.execute(change_set)
        s3, codebuild, ecr = (self._account.client(service) for service in ("s3", "codebuild", "ecr"))
        outputs = stacks.outputs(stack)
        done.image = build_image(s3, codebuild, ecr, outputs, self._code_bucket, stacks.waiting, self._progress)
        return {"ImageUri": done.image, "ImageRepositoryName": repository}
