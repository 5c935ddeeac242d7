"""One merchant's part of a batch: entity events through its state, and what has to be written for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from lambdas.cards import expiry_s
from lambdas.commit import MAX_ENTITY_EFFECTS, Link
from lambdas.records import UserRecord
from lambdas.writes import PutEffect, PutRevisedEffect, PutState, StoredEffect, StoredState, Write
from stream_features.currency import base_amount
from stream_features.decision import Decision
from stream_features.entity_event import EntityEvent, FraudEntry
from stream_features.errors import ContractMismatch, StateCorrupt
from stream_features.feature_sets import FeatureSet
from stream_features.label_history import replace_frauds
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.merchant_state import MerchantLayout, MerchantState
from stream_features.names import merchant_effect_key, merchant_key

_encode_frauds: Final = msgspec.json.Encoder().encode
_decode_frauds: Final = msgspec.json.Decoder(list[FraudEntry]).decode


class Arrived(Struct, frozen=True, eq=False):
    """An entity event with the record that brought it."""

    event: EntityEvent
    record: UserRecord


class Kept(Struct, frozen=True):
    """How long what update_entities writes is kept, in days from arrival."""

    decided_days: int  # also of states
    label_days: int


def effect_of(event: EntityEvent) -> str:
    """The key of the effect that stands for an event: once per merchant, transaction and kind."""
    return merchant_effect_key(event.merchant_id, event.transaction_id, event.kind)


def decided_event(decision: Decision) -> EntityEvent:
    """What a decision tells its merchant."""
    return EntityEvent(
        kind="decided",
        merchant_id=decision.merchant_id,
        transaction_id=decision.transaction_id,
        event_time_ms=decision.event_time_ms,
        amount_base=base_amount(decision.amount_minor, decision.currency, decision.event_time_ms),
        is_purchase=decision.is_purchase,
    )


def stored_merchant(features: FeatureSet, stored: StoredState) -> MerchantState:
    """Unpack a merchant's state. Raises StateCorrupt for another layout and for bytes that are none."""
    if stored.layout != features.merchant_layout_id:
        raise StateCorrupt(f"merchant state layout {stored.layout!r} is not {features.merchant_layout_id!r}")
    return unpack_merchant(stored.packed, stored.complete_from_ms)


def not_applied(arrivals: Sequence[Arrived], known: Mapping[str, StoredEffect]) -> list[Arrived]:
    """Those of one merchant's events that still have to be applied, one per effect, in arrival order.

    A decided event applies once. Of a transaction's label events the highest revision applies, if it is higher than
    the one that has been applied.
    """
    pending: dict[str, Arrived] = {}
    for arrived in arrivals:
        effect = effect_of(arrived.event)
        if arrived.event.kind == "decided":
            if effect not in known:
                pending.setdefault(effect, arrived)
            continue
        newest = pending[effect].event.revision if effect in pending else known.get(effect, StoredEffect(-1)).revision
        if arrived.event.revision > newest:
            pending[effect] = arrived
    return list(pending.values())


def merchant_links(
    features: FeatureSet,
    layout: MerchantLayout,
    stored: StoredState | None,
    pending: Sequence[Arrived],
    known: Mapping[str, StoredEffect],
    ttl: Kept,
) -> list[Link]:
    """Apply one merchant's pending events, in memory, and say what to write.

    Args:
        features: the active feature set.
        layout: its merchant layout.
        stored: the merchant's state as read; None for one never seen.
        pending: what `not_applied` answered; at least one.
        known: the effects that have been applied, by key.
        ttl: how long items stay.

    Returns:
        Transactions in order: at most `MAX_ENTITY_EFFECTS` effects each, with the state as of the last of them where
        they have changed it.

    Raises:
        StateCorrupt: the stored state has another layout or cannot be unpacked.
        ContractMismatch: a stored label effect cannot be read.
    """
    if stored is None:
        state, version = MerchantState.empty(), None
    else:
        state, version = stored_merchant(features, stored), stored.version
    links: list[Link] = []
    for start in range(0, len(pending), MAX_ENTITY_EFFECTS):
        run = pending[start : start + MAX_ENTITY_EFFECTS]
        changed = False
        effects: list[Write] = []
        for arrived in run:
            event = arrived.event
            effect = effect_of(event)
            if event.kind == "decided":
                changed |= state.add(layout, event.event_time_ms, event.amount_base)
                effects.append(PutEffect(effect, expiry_s(arrived.record.arrival_ms, ttl.decided_days)))
            else:
                changed |= replace_frauds(layout, state, _frauds(known.get(effect)), event.frauds)
                effects.append(_label_effect(effect, event, known.get(effect), arrived.record.arrival_ms, ttl))
        writes: list[Write] = []
        if changed:
            put = PutState(
                entity=merchant_key(run[0].event.merchant_id),
                expected_version=version,
                layout=layout.layout_id,
                packed=pack_merchant(state),
                complete_from_ms=state.complete_from_ms,
                expires_at_s=expiry_s(max(arrived.record.arrival_ms for arrived in run), ttl.decided_days),
            )
            version = put.version
            writes.append(put)
        links.append(Link((*writes, *effects), {}))
    return links


def _frauds(known: StoredEffect | None) -> list[FraudEntry]:
    if known is None:
        return []
    try:
        return _decode_frauds(known.document)
    except msgspec.MsgspecError as error:
        raise ContractMismatch(f"stored label effect: {error}") from error


def _label_effect(
    effect: str, event: EntityEvent, known: StoredEffect | None, arrival_ms: int, ttl: Kept
) -> PutRevisedEffect:
    return PutRevisedEffect(
        effect=effect,
        expected_revision=None if known is None else known.revision,
        revision=event.revision,
        document=_encode_frauds(event.frauds),
        expires_at_s=expiry_s(arrival_ms, ttl.label_days),
    )
