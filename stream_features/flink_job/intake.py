"""From records as they arrived to what the keyed stages take in, or to a rejected record and its mark."""

from __future__ import annotations

from typing import NamedTuple

from stream_features.card_event import CardEvent, card_event
from stream_features.decision import StreamPosition
from stream_features.entity_event import EntityEvent, decode_entity_event
from stream_features.errors import MalformedRecord
from stream_features.feature_record import RejectedMark
from stream_features.names import quarantine_key
from stream_features.rejected import Rejected, rejected
from stream_features.transaction import parse_transaction, payload_sha256

PAYLOAD_HASH_BYTES = 8


class Arrived(NamedTuple):
    """One user record as it came.

    Attributes:
        stream: its stream's name.
        position: where it stands there.
        arrival_ms: when it arrived there, epoch ms.
        payload: its bytes.
    """

    stream: str
    position: StreamPosition
    arrival_ms: int
    payload: bytes


class CardInput(NamedTuple):
    """A valid transaction, on its way to its card.

    Attributes:
        card_id: the key.
        merchant_id: the next key.
        event: what the kernel takes.
        payload_hash: the first bytes of the payload's SHA-256, canonical form.
        arrived: the record.
    """

    card_id: str
    merchant_id: str
    event: CardEvent
    payload_hash: bytes
    arrived: Arrived


class LabelInput(NamedTuple):
    """An entity event, on its way to its merchant (the key)."""

    merchant_id: str
    event: EntityEvent
    arrived: Arrived


class Refused(NamedTuple):
    """A record that breaks its contract: the object for quarantine, and what the `features` stream says of it."""

    rejected: Rejected
    mark: RejectedMark


def take_in_transaction(arrived: Arrived, *, now_ms: int) -> CardInput | Refused:
    """The transaction in a record of `transactions`; `now_ms` (epoch ms) dates a rejection."""
    try:
        transaction = parse_transaction(arrived.payload, arrival_ms=arrived.arrival_ms)
        event = card_event(transaction)
    except MalformedRecord as error:
        return _refused(arrived, error, now_ms)
    payload_hash = bytes.fromhex(payload_sha256(transaction)[: 2 * PAYLOAD_HASH_BYTES])
    return CardInput(transaction.card_id, transaction.merchant_id, event, payload_hash, arrived)


def take_in_entity_event(arrived: Arrived, *, now_ms: int) -> LabelInput | Refused:
    """The event in a record of `entity-events`; `now_ms` (epoch ms) dates a rejection."""
    try:
        event = decode_entity_event(arrived.payload)
    except MalformedRecord as error:
        return _refused(arrived, error, now_ms)
    return LabelInput(event.merchant_id, event, arrived)


def _refused(arrived: Arrived, error: MalformedRecord, now_ms: int) -> Refused:
    stream, position, arrival_ms, payload = arrived
    return Refused(
        rejected(
            payload,
            error,
            stream=stream,
            stream_position=position,
            arrival_ms=arrival_ms,
            rejected_at_ms=now_ms,
        ),
        RejectedMark(
            stream=stream,
            position=position,
            arrival_ms=arrival_ms,
            field=error.field,
            rule=error.rule,
            key=quarantine_key(stream, position.shard_id, position.sequence_number, position.sub_sequence_number),
        ),
    )
