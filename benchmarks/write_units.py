"""DynamoDB write units per decision: what the tables charge for one transaction of a median and of a hot card.

A write unit is 1 KB of an item, rounded up; inside TransactWriteItems each write costs two. A decision that is alone in
its transaction writes its card's state, itself and the counter, and then its entry in `by_card` (not doubled).
Source: "DynamoDB read and write operations", Amazon DynamoDB Developer Guide.
"""

from __future__ import annotations

import math
from typing import Any

from lambdas.adapters.items import decision_item, state_item
from lambdas.batch import Arrival
from lambdas.cards import decided
from lambdas.judging import Judge
from lambdas.policy import Policy
from lambdas.ports import Prediction
from lambdas.records import UserRecord
from lambdas.writes import PutDecision, PutState
from stream_features.card_state import CardState
from stream_features.codec import pack
from stream_features.decision import StreamPosition
from stream_features.feature_sets import CORE
from stream_features.kernel import card_event, observe
from stream_features.names import card_key
from stream_features.transaction import Transaction, encode_transaction, payload_sha256

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
UNIT_BYTES = 1_024
MEDIAN_PURCHASES = 78  # of the handbook's cards in 31 days: 2.5 a day
HOT_PURCHASES = 50_000  # in 30 days: the design's worst case


def purchase(number: int, total: int) -> Transaction:
    """Evenly spread over 30 days, among 90 merchants."""
    return Transaction(
        transaction_id=f"transaction-{number:08d}",
        event_time_ms=START_MS + number * (30 * DAY_MS // total),
        card_id="card-0000001",
        merchant_id=f"merchant-{number * 7919 % 90}",
        amount_minor=1_000 + number * 31 % 9_000,
        currency="USD",
        country="US",
        latitude=40.0 + number % 10 / 10,
        longitude=-75.0,
    )


def item_bytes(item: dict[str, dict[str, Any]]) -> int:
    """An item's size as DynamoDB counts it: names and values in UTF-8, numbers about a byte per two digits plus one."""
    size = 0
    for name, typed in item.items():
        ((kind, value),) = typed.items()
        length = len(value) if kind == "B" else len(value.encode())
        size += len(name.encode()) + (length // 2 + 2 if kind == "N" else length)
    return size


def units(item: dict[str, dict[str, Any]]) -> int:
    return math.ceil(item_bytes(item) / UNIT_BYTES)


def measure() -> dict[str, tuple[int, int]]:
    """Per card: (packed state in bytes, write units of one decision that is alone in its transaction)."""
    return {name: _of_card(count) for name, count in (("median", MEDIAN_PURCHASES), ("hot", HOT_PURCHASES))}


def _of_card(purchases: int) -> tuple[int, int]:
    card = CardState.empty()
    for number in range(purchases):
        observe(CORE, card, card_event(purchase(number, purchases)))
    put, decision = _last_write(card, purchase(purchases, purchases))
    transactional = 2 * (units(state_item(put)) + units(decision_item(decision)) + 1)  # the counter fits one unit
    indexed = units(decision_item(decision))  # by_card; an approved decision is not in the sparse index of alerts
    return len(pack(card)), transactional + indexed


def _last_write(card: CardState, transaction: Transaction) -> tuple[PutState, PutDecision]:
    observation = observe(CORE, card, card_event(transaction))
    record = UserRecord(
        payload=encode_transaction(transaction),
        stream="transactions",
        position=StreamPosition("shardId-000000000000", "49" * 28, 0),
        arrival_ms=transaction.event_time_ms,
    )
    stored = decided(
        Arrival(transaction, payload_sha256(transaction), record),
        observation,
        Prediction(score=0.0123456789, reasons=[], model_version="core-0123456789ab", variant="AllTraffic"),
        Judge(Policy(policy_version="core-0123456789ab", review_from=0.5, decline_from=0.9), CORE),
        {},
        features=CORE,
        engine="lambda",
        scored_at_ms=transaction.event_time_ms,
    )
    put = PutState(
        entity=card_key(transaction.card_id),
        expected_version=7,
        layout=CORE.card_layout_id,
        packed=pack(card),
        complete_from_ms=None,
        expires_at_s=transaction.event_time_ms // 1000,
    )
    return put, PutDecision(stored, transaction.event_time_ms // 1000)
