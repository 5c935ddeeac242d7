"""The EntityEvent contract: what a merchant's state is told, one record of the `entity-events` stream.

* `decided`: a transaction got its decision. A purchase applies once; a refund or reversal changes no state, but a label
  may wait to learn of it.
* `label`: the fraud entries that stand for a transaction, with a revision. A higher revision replaces the entries
  applied before; a lower or equal one is ignored.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from stream_features.contract import MAX_TIME_MS
from stream_features.errors import MalformedRecord
from stream_features.label_history import FraudEntry

__all__ = ["EntityEvent", "EntityEventKind", "FraudEntry", "decode_entity_event", "encode_entity_event"]

EntityEventKind = Literal["decided", "label"]
# Far above the worth of MAX_AMOUNT_MINOR in any currency, and a state's sums of 64 bits hold thousands of them.
MAX_AMOUNT_BASE: Final = 10**15
MAX_REVISION: Final = 2**53


class EntityEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One effect on one merchant.

    Attributes:
        kind: what happened.
        merchant_id: to whom.
        transaction_id: because of which transaction.
        event_time_ms: when that happened, epoch ms.
        amount_base: US cents of a decided purchase; 0 for a label.
        revision: of a label's entries, from 1; 0 for a decision.
        frauds: the entries that now stand for the transaction; empty for a decision.
        is_purchase: false for the decision of a refund or a reversal.
    """

    kind: EntityEventKind
    merchant_id: Annotated[str, Meta(min_length=1)]
    transaction_id: Annotated[str, Meta(min_length=1)]
    event_time_ms: Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
    amount_base: Annotated[int, Meta(ge=0, le=MAX_AMOUNT_BASE)] = 0
    revision: Annotated[int, Meta(ge=0, le=MAX_REVISION)] = 0
    frauds: list[FraudEntry] = []
    is_purchase: bool = True


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(EntityEvent).decode


def encode_entity_event(event: EntityEvent) -> bytes:
    """Compact JSON; equal events have equal bytes."""
    return _encode(event)


def decode_entity_event(raw: bytes | str) -> EntityEvent:
    """The event that `encode_entity_event` wrote; fields this code does not know are ignored.

    Raises:
        MalformedRecord: field `$`, rule `entity_event`.
    """
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecord("$", "entity_event", f"not an entity event: {error}") from None
