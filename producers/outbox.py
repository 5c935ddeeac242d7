"""The pure core of every publisher: which records go into which request, and when. No clock, no lock, no AWS.

PutRecords may accept some records of a request and refuse others, and what is sent again then lands behind what was
accepted. So records stand in lanes (a card, or an aggregation bucket); a lane has at most one entry on its way, and its
next record waits until that entry is accepted. What is refused goes again, byte for byte, after its backoff.

Time comes in as monotonic seconds and is only ever compared: a program that was frozen for an hour finds lingering
records and retries due, nothing else.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from producers.deliveries import PublishCounters
from producers.retries import RetryPolicy

_SAME_INSTANT_S: Final = 1e-6  # who waits until something is due must not come a rounding error too early


class Record(msgspec.Struct):
    """One user record. `size` is payload and key; `token` is whatever the publisher wants to find again."""

    key: str
    payload: bytes
    record_id: str
    size: int
    epoch: int
    token: Any = None


class Entry:
    """What becomes one Kinesis record: one user record, or several of one bucket.

    `data`, and `hash_key` if it has one, are filled in before the entry is sent for the first time.
    """

    __slots__ = ("data", "fruitless", "hash_key", "lane", "records", "refusals", "size")

    def __init__(self, lane: _Lane, records: tuple[Record, ...], size: int) -> None:
        self.lane = lane
        self.records = records
        self.size = size
        self.data: bytes | None = None
        self.hash_key: str | None = None
        self.refusals = 0  # in all
        self.fruitless = 0  # in a row in requests of which nothing was accepted

    @property
    def lane_name(self) -> str:
        return self.lane.name


class _Lane:
    __slots__ = ("bytes", "name", "queue", "ready_since_s")

    def __init__(self, name: str, ready_since_s: float) -> None:
        self.name = name
        self.queue: deque[Record] = deque()
        self.bytes = 0  # of the queue
        self.ready_since_s = ready_since_s


class Accepted(NamedTuple):
    shard_id: str
    sequence_number: str


class Refused(NamedTuple):
    reason: str


class NoAnswer(NamedTuple):
    """The whole request failed. `final`: trying again cannot help; `unknown`: it may have arrived nevertheless."""

    reason: str
    final: bool = False
    unknown: bool = False
    cause: BaseException | None = None


Answer = Sequence[Accepted | Refused] | NoAnswer


class GivenUp(NamedTuple):
    entry: Entry
    reason: str
    after: str


class Settled(NamedTuple):
    """What an answer meant: entries the stream has, and entries that were given up."""

    accepted: list[tuple[Entry, Accepted]]
    given_up: list[GivenUp]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How large things get.

    Attributes:
        request_records: entries of a request.
        request_bytes: their data and keys.
        entry_records: user records of an entry; 1 without aggregation.
        entry_bytes: of an entry of several records; one record alone may be larger.
        entry_overhead: bytes an entry takes beside its records.
        record_overhead: bytes a record takes in an entry beside its payload and key.
        waiting_records: records held at most, those on their way included.
        waiting_bytes: their payloads and keys.
    """

    request_records: int
    request_bytes: int
    entry_records: int = 1
    entry_bytes: int = 0
    entry_overhead: int = 0
    record_overhead: int = 0
    waiting_records: int
    waiting_bytes: int


class Outbox:
    """Records on their way, from `add` to `settle`.

    Args:
        limits: bounds of requests and of memory.
        linger_s: how long a record that could go may wait for company.
        retry: when refused entries go again, and when they are given up.
        keep_given_up: given-up records stay queued, to be tried as if for the first time.
        counters: kept up to date here.
    """

    def __init__(
        self, limits: Limits, *, linger_s: float, retry: RetryPolicy, keep_given_up: bool, counters: PublishCounters
    ) -> None:
        self._limits = limits
        self._linger_s = linger_s
        self._retry = retry
        self._keep_given_up = keep_given_up
        self._counters = counters
        self.waiting = 0
        self.waiting_bytes = 0
        self.in_flight = 0  # requests
        self._lanes: dict[str, _Lane] = {}  # every lane that has a record, by name
        self._ready: dict[str, _Lane] = {}  # lanes that may go, the longest ready first
        self._ready_records = 0
        self._ready_bytes = 0
        self._retries: list[tuple[float, int, Entry]] = []  # heap by due time
        self._tickets = 0
        self._standstills = 0  # requests in a row of which nothing was accepted
        self._paused_until_s = -math.inf
        self._epoch = 0
        self._of_epoch: dict[int, int] = {}

    def has_room(self, size: int) -> bool:
        """Whether another record keeps the bounds of memory."""
        return self.waiting < self._limits.waiting_records and self.waiting_bytes + size <= self._limits.waiting_bytes

    def add(
        self, lane_name: str, key: str, payload: bytes, size: int, record_id: str, now_s: float, token: Any = None
    ) -> None:
        """Queue one record at the end of its lane; the caller has asked `has_room`."""
        record = Record(key, payload, record_id, size, self._epoch, token)
        lane = self._lanes.get(lane_name)
        if lane is None:
            lane = self._lanes[lane_name] = self._ready[lane_name] = _Lane(lane_name, now_s)
        lane.queue.append(record)
        lane.bytes += size
        if lane_name in self._ready:
            self._ready_records += 1
            self._ready_bytes += size
        self.waiting += 1
        self.waiting_bytes += size
        self._of_epoch[self._epoch] = self._of_epoch.get(self._epoch, 0) + 1

    @property
    def is_full(self) -> bool:
        """Whether what may go fills a request. Busy lanes count less: a request takes one entry of each."""
        limits = self._limits
        return (
            len(self._ready) >= limits.request_records
            or self._ready_bytes >= limits.request_bytes
            or self._ready_records >= 2 * limits.request_records * limits.entry_records
        )

    @property
    def is_lone(self) -> bool:
        """Whether exactly one lane may go: who waits for something to be due has to look again."""
        return len(self._ready) == 1

    def due_in_s(self, now_s: float) -> float:
        """Seconds until `take` has something; infinite when nothing waits."""
        due_s = math.inf
        if self._ready:
            due_s = -math.inf if self.is_full else self._lingered_at_s()
        if self._retries:
            due_s = min(due_s, self._retries[0][0])
        return max(0.0, max(due_s, self._paused_until_s) - now_s) if due_s < math.inf else math.inf

    def retry_in_s(self, now_s: float) -> float:
        """Seconds until `take(everything=True)` has something; infinite when that depends on requests under way."""
        due_s = -math.inf if self._ready else self._retries[0][0] if self._retries else math.inf
        return max(0.0, max(due_s, self._paused_until_s) - now_s) if due_s < math.inf else math.inf

    def take(self, now_s: float, *, everything: bool = False) -> list[Entry] | None:
        """The next request, or None if nothing is due.

        Args:
            now_s: monotonic seconds.
            everything: do not let records linger.
        """
        now_s += _SAME_INSTANT_S
        if now_s < self._paused_until_s:
            return None
        limits = self._limits
        entries: list[Entry] = []
        free = limits.request_bytes
        while self._retries and self._retries[0][0] <= now_s and len(entries) < limits.request_records:
            if self._retries[0][2].size > free:
                break
            entry = heapq.heappop(self._retries)[2]
            free -= entry.size
            entries.append(entry)
        if self._ready and (entries or everything or self._has_lingered(now_s) or self.is_full):
            taken: list[_Lane] = []
            for lane in self._ready.values():
                if len(entries) == limits.request_records:
                    break
                new = self._group(lane, free)
                if new is None:
                    break
                free -= new.size
                entries.append(new)
                taken.append(lane)
            for lane in taken:
                del self._ready[lane.name]  # until its entry is accepted or given up
        if not entries:
            return None
        self.in_flight += 1
        self._counters.requests += 1
        for entry in entries:
            if entry.refusals:
                self._counters.retried += len(entry.records)
        return entries

    def settle(self, entries: Sequence[Entry], answer: Answer, now_s: float, chance: float) -> Settled:
        """Book the answer to a request.

        Args:
            entries: what `take` gave.
            answer: one per entry, in their order, or that there was none.
            now_s: monotonic seconds.
            chance: uniform in [0, 1), for the jitter: one draw, so that what was refused together goes together.
        """
        self.in_flight -= 1
        accepted: list[tuple[Entry, Accepted]] = []
        refused: list[tuple[Entry, str]] = []
        final = False
        if isinstance(answer, NoAnswer):
            refused = [(entry, answer.reason) for entry in entries]
            final = answer.final
            if answer.unknown:
                self._counters.unanswered += sum(len(entry.records) for entry in entries)
        else:
            for entry, result in zip(entries, answer, strict=True):
                if isinstance(result, Accepted):
                    accepted.append((entry, result))
                    self._forget(entry, now_s)
                    self._counters.published += len(entry.records)
                else:
                    refused.append((entry, result.reason))
        if accepted:
            self._standstills, self._paused_until_s = 0, -math.inf
        elif not final:
            # Nothing gets through at all: asking for other cards' records would only add to it.
            self._standstills += 1
            self._paused_until_s = now_s + self._retry.delay_s(self._standstills, chance)
        given_up = []
        for entry, reason in refused:
            entry.refusals += 1
            entry.fruitless = 1 if accepted else entry.fruitless + 1
            if final:
                given_up.append(GivenUp(entry, reason, "an error that stays"))
            elif entry.fruitless >= self._retry.max_attempts:
                given_up.append(GivenUp(entry, reason, f"{entry.fruitless} attempts in a row"))
            elif entry.refusals >= self._retry.max_refusals:
                given_up.append(GivenUp(entry, reason, f"{entry.refusals} refusals"))
            else:
                self._tickets += 1
                due_s = now_s + self._retry.delay_s(entry.refusals, chance)
                heapq.heappush(self._retries, (due_s, self._tickets, entry))
        self._counters.failed += sum(len(one.entry.records) for one in given_up)
        if given_up:
            self._standstills, self._paused_until_s = 0, -math.inf
            if self._keep_given_up:
                self._queue_again((one.entry for one in given_up), now_s)
            else:
                for one in given_up:
                    self._forget(one.entry, now_s)
        return Settled(accepted, given_up)

    def put_back(self, entries: Sequence[Entry], now_s: float) -> None:
        """Nobody will learn what became of this request: its records go again as if never sent."""
        self.in_flight -= 1
        self._counters.unanswered += sum(len(entry.records) for entry in entries)
        self._queue_again(entries, now_s)

    def next_epoch(self) -> int:
        """A mark after every record added so far."""
        self._epoch += 1
        return self._epoch - 1

    def is_settled(self, mark: int) -> bool:
        """Whether every record up to the mark has been accepted or given up."""
        return all(epoch > mark for epoch in self._of_epoch)

    def _lingered_at_s(self) -> float:
        return next(iter(self._ready.values())).ready_since_s + self._linger_s

    def _has_lingered(self, now_s: float) -> bool:
        return self._lingered_at_s() <= now_s

    def _group(self, lane: _Lane, free: int) -> Entry | None:
        """The next entry of a lane, at most `free` bytes; None if its first record does not fit."""
        limits, queue = self._limits, lane.queue
        size = limits.entry_overhead + queue[0].size + limits.record_overhead
        if size > free:
            return None
        records = [queue.popleft()]
        self._ready_bytes -= lane.bytes
        lane.bytes -= records[0].size
        self._ready_records -= 1 + len(queue)
        while queue and len(records) < limits.entry_records:
            more = queue[0].size + limits.record_overhead
            if size + more > min(free, limits.entry_bytes):
                break
            size += more
            lane.bytes -= queue[0].size
            records.append(queue.popleft())
        return Entry(lane, tuple(records), size)

    def _forget(self, entry: Entry, now_s: float) -> None:
        """The records leave; their lane may go on."""
        for record in entry.records:
            self.waiting_bytes -= record.size
            left = self._of_epoch[record.epoch] - 1
            if left:
                self._of_epoch[record.epoch] = left
            else:
                del self._of_epoch[record.epoch]
        self.waiting -= len(entry.records)
        if entry.lane.queue:
            self._becomes_ready(entry.lane, now_s)
        else:
            del self._lanes[entry.lane.name]

    def _queue_again(self, entries: Iterable[Entry], now_s: float) -> None:
        for entry in entries:
            lane = entry.lane
            lane.queue.extendleft(reversed(entry.records))
            lane.bytes += sum(record.size for record in entry.records)
            self._becomes_ready(lane, now_s)

    def _becomes_ready(self, lane: _Lane, now_s: float) -> None:
        # It lines up behind the others, so that a busy card starves none, and lingers anew, or each busy card would
        # cause small requests of its own.
        lane.ready_since_s = now_s
        self._ready[lane.name] = lane
        self._ready_records += len(lane.queue)
        self._ready_bytes += lane.bytes
