"""Merchants' states are functions of the sets of purchases and labels, whatever dies or comes twice on the way.

Every group of merchants meets one fault of update_entities or record_labels; afterwards each state equals, byte for
byte, what the scalar path makes of the same purchases and labels. One more group goes to a merchant that takes a fifth
of all traffic.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from console.consumers import consumers_of
from producers.labels import LabelPublisher
from producers.publisher import TransactionPublisher
from producers.simulator import simulate
from stream_features.feature_sets import feature_set
from stream_features.history import history_states
from stream_features.label import Label
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.names import merchant_key
from stream_features.transaction import Transaction
from tests.e2e.driver import Installation, stored_labels, stored_states
from tests.e2e.judge import state_differences

pytestmark = pytest.mark.e2e

FAULTS = (
    "update_entities:before_commit",
    "update_entities:after_commit",
    "update_entities:after_publish",
    "record_labels:before_commit",
    "record_labels:after_commit",
    "record_labels:after_publish",
    "duplicates",
    "hot",
)
COUNT = 2_450
GROUP = 280  # rows of each fault; the last one, a fifth of all, gets what is left
DAY_MS = 86_400_000
SIZE_CAP = 64 * 1024


@dataclass
class Group:
    """What one fault meets. `corrections` follow the first labels."""

    transactions: list[Transaction] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    corrections: list[Label] = field(default_factory=list)


def groups() -> dict[str, Group]:
    """Simulated purchases, a tenth with a label of fraud of which half are withdrawn; merchants belong to one group."""
    made: dict[str, Group] = {fault: Group() for fault in FAULTS}
    rows = list(simulate(COUNT, seed=31, end_ms=time.time_ns() // 1_000_000 - 60_000, days=30))
    for number, row in enumerate(rows):
        fault = FAULTS[min(number // GROUP, len(FAULTS) - 1)]
        merchant = "hot" if fault == "hot" or number % 5 == 0 else f"{row.transaction.merchant_id}"
        one = msgspec.structs.replace(row.transaction, merchant_id=f"{fault}-{merchant}")
        group = made[fault]
        group.transactions.append(one)
        if number % 10 == 0 and one.type == "purchase":
            known = fault != "update_entities:after_publish" or number % 20 == 0
            group.labels.append(label(one, 5 * DAY_MS, is_fraud=True, known=known))
            if number % 20 == 0:
                group.corrections.append(label(one, 6 * DAY_MS, is_fraud=False, known=known))
        elif number % 10 == 1:
            group.labels.append(label(one, 5 * DAY_MS, is_fraud=False))
    return made


def label(of: Transaction, delay_ms: int, *, is_fraud: bool, known: bool = True) -> Label:
    return Label(
        transaction_id=of.transaction_id,
        is_fraud=is_fraud,
        reported_at_ms=of.event_time_ms + delay_ms,
        source="chargeback" if is_fraud else "customer",
        merchant_id=of.merchant_id if known else None,
        event_time_ms=of.event_time_ms if known else None,
    )


class Driver:
    """Publishes groups under their faults, with the labels before the purchases where they shall have to wait."""

    def __init__(self, installed: Installation) -> None:
        self.installed = installed
        self.pipeline = installed.pipeline()
        self.consumers = consumers_of(self.pipeline)

    def publish(self, fault: str, group: Group) -> None:
        failpoint = self.installed.state_dir / "failpoint"
        if ":" in fault:
            # a batch that was committed is found again, not committed again: it passes its failpoint once
            failpoint.write_text(f"{fault} 3" if fault.endswith("before_commit") else fault)
        if fault == "update_entities:after_publish":  # reached where a label that waited is sent again
            self._labels(group.labels)
            self.consumers.wait_until_at_rest()
            self._transactions(group.transactions)
            self.consumers.wait_until_at_rest()
            self._labels(group.corrections)
        else:
            self._transactions(group.transactions)
            self._labels(group.labels)
            self._labels(group.corrections)
            if fault == "duplicates":
                self._labels(group.corrections[::-1])
                self._labels(group.labels)
                self._transactions(group.transactions[::3])
        self.consumers.wait_until_at_rest()
        assert not failpoint.exists(), f"the function never died at {fault}"

    def _transactions(self, transactions: list[Transaction]) -> None:
        stream = self.pipeline.output("TransactionsStreamName")
        with TransactionPublisher(self.pipeline.client("kinesis"), stream, max_records=40) as publisher:
            for one in transactions:
                publisher.publish(one)

    def _labels(self, labels: list[Label]) -> None:
        stream = self.pipeline.output("LabelsStreamName")
        with LabelPublisher(self.pipeline.client("kinesis"), stream, max_records=10) as publisher:
            for one in labels:
                publisher.publish(one)


@dataclass
class Outcome:
    """Everything stored after all faults."""

    groups: dict[str, Group]
    states: dict[str, bytes]
    labels: dict[str, Any]
    status: dict[str, Any]


@pytest.fixture(scope="module")
def outcome(installation: Installation) -> Outcome:
    made = groups()
    driver = Driver(installation)
    for fault, group in made.items():
        assert len(group.transactions) == (GROUP if fault != "hot" else COUNT // 5)
        assert len(group.labels) > len(group.corrections) > 10
        driver.publish(fault, group)
    pipeline = installation.pipeline()
    return Outcome(made, stored_states(pipeline, "merchant#"), stored_labels(pipeline), installation.status())


def expected_states(group: Group) -> dict[str, bytes]:
    labels = sorted([*group.labels, *group.corrections], key=lambda one: one.reported_at_ms)
    states = history_states(group.transactions, feature_set("core"), labels)
    return {merchant_key(name): pack_merchant(state) for name, state in states.merchants.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_states_are_those_of_the_scalar_path(outcome: Outcome, fault: str) -> None:
    expected = expected_states(outcome.groups[fault])
    mine = {key: state for key, state in outcome.states.items() if key.startswith(merchant_key(f"{fault}-"))}
    assert expected
    assert state_differences(mine, expected) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_labels_hold_what_was_reported_last(outcome: Outcome, fault: str) -> None:
    group = outcome.groups[fault]
    holds = {one.transaction_id: one.is_fraud for one in [*group.labels, *group.corrections]}
    assert {key: outcome.labels[key].is_fraud for key in holds} == holds
    assert not any(outcome.labels[key].waiting for key in holds)


def test_every_report_is_counted_once(outcome: Outcome) -> None:
    reports = sum(len(group.labels) + len(group.corrections) for group in outcome.groups.values())
    assert outcome.status["labels"]["labels"] == reports
    assert outcome.status["labels"]["labels_waiting"] == 0
    assert outcome.status["labels"]["labels_quarantined"] == 0
    assert outcome.status["labels"]["entity_events_quarantined"] == 0
    assert outcome.status["decided"] == COUNT
    assert outcome.status["quarantined"] == 0


def test_a_merchant_with_a_fifth_of_all_traffic_stays_small(outcome: Outcome) -> None:
    """Small here; benchmarks and unit tests take the layout to its limit."""
    hot = outcome.groups["hot"].transactions
    key = merchant_key("hot-hot")
    purchases = [one for one in hot if one.type == "purchase"]
    state = unpack_merchant(outcome.states[key])
    assert sum(state.fine.counts) + sum(state.coarse.counts) == len(purchases) > 200
    assert len(outcome.states[key]) < SIZE_CAP // 8
