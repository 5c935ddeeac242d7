"""What a soak publishes, dated now: simulated payments, a hot card, late ones, repeats, garbage, and their labels."""

from __future__ import annotations

import random
import time
from typing import Final

import msgspec

from producers.injection import GARBAGE
from producers.labels import LabelPublisher
from producers.publisher import RetryPolicy, TransactionPublisher
from producers.simulator import simulate
from stream_features.label import Label
from stream_features.transaction import Transaction, encode_transaction
from tests.faults.setting import Run
from tests.faults.stage import publishing_client

HOT_SHARE: Final = 0.2
LATE_SHARE: Final = 0.05
LATE_MS: Final = 20 * 60_000
REPEATED_SHARE: Final = 0.02
BAD_SHARE: Final = 0.01
LABELLED_SHARE: Final = 0.1
# Large records take the publisher's requests for themselves; the campaign covers them.
GARBAGE_KINDS: Final = tuple(kind for kind in GARBAGE if kind != "large_record")


class LiveTraffic:
    """Publishes through the injector, as a publisher would: it sends again, so records may come twice.

    Attributes:
        sent: records handed to the publisher, which is the least that can be in the stream.
        bad: payloads that must not be decided, as often as they were sent.
        labels: in the order in which they were reported.
    """

    def __init__(self, run: Run, chance: random.Random, rate: float, seconds: float) -> None:
        if run.injector is None:
            raise ValueError("traffic goes through the injector")
        self.sent = 0
        self.bad: list[bytes] = []
        self.labels: list[Label] = []
        self.ids: set[str] = set()
        self._chance = chance
        self._rate = rate
        self._seconds = seconds
        self._seed = chance.randrange(2**31)
        self._recent: list[Transaction] = []
        self._kinesis = publishing_client(run.injector.url, run.pipeline.run.region)
        patient = RetryPolicy(max_attempts=60, cap_s=1.0)
        self._transactions = TransactionPublisher(
            self._kinesis, run.pipeline.output("TransactionsStreamName"), max_records=50, retry=patient
        )
        self._reports = LabelPublisher(
            run.pipeline.client("kinesis"), run.pipeline.output("LabelsStreamName"), max_records=20
        )

    def publish(self) -> None:
        """At the rate, for the seconds; returns when the stream has everything.

        Raises:
            PortFailure: the stream did not take a record after all the patience there is.
        """
        count = max(1, round(self._rate * self._seconds))
        begun_s = time.monotonic()
        rows = simulate(count, seed=self._seed, end_ms=time.time_ns() // 1_000_000, days=30.0)
        hot_card = ""
        for number, row in enumerate(rows):
            hot_card = hot_card or row.transaction.card_id
            due_in_s = begun_s + number / self._rate - time.monotonic()
            if due_in_s > 0:
                time.sleep(due_in_s)
            self._one(row.transaction, hot_card, number)
            self._transactions.send_due()
        self._transactions.close()
        self._reports.close()
        self._kinesis.close()

    def _one(self, row: Transaction, hot_card: str, number: int) -> None:
        chance = self._chance
        now_ms = time.time_ns() // 1_000_000
        one = msgspec.structs.replace(
            row,
            event_time_ms=now_ms - (LATE_MS if chance.random() < LATE_SHARE else 0),
            card_id=hot_card if chance.random() < HOT_SHARE else row.card_id,
        )
        self._transactions.publish(one)
        self.sent += 1
        self.ids.add(one.transaction_id)
        self._recent = [*self._recent[-300:], one]
        if chance.random() < REPEATED_SHARE:
            again = chance.choice(self._recent)
            self._transactions.publish_raw(again.card_id, encode_transaction(again))
            self.sent += 1
        if chance.random() < BAD_SHARE:
            payload = GARBAGE[chance.choice(GARBAGE_KINDS)](number)
            self._transactions.publish_raw(one.card_id, payload)
            self.bad.append(payload)
            self.sent += 1
        if chance.random() < LABELLED_SHARE:
            self._label(one, now_ms)

    def _label(self, one: Transaction, now_ms: int) -> None:
        """A report about this one, or a correction about an earlier one; half of them without merchant and time."""
        known = self._chance.random() < 0.5
        label = Label(
            transaction_id=one.transaction_id,
            is_fraud=self._chance.random() < 0.5,
            reported_at_ms=max(now_ms, self.labels[-1].reported_at_ms + 1 if self.labels else 0),
            source="analyst",
            merchant_id=one.merchant_id if known else None,
            event_time_ms=one.event_time_ms if known else None,
        )
        self._reports.publish(label)
        self.labels.append(label)
        if label.is_fraud and self._chance.random() < 0.3:
            corrected = msgspec.structs.replace(label, is_fraud=False, reported_at_ms=label.reported_at_ms + 1)
            self._reports.publish(corrected)
            self.labels.append(corrected)
