"""The Flink engine under real failures: its processes die, it is stopped and resumed, one card is hot, records are bad.

Event times are the time of day, so that the pipeline is in real time as long as it is less than two minutes behind, and
every feature, those of merchants too, has one right value: the kernel's, over the records in the order they were sent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from producers.publisher import TransactionPublisher
from stream_features.decision import Decision
from stream_features.feature_record import FeaturesRecord, FeatureStreamRecord
from stream_features.feature_sets import CORE
from stream_features.history import observe_history
from stream_features.transaction import Transaction
from tests.e2e.conftest import Start
from tests.e2e.driver import Installation, publish_in_lockstep, settled, stored_decisions
from tests.e2e.flink import feature_records, kill_job, redelivered, wait_until_job_runs
from tests.e2e.judge import assert_sets_hold, row_mismatches

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MINUTE_MS = 60_000
PAST = 900  # transactions of the hour before, so that merchants have something to say
RATE = 1_000
SECONDS = 8
CARDS = 400
HOT_CARD = "hot-card"


@dataclass
class Sent:
    """Everything published, in order."""

    valid: list[Transaction] = field(default_factory=list)
    bad: int = 0
    seconds: float = 0.0

    @property
    def records(self) -> int:
        return len(self.valid) + self.bad


@dataclass
class Outcome:
    """A run under one fault."""

    sent: Sent
    status: dict[str, Any]
    decisions: dict[str, Decision]
    records: list[FeatureStreamRecord]


class Traffic:
    """A fifth of it is one card's; some is late, some is garbage."""

    def __init__(self, installed: Installation, seed: int) -> None:
        self.sent = Sent()
        self._chance = random.Random(seed)
        self._pipeline = pipeline = installed.pipeline()
        self._publisher = TransactionPublisher(pipeline.client("kinesis"), pipeline.output("TransactionsStreamName"))

    def past(self) -> None:
        """Purchases of the last hour but twenty minutes, in lockstep: they are not in real time."""
        now_ms = time.time_ns() // 1_000_000
        past = [self._next(now_ms - 80 * MINUTE_MS + number * (60 * MINUTE_MS // PAST)) for number in range(PAST)]
        publish_in_lockstep(self._pipeline, past)

    def live(self, seconds: float, events: Sequence[tuple[float, Callable[[], object]]] = ()) -> None:
        """`RATE` records a second, dated now; at each of `events` (seconds from the start, ascending) call it."""
        begun, due = time.monotonic(), list(events)
        for number in range(int(RATE * seconds)):
            ahead = number / RATE - (time.monotonic() - begun)
            if ahead > 0:
                time.sleep(ahead)
            if due and number / RATE >= due[0][0]:
                due.pop(0)[1]()
            if number % 211 == 0:
                self._publisher.publish_raw(HOT_CARD, b'{"card_id": "hot-card", "transaction_id": "\xff"}')
                self.sent.bad += 1
            now_ms = time.time_ns() // 1_000_000
            if number % 97 == 0:
                # late for its card; at a merchant of its own, for what it adds would depend on the shards' order there
                self._publish(now_ms - 30 * MINUTE_MS, merchant=f"late-{number}")
            else:
                self._publish(now_ms)
        self._publisher.flush()
        self.sent.seconds += time.monotonic() - begun

    def _publish(self, event_time_ms: int, merchant: str | None = None) -> None:
        self._publisher.publish(self._next(event_time_ms, merchant))

    def _next(self, event_time_ms: int, merchant: str | None = None) -> Transaction:
        hot = self._chance.random() < 0.2
        transaction = Transaction(
            transaction_id=f"t-{len(self.sent.valid)}-{self._chance.getrandbits(40):x}",
            event_time_ms=event_time_ms,
            card_id=HOT_CARD if hot else f"card-{self._chance.randrange(CARDS)}",
            merchant_id=merchant or f"merchant-{self._chance.randrange(60)}",
            amount_minor=self._chance.randrange(100, 50_000),
            currency="USD",
            country=self._chance.choice(["DE", "US", "FR"]),
        )
        self.sent.valid.append(transaction)
        return transaction


def outcome(installed: Installation, sent: Sent) -> Outcome:
    status = settled(installed, sent.records, timeout_s=240)
    pipeline = installed.pipeline()
    return Outcome(sent, status, stored_decisions(pipeline), feature_records(pipeline))


def wrong_features(run: Outcome) -> list[str]:
    """Ids whose served features are not the kernel's over what was sent."""
    ids = [transaction.transaction_id for transaction in run.sent.valid]
    rows = [observation.values for _, observation in observe_history(run.sent.valid, CORE)]
    return row_mismatches(ids, rows, run.decisions, CORE.names)


@pytest.fixture(scope="module")
def killed(start: Start) -> Iterator[tuple[Installation, Outcome, list[int]]]:
    """The job's JVM and Python die twice under load."""
    with start("core", "flink") as installed:
        traffic, died = Traffic(installed, seed=5), list[int]()

        def kill() -> None:
            status = wait_until_job_runs(installed)
            died.append(kill_job(installed))
            victims.append(status.job_pid)

        victims: list[int | None] = []
        traffic.past()
        traffic.live(SECONDS, [(4.0, kill)])
        wait_until_job_runs(installed, not_pid=victims[0])
        traffic.live(SECONDS / 2, [(2.5, kill)])
        wait_until_job_runs(installed, not_pid=victims[1])
        yield installed, outcome(installed, traffic.sent), died


def test_after_two_kills_the_sets_hold(
    killed: tuple[Installation, Outcome, list[int]], record_property: Callable[[str, object], None]
) -> None:
    installed, run, died = killed
    again = redelivered(run.records)
    record_property("redelivered", again)
    print(f"{len(died)} kills of {died} processes, {again} of {len(run.records)} feature records came twice")
    assert len(died) == 2
    assert min(died) >= 1
    assert again > 0, "nothing was redelivered: the kills fell between two checkpoints without records"
    assert_sets_hold(installed.pipeline(), run.status, run.decisions, run.sent.valid, quarantined=run.sent.bad)
    assert run.status["flink"]["restarts"] >= 2


def test_after_two_kills_no_feature_is_wrong(killed: tuple[Installation, Outcome, list[int]]) -> None:
    _, run, _ = killed
    assert wrong_features(run) == []
    assert sum(decision.late for decision in run.decisions.values()) > 50
    assert sum(decision.card_id == HOT_CARD for decision in run.decisions.values()) > 0.15 * len(run.decisions)
    merchants = [decision.features["merchant_count_10m"] for decision in run.decisions.values()]
    assert sum(bool(count) for count in merchants) > 100


def test_records_that_came_twice_say_the_same(killed: tuple[Installation, Outcome, list[int]]) -> None:
    _, run, _ = killed
    first: dict[object, FeatureStreamRecord] = {}
    for record in run.records:
        assert first.setdefault(record.position, record) == record


def test_a_wrong_or_missing_feature_would_be_found(killed: tuple[Installation, Outcome, list[int]]) -> None:
    _, run, _ = killed
    victim, decision = next(iter(run.decisions.items()))
    count = decision.features["card_count_1h"]
    assert count is not None
    spoilt = msgspec.structs.replace(decision, features={**decision.features, "card_count_1h": count + 1})
    assert wrong_features(Outcome(run.sent, run.status, {**run.decisions, victim: spoilt}, [])) == [victim]
    lost = {key: one for key, one in run.decisions.items() if key != victim}
    assert wrong_features(Outcome(run.sent, run.status, lost, [])) == [victim]


@pytest.fixture(scope="module")
def resumed(start: Start) -> Iterator[tuple[Installation, Outcome]]:
    """Stopped with a savepoint while records are in flight, taken up again, and more records."""
    with start("core", "flink") as installed:
        traffic = Traffic(installed, seed=6)
        traffic.past()
        traffic.live(3)
        installed.run("down", "--keep")
        installed.run("up", "--engine", "flink")
        second = Traffic(installed, seed=7)  # the addresses are new
        second.sent = traffic.sent
        second.live(1)
        yield installed, outcome(installed, traffic.sent)


def test_a_savepoint_loses_and_doubles_nothing(resumed: tuple[Installation, Outcome]) -> None:
    installed, run = resumed
    assert_sets_hold(installed.pipeline(), run.status, run.decisions, run.sent.valid, quarantined=run.sent.bad)
    assert wrong_features(run) == []
    assert redelivered(run.records) == 0
    assert run.status["flink"]["restored_from"]
    assert sum(isinstance(record, FeaturesRecord) for record in run.records) == len(run.sent.valid)
