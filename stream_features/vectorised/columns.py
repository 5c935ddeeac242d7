"""A history as columns: what the vectorised path reads instead of Transaction objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_features.card_event import LATITUDE_SHIFT, LONGITUDE_SHIFT, CardEvent
from stream_features.currency import RATE_SCALE, RATES, base_amount
from stream_features.transaction import Transaction

UNLABELLED: Final = -1
_INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryColumns:
    """Valid transactions in order of arrival, one per row; every array has shape (rows,).

    Attributes:
        transaction_ids: objects of type str.
        event_times_ms: int64, UTC epoch milliseconds.
        cards: int64, places in `card_ids`.
        card_ids: each card once, in any order.
        merchants: int64, places in `merchant_ids`.
        merchant_ids: each merchant once.
        amounts_minor: int64, minor units of the row's currency.
        currencies: int64, places in `currency_codes`.
        currency_codes: each currency once.
        countries: int64, the two letters as one 16-bit number, 0 when unknown.
        latitudes_e6: int64, micro-degrees + LATITUDE_SHIFT; 0 where the place is unknown, as in `longitudes_e6`.
        longitudes_e6: int64, micro-degrees + LONGITUDE_SHIFT.
        is_purchase: bool.
        frauds: int8, 1 fraud, 0 legitimate, UNLABELLED where nobody says.
    """

    transaction_ids: NDArray[np.object_]
    event_times_ms: NDArray[np.int64]
    cards: NDArray[np.int64]
    card_ids: Sequence[str]
    merchants: NDArray[np.int64]
    merchant_ids: Sequence[str]
    amounts_minor: NDArray[np.int64]
    currencies: NDArray[np.int64]
    currency_codes: Sequence[str]
    countries: NDArray[np.int64]
    latitudes_e6: NDArray[np.int64]
    longitudes_e6: NDArray[np.int64]
    is_purchase: NDArray[np.bool_]
    frauds: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.event_times_ms)

    def base_amounts(self) -> NDArray[np.int64]:
        """US cents of every row, by the rule of `stream_features.currency`.

        Raises:
            MalformedRecord: `currency`/`no_rate`.
        """
        amounts = np.empty(len(self), dtype=np.int64)
        for place, currency in enumerate(self.currency_codes):
            rows = np.flatnonzero(self.currencies == place) if len(self.currency_codes) > 1 else slice(None)
            amounts[rows] = _converted(currency, self.amounts_minor[rows], self.event_times_ms[rows])
        return amounts

    def card_event(self, row: int, amount_base: int) -> CardEvent:
        """Row number `row` as the kernel reads it; its amount in US cents is the caller's, computed for all at once."""
        return CardEvent(
            int(self.event_times_ms[row]),
            amount_base,
            hash64(self.transaction_ids[row]),
            hash64(self.merchant_ids[int(self.merchants[row])]),
            int(self.countries[row]),
            int(self.latitudes_e6[row]),
            int(self.longitudes_e6[row]),
            bool(self.is_purchase[row]),
        )


def hash64(text: str) -> int:
    """The unsigned 64-bit hash by which `stream_features.card_event` knows transactions and merchants."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def micro_degrees(degrees: NDArray[np.float64], shift: int) -> NDArray[np.int64]:
    """Places as integers, rounded half-even and shifted, 0 where `degrees` is NaN."""
    known = ~np.isnan(degrees)
    return np.where(known, np.rint(np.where(known, degrees, 0.0) * 1e6).astype(np.int64) + shift, 0)


def history_columns(history: Iterable[tuple[Transaction, bool | None]]) -> HistoryColumns:
    """Columns of (transaction, is fraud or None), given in order of arrival."""
    rows = list(history)
    transactions = [transaction for transaction, _ in rows]

    def numbers(value: Callable[[Transaction], Any]) -> NDArray[np.int64]:
        return np.array([value(transaction) for transaction in transactions], dtype=np.int64)

    def places(value: Callable[[Transaction], str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        seen: dict[str, int] = {}
        codes = numbers(lambda transaction: seen.setdefault(value(transaction), len(seen)))
        return codes, tuple(seen)

    def degrees(name: str, shift: int) -> NDArray[np.int64]:
        values = [
            getattr(t, name) if t.latitude is not None and t.longitude is not None else np.nan for t in transactions
        ]
        return micro_degrees(np.array(values, dtype=np.float64), shift)

    cards, card_ids = places(lambda transaction: transaction.card_id)
    merchants, merchant_ids = places(lambda transaction: transaction.merchant_id)
    currencies, currency_codes = places(lambda transaction: transaction.currency)
    transaction_ids = np.empty(len(rows), dtype=np.object_)
    transaction_ids[:] = [transaction.transaction_id for transaction in transactions]
    return HistoryColumns(
        transaction_ids=transaction_ids,
        event_times_ms=numbers(lambda transaction: transaction.event_time_ms),
        cards=cards,
        card_ids=card_ids,
        merchants=merchants,
        merchant_ids=merchant_ids,
        amounts_minor=numbers(lambda transaction: transaction.amount_minor),
        currencies=currencies,
        currency_codes=currency_codes,
        countries=numbers(lambda transaction: country_number(transaction.country)),
        latitudes_e6=degrees("latitude", LATITUDE_SHIFT),
        longitudes_e6=degrees("longitude", LONGITUDE_SHIFT),
        is_purchase=np.array([transaction.type == "purchase" for transaction in transactions], dtype=np.bool_),
        frauds=np.array([UNLABELLED if fraud is None else int(fraud) for _, fraud in rows], dtype=np.int8),
    )


def country_number(country: str | None) -> int:
    """The two letters as one 16-bit number, 0 for None."""
    return (ord(country[0]) << 8) | ord(country[1]) if country else 0


def country_letters(number: int) -> str | None:
    """The country that `country_number` made `number` of; None for 0."""
    return chr(number >> 8) + chr(number & 0xFF) if number else None


def _converted(currency: str, amounts_minor: NDArray[np.int64], event_times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    starts, rates = RATES.of(currency)
    chosen = np.searchsorted(np.array(starts, dtype=np.int64), event_times_ms, side="right") - 1
    if len(chosen) and int(chosen.min()) < 0:
        base_amount(0, currency, int(event_times_ms[int(np.argmin(chosen))]))  # says what is wrong
    rate = np.array(rates, dtype=np.int64)[chosen]
    converted = (amounts_minor * rate + RATE_SCALE // 2) // RATE_SCALE
    # products beyond 64 bits are done with Python's integers
    for row in np.flatnonzero(amounts_minor > (_INT64_MAX - RATE_SCALE) // np.maximum(rate, 1)).tolist():
        converted[row] = base_amount(int(amounts_minor[row]), currency, int(event_times_ms[row]))
    return converted
