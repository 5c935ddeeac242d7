"""What the job is told: groups of properties in the form of Managed Service for Apache Flink, read once and checked.

| group | keys; those in brackets may be absent |
| --- | --- |
| `Job` | `connector`, `feature.set`, `execution.mode`, `state.ttl.days`, `label.ttl.days`, `lake.bucket`, |
| | [`entity.state.table`, `effects.table`, `include.state`, `progress.dir`, `seed.dir`, `failpoint.file`] |
| `Transactions`, `EntityEvents` | `stream.arn`, `aws.region`, [`aws.endpoint`, `poll.ms`, `start.positions`] |
| `Features` | `stream.arn`, `aws.region`, [`aws.endpoint`, `sink.max-buffer-ms`] |
| `LocalFlinkConfig` | any key of Flink's configuration; local runs only |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import msgspec

from stream_features.errors import UsageError
from stream_features.feature_sets import FEATURE_SETS

T = TypeVar("T")

JOB: Final = "Job"
TRANSACTIONS: Final = "Transactions"
ENTITY_EVENTS: Final = "EntityEvents"
FEATURES: Final = "Features"
LOCAL_FLINK_CONFIG: Final = "LocalFlinkConfig"

_DAY_MS: Final = 86_400_000
# Settings of the connector jar, handed on as they are; the service's own groups are not ours to judge.
_PASSED_ON: Final = ("aws.", "source.", "sink.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProperties:
    """One Kinesis stream and how to reach it.

    Attributes:
        arn: of the stream.
        region: where it is.
        endpoint: None for the environment's, else AWS's own.
        connector: the group's keys that begin with `aws.`, `source.` or `sink.`, for the connector jar.
    """

    arn: str
    region: str
    endpoint: str | None
    connector: dict[str, str]

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.arn.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputProperties(StreamProperties):
    """A stream that is read.

    Attributes:
        poll_ms: between two GetRecords of one shard; AWS allows five a second.
        start_positions: by shard id, the sequence number to read after, when the job starts without a snapshot.
    """

    poll_ms: int
    start_positions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputProperties(StreamProperties):
    """A stream that is written; `max_buffer_ms` is how long a record may wait for others."""

    max_buffer_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProperties:
    """Everything the job is told.

    Attributes:
        connector: who talks to Kinesis: our reader and writer, or Apache's jar.
        feature_set: its name.
        execution_mode: how PyFlink runs Python.
        state_ttl_ms: how long the state of a silent card or merchant is kept, wall clock.
        label_ttl_ms: how long an applied label is kept, wall clock.
        entity_state_table: where histories are; empty for nowhere.
        effects_table: where applied labels are; empty where `entity_state_table` is.
        lake_bucket: where rejected records go.
        include_state: add the packed card state to every record, for comparisons.
        progress_dir: where the operators say how far they are; None for nowhere.
        seed_dir: polling only: a folder of the job's own for the file that sets its timers going.
        failpoint_file: a file that may name a place where the job kills itself, for fault tests.
        transactions: the stream of transactions.
        entity_events: the stream of label events.
        features: the stream of feature records.
        flink: Flink configuration; honoured by local runs only.
    """

    connector: Literal["polling", "official"]
    feature_set: str
    execution_mode: Literal["thread", "process"]
    state_ttl_ms: int
    label_ttl_ms: int
    entity_state_table: str
    effects_table: str
    lake_bucket: str
    include_state: bool
    progress_dir: Path | None
    seed_dir: Path | None
    failpoint_file: Path | None
    transactions: InputProperties
    entity_events: InputProperties
    features: OutputProperties
    flink: dict[str, str]


class _Group(msgspec.Struct):
    PropertyGroupId: str
    PropertyMap: dict[str, str]


def read_properties(document: bytes) -> JobProperties:
    """The properties in `document`, a JSON list of {"PropertyGroupId", "PropertyMap"}.

    Raises:
        UsageError: naming group and key of everything that is wrong.
    """
    try:
        groups = {group.PropertyGroupId: group.PropertyMap for group in _decode(document)}
    except msgspec.DecodeError as error:
        raise UsageError(f"properties of the job: {error}") from None
    reader = _Reader(groups)
    properties = reader.job()
    if reader.problems:
        raise UsageError("properties of the job: " + "; ".join(reader.problems))
    return properties


_decode: Final = msgspec.json.Decoder(list[_Group]).decode


class _Reader:
    """Takes keys out of their groups and collects what is wrong with them."""

    def __init__(self, groups: dict[str, dict[str, str]]) -> None:
        self._groups = groups
        self.problems: list[str] = []

    def job(self) -> JobProperties:
        connector = self._one_of(JOB, "connector", "polling", "official")
        state_table = self._optional(JOB, "entity.state.table")
        effects_table = self._optional(JOB, "effects.table")
        if bool(state_table) is not bool(effects_table):
            self.problems.append(f"{JOB}/entity.state.table and {JOB}/effects.table: name both or none")
        seed_dir = self._optional(JOB, "seed.dir")
        if connector == "polling" and not seed_dir:
            self.problems.append(f"{JOB}/seed.dir: missing, connector polling needs it")
        properties = JobProperties(
            connector=cast(Literal["polling", "official"], connector),
            feature_set=self._one_of(JOB, "feature.set", *FEATURE_SETS),
            execution_mode=cast(Literal["thread", "process"], self._one_of(JOB, "execution.mode", "thread", "process")),
            state_ttl_ms=self._days(JOB, "state.ttl.days"),
            label_ttl_ms=self._days(JOB, "label.ttl.days"),
            entity_state_table=state_table,
            effects_table=effects_table,
            lake_bucket=self._required(JOB, "lake.bucket"),
            include_state=self._one_of(JOB, "include.state", "false", "true", default="false") == "true",
            progress_dir=_path(self._optional(JOB, "progress.dir")),
            seed_dir=_path(seed_dir),
            failpoint_file=_path(self._optional(JOB, "failpoint.file")),
            transactions=self._input(TRANSACTIONS),
            entity_events=self._input(ENTITY_EVENTS),
            features=self._output(FEATURES),
            flink=self._groups.get(LOCAL_FLINK_CONFIG, {}),
        )
        self._refuse_unknown()
        return properties

    def _stream(self, group: str) -> dict[str, Any]:
        arn = self._required(group, "stream.arn")
        if arn and not (arn.startswith("arn:") and ":stream/" in arn):
            self.problems.append(f"{group}/stream.arn: not the ARN of a stream")
        settings = self._groups.get(group, {})
        return {
            "arn": arn,
            "region": self._required(group, "aws.region"),
            "endpoint": self._optional(group, "aws.endpoint") or None,
            "connector": {key: value for key, value in settings.items() if key.startswith(_PASSED_ON)},
        }

    def _input(self, group: str) -> InputProperties:
        return InputProperties(
            **self._stream(group),
            poll_ms=self._parsed(group, "poll.ms", "250", _positive),
            start_positions=self._parsed(group, "start.positions", "{}", _positions),
        )

    def _output(self, group: str) -> OutputProperties:
        return OutputProperties(
            **self._stream(group), max_buffer_ms=self._parsed(group, "sink.max-buffer-ms", "100", _positive)
        )

    def _refuse_unknown(self) -> None:
        """A mistyped key would silently mean its default."""
        for group in (JOB, TRANSACTIONS, ENTITY_EVENTS, FEATURES):
            for key in self._groups.get(group, {}):
                if key not in _KNOWN[group] and (group == JOB or not key.startswith(_PASSED_ON)):
                    self.problems.append(f"{group}/{key}: unknown")

    def _required(self, group: str, key: str) -> str:
        value = self._optional(group, key)
        if not value:
            self.problems.append(f"{group}/{key}: missing")
        return value

    def _optional(self, group: str, key: str, default: str = "") -> str:
        return self._groups.get(group, {}).get(key, default)

    def _one_of(self, group: str, key: str, *choices: str, default: str = "") -> str:
        value = self._optional(group, key, default)
        if value not in choices:
            self.problems.append(f"{group}/{key}: {'not' if value else 'missing, must be'} one of {', '.join(choices)}")
        return value

    def _days(self, group: str, key: str) -> int:
        return self._parsed(group, key, "", _positive) * _DAY_MS

    def _parsed(self, group: str, key: str, default: str, parse: Callable[[str], T]) -> T:
        value = self._optional(group, key, default)
        try:
            return parse(value)
        except (ValueError, msgspec.DecodeError) as error:
            self.problems.append(f"{group}/{key}: {error}" if value else f"{group}/{key}: missing")
            return cast(T, parse("1") if parse is _positive else {})


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError("not a whole number above 0")
    return int(text)


def _positions(text: str) -> dict[str, str]:
    positions = msgspec.json.decode(text, type=dict[str, str])
    for shard_id, sequence_number in positions.items():
        if not (sequence_number.isascii() and sequence_number.isdigit()):
            raise ValueError(f"the position of {shard_id} is not a sequence number")
    return positions


_STREAM_KEYS: Final = {"stream.arn", "aws.region", "aws.endpoint"}
_KNOWN: Final = {
    JOB: {
        *("connector", "feature.set", "execution.mode", "state.ttl.days", "label.ttl.days", "entity.state.table"),
        *("effects.table", "lake.bucket", "include.state", "progress.dir", "seed.dir", "failpoint.file"),
    },
    TRANSACTIONS: {*_STREAM_KEYS, "poll.ms", "start.positions"},
    ENTITY_EVENTS: {*_STREAM_KEYS, "poll.ms", "start.positions"},
    FEATURES: {*_STREAM_KEYS, "sink.max-buffer-ms"},
}
