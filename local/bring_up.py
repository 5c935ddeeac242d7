"""`python -m local.bring_up --state-dir D`: from two empty servers to a deployed pipeline that would decide.

The supervisor runs it between the parts that need nothing and those that need the stack. Progress goes, one sentence
a line, to `progress.log` of the run's folder; stdout is the log. The stack's outputs go to `outputs.json`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from console.deployment.build import package, prepare_package
from console.deployment.stacks import deploy_stack
from local.activation import activate_model, serves
from local.attached import Deployment, adapted_template, note_deployment
from local.capabilities import Capability, supplied
from local.localstack import host as localstack
from local.run import RunFailed, RunState, aws_environment, client, read_record, run_state, write_atomically
from local.starter_model import starter_artifact
from stream_features.errors import PipelineError
from stream_features.names import STACK

_HEALTHY_DEADLINE_S: Final = 60.0
_HEALTH_PATHS: Final = {"embedded": "/_ministack/health", "localstack": localstack.HEALTH_PATH}
_CODE_BUCKET: Final = f"{STACK}-deployment"
# Every parameter that is another here than on AWS; what the run's user chooses comes on top.
_LOCAL_PARAMETERS: Final = {
    "FirehoseBufferSeconds": "5",  # a laptop's lake should fill while one watches; the deployed default is a minute
    "DeployMetricMath": "false",  # neither emulator takes an alarm over more than one metric
}


class EmulatorStep(NamedTuple):
    """Something a deployment to AWS does not need; done where the table of capabilities says `ours`."""

    name: Capability
    carry_out: Callable[[RunState], None]


def _turn_on_time_to_live(run: RunState) -> None:
    dynamodb = client(run, "dynamodb")
    tables = ("DecisionsTableName", "EntityStateTableName", "LabelsTableName", "EffectsTableName", "ListsTableName")
    for output in tables:
        table = run.outputs[output]
        found = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        if found["TimeToLiveStatus"] == "DISABLED":
            dynamodb.update_time_to_live(
                TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
            )


# Every difference between deploying to a local AWS and deploying to AWS, after the stack stands.
EMULATOR_STEPS: Final = (
    EmulatorStep(
        "time to live in templates",
        _turn_on_time_to_live,
    ),
)


def bring_up(
    run: RunState, model_artifact: Path | None, progress: Callable[[str], None], *, resumes: bool = False
) -> dict[str, str]:
    """Deploy everything to the servers of `run`; return the stack's outputs.

    Args:
        run: addresses only; it has no outputs yet.
        model_artifact: the model to serve; None keeps the one that serves, or trains a starter model.
        progress: told each step as it begins.
        resumes: the servers hold a kept run, so a model serves already.

    Raises:
        PipelineError: a step failed; the message says which and why.
    """
    with ThreadPoolExecutor(max_workers=2) as beside:
        building = beside.submit(prepare_package, _CODE_BUCKET, progress)
        # Training takes longest and needs none of the servers, so it begins at once.
        training = None if resumes else beside.submit(_model_to_serve, run, model_artifact, progress)
        if run.attached:
            note_deployment(
                run.state_dir,
                Deployment(endpoint_url=run.endpoint_url, region=run.region, stack=STACK, bucket=_CODE_BUCKET),
            )
        wait_until_healthy(f"{run.endpoint_url}{_HEALTH_PATHS[run.target]}", f"the local AWS ({run.target})")
        wait_until_healthy(f"{run.sagemaker_url}/health", "the SageMaker host")
        building.result()
        outputs = _deploy(run, progress)
        deployed = replace(run, outputs=outputs)
        for step in EMULATOR_STEPS:
            if supplied(run.place, step.name):
                step.carry_out(deployed)
        if model_artifact is not None or not serves(deployed):
            artifact = training.result() if training else _model_to_serve(run, model_artifact, progress)
            activate_model(deployed, artifact, progress)
    return outputs


def wait_until_healthy(url: str, name: str, deadline_s: float = _HEALTHY_DEADLINE_S) -> None:
    """Return once `url` answers 200.

    Raises:
        RunFailed: it did not in time.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends_at_s = time.monotonic() + deadline_s
    while True:
        try:
            with opener.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > ends_at_s:
                raise RunFailed(f"{name} did not answer within {deadline_s:.0f} s: {error}") from error
        time.sleep(0.05)


def _model_to_serve(run: RunState, model_artifact: Path | None, progress: Callable[[str], None]) -> Path:
    return model_artifact or starter_artifact(run.feature_set, progress)


def _deploy(run: RunState, progress: Callable[[str], None]) -> dict[str, str]:
    s3 = client(run, "s3")
    bucket = _CODE_BUCKET
    s3.create_bucket(Bucket=bucket)
    template = package(s3, bucket, aws_environment(run), progress)
    parameters = {
        **_LOCAL_PARAMETERS,
        "Engine": run.engine,
        "FeatureSet": run.feature_set,
        "DecisionEvents": "true" if os.environ.get("FRAUDSTREAM_DECISION_EVENTS") == "1" else "false",
    }
    if supplied(run.place, "our templates"):
        template = adapted_template(template, run, parameters)
    progress("deploying template.yaml")

    def upload(text: str) -> str:
        s3.put_object(Bucket=bucket, Key="template.yaml", Body=text.encode())
        return f"{run.endpoint_url}/{bucket}/template.yaml"

    return deploy_stack(
        client(run, "cloudformation"),
        STACK,
        template,
        parameters,
        upload=upload,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.bring_up", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--model-artifact", type=Path)
    parser.add_argument("--resumes", action="store_true")
    options = parser.parse_args()
    folder: Path = options.state_dir
    record = read_record(folder)
    if record is None:
        print(f"{folder} holds no run", file=sys.stderr)
        return 1
    started_s = time.monotonic()

    def progress(message: str) -> None:
        print(f"{time.monotonic() - started_s:6.2f} s  {message}", flush=True)
        with open(folder / "progress.log", "a") as lines:
            lines.write(message + "\n")

    try:
        outputs = bring_up(run_state(record, folder), options.model_artifact, progress, resumes=options.resumes)
    except (PipelineError, ClientError, BotoCoreError) as error:
        print(error, flush=True)  # the supervisor shows the last line
        return 1
    write_atomically(folder / "outputs.json", msgspec.json.encode(outputs))
    print(f"{time.monotonic() - started_s:6.2f} s  done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
