"""The job's properties for a run on this machine, in the form of Managed Service for Apache Flink."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from local.flink.layout import FlinkFolder
from stream_features.errors import UsageError

POLL_MS: Final = 20
BUFFER_MS: Final = 5
# The template's defaults: what the functions keep as long, the job keeps as long.
STATE_DAYS: Final = 90
LABEL_DAYS: Final = 180

# Job properties' group -> the stack's output that names the stream.
STREAM_OUTPUTS: Final = {
    "Transactions": "TransactionsStreamName",
    "EntityEvents": "EntityEventsStreamName",
    "Features": "FeaturesStreamName",
}

StartPositions = dict[str, dict[str, str]]  # group -> shard -> the sequence number to read after


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What a run decides about its job.

    Attributes:
        feature_set: its name.
        region: of the streams.
        endpoint_url: of the local AWS.
        outputs: of the stack, by name.
        stream_arns: by the groups of `STREAM_OUTPUTS`.
        rest_port: for Flink's REST interface.
        include_state: add the packed card states to the records of `features`.
        failpoint_file: a file that may name where the job shall end itself.
    """

    feature_set: str
    region: str
    endpoint_url: str
    outputs: Mapping[str, str]
    stream_arns: Mapping[str, str]
    rest_port: int
    include_state: bool
    failpoint_file: Path


def job_properties(
    settings: JobSettings, folder: FlinkFolder, start: StartPositions, restore_from: Path | None
) -> bytes:
    """The JSON document the job is started with.

    Args:
        settings: of the run.
        folder: where the job keeps its files.
        start: where to begin without a snapshot.
        restore_from: the snapshot to go on from.
    """

    def stream(group: str, **more: str) -> dict[str, str]:
        return {
            "stream.arn": settings.stream_arns[group],
            "aws.region": settings.region,
            "aws.endpoint": settings.endpoint_url,
            **more,
        }

    def read(group: str) -> dict[str, str]:
        positions = json.dumps(start.get(group, {}), sort_keys=True)
        return stream(group, **{"poll.ms": str(POLL_MS), "start.positions": positions})

    groups = {
        "Job": {
            "connector": "polling",
            "feature.set": settings.feature_set,
            "execution.mode": "thread",
            "state.ttl.days": str(STATE_DAYS),
            "label.ttl.days": str(LABEL_DAYS),
            "entity.state.table": settings.outputs["EntityStateTableName"],
            "effects.table": settings.outputs["EffectsTableName"],
            "lake.bucket": settings.outputs["LakeBucketName"],
            "include.state": "true" if settings.include_state else "false",
            "progress.dir": str(folder.progress),
            "seed.dir": str(folder.seed),
            "failpoint.file": str(settings.failpoint_file),
        },
        "Transactions": read("Transactions"),
        "EntityEvents": read("EntityEvents"),
        "Features": stream("Features", **{"sink.max-buffer-ms": str(BUFFER_MS)}),
        "LocalFlinkConfig": flink_configuration(folder, settings.rest_port, restore_from),
    }
    document = [{"PropertyGroupId": name, "PropertyMap": values} for name, values in groups.items()]
    return json.dumps(document, indent=1).encode()


def flink_configuration(folder: FlinkFolder, rest_port: int, restore_from: Path | None) -> dict[str, str]:
    """Flink's own settings for the mini cluster: everything on loopback, checkpoints that outlive the job."""
    configuration = {
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": str(rest_port),
        "rest.bind-port": str(rest_port),
        # Without these the mini cluster's blob server listens on every interface.
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "metrics.fetcher.update-interval": "1000",
        "parallelism.default": "1",
        "state.backend.type": "rocksdb",
        "execution.checkpointing.interval": "2s",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.dir": folder.checkpoints.as_uri(),
        "execution.checkpointing.savepoint-dir": folder.savepoints.as_uri(),
        "execution.buffer-timeout.interval": "5ms",
        "io.tmp.dirs": str(folder.temporary),
        # The job's way of waiting for a table or a stream that does not answer is to fail and to begin again.
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "500ms",
        "restart-strategy.exponential-delay.max-backoff": "10s",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1min",
    }
    if restore_from is not None:
        configuration["execution.state-recovery.path"] = restore_from.as_uri()
    return configuration


def read_start(folder: FlinkFolder) -> StartPositions:
    """Where a job without a snapshot begins; empty for the start of the streams.

    Raises:
        UsageError: the file is not ours.
    """
    try:
        return msgspec.json.decode(folder.start.read_bytes(), type=StartPositions)
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise UsageError(f"{folder.start}: {error}") from error
