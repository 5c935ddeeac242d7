"""The running pipeline, part by part: alive, answering, keeping up, and all of one kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from console.findings import Finding
from console.live import lag_by_consumer
from console.running import Pipeline
from console.status import Status, read_status
from lambdas.judging import Judge
from lambdas.policy import InvalidPolicy
from local.processes import carries_marker
from local.run import RunRecord, is_alive, log_path, read_record, run_state, state_folder
from local.supervisor import RunSpec
from model.artifact import unpack_artifact
from model.registry import served_model_data
from stream_features.errors import ContractMismatch, PipelineError
from stream_features.names import ENDPOINT_STACK, STACK

AREA: Final = "pipeline"
SLOW_LAG_MS: Final = 60_000
CLOCK_SKEW_S: Final = 60.0  # events dated more than five minutes ahead of their arrival are refused
_AFRESH: Final = "fraudstream down; fraudstream up"


def pipeline_findings() -> list[Finding]:
    """The run of this checkout; one optional finding where there is none."""
    folder = state_folder()
    record = read_record(folder)
    if record is None or record.status == "stopped":
        return [Finding("a running pipeline", False, "fraudstream up", optional=True, area=AREA)]
    if record.status == "failed":
        log = f"; its log: {record.error_log}" if record.error_log else ""
        why = f"a running pipeline: the last one failed, {record.error or 'without a word'}"
        return [Finding(why, False, f"{_AFRESH}{log}", area=AREA)]
    if not is_alive(record):
        return [Finding("a running pipeline: the last one was killed", False, "fraudstream up", area=AREA)]
    if record.status == "starting":
        return [Finding("a running pipeline: it is still starting", False, "wait for `fraudstream up`", True, AREA)]
    pipeline = Pipeline(run_state(record, folder))
    findings = [
        Finding(
            f"a running pipeline: {record.target} at {record.endpoint_url}, engine {record.engine}, "
            f"feature set {record.feature_set}",
            True,
            area=AREA,
        ),
        *part_findings(record, expected_parts(folder), folder),
    ]
    for look in (_stacks, _clock, _endpoint, _policy, _progress, _queues):
        findings += _guarded(look, pipeline)
    return findings


def _guarded(look: Callable[[Pipeline], Iterable[Finding]], pipeline: Pipeline) -> list[Finding]:
    """What a look finds; that AWS does not answer it is a finding, too."""
    try:
        return list(look(pipeline))
    except (PipelineError, ClientError, BotoCoreError, OSError) as error:
        what = (look.__doc__ or look.__name__).splitlines()[0].rstrip(".")
        logs = log_path(pipeline.state_dir, "aws").parent
        return [Finding(f"{what}: {error}", False, f"look into {logs}; {_AFRESH} starts afresh", area=AREA)]


def expected_parts(folder: Path) -> list[str]:
    """Names of the parts that the supervisor of this run looks after."""
    try:
        spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=RunSpec)
    except (FileNotFoundError, msgspec.MsgspecError):
        return []
    return [part.name for part in spec.parts]


def part_findings(
    record: RunRecord,
    expected: Iterable[str],
    folder: Path,
    *,
    lives: Callable[[int, str], bool] = carries_marker,
) -> Iterator[Finding]:
    """Every part alive, and none that had to be started again."""
    for part in dict.fromkeys([*expected, *record.parts]):
        alive = lives(record.parts.get(part, 0), record.run_id)
        log = log_path(folder, part)
        yield Finding(
            f"{part} runs",
            alive,
            f"it is started again by itself; if that does not help: {_AFRESH}; its log: {log}",
            area=AREA,
        )
        restarts = record.restarts.get(part, 0)
        if restarts:
            what = f"{part} was never started again: it was, {restarts} times"
            yield Finding(what, False, f"nothing is lost by that; why stands in {log}", optional=True, area=AREA)


def _stacks(pipeline: Pipeline) -> Iterator[Finding]:
    """The stacks are deployed."""
    cloudformation = pipeline.client("cloudformation")
    for name in (STACK, ENDPOINT_STACK):
        status = cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        well = status in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        yield Finding(f"stack {name} is {status}", well, _AFRESH, area=AREA)


def _clock(pipeline: Pipeline) -> Iterator[Finding]:
    """This machine's clock is that of AWS."""
    answer = pipeline.client("sqs").get_queue_attributes(QueueUrl=pipeline.output("QuarantineQueueUrl"))
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if said is None:
        return
    ahead_s = time.time() - parsedate_to_datetime(said).timestamp()
    yield Finding(
        f"this clock and that of AWS are {abs(ahead_s):.0f} s apart",
        abs(ahead_s) < CLOCK_SKEW_S,
        "set the clock (timedatectl set-ntp true): events dated ahead of their arrival are refused",
        area=AREA,
    )


def _endpoint(pipeline: Pipeline) -> Iterator[Finding]:
    """The endpoint serves a model of the running feature set."""
    sagemaker, name = pipeline.client("sagemaker"), pipeline.output("EndpointName")
    endpoint = sagemaker.describe_endpoint(EndpointName=name)
    serves = endpoint["EndpointStatus"] == "InService"
    activate = "fraudstream train FILE --out DIR --activate"
    yield Finding(f"endpoint {name} is {endpoint['EndpointStatus']}", serves, activate, area=AREA)
    wanted = pipeline.features.feature_set_id
    for url in served_model_data(sagemaker, endpoint["EndpointConfigName"]):
        bucket, _, key = url.removeprefix("s3://").partition("/")
        try:
            packed = pipeline.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
            manifest = unpack_artifact(packed, url).manifest
        except ContractMismatch as error:
            yield Finding(f"the served model is of this code: {error}", False, activate, area=AREA)
            continue
        fits = manifest.feature_set_id == wanted
        what = f"model {manifest.model_version} was trained on {manifest.feature_set_id}, as this code computes"
        yield Finding(what if fits else f"{what}: it computes {wanted}", fits, activate, area=AREA)


def _policy(pipeline: Pipeline) -> Iterator[Finding]:
    """The policy in force is valid."""
    from console.policies import PolicyStore

    remedy = "fraudstream policy rollback, or fraudstream policy activate FILE (docs/policy.md)"
    try:
        policy = PolicyStore(pipeline).published().policy
        Judge(policy, pipeline.features)
    except InvalidPolicy as error:
        yield Finding(f"the policy in force is valid: {error}", False, remedy, area=AREA)
        return
    yield Finding(f"policy {policy.policy_version} is valid for the feature set", True, area=AREA)


def _progress(pipeline: Pipeline) -> Iterator[Finding]:
    """The pipeline's counters and streams answer."""
    yield from progress_findings(read_status(pipeline.run), pipeline.state_dir)


def progress_findings(status: Status, folder: Path) -> Iterator[Finding]:
    """Whether the parts keep up, and whether anything waits for people."""
    yield Finding(
        f"{status.published} published, {status.decided} decided, {status.in_flight} in flight", True, area=AREA
    )
    for consumer, ms in lag_by_consumer(status.lag).items():
        part = "flink" if consumer.startswith("flink") else "mappings"
        yield Finding(
            f"{consumer} is {ms} ms behind",
            ms < SLOW_LAG_MS,
            f"fraudstream watch shows whether it catches up; its log: {log_path(folder, part)}",
            area=AREA,
        )
    if status.flink is not None:
        state = status.flink["state"]
        yield Finding(
            f"the Flink job is {state}", state == "RUNNING", f"its log: {log_path(folder, 'flink')}", area=AREA
        )
    yield Finding(
        f"{status.quarantined} records in quarantine",
        status.quarantined == 0,
        "fraudstream quarantine list; how to mend and send them again: docs/quarantine.md",
        optional=True,
        area=AREA,
    )
    for name, remedy in (
        ("labels_waiting", "they wait for a decision: a label should carry merchant_id and event_time_ms"),
        ("labels_quarantined", "fraudstream quarantine list"),
        ("entity_events_quarantined", "fraudstream quarantine list"),
    ):
        count = status.labels.get(name, 0)
        if count:
            yield Finding(f"no {name.replace('_', ' ')}: {count}", False, remedy, optional=True, area=AREA)
    for delivery, counts in sorted(status.lake.items()):
        failed = counts["failed_records"]
        if failed:
            yield Finding(
                f"lake {delivery}: {failed} records could not be converted",
                False,
                "they lie under errors/ in the lake bucket; garbage that was published ends there",
                optional=True,
                area=AREA,
            )


def _queues(pipeline: Pipeline) -> Iterator[Finding]:
    """No batch was given up."""
    answer: Any = pipeline.client("sqs").get_queue_attributes(
        QueueUrl=pipeline.output("DiscardedQueueUrl"), AttributeNames=["ApproximateNumberOfMessages"]
    )
    discarded = int(answer["Attributes"]["ApproximateNumberOfMessages"])
    yield Finding(
        f"{discarded} batches were given up by an event source mapping",
        discarded == 0,
        "their positions stand in the queue that the output DiscardedQueueUrl names; their records in the raw archive",
        area=AREA,
    )
