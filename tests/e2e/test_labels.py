"""Labels through the stream: delayed, corrected, without their transaction, before it, months late.

The clock of the scene is event time: every half day's items are published and finished with before the next one's, so
the served features must be those of the scalar path and of the slow oracle, label by label.
"""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from console.consumers import consumers_of
from producers.labels import LabelPublisher
from producers.publisher import TransactionPublisher
from stream_features.decision import Decision
from stream_features.feature_sets import feature_set
from stream_features.history import HistoryStates, observe_history
from stream_features.label import Label
from stream_features.merchant_codec import pack_merchant
from stream_features.names import merchant_key
from stream_features.transaction import Transaction, encode_transaction
from tests.e2e.conftest import Start
from tests.e2e.driver import Installation, stored_decisions, stored_labels, stored_states
from tests.e2e.judge import feature_mismatches, row_mismatches, state_differences

pytestmark = pytest.mark.e2e

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_735_689_600_000  # 2025-01-01
DAYS = 45
LAST_DAY = 130  # of the scene: labels come up to 120 days late
RISKS = [f"TERMINAL_ID_RISK_{days}DAY_WINDOW" for days in (1, 7, 30)]


def purchase(name: str, day: float, *, merchant: str = "corner", card: str | None = None) -> Transaction:
    return Transaction(
        transaction_id=name,
        event_time_ms=START_MS + round(day * DAY_MS),
        card_id=card or f"card-of-{name}",
        merchant_id=merchant,
        amount_minor=1_000 + len(name),
        currency="USD",
    )


def report(of: Transaction, day: float, *, is_fraud: bool, known: bool = True) -> Label:
    return Label(
        transaction_id=of.transaction_id,
        is_fraud=is_fraud,
        reported_at_ms=START_MS + round(day * DAY_MS),
        source="chargeback" if is_fraud else "customer",
        merchant_id=of.merchant_id if known else None,
        event_time_ms=of.event_time_ms if known else None,
    )


def crowd() -> tuple[list[Transaction], list[Label]]:
    """Everyday traffic: half-day 1 of each day has purchases, labels are reported at the day's start, some change."""
    chance = random.Random(17)
    purchases = [
        purchase(f"crowd-{number}", chance.randrange(DAYS) + chance.uniform(0.55, 0.95), merchant=chance.choice("mn"),
                 card=f"card-{number % 12}")
        for number in range(260)
    ]  # fmt: skip
    labels = []
    for one in purchases:
        day = (one.event_time_ms - START_MS) // DAY_MS
        if chance.random() < 0.4:
            labels.append(report(one, day + chance.choice((1, 5, 7, 9, 20)), is_fraud=True))
            if chance.random() < 0.4:
                labels.append(report(one, day + chance.choice((8, 21, 30)), is_fraud=False))
        elif chance.random() < 0.3:
            labels.append(report(one, day + 5, is_fraud=False))
    return sorted(purchases, key=lambda one: one.event_time_ms), labels


CORRECTED = purchase("corrected", 0.6)
ORPHAN = purchase("orphan", 0.7)
UNKNOWN = purchase("unknown", 0.75)
EARLY = purchase("labelled-before-it-came", 0.8)
VERY_LATE = purchase("labelled-120-days-later", 0.9)
PROBES = [purchase(f"probe-{day}", day + 0.6) for day in (6, 8, 12, 20, 25, 45, 128)]
LABELS = [
    report(CORRECTED, 5, is_fraud=True),
    report(CORRECTED, 11, is_fraud=False),
    report(CORRECTED, 23, is_fraud=True),
    report(ORPHAN, 2, is_fraud=True),  # its transaction never comes: counts all the same, for it says whose it is
    report(UNKNOWN, 2, is_fraud=True, known=False),  # neither comes its transaction, nor does it say whose it is
    report(EARLY, 1, is_fraud=True, known=False),  # waits for the decision
    report(VERY_LATE, 121, is_fraud=True),
]


@dataclass
class Scene:
    """What was published, in the order of arrival, and what became of it."""

    installed: Installation
    arrived: list[Transaction]
    labels: list[Label]
    decisions: dict[str, Decision]
    status: dict[str, Any]


@pytest.fixture(scope="module")
def scene(start: Start) -> Any:
    purchases, labels = crowd()
    labels = sorted([*labels, *LABELS], key=lambda label: label.reported_at_ms)
    # (half day of arrival, item): EARLY happened on day 0 and arrives on day 3
    timed = [((one.event_time_ms - START_MS) * 2 // DAY_MS, one) for one in [*purchases, *PROBES, CORRECTED, VERY_LATE]]
    timed.append((3 * 2 + 1, EARLY))
    transactions: dict[int, list[Transaction]] = {}
    for half_day, one in sorted(timed, key=lambda pair: (pair[0], pair[1].event_time_ms)):
        transactions.setdefault(half_day, []).append(one)
    reports: dict[int, list[Label]] = {}
    for label in labels:
        reports.setdefault((label.reported_at_ms - START_MS) * 2 // DAY_MS, []).append(label)
    with start("handbook") as installed:
        pipeline = installed.pipeline()
        kinesis, consumers = pipeline.client("kinesis"), consumers_of(pipeline)
        for half_day in sorted({*transactions, *reports}):
            with LabelPublisher(kinesis, pipeline.output("LabelsStreamName")) as label_publisher:
                for label in reports.get(half_day, ()):
                    label_publisher.publish(label)
            with TransactionPublisher(kinesis, pipeline.output("TransactionsStreamName")) as publisher:
                for one in transactions.get(half_day, ()):
                    publisher.publish(one)
            consumers.wait_until_at_rest()
        arrived = [one for half_day in sorted(transactions) for one in transactions[half_day]]
        yield Scene(installed, arrived, labels, stored_decisions(pipeline), installed.status())


def test_served_features_equal_the_scalar_path_and_the_oracle(scene: Scene) -> None:
    assert set(scene.decisions) == {one.transaction_id for one in scene.arrived}
    observed = list(observe_history(scene.arrived, feature_set("handbook"), scene.labels))
    ids, rows = [one.transaction_id for one, _ in observed], [observation.values for _, observation in observed]
    assert row_mismatches(ids, rows, scene.decisions, feature_set("handbook").names) == []
    assert feature_mismatches(scene.arrived, scene.decisions, "handbook", scene.labels) == []
    risky = [d for d in scene.decisions.values() if any(d.features[name] for name in RISKS)]
    assert len(risky) > 60


def test_a_risk_follows_its_labels(scene: Scene) -> None:
    """At the corner shop three purchases of day 0 came; of them and of one that never came up to three are frauds."""

    def risk(probe: str) -> tuple[float | None, float | None]:
        features = scene.decisions[probe].features
        return features["TERMINAL_ID_NB_TX_30DAY_WINDOW"], features["TERMINAL_ID_RISK_30DAY_WINDOW"]

    assert risk("probe-6") == (0.0, 0.0)  # day 0 is not a week ago
    # came: corrected, labelled-before, labelled-120-days-later; frauds: corrected, orphan, labelled-before
    assert risk("probe-8") == (3.0, 3 / 3)
    assert risk("probe-12") == (3.0, 2 / 3)  # withdrawn on day 11
    assert risk("probe-20") == (6.0, 2 / 6)  # the probes of days 6, 8 and 12 are purchases too
    assert risk("probe-25") == (6.0, 3 / 6)  # fraud again on day 23
    assert risk("probe-128") == (0.0, 0.0)


def test_the_labels_table_knows_what_holds_and_what_waits(scene: Scene) -> None:
    stored = stored_labels(scene.installed.pipeline())
    assert set(stored) == {label.transaction_id for label in scene.labels}
    holds = {label.transaction_id: label for label in scene.labels}  # in the order of reports: the last one
    assert {key: (label.is_fraud, label.reported_at_ms) for key, label in stored.items()} == {
        key: (label.is_fraud, label.reported_at_ms) for key, label in holds.items()
    }
    assert {key for key, label in stored.items() if label.waiting} == {"unknown"}
    assert (stored[EARLY.transaction_id].merchant_id, stored[EARLY.transaction_id].event_time_ms) == (
        EARLY.merchant_id,
        EARLY.event_time_ms,
    )


def test_merchants_hold_the_net_of_all_labels(scene: Scene) -> None:
    states = HistoryStates()
    for _ in observe_history(scene.arrived, feature_set("handbook"), scene.labels, states=states):
        pass
    assert (
        state_differences(
            stored_states(scene.installed.pipeline(), "merchant#"),
            {merchant_key(merchant): pack_merchant(state) for merchant, state in states.merchants.items()},
        )
        == []
    )


def test_status_counts_labels_apart_from_records(scene: Scene) -> None:
    assert scene.status["published"] == scene.status["decided"] == len(scene.arrived)
    labels = scene.status["labels"]
    assert labels["labels"] == len(scene.labels)
    assert labels["published"] == len(scene.labels) + 1  # the one that waited was sent again when it was decided
    assert labels["labels_waiting"] == 1
    assert labels["labels_quarantined"] == 0


def test_published_again_labels_change_nothing(scene: Scene) -> None:
    pipeline = scene.installed.pipeline()
    before = stored_states(pipeline), stored_labels(pipeline)
    with LabelPublisher(pipeline.client("kinesis"), pipeline.output("LabelsStreamName")) as publisher:
        for label in reversed(scene.labels):
            publisher.publish(label)
    consumers_of(pipeline).wait_until_at_rest()
    assert (stored_states(pipeline), stored_labels(pipeline)) == before
    assert scene.installed.status()["labels"]["labels"] == len(scene.labels)


def test_the_consistency_job_agrees_and_notices_one_changed_row(scene: Scene) -> None:
    found = json.loads(scene.installed.run("consistency", "--json"))
    assert found["holds"]
    assert found["compared"] == len(scene.arrived)
    victim = PROBES[3]
    restore = change_archived(scene.installed, victim, amount_minor=victim.amount_minor + 1)
    found = json.loads(scene.installed.run("consistency", "--json", expect=1))
    assert not found["holds"]
    assert found["other_payload"] == {"count": 1, "examples": [victim.transaction_id]}
    assert found["features"]["TX_AMOUNT"]["mismatch"] == 1
    assert found["features"]["TX_AMOUNT"]["examples"] == [victim.transaction_id]
    assert set(found["features"]) == {
        "TX_AMOUNT",
        *(f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW" for days in (1, 7, 30)),
    }
    restore()
    restore = change_archived(scene.installed, victim, transaction_id="somebody-else", merchant_id="elsewhere")
    found = json.loads(scene.installed.run("consistency", "--json", expect=1))
    assert found["without_decision"] == {"count": 1, "examples": ["somebody-else"]}
    assert found["without_record"] == {"count": 1, "examples": [victim.transaction_id]}
    assert found["features"]["TERMINAL_ID_NB_TX_30DAY_WINDOW"]["mismatch"] >= 1  # of a later probe there
    restore()
    assert json.loads(scene.installed.run("consistency", "--json"))["holds"]


def change_archived(installed: Installation, victim: Transaction, **changed: Any) -> Any:
    """Change one row of the archive; returns what undoes it."""
    pipeline = installed.pipeline()
    s3, bucket = pipeline.client("s3"), pipeline.output("LakeBucketName")
    row, other = encode_transaction(victim), encode_transaction(msgspec.structs.replace(victim, **changed))
    for entry in s3.list_objects_v2(Bucket=bucket, Prefix="raw/")["Contents"]:
        key = entry["Key"]
        stored = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        content = gzip.decompress(stored)
        if row in content.split(b"\n"):
            s3.put_object(Bucket=bucket, Key=key, Body=gzip.compress(content.replace(row, other)))
            return lambda: s3.put_object(Bucket=bucket, Key=key, Body=stored)
    raise AssertionError("the row is not in the archive")
