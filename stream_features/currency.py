"""Amounts in one base, USD cents, by integer arithmetic only."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from stream_features.currency_rates import CURRENCY_RATES
from stream_features.errors import MalformedRecord

RATE_SCALE: Final = 1_000_000
DAY_MS: Final = 86_400_000
_EPOCH: Final = dt.date(1970, 1, 1)


class RateTable:
    """Rates by currency and date.

    Args:
        rows: (ISO date, currency, rate): base minor units per minor unit x 10^6, valid from that UTC date on.

    Raises:
        ValueError: two rows of one currency and date, or a rate below 1.
    """

    def __init__(self, rows: Iterable[tuple[str, str, int]]) -> None:
        dated: dict[str, list[tuple[int, int]]] = {}
        for date, currency, rate in rows:
            if rate < 1:
                raise ValueError(f"rate of {currency} on {date} is below 1")
            from_ms = (dt.date.fromisoformat(date) - _EPOCH).days * DAY_MS
            dated.setdefault(currency, []).append((from_ms, rate))
        for currency, entries in dated.items():
            entries.sort()
            if len({from_ms for from_ms, _ in entries}) < len(entries):
                raise ValueError(f"two rates of {currency} on one date")
        self._from_ms = {currency: [from_ms for from_ms, _ in entries] for currency, entries in dated.items()}
        self._rates = {currency: [rate for _, rate in entries] for currency, entries in dated.items()}
        self.first_ms = {currency: starts[0] for currency, starts in self._from_ms.items()}

    def of(self, currency: str) -> tuple[list[int], list[int]]:
        """When the rates of `currency` start (epoch ms, ascending) and what they are; both empty for an unknown one."""
        return self._from_ms.get(currency, []), self._rates.get(currency, [])

    def base_amount(self, amount_minor: int, currency: str, event_time_ms: int) -> int:
        """`amount_minor` in base minor units, rounded half up.

        Raises:
            MalformedRecord: `currency`/`no_rate` when no row is dated on or before the event's UTC date.
        """
        starts = self._from_ms.get(currency)
        row = bisect_right(starts, event_time_ms) if starts is not None else 0
        if row == 0:
            raise MalformedRecord("currency", "no_rate", "no exchange rate on or before the event's date")
        return (amount_minor * self._rates[currency][row - 1] + RATE_SCALE // 2) // RATE_SCALE


RATES: Final = RateTable(CURRENCY_RATES)

base_amount: Final = RATES.base_amount  # (amount_minor, currency, event_time_ms) -> USD cents
