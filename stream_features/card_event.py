"""A transaction as the kernel sees it: integers only."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from stream_features.currency import base_amount
from stream_features.transaction import Transaction

LATITUDE_SHIFT: Final = 90_000_001  # a stored latitude of 0 means "unknown"
LONGITUDE_SHIFT: Final = 180_000_001


class CardEvent(NamedTuple):
    """What a card's features read of a transaction.

    Attributes:
        event_time_ms: epoch ms.
        amount_base: US cents.
        id_hash: unsigned 64-bit, of the transaction id; `merchant_hash` likewise.
        merchant_hash: see `id_hash`.
        country: the two letters as one 16-bit number, 0 when unknown.
        latitude_e6: micro-degrees + LATITUDE_SHIFT, so at least 1; 0 when the place is unknown.
        longitude_e6: micro-degrees + LONGITUDE_SHIFT; 0 when the place is unknown.
        is_purchase: refunds and reversals are asked but never stored.
    """

    event_time_ms: int
    amount_base: int
    id_hash: int
    merchant_hash: int
    country: int
    latitude_e6: int
    longitude_e6: int
    is_purchase: bool


def card_event(transaction: Transaction) -> CardEvent:
    """`transaction` as integers.

    Raises:
        MalformedRecord: `currency`/`no_rate`.
    """
    country = transaction.country
    latitude, longitude = transaction.latitude, transaction.longitude
    placed = latitude is not None and longitude is not None
    return CardEvent(
        transaction.event_time_ms,
        base_amount(transaction.amount_minor, transaction.currency, transaction.event_time_ms),
        int.from_bytes(blake2b(transaction.transaction_id.encode(), digest_size=8).digest(), "little"),
        _merchant_hash(transaction.merchant_id),
        (ord(country[0]) << 8) | ord(country[1]) if country else 0,
        round(latitude * 1e6) + LATITUDE_SHIFT if placed else 0,  # type: ignore[operator]
        round(longitude * 1e6) + LONGITUDE_SHIFT if placed else 0,  # type: ignore[operator]
        transaction.type == "purchase",
    )


@lru_cache(maxsize=16_384)
def _merchant_hash(merchant_id: str) -> int:
    return int.from_bytes(blake2b(merchant_id.encode(), digest_size=8).digest(), "little")
