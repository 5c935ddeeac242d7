"""What is known about one batch while it is worked on: what failed and why, what happened, how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from lambdas.ports import Clock
from lambdas.records import UserRecord
from stream_features.decision import StreamPosition
from stream_features.errors import ContractMismatch, PipelineError, StateCorrupt
from stream_features.feature_record import FeaturesRecord
from stream_features.transaction import Transaction

STAGES = ("decode", "read", "window", "score", "commit", "publish")
UPDATE_STAGES = ("decode", "read", "apply", "commit", "publish")


class Arrival(Struct, frozen=True, eq=False):
    """A valid transaction with the record that brought it.

    Attributes:
        transaction: the transaction.
        payload_sha256: of its canonical JSON.
        record: as it was published.
        features: what came with it, where its windows have been asked already.
        repeats: it is known to repeat an earlier record and is never decided itself.
    """

    transaction: Transaction
    payload_sha256: str
    record: UserRecord
    features: FeaturesRecord | None = None
    repeats: bool = False


class BatchOutcome(Struct):
    """What became of a batch.

    Attributes:
        failed: sequence numbers to redeliver, in arrival order, each once.
        counts: records by what became of them, and what this batch's own commits have added to the counters.
        stage_ms: milliseconds per stage, of all tries together.
        failures: failed records per reason (an error's text), without the ones that fail only for following them.
        alarms: what needs a person, because state, code or model do not fit: the reason and the sequence number of
            the first record it stops.
        policy_problem: why the published policy is not the one these decisions were made by.
        endpoint_problem: why these decisions were made without the endpoint.
    """

    failed: list[str]
    counts: dict[str, int]
    stage_ms: dict[str, float]
    failures: dict[str, int]
    alarms: list[tuple[str, str]]
    policy_problem: str | None = None
    endpoint_problem: str | None = None


class Batch:
    """Records of one invocation in arrival order, and their failures."""

    def __init__(self, records: Sequence[UserRecord], clock: Clock, stages: Sequence[str] = STAGES) -> None:
        self.records = records
        self.arrivals: list[Arrival] = []
        self.counts: Counter[str] = Counter(records=len(records))
        self.policy_problem: str | None = None
        self.endpoint_problem: str | None = None
        self._clock = clock
        self._stage_ms = dict.fromkeys(stages, 0.0)
        self._failed: set[StreamPosition] = set()  # by delivery
        self._reasons: Counter[str] = Counter()
        self._alarms: list[tuple[str, str]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        begun_s = self._clock.elapsed_s()
        try:
            yield
        finally:
            self._stage_ms[name] += (self._clock.elapsed_s() - begun_s) * 1000

    def fail(self, records: Sequence[UserRecord], error: PipelineError) -> None:
        """Return these records as failed; errors of state, code or model raise an alarm."""
        if not records:
            return
        before = len(self._failed)
        self._failed.update(record.delivery for record in records)
        reason = f"{type(error).__name__}: {error}"
        self._reasons[reason] += len(self._failed) - before
        if isinstance(error, StateCorrupt | ContractMismatch):
            self._alarms.append((reason, records[0].item_identifier))

    def has_failed(self, record: UserRecord) -> bool:
        return record.delivery in self._failed

    def outcome(self) -> BatchOutcome:
        """Close the batch: later records of a failed record's card fail with it."""
        failed_cards: set[str] = set()
        card_of = {arrival.record.delivery: arrival.transaction.card_id for arrival in self.arrivals}
        failed: dict[str, None] = {}
        for record in self.records:
            card_id = card_of.get(record.delivery)
            if record.delivery in self._failed or card_id in failed_cards:
                failed[record.item_identifier] = None
                if card_id is not None:
                    failed_cards.add(card_id)
        self.counts["failed"] = len(failed)
        return BatchOutcome(
            list(failed),
            dict(self.counts),
            {stage: round(ms, 3) for stage, ms in self._stage_ms.items()},
            dict(self._reasons),
            self._alarms,
            self.policy_problem,
            self.endpoint_problem,
        )
