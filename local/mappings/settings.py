"""One event source mapping's settings, as the Lambda API returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from local.mappings.filters import UnsupportedFilter, passing
from local.mappings.outcome import Rules

# Settings we cannot honour: delivering without them would be wrong, so such a mapping is not run.
_UNSUPPORTED: Final = ("TumblingWindowInSeconds",)


class UnsupportedMapping(Exception):
    """The mapping asks for something this runner does not do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingSettings:
    """What one mapping reads, whom it calls, and how."""

    uuid: str
    stream_arn: str
    function_arn: str
    batch_size: int
    window_s: float  # how long a batch may wait for more records, counted from its first
    lanes_per_shard: int  # ParallelizationFactor
    starting_position: str  # TRIM_HORIZON, LATEST or AT_TIMESTAMP
    starting_timestamp: datetime | None
    reports_item_failures: bool
    rules: Rules
    failure_queue_arn: str | None
    filters: tuple[str, ...] = ()  # patterns, as JSON text

    @property
    def stream_name(self) -> str:
        return self.stream_arn.rsplit("/", 1)[1]

    @property
    def region(self) -> str:
        return self.stream_arn.split(":")[3]


def reads_kinesis(mapping: Mapping[str, Any]) -> bool:
    """Whether the mapping's source is a Kinesis stream (others are not this runner's)."""
    return ":kinesis:" in mapping.get("EventSourceArn", "") and ":stream/" in mapping["EventSourceArn"]


def is_enabled(mapping: Mapping[str, Any]) -> bool:
    return mapping.get("State") in ("Enabled", "Enabling", "Creating", "Updating")


def settings_of(mapping: Mapping[str, Any]) -> MappingSettings:
    """Read an item of `list_event_source_mappings`; numbers may arrive as text. Absent settings take AWS's defaults.

    Raises:
        UnsupportedMapping: naming the setting or the destination.
    """
    if asked := [name for name in _UNSUPPORTED if mapping.get(name)]:
        raise UnsupportedMapping(f"this runner does not honour {', '.join(asked)}")
    if "/consumer/" in mapping["EventSourceArn"]:
        raise UnsupportedMapping("this runner reads streams, not enhanced fan-out consumers")
    filters = tuple(one["Pattern"] for one in (mapping.get("FilterCriteria") or {}).get("Filters", []))
    try:
        passing(filters)
    except UnsupportedFilter as error:
        raise UnsupportedMapping(str(error)) from error
    queue_arn = mapping.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    if queue_arn is not None and ":sqs:" not in queue_arn:
        raise UnsupportedMapping(f"the on-failure destination is not an SQS queue: {queue_arn}")
    return MappingSettings(
        uuid=mapping["UUID"],
        stream_arn=mapping["EventSourceArn"],
        function_arn=mapping["FunctionArn"],
        batch_size=int(mapping.get("BatchSize", 100)),
        window_s=float(mapping.get("MaximumBatchingWindowInSeconds", 0)),
        lanes_per_shard=int(mapping.get("ParallelizationFactor", 1)),
        starting_position=mapping.get("StartingPosition", "TRIM_HORIZON"),
        starting_timestamp=mapping.get("StartingPositionTimestamp"),
        reports_item_failures="ReportBatchItemFailures" in (mapping.get("FunctionResponseTypes") or []),
        rules=Rules(
            bisects=_flag(mapping.get("BisectBatchOnFunctionError", False)),
            max_retries=_limit(mapping.get("MaximumRetryAttempts", -1)),
            max_age_s=_limit(mapping.get("MaximumRecordAgeInSeconds", -1)),
        ),
        failure_queue_arn=queue_arn,
        filters=filters,
    )


def _limit(value: object) -> int | None:
    """-1 means without limit."""
    number = int(str(value))
    return None if number < 0 else number


def _flag(value: object) -> bool:
    return str(value).lower() == "true"
