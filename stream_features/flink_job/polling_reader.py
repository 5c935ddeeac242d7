"""Reads a Kinesis stream by polling: every shard in turn, children after their parents, positions in a snapshot.

What belongs to one snapshot: the records that `turn` has handed out, and the positions behind them. Whatever was
fetched and not handed out yet is fetched again after a restore.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from stream_features.aggregation import user_payloads
from stream_features.aws_answers import whole
from stream_features.decision import StreamPosition
from stream_features.errors import PortFailure, StateCorrupt
from stream_features.flink_job.aws_calls import FAILURES, Jitter, error_code, is_transient, pause_ms
from stream_features.flink_job.intake import Arrived

RECORDS_A_TURN: Final = 1_000  # a checkpoint waits for the turn that is under way
TURN_MS: Final = 200  # no further call after so long a turn
LIST_EVERY_MS: Final = 60_000  # children are looked for at once when a parent ends

_IteratorExpired: Final = "ExpiredIteratorException"
_ShardGone: Final = "ResourceNotFoundException"


class ShardPosition(msgspec.Struct, omit_defaults=True):
    """How far a shard is read: everything up to `sequence_number`, None for nothing; `drained` means to its end."""

    sequence_number: str | None = None
    drained: bool = False


class _Snapshot(msgspec.Struct):
    version: int
    taken: int
    shards: dict[str, ShardPosition]


SNAPSHOT_VERSION: Final = 1
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Snapshot).decode


class Turn(NamedTuple):
    """User records in the order in which they may be taken in, and after how many ms (1 or more) to come again."""

    records: list[Arrived]
    wait_ms: int


@dataclass(slots=True)
class _Shard:
    """One shard: its position is in the snapshot, everything else is forgotten by a restart."""

    position: ShardPosition
    parents: tuple[str, ...] = ()
    iterator: str | None = None
    page: deque[dict[str, Any]] = field(default_factory=deque)  # fetched and not handed out
    page_is_last: bool = False
    due_ms: float = 0.0
    failures: int = 0  # in a row
    millis_behind: int | None = None


def monotonic_ms() -> float:
    """A clock for waiting."""
    return time.monotonic() * 1000


class PollingReader:
    """Reads one stream.

    Args:
        kinesis: boto3 client.
        stream_arn: the stream.
        start_positions: where shards start that no snapshot knows: after these sequence numbers. Their ancestors count
            as read; every other shard starts at its oldest record.
        poll_ms: between two GetRecords of a shard.
        records_a_turn: at most so many Kinesis records are handed out at once.
        now_ms: a clock that never goes back.
        jitter: chance, 0..1.
    """

    def __init__(
        self,
        kinesis: Any,
        stream_arn: str,
        *,
        start_positions: Mapping[str, str] | None = None,
        poll_ms: int = 250,
        records_a_turn: int = RECORDS_A_TURN,
        now_ms: Callable[[], float] = monotonic_ms,
        jitter: Jitter = random.random,
    ) -> None:
        self.taken = 0  # user records handed out
        self.failed_calls = 0
        self.lost_shards = 0  # gone before they were read to their end
        self._kinesis = kinesis
        self._stream_arn = stream_arn
        self._stream_name = stream_arn.rpartition("/")[2]
        self._start_positions = dict(start_positions or {})
        self._poll_ms = poll_ms
        self._records_a_turn = records_a_turn
        self._now_ms = now_ms
        self._jitter = jitter
        self._shards: dict[str, _Shard] = {}
        self._list_due_ms = 0.0
        self._list_failures = 0
        self._listed = False
        self._next = 0  # whose turn it is

    def restore(self, snapshot: bytes) -> None:
        """Go on where `snapshot` was taken.

        Raises:
            StateCorrupt: it is no snapshot of this version.
        """
        try:
            stored = _decode(snapshot)
        except msgspec.DecodeError as error:
            raise StateCorrupt(f"positions in {self._stream_name}: {error}") from error
        if stored.version != SNAPSHOT_VERSION:
            raise StateCorrupt(f"positions in {self._stream_name} are of version {stored.version}")
        self.taken = stored.taken
        self._shards = {shard_id: _Shard(position) for shard_id, position in stored.shards.items()}
        self._listed = False
        self._list_due_ms = 0.0

    def snapshot(self) -> bytes:
        """Everything that `restore` needs."""
        return _encode(_Snapshot(SNAPSHOT_VERSION, self.taken, self.positions))

    @property
    def positions(self) -> dict[str, ShardPosition]:
        """By shard id; what has been handed out."""
        return {shard_id: shard.position for shard_id, shard in self._shards.items()}

    @property
    def millis_behind(self) -> dict[str, int | None]:
        """By shard id: how far the last page read stood behind the newest record; None before the first."""
        return {shard_id: shard.millis_behind for shard_id, shard in self._shards.items()}

    def turn(self) -> Turn:
        """The next records, at most `records_a_turn` Kinesis records; throttling and outages only make it wait.

        Raises:
            PortFailure: an error that does not pass by itself, such as a stream that does not exist.
        """
        started_ms = self._now_ms()
        if started_ms >= self._list_due_ms:
            self._list_shards()
        records: list[Arrived] = []
        room = self._records_a_turn
        order = list(self._shards)
        for step in range(len(order)):
            at = (self._next + step) % len(order)
            shard_id = order[at]
            shard = self._shards[shard_id]
            if not self._may_read(shard):
                continue
            if not shard.page and not shard.page_is_last:
                if self._now_ms() < shard.due_ms:
                    continue
                if self._now_ms() - started_ms > TURN_MS:
                    self._next = at
                    break
                self._fetch(shard_id, shard)
            room = self._hand_out(shard_id, shard, room, records)
            if not room:
                self._next = at if shard.page else at + 1
                break
        self.taken += len(records)
        return Turn(records, self._wait_ms())

    def _may_read(self, shard: _Shard) -> bool:
        if not self._listed or shard.position.drained:
            return False
        return all(self._shards[parent].position.drained for parent in shard.parents if parent in self._shards)

    def _hand_out(self, shard_id: str, shard: _Shard, room: int, records: list[Arrived]) -> int:
        """Move up to `room` Kinesis records from the shard's page to `records`; returns the room left."""
        while shard.page and room:
            record = shard.page.popleft()
            sequence_number = record["SequenceNumber"]
            arrival_ms = round(record["ApproximateArrivalTimestamp"].timestamp() * 1000)
            for index, payload in enumerate(user_payloads(record["Data"])):
                position = StreamPosition(shard_id, sequence_number, index)
                records.append(Arrived(self._stream_name, position, arrival_ms, payload))
            shard.position.sequence_number = sequence_number
            room -= 1
        if shard.page_is_last and not shard.page:
            shard.position.drained = True
            self._list_due_ms = 0.0  # its children may start
        return room

    def _fetch(self, shard_id: str, shard: _Shard) -> None:
        try:
            page = self._page(shard_id, shard)
        except FAILURES as error:
            self.failed_calls += 1
            shard.failures += 1
            shard.due_ms = self._now_ms() + pause_ms(shard.failures, self._jitter)
            code = error_code(error)
            if code == _IteratorExpired:
                shard.iterator = None
            elif code == _ShardGone:
                shard.iterator = None
                self._list_due_ms = 0.0  # which says whether it was the shard or the stream
            elif not is_transient(error):
                raise PortFailure(f"GetRecords of {self._stream_name}: {error}") from error
            return
        shard.failures = 0
        shard.due_ms = self._now_ms() + self._poll_ms
        shard.page.extend(page["Records"])
        shard.millis_behind = int(page.get("MillisBehindLatest", 0))
        shard.iterator = page.get("NextShardIterator")
        shard.page_is_last = shard.iterator is None

    def _page(self, shard_id: str, shard: _Shard) -> dict[str, Any]:
        if shard.iterator is None:
            after = shard.position.sequence_number
            where = {"ShardIteratorType": "TRIM_HORIZON"}
            if after is not None:
                where = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
            answer = self._kinesis.get_shard_iterator(StreamARN=self._stream_arn, ShardId=shard_id, **where)
            shard.iterator = whole(answer, "ShardIterator")["ShardIterator"]
        page = self._kinesis.get_records(
            StreamARN=self._stream_arn, ShardIterator=shard.iterator, Limit=self._records_a_turn
        )
        return whole(page, "Records")

    def _list_shards(self) -> None:
        """Learn of new shards, and forget those that the stream no longer has."""
        try:
            listed = self._all_shards()
        except FAILURES as error:
            if not is_transient(error):
                raise PortFailure(f"ListShards of {self._stream_name}: {error}") from error
            self.failed_calls += 1
            self._list_failures += 1
            self._list_due_ms = self._now_ms() + pause_ms(self._list_failures, self._jitter)
            return
        self._list_failures = 0
        self._list_due_ms = self._now_ms() + LIST_EVERY_MS
        starts = {} if self._shards else self._starts(listed)
        for shard_id in self._shards.keys() - listed.keys():
            self.lost_shards += not self._shards.pop(shard_id).position.drained
        for shard_id, parents in listed.items():
            shard = self._shards.get(shard_id)
            if shard is None:
                shard = self._shards[shard_id] = _Shard(starts.get(shard_id, ShardPosition()))
            shard.parents = parents
        self._listed = True

    def _all_shards(self) -> dict[str, tuple[str, ...]]:
        """Parents by shard id, closed shards included, in the order of their ids."""
        listed: dict[str, tuple[str, ...]] = {}
        request = {"StreamARN": self._stream_arn}
        while True:
            answer = whole(self._kinesis.list_shards(**request), "Shards")
            for shard in answer["Shards"]:
                parents = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
                listed[shard["ShardId"]] = tuple(parent for parent in parents if parent)
            if not answer.get("NextToken"):
                return dict(sorted(listed.items()))
            request = {"NextToken": answer["NextToken"]}

    def _starts(self, listed: dict[str, tuple[str, ...]]) -> dict[str, ShardPosition]:
        starts = {shard_id: ShardPosition(after) for shard_id, after in self._start_positions.items()}
        unread = [parent for shard_id in starts for parent in listed.get(shard_id, ())]
        while unread:  # whoever read a shard has read its ancestors
            shard_id = unread.pop()
            if shard_id not in self._start_positions:
                starts[shard_id] = ShardPosition(drained=True)
            unread += listed.get(shard_id, ())
        return starts

    def _wait_ms(self) -> int:
        now_ms = self._now_ms()
        waits = [self._list_due_ms - now_ms]
        for shard in self._shards.values():
            if self._may_read(shard):
                waits.append(0.0 if shard.page or shard.page_is_last else shard.due_ms - now_ms)
        return max(1, int(min(waits)))
