"""One card's part of a batch: its transactions through the windows, and then what has to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from lambdas.batch import Arrival
from lambdas.commit import MAX_CARD_DECISIONS, Link
from lambdas.judging import Judge, listed_of
from lambdas.ports import Prediction
from lambdas.writes import PutDecision, PutState, StoredDecision, StoredState, Write
from stream_features.card_state import CardState
from stream_features.codec import pack, unpack
from stream_features.decision import Decision, Engine
from stream_features.errors import StateCorrupt
from stream_features.feature_sets import FeatureSet
from stream_features.kernel import Observation, card_event, features_json, observe
from stream_features.merchant_state import MerchantState

DAY_S = 86_400


class CardWork(Struct, eq=False):
    """New transactions of one card in arrival order, with what the windows said about each.

    Attributes:
        arrivals: the transactions.
        observations: one per arrival.
        states: per run of `MAX_CARD_DECISIONS` arrivals the state as of its last one, None where it is unchanged.
    """

    arrivals: Sequence[Arrival]
    observations: list[Observation]
    states: list[PutState | None]


def observe_card(
    features: FeatureSet,
    entity: str,
    stored: StoredState | None,
    arrivals: Sequence[Arrival],
    merchants: Mapping[str, MerchantState],
    *,
    ttl_days: int,
) -> CardWork:
    """Apply one card's new transactions in order, in memory.

    Args:
        features: the active feature set.
        entity: the card's key in the state table.
        stored: its state as read; None for a card never seen.
        arrivals: its new transactions in arrival order; at least one.
        merchants: by merchant id, as read; one that is not in there was never seen. They are asked, never changed.
        ttl_days: how long the state stays after the last arrival.

    Raises:
        StateCorrupt: the stored state has another layout or cannot be unpacked.
    """
    if stored is None:
        state, version = CardState.empty(), None
    elif stored.layout != features.card_layout_id:
        raise StateCorrupt(f"state layout {stored.layout!r} is not {features.card_layout_id!r}")
    else:
        state, version = unpack(stored.packed, stored.complete_from_ms), stored.version
    observations: list[Observation] = []
    states: list[PutState | None] = []
    for start in range(0, len(arrivals), MAX_CARD_DECISIONS):
        run = arrivals[start : start + MAX_CARD_DECISIONS]
        observed = [
            observe(features, state, card_event(arrival.transaction), merchants.get(arrival.transaction.merchant_id))
            for arrival in run
        ]
        observations += observed
        if not any(observation.stored for observation in observed):
            states.append(None)
            continue
        put = PutState(
            entity=entity,
            expected_version=version,
            layout=features.card_layout_id,
            packed=pack(state),
            complete_from_ms=state.complete_from_ms,
            expires_at_s=expiry_s(run[-1].record.arrival_ms, ttl_days),
        )
        version = put.version
        states.append(put)
    return CardWork(arrivals, observations, states)


def expiry_s(arrival_ms: int, ttl_days: int) -> int:
    """When an item of this arrival may go, in epoch seconds: by the wall clock, so that replayed history stays."""
    return arrival_ms // 1000 + ttl_days * DAY_S


def decided(
    arrival: Arrival,
    observation: Observation,
    prediction: Prediction | None,
    judge: Judge,
    listed: Mapping[str, str],
    *,
    features: FeatureSet,
    engine: Engine,
    scored_at_ms: int,
) -> StoredDecision:
    """The decision on one transaction.

    Args:
        arrival: the transaction.
        observation: what the windows said about it.
        prediction: the endpoint's answer; None where it is down: the decision is degraded.
        judge: the policy.
        listed: the lists of the entities that are on one, by entry.
        features: the active feature set.
        engine: who computed the windows.
        scored_at_ms: now.
    """
    transaction = arrival.transaction
    values = features_json(features, observation.values)
    score = None if prediction is None else prediction.score
    judgement = judge.judge(transaction, values, score, listed_of(judge.policy, transaction, listed))
    return StoredDecision.of(
        Decision(
            transaction_id=transaction.transaction_id,
            event_time_ms=transaction.event_time_ms,
            card_id=transaction.card_id,
            merchant_id=transaction.merchant_id,
            amount_minor=transaction.amount_minor,
            currency=transaction.currency,
            type=transaction.type,
            auth_result=transaction.auth_result,
            merchant_category=transaction.merchant_category,
            channel=transaction.channel,
            country=transaction.country,
            latitude=transaction.latitude,
            longitude=transaction.longitude,
            device_id=transaction.device_id,
            ip=transaction.ip,
            score=score,
            decision=judgement.decision,
            reasons=[] if prediction is None else prediction.reasons,
            rules=judgement.rules,
            features=values,
            feature_set_id=features.feature_set_id,
            model_version="" if prediction is None else prediction.model_version,
            variant="" if prediction is None else prediction.variant,
            policy_version=judge.policy.policy_version,
            engine=engine,
            stream_position=arrival.record.position,
            arrival_ms=arrival.record.arrival_ms,
            scored_at_ms=scored_at_ms,
            late=observation.late,
            degraded=prediction is None,
            payload_sha256=arrival.payload_sha256,
        )
    )


def links(work: CardWork, decisions: Sequence[StoredDecision], *, ttl_days: int) -> list[Link]:
    """The card's transactions in order: each run of decisions with the state as of its last one."""
    chain: list[Link] = []
    for index, state in enumerate(work.states):
        run = decisions[index * MAX_CARD_DECISIONS : (index + 1) * MAX_CARD_DECISIONS]
        writes: list[Write] = [] if state is None else [state]
        writes += [PutDecision(stored, expiry_s(stored.decision.arrival_ms, ttl_days)) for stored in run]
        counts: Counter[str] = Counter()
        for stored in run:
            # A decision by the API is counted as decided with the first record of its transaction.
            counts["api_decided" if stored.decision.stream_position.of_request else "decided"] += 1
            counts["late"] += stored.decision.late
            counts["degraded"] += stored.decision.degraded
            counts["alerts"] += stored.decision.decision != "approve"
        chain.append(Link(tuple(writes), +counts))
    return chain
