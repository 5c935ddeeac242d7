"""The DecisionEvent contract: what subscribers of alerts and of decisions are told.

It is the message of the alerts topic (reviews and declines only) and the detail of the events on the bus (all
decisions, where the stack has a bus). Both are at least once: who acts on one remembers its `transaction_id`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stream_features.decision import Decision, Reason, Verdict
from stream_features.transaction import TransactionType

EVENT_SOURCE: Final = "fraudstream"
DETAIL_TYPE: Final = "decision"
REASONS: Final = 3


class DecisionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A decision as far as subscribers need it; `reasons` holds the three strongest.

    Times are epoch milliseconds, amounts minor units of `currency`. `score` is null where the decision is `degraded`:
    made by rules alone, while the endpoint was down. The whole decision, with its features, is what the
    score API's `GET /decisions/{transaction_id}` answers.
    """

    transaction_id: str
    card_id: str
    merchant_id: str
    event_time_ms: int
    amount_minor: int
    currency: str
    type: TransactionType
    score: float | None
    decision: Verdict
    reasons: list[Reason]
    rules: list[str]
    model_version: str
    policy_version: str
    scored_at_ms: int
    degraded: bool
    rescored_at_ms: int | None
    schema_version: int = 1


_encode: Final = msgspec.json.Encoder().encode


def decision_event(decision: Decision) -> DecisionEvent:
    """What subscribers are told of `decision`."""
    return DecisionEvent(
        transaction_id=decision.transaction_id,
        card_id=decision.card_id,
        merchant_id=decision.merchant_id,
        event_time_ms=decision.event_time_ms,
        amount_minor=decision.amount_minor,
        currency=decision.currency,
        type=decision.type,
        score=decision.score,
        decision=decision.decision,
        reasons=decision.reasons[:REASONS],
        rules=decision.rules,
        model_version=decision.model_version,
        policy_version=decision.policy_version,
        scored_at_ms=decision.scored_at_ms,
        degraded=decision.degraded,
        rescored_at_ms=decision.rescored_at_ms,
    )


def encode_decision_event(event: DecisionEvent) -> bytes:
    """Compact JSON."""
    return _encode(event)
