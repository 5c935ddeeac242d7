"""Counting and tailing streams: each record is read once, however often one asks, also from other processes.

A meter keeps its positions and what it has learnt in one file below the run's folder, changed under a file lock.
Asking again reads only what is new, so a command that starts afresh is as exact and as cheap as a live view.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from local.firehose.stream_reader import ShardReader, arrival_ms, list_shard_ids, stream_identity
from local.run import RunState, client, write_atomically
from stream_features.aggregation import user_payloads
from stream_features.decision import Decision, decode_decision
from stream_features.errors import PortFailure

SAMPLES_KEPT: Final = 4096  # latest decisions whose latencies make the percentiles
ALERTS_KEPT: Final = 20
IDS_KEPT: Final = 131_072  # latest transactions whose second publication is recognised
_SHARDS_READ_AGAIN_SECONDS: Final = 10.0
PERCENTILES: Final = (50, 90, 99)


class _Tail(msgspec.Struct, kw_only=True):
    stream_identity: str = ""
    positions: dict[str, str] = {}


class _Count(_Tail, kw_only=True):
    records: int = 0


class _DecisionTail(_Tail, kw_only=True):
    arrival_to_scored_ms: list[int] = []
    arrival_to_decided_ms: list[int] = []
    alerts: list[bytes] = []  # encoded decisions, oldest first
    seen: bytes = b""  # 64-bit hashes of transaction ids, oldest first


_State = TypeVar("_State", bound=_Tail)


class _StreamMeter(ABC, Generic[_State]):
    """Reads a stream forward, every shard, and folds the records into a state that a file holds."""

    def __init__(self, kinesis: Any, stream_name: str, path: Path, state_type: type[_State]) -> None:
        self._kinesis = kinesis
        self.stream_name = stream_name
        self._path = path
        self._state_type = state_type
        self._state = state_type()
        self._written: tuple[int, int, int] | None = None  # identifies the file content that `_state` equals
        self._readers: dict[str, ShardReader] = {}
        self._identity = ""
        self._shards_at = float("-inf")

    @property
    def positions(self) -> dict[str, str]:
        """Shard id to the last sequence number read."""
        return dict(self._state.positions)

    def advance(self) -> None:
        """Read everything that has arrived since anyone last asked.

        Raises:
            PortFailure: Kinesis did not answer; nothing is half counted.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._path.with_suffix(".lock")):
            try:
                self._find_shards()
                self._load()
                self._written = None  # until it is saved again: a failure in between forgets what was folded
                for shard_id, reader in self._readers.items():
                    reader.seek(self._state.positions.get(shard_id))
                    for records in _pages(reader):
                        self._fold(records)
                        if reader.position is not None:
                            self._state.positions[shard_id] = reader.position
            except (ClientError, BotoCoreError) as error:
                raise PortFailure(f"stream {self.stream_name}: {error}") from error
            self._before_save()
            write_atomically(self._path, msgspec.msgpack.encode(self._state))
            self._written = _file_token(self._path)

    @abstractmethod
    def _fold(self, records: list[dict[str, Any]]) -> None:
        """Take in records just read."""

    def _after_load(self) -> None:
        """Called when `_state` came from somewhere else than this object."""

    def _before_save(self) -> None:
        """Called before `_state` is written."""

    def _find_shards(self) -> None:
        if time.monotonic() - self._shards_at < _SHARDS_READ_AGAIN_SECONDS:
            return
        self._identity = stream_identity(self._kinesis, self.stream_name)
        for shard_id in list_shard_ids(self._kinesis, self.stream_name):
            if shard_id not in self._readers:
                self._readers[shard_id] = ShardReader(self._kinesis, self.stream_name, shard_id, position=None)
        self._shards_at = time.monotonic()

    def _load(self) -> None:
        if self._written is not None and self._written == _file_token(self._path):
            return
        state = self._state_type()
        if self._path.exists():
            state = msgspec.msgpack.decode(self._path.read_bytes(), type=self._state_type)
        if state.stream_identity != self._identity:
            state = self._state_type(stream_identity=self._identity)
        self._state = state
        self._after_load()


class PublishedMeter(_StreamMeter[_Count]):
    """Counts the user records of a stream."""

    def __init__(self, kinesis: Any, stream_name: str, path: Path) -> None:
        super().__init__(kinesis, stream_name, path, _Count)

    def read(self) -> int:
        """User records in the stream since it was made. Raises PortFailure."""
        self.advance()
        return self._state.records

    def _fold(self, records: list[dict[str, Any]]) -> None:
        self._state.records += sum(len(user_payloads(record["Data"])) for record in records)


class _DecisionTimes(msgspec.Struct):
    """The few fields of a decision that every sample needs; the rest is skipped while parsing."""

    transaction_id: str
    decision: str
    arrival_ms: int
    scored_at_ms: int
    rescored_at_ms: int | None = None

    @property
    def decided_at_ms(self) -> int:
        return self.rescored_at_ms or self.scored_at_ms


_TIMES_DECODER: Final = msgspec.json.Decoder(_DecisionTimes)


class DecisionTail(_StreamMeter[_DecisionTail]):
    """Latencies of the latest decisions and the newest alerts, from the stream of decisions.

    A decision is published again after a redelivery or for a duplicate: only its first publication is a sample. One
    that was rescored takes the place of the alert that it was, if it still is one.
    """

    def __init__(self, kinesis: Any, stream_name: str, path: Path) -> None:
        super().__init__(kinesis, stream_name, path, _DecisionTail)
        self._seen: dict[int, None] = {}

    def latency(self) -> dict[str, dict[str, int]]:
        """Stage to p50, p90, p99 in ms, as of the last `advance`; empty before the first decision.

        `arrival_to_scored` ends when the function has scored; `arrival_to_decided` when the decision, committed by
        then, arrived in the stream of decisions. Both start at the arrival in the stream of transactions.
        """
        stages = {
            "arrival_to_scored": self._state.arrival_to_scored_ms,
            "arrival_to_decided": self._state.arrival_to_decided_ms,
        }
        return {stage: percentiles(samples) for stage, samples in stages.items() if samples}

    def newest_alerts(self) -> list[Decision]:
        """Latest reviews and declines, oldest first, as of the last `advance`."""
        return [decode_decision(encoded) for encoded in self._state.alerts]

    def _fold(self, records: list[dict[str, Any]]) -> None:
        state = self._state
        known = [(_TIMES_DECODER.decode(encoded), encoded) for encoded in state.alerts]
        alerts = {times.transaction_id: (times.decided_at_ms, encoded) for times, encoded in known}
        for record in records:
            payload = record["Data"]
            try:
                times = _TIMES_DECODER.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # not a decision of ours: the lake counts it among its failed records
            id_hash = int.from_bytes(hashlib.blake2b(times.transaction_id.encode(), digest_size=8).digest(), "big")
            seen = id_hash in self._seen
            self._seen[id_hash] = None
            if times.rescored_at_ms is not None:
                alerts.pop(times.transaction_id, None)
            elif seen:
                continue
            else:
                state.arrival_to_scored_ms.append(times.scored_at_ms - times.arrival_ms)
                state.arrival_to_decided_ms.append(arrival_ms(record) - times.arrival_ms)
            if times.decision != "approve":
                alerts[times.transaction_id] = (times.decided_at_ms, payload)
        newest = sorted(alerts.values(), key=lambda alert: alert[0])[-ALERTS_KEPT:]
        state.alerts = [encoded for _, encoded in newest]
        del state.arrival_to_scored_ms[:-SAMPLES_KEPT]
        del state.arrival_to_decided_ms[:-SAMPLES_KEPT]

    def _after_load(self) -> None:
        self._seen = dict.fromkeys(array("Q", self._state.seen))

    def _before_save(self) -> None:
        kept = array("Q", self._seen)[-IDS_KEPT:]
        if len(kept) < len(self._seen):
            self._seen = dict.fromkeys(kept)
        self._state.seen = kept.tobytes()


class LiveTail(DecisionTail):
    """The decisions of a run; `read_status(run, tail=...)` advances it."""

    def __init__(self, run: RunState) -> None:
        super().__init__(client(run, "kinesis"), run.outputs["DecisionsStreamName"], meter_path(run, "decisions"))


def published_meter(run: RunState, output: str) -> PublishedMeter:
    """The meter behind `published`, of the stream that an output of the stack names."""
    return PublishedMeter(client(run, "kinesis"), run.outputs[output], meter_path(run, output))


def meter_path(run: RunState, name: str) -> Path:
    """Where a meter of `run` keeps what it knows; it goes with the run."""
    return run.state_dir / "meters" / f"{name}.msgpack"


def percentiles(samples: list[int]) -> dict[str, int]:
    """Nearest-rank percentiles: `p99` is a value that occurred and that at least 99 % do not exceed.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("percentiles of nothing")
    ordered = sorted(samples)
    return {f"p{p}": ordered[-(-len(ordered) * p // 100) - 1] for p in PERCENTILES}


def _pages(reader: ShardReader) -> Iterator[list[dict[str, Any]]]:
    while not reader.drained:
        yield reader.read_page()
        if reader.caught_up:
            return


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _file_token(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
