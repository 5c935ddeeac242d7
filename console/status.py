"""Where the pipeline stands: exact counts, lag and latency."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from console.flink import flink_folder, job_report, read_streams
from console.lag import JobLag, MappingLag
from console.meter import DecisionTail, LiveTail, PublishedMeter, published_meter
from local.capabilities import why_not
from local.firehose.control import read_worker_status
from local.run import RunState, client
from stream_features.errors import PortFailure
from stream_features.names import API_COUNTERS, COUNTER_SHARDS, COUNTERS, counter_key

_COUNTS: Final = ("published", "decided", "quarantined", "duplicates", "in_flight", "late", "degraded", "alerts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Counts are user records since `up`; published = decided + duplicates + quarantined + in_flight.

    A transaction that the score API decided counts as decided when its first record arrives.
    """

    published: int
    decided: int
    quarantined: int
    duplicates: int
    in_flight: int
    late: int
    degraded: int
    alerts: int
    lag: dict[
        str, int
    ]  # "<function>/<shard>" or "flink/<stream>/<shard>" -> ms the oldest unprocessed record has waited
    latency: dict[str, dict[str, int]]  # stage -> p50, p90, p99 in ms, over the latest few thousand decisions
    lake: dict[str, dict[str, int]]  # delivery stream -> delivered, failed and buffered records, objects
    labels: dict[str, int] = field(
        default_factory=dict
    )  # published: records in the stream; others: what became of them
    api: dict[str, int] = field(default_factory=dict)  # decided by the score API; of these awaiting their record
    flink: dict[str, Any] | None = None  # the Flink job: see console.flink.job_report; None with another engine

    def as_json(self) -> str:
        """One JSON document with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True, indent=2)

    def as_text(self) -> str:
        lines = [f"{name.replace('_', ' '):<12}{getattr(self, name):>12,}" for name in _COUNTS]
        if self.labels:
            lines.append("labels " + _spelled(self.labels, ""))
        if self.api.get("decided"):
            lines.append(
                "score api "
                + _spelled({"decided": self.api["decided"], "awaiting record": self.api["awaiting_record"]}, "")
            )
        lines += [f"latency {stage}: " + _spelled(figures, " ms") for stage, figures in sorted(self.latency.items())]
        if self.flink is not None:
            lines.append(_job_line(self.flink))
        lines += [f"lag {where}: {ms} ms" for where, ms in sorted(self.lag.items())]
        lines += [f"lake {name}: " + _spelled(counts, "") for name, counts in sorted(self.lake.items())]
        return "\n".join(lines)


def _spelled(figures: dict[str, int], unit: str) -> str:
    return ", ".join(f"{name} {value:,}{unit}" for name, value in figures.items())


def _job_line(job: dict[str, Any]) -> str:
    checkpoints = job["checkpoints"] or {}
    parts = [job["state"], f"restarts {job['restarts']}", f"records under way {job['records_under_way']}"]
    parts.append(f"checkpoints {checkpoints.get('completed', 0)} completed, {checkpoints.get('failed', 0)} failed")
    if checkpoints.get("latest_path"):
        size, took_ms = checkpoints["latest_size_bytes"], checkpoints["latest_duration_ms"]
        parts.append(f"latest {size or 0:,} bytes in {took_ms or 0} ms")
    if job["restored_from"]:
        parts.append(f"restored from {job['restored_from']}")
    return "flink " + ", ".join(parts)


class StatusReader:
    """Reads the status again and again with the same clients."""

    def __init__(
        self,
        *,
        dynamodb: Any,
        effects_table: str,
        published: PublishedMeter,
        labels_published: PublishedMeter,
        decisions: DecisionTail,
        lags: Sequence[MappingLag | JobLag],
        firehose_state_dir: Path,
        job: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._dynamodb = dynamodb
        self._effects_table = effects_table
        self._published = published
        self._labels_published = labels_published
        self._decisions = decisions
        self._lags = lags
        self._firehose_state_dir = firehose_state_dir
        self._job = job

    def read(self, decisions: DecisionTail | None = None) -> Status:
        """The status now; `decisions` stands in for the reader's own tail.

        The counters are read before the stream: what is counted has then surely been published, so `in_flight` errs
        to the high side while records move, and is exact when they rest.

        Raises:
            PortFailure: an AWS service did not answer.
        """
        counters = read_counters(self._dynamodb, self._effects_table)
        published = self._published.read()
        labels_published = self._labels_published.read()
        tail = decisions or self._decisions
        tail.advance()
        newest = {meter.stream_name: meter.positions for meter in (self._published, self._labels_published)}
        lag = {where: ms for source in self._lags for where, ms in source.read(newest).items()}
        return Status(
            published=published,
            in_flight=published - counters["decided"] - counters["duplicates"] - counters["quarantined"],
            lag=lag,
            latency=tail.latency(),
            lake=_lake(self._firehose_state_dir),
            labels={"published": labels_published}
            | {n: counters[n] for n in counters if n not in (*_COUNTS, *API_COUNTERS)},
            api={
                "decided": counters["api_decided"],
                "awaiting_record": counters["api_decided"] - counters["api_recorded"],
            },
            flink=self._job() if self._job else None,
            **{name: counters[name] for name in counters if name in _COUNTS},
        )


def read_counters(dynamodb: Any, effects_table: str) -> dict[str, int]:
    """Sums of the counter items; each was written in the transaction whose effect it counts, so they are exact.

    Raises:
        PortFailure: DynamoDB did not answer, or left keys unprocessed again and again.
    """
    totals = dict.fromkeys(COUNTERS, 0)
    keys = [{"effect": {"S": counter_key(shard)}} for shard in range(COUNTER_SHARDS)]
    pause_s = 0.05
    for _ in range(6):
        try:
            answer = dynamodb.batch_get_item(RequestItems={effects_table: {"Keys": keys, "ConsistentRead": True}})
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"table {effects_table}: {error}") from error
        for item in answer["Responses"].get(effects_table, []):
            for name in COUNTERS:
                totals[name] += int(item.get(name, {"N": "0"})["N"])
        keys = answer.get("UnprocessedKeys", {}).get(effects_table, {}).get("Keys", [])
        if not keys:
            return totals
        time.sleep(pause_s)
        pause_s *= 2
    raise PortFailure(f"table {effects_table}: {len(keys)} counter items stay unprocessed")


def status_reader(run: RunState) -> StatusReader:
    """A reader for `run`, with clients of its own."""
    return StatusReader(
        dynamodb=client(run, "dynamodb"),
        effects_table=run.outputs["EffectsTableName"],
        published=published_meter(run, "TransactionsStreamName"),
        labels_published=published_meter(run, "LabelsStreamName"),
        decisions=LiveTail(run),
        lags=_lags(run),
        firehose_state_dir=run.state_dir / "firehose",
        job=(lambda: job_report(run)) if run.engine == "flink" else None,
    )


def _lags(run: RunState) -> list[MappingLag | JobLag]:
    """Of whom it can be told: another target's mappings are not ours and do not say how far they are."""
    kinesis = client(run, "kinesis")
    lags: list[MappingLag | JobLag] = []
    if why_not(run.place, "mapping lag") is None:
        lags.append(MappingLag(client(run, "lambda"), kinesis, run.state_dir / "mappings"))
    if run.engine == "flink":
        lags.append(JobLag(kinesis, flink_folder(run), read_streams(run)))
    return lags


# boto3 clients take tens of milliseconds to make; a live view asks twice a second about one run.
_READERS: Final[dict[str, StatusReader]] = {}


def read_status(run: RunState, *, tail: DecisionTail | None = None) -> Status:
    """The status of `run` now; `tail` is the live view's own, advanced in passing.

    Raises:
        PortFailure: an AWS service did not answer.
    """
    if run.run_id not in _READERS:
        _READERS[run.run_id] = status_reader(run)
    return _READERS[run.run_id].read(tail)


def _lake(firehose_state_dir: Path) -> dict[str, dict[str, int]]:
    worker: Any = read_worker_status(firehose_state_dir) or {"deliveries": {}}
    names = ("delivered_records", "failed_records", "buffered_records", "objects")
    return {delivery: {name: state[name] for name in names} for delivery, state in worker["deliveries"].items()}
