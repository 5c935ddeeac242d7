"""Publishing a file or a simulation into the running pipeline: paced, in lockstep, waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from console.consumers import Consumers, can_be_followed, consumers_of
from console.running import Pipeline, running_pipeline
from console.status import Status, read_status
from console.wait import NotSettled, wait_until_settled
from producers.files import read_transactions
from producers.injection import BadRecord, inject, plan_injection
from producers.labels import DEFAULT_LABEL_DELAY_MS, LabelPublisher, labels_of
from producers.mappings import load_mapping
from producers.pacing import Pacer
from producers.publisher import TransactionPublisher
from producers.replay import known_at_ms, replay, rows_from_ms
from producers.simulator import simulate
from stream_features.feature_sets import FeatureSet
from stream_features.label import Label
from stream_features.transaction import Transaction

Item = Transaction | Label | BadRecord

DAY_MS = 86_400_000
LABEL_EFFECT_MS = 120_000  # a label takes effect this long after its report
_STALLED_AFTER_S = 180.0
_PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How items go out.

    Attributes:
        speed: event time per wall time; None for as fast as it goes.
        rate: items per second; None for as fast as it goes.
        lockstep: publish one bucket of event time, wait until every function has finished with it, then the next.
        wait: return when nothing is in flight and labels are applied.
        progress: takes a line about what is going on.
    """

    speed: float | None = None
    rate: float | None = None
    lockstep: bool = False
    wait: bool = False
    progress: Callable[[str], None]


@dataclass(slots=True)
class Sent:
    """What went out: accepted records by kind, and how long it took."""

    transactions: int = 0
    labels: int = 0
    bad: int = 0
    duplicates: int = 0
    seconds: float = 0.0

    @property
    def records(self) -> int:
        """User records put on `transactions`."""
        return self.transactions + self.bad + self.duplicates

    def summary(self) -> str:
        rate = self.records / self.seconds if self.seconds else 0.0
        extra = f", {self.bad} bad records, {self.duplicates} duplicates" if self.bad or self.duplicates else ""
        return (
            f"published {self.transactions} transactions and {self.labels} labels{extra} "
            f"in {self.seconds:.1f} s ({rate:.0f} records/s)"
        )


def publish_file(
    file: Path,
    mapping: str | None,
    from_ms: int | None,
    until_ms: int | None,
    label_delay_ms: int | None,
    how: Replay,
) -> Sent:
    """Publish the transactions that happen and the labels that are reported in [from, until).

    Raises:
        UsageError: nothing runs, or the file cannot be read as asked.
        MalformedRecord: a row breaks the contract; names row, field and rule.
        PortFailure: the stream did not take a record.
    """
    pipeline = running_pipeline()
    delay_ms = DEFAULT_LABEL_DELAY_MS if label_delay_ms is None else label_delay_ms
    rows = read_transactions(
        file, load_mapping(mapping) if mapping else None, from_ms=rows_from_ms(from_ms, delay_ms), until_ms=until_ms
    )
    items = replay(rows, from_ms=from_ms, until_ms=until_ms, label_delay_ms=delay_ms)
    return publish(pipeline, items, how, delay_ms)


def publish_simulated(
    count: int, seed: int, label_delay_ms: int | None, bad_share: float, duplicate_share: float, how: Replay
) -> Sent:
    """Publish exactly `count` distinct valid transactions that end now, what is injected, and then the labels.

    Raises:
        UsageError: nothing runs, or the shares are out of range.
        PortFailure: the stream did not take a record.
    """
    pipeline = running_pipeline()
    plan = plan_injection(count, seed=seed, bad_share=bad_share, duplicate_share=duplicate_share)
    rows = list(simulate(count, seed=seed, end_ms=int(time.time() * 1_000)))
    delay_ms = DEFAULT_LABEL_DELAY_MS if label_delay_ms is None else label_delay_ms

    def items() -> Iterator[Item]:
        yield from inject((row.transaction for row in rows), plan)
        yield from labels_of(rows, label_delay_ms=delay_ms)

    sent = publish(pipeline, items(), how, delay_ms)
    sent.duplicates = plan.duplicate_count
    sent.transactions -= plan.duplicate_count
    return sent


def publish(pipeline: Pipeline, items: Iterable[Item], how: Replay, label_delay_ms: int | None = None) -> Sent:
    """Send `items` in order; see `Replay` for how.

    Args:
        pipeline: where to.
        items: in event-time order, labels by the time they are reported.
        how: pace, lockstep, waiting.
        label_delay_ms: from a transaction to its label; None when no labels are among `items`.

    Raises:
        PortFailure: the stream did not take a record, or an AWS service did not answer.
        NotSettled, NotAtRest: the pipeline stopped moving while it was waited for.
        UsageError: lockstep where the functions' progress cannot be seen.
    """
    before = read_status(pipeline.run).published if how.wait else 0
    sent = Sent()
    outgoing = _Outgoing(pipeline, how, sent)
    consumers = consumers_of(pipeline) if how.lockstep or (how.wait and can_be_followed(pipeline)) else None
    started = time.monotonic()
    if how.lockstep and consumers is not None:
        _in_lockstep(items, lockstep_bucket_ms(pipeline.features, label_delay_ms), outgoing, consumers, how.progress)
    else:
        for item in items:
            outgoing.send(item)
    outgoing.flush()
    sent.seconds = time.monotonic() - started
    if how.wait:
        settle(pipeline, before + sent.records, how.progress)
        if consumers is not None:
            consumers.wait_until_at_rest(progress=how.progress)  # labels have no part in what is in flight
    return sent


def lockstep_bucket_ms(features: FeatureSet, label_delay_ms: int | None) -> int:
    """How much event time may be under way at once without any value depending on who is faster.

    A merchant window ends its delay before the transaction, so what happens within the delay cannot be in it. A label
    counts for events older than the delay and is reported `label_delay_ms` after its event, so labels reported within
    the difference of both cannot count either; nor can any for two minutes, by definition. Without merchant features
    nothing in a bucket depends on another card, and a day is as good as any.
    """
    delay_ms = features.smallest_merchant_delay_ms
    if delay_ms is None:
        return DAY_MS
    if label_delay_ms is None:
        return delay_ms
    return min(delay_ms, max(LABEL_EFFECT_MS, delay_ms - label_delay_ms))


def _in_lockstep(
    items: Iterable[Item],
    bucket_ms: int,
    outgoing: _Outgoing,
    consumers: Consumers,
    progress: Callable[[str], None],
) -> None:
    """Send bucket by bucket; before the first transaction of one, everything sent in earlier ones is finished with.

    Labels alone need not wait: nothing reads them before the next transaction does.
    """
    for _, bucket in groupby(_timed(items), key=lambda timed: timed[0] // bucket_ms):
        is_clear = False
        for _, item in bucket:
            if not is_clear and not isinstance(item, Label):
                outgoing.flush()
                consumers.wait_until_at_rest(progress=progress)
                is_clear = True
            outgoing.send(item)


class _Outgoing:
    """Both publishers and the pacer behind one `send`."""

    def __init__(self, pipeline: Pipeline, how: Replay, sent: Sent) -> None:
        kinesis = pipeline.client("kinesis")
        self._transactions = TransactionPublisher(kinesis, pipeline.output("TransactionsStreamName"))
        self._labels = LabelPublisher(kinesis, pipeline.output("LabelsStreamName"))
        self._pacer = Pacer(rate=how.rate, speed=how.speed)
        self._progress = how.progress
        self._sent = sent
        self._said_at = time.monotonic()
        self._last_ms = 0

    def send(self, item: Item) -> None:
        if isinstance(item, Label):
            # A rate is one of transactions; labels ride along and only event-time speed holds them back.
            self._labels.publish(item)
            self._sent.labels += 1
            return
        if isinstance(item, Transaction):
            self._last_ms = item.event_time_ms
        self._pacer.wait_for(self._last_ms, (self._transactions, self._labels))
        if isinstance(item, Transaction):
            self._transactions.publish(item)
            self._sent.transactions += 1
        else:
            self._transactions.publish_raw(item.partition_key, item.payload)
            self._sent.bad += 1
        if time.monotonic() - self._said_at > _PROGRESS_EVERY_S:
            self._said_at = time.monotonic()
            self._progress(f"{self._sent.records} records published")

    def flush(self) -> None:
        self._transactions.flush()
        self._labels.flush()


def _timed(items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
    """Each item with the time it goes out at; what is older, or has no time, goes with the item before it."""
    last_ms = 0
    for item in items:
        if not isinstance(item, BadRecord):
            last_ms = max(last_ms, known_at_ms(item))  # a duplicate comes with what comes before it
        yield last_ms, item


def settle(pipeline: Pipeline, expect_published: int, progress: Callable[[str], None]) -> Status:
    """Wait until nothing is in flight, as long as it takes while the pipeline moves.

    Raises:
        NotSettled: nothing moved for three minutes; says what is missing.
    """
    moved_at = time.monotonic()
    last: tuple[int, int] | None = None
    while True:
        try:
            return wait_until_settled(pipeline.run, _PROGRESS_EVERY_S, expect_published=expect_published)
        except NotSettled as waiting:
            now = (waiting.status.published, waiting.status.in_flight)
            if now != last:
                last, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > _STALLED_AFTER_S:
                raise
            progress(f"{waiting.status.in_flight} in flight")
