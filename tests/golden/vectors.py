"""Writes tests/golden/<feature set>_vectors.jsonl: `python -m tests.golden.vectors`.

One header line (feature set id, columns, labels as published), then one line per transaction in order of arrival: the
transaction as published and each feature as the 16 hex digits of its big-endian float64, null for no value.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from stream_features.feature_sets import FEATURE_SETS, FeatureSet
from stream_features.history import observe_history
from stream_features.label import Label, encode_label, parse_label
from stream_features.transaction import Transaction, encode_transaction, parse_transaction
from tests.oracle import bits

COUNT: Final = 300
START_MS: Final = 1_600_000_000_000
DAY_MS: Final = 86_400_000
ARRIVAL_MS: Final = START_MS + 10_000 * DAY_MS

Document = dict[str, Any]


def vectors_path(features: FeatureSet) -> Path:
    return Path(__file__).with_name(f"{features.name}_vectors.jsonl")


def vectors(features: FeatureSet, documents: Iterable[Document], labels: Iterable[Document]) -> Iterator[Document]:
    """The golden line of each transaction; documents as published, transactions in order of arrival."""
    transactions = (parse_transaction(json.dumps(document).encode(), arrival_ms=ARRIVAL_MS) for document in documents)
    reports = (parse_label(json.dumps(document).encode()) for document in labels)
    for transaction, observation in observe_history(transactions, features, reports):
        yield {
            "transaction": json.loads(encode_transaction(transaction)),
            "features": [bits(value) for value in observation.values],
            "late": observation.late,
            "stateless": observation.stateless,
        }


def _transactions() -> list[Transaction]:
    source = random.Random(20201)
    time_ms = START_MS
    transactions = []
    for number in range(COUNT):
        time_ms += source.choice([0, 1, 700, 30_000, 5 * 60_000, 3 * 3_600_000, source.randrange(3 * DAY_MS)])
        behind_ms = source.choice([0] * 8 + [1, 90_000, source.randrange(2 * DAY_MS), source.randrange(90 * DAY_MS)])
        placed = source.random() < 0.8
        transactions.append(
            Transaction(
                transaction_id=f"golden-{number:04d}",
                event_time_ms=time_ms - behind_ms,
                card_id=f"card-{source.randrange(4)}",
                merchant_id=f"Händler {min(source.randrange(12), source.randrange(12))}",
                amount_minor=source.choice([0, 1, 99, 10**12, *(source.randrange(50_000) for _ in range(8))]),
                currency=source.choice(["USD", "USD", "EUR", "JPY"]),
                type=source.choice(["purchase"] * 12 + ["refund", "reversal"]),  # type: ignore[arg-type]
                country=source.choice(["DE", "FR", "US", "JP", None]),
                latitude=source.uniform(-90, 90) if placed else None,
                longitude=source.uniform(-180, 180) if placed else None,
            )
        )
    return transactions


def _labels(transactions: list[Transaction]) -> list[Label]:
    """Frauds and withdrawals, reported from at once to 40 days after."""
    source = random.Random(20202)
    labels = []
    for transaction in source.choices(transactions, k=COUNT // 2):
        told = transaction.type == "purchase" and source.random() < 0.5
        labels.append(
            Label(
                transaction_id=transaction.transaction_id,
                is_fraud=source.random() < 0.7,
                reported_at_ms=transaction.event_time_ms
                + source.choice([0, 5 * DAY_MS, 7 * DAY_MS - 120_000, source.randrange(40 * DAY_MS)]),
                source="chargeback",
                merchant_id=transaction.merchant_id if told else None,
                event_time_ms=transaction.event_time_ms if told else None,
            )
        )
    return sorted(labels, key=lambda label: label.reported_at_ms)


if __name__ == "__main__":
    published = _transactions()
    documents = [json.loads(encode_transaction(transaction)) for transaction in published]
    reported = [json.loads(encode_label(label)) for label in _labels(published)]
    for feature_set in FEATURE_SETS.values():
        header = {
            "feature_set_id": feature_set.feature_set_id,
            "columns": list(feature_set.names),
            "labels": reported,
        }
        rows = [header, *vectors(feature_set, documents, reported)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        vectors_path(feature_set).write_text(text, encoding="utf-8")
