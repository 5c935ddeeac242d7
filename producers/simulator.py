"""A seeded stream of card payments with the truth about each: who paid, where, and which were fraud.

One seed is one world (`simulated_population`); `simulate` walks through its days and writes down exactly as many
payments as asked. Nothing here reads the feature definitions, and nothing there knows these numbers.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as count_from
from itertools import pairwise
from typing import Final, Literal

from producers.simulated_chance import generator
from producers.simulated_fraud import Thieves
from producers.simulated_life import Event, EverydayLife
from producers.simulated_population import DAY_MS, Merchant, Population
from stream_features.errors import UsageError
from stream_features.transaction import Transaction

DEFAULT_DAYS: Final = 30.0
MAX_SEED: Final = 2**53
EARLIEST_MS: Final = 1_514_764_800_000  # 2018-01-01

_PAYMENTS_PER_CUSTOMER_AND_DAY: Final = 1.6
_MIN_CUSTOMERS: Final = 20
_DECLINED_SHARE: Final = 0.02
_WEEKDAY_WEIGHTS: Final = (0.95, 0.95, 1.0, 1.0, 1.1, 1.15, 0.85)  # Monday first


@dataclass(frozen=True, slots=True)
class SimulatedTransaction:
    """A transaction and the truth about it; `scenario` names the kind of fraud and is None for honest payments."""

    transaction: Transaction
    is_fraud: bool
    scenario: str | None


def simulate(
    count: int, *, seed: int, end_ms: int, days: float = DEFAULT_DAYS, customers: int | None = None
) -> Iterator[SimulatedTransaction]:
    """Exactly `count` distinct valid transactions in event-time order over (end - days, end], the last one at `end_ms`.

    The same arguments give the same stream on any machine. Another seed, end, count or span gives other
    transaction ids; cards and merchants belong to the seed alone, so a later stream of the same seed continues the
    lives of the same customers. For a history and what follows it, simulate both as one stream and cut it.

    Args:
        count: how many transactions, at least 0.
        seed: 0 to 2^53.
        end_ms: event time of the last transaction, UTC epoch milliseconds.
        days: length of the span; more days for the same count means fewer customers, not rarer payments.
        customers: how many customers, if not as many as pay 1.6 times a day each.

    Raises:
        UsageError: an argument is out of range.
    """
    if count < 0 or not 0 <= seed <= MAX_SEED or not 0 < days <= 3_650 or (customers is not None and customers < 1):
        raise UsageError("simulate needs count >= 0, seed in 0..2^53, days in (0, 3650] and at least one customer")
    span_ms = int(days * DAY_MS)
    if end_ms - span_ms < EARLIEST_MS:
        raise UsageError("a simulation must begin in 2018 or later: there are no exchange rates before")
    if customers is None:
        customers = max(_MIN_CUSTOMERS, round(count / (days * _PAYMENTS_PER_CUSTOMER_AND_DAY)))
    return _written_down(count, seed, end_ms, span_ms, customers)


def _written_down(count: int, seed: int, end_ms: int, span_ms: int, customers: int) -> Iterator[SimulatedTransaction]:
    run = f"{seed}/{end_ms}/{count}/{span_ms}/{customers}"
    id_prefix = f"sim-{seed}-{hashlib.sha256(run.encode()).hexdigest()[:10]}-"
    rng = generator("payments", run)
    events = _events(count, Population(seed, customers), run, end_ms - span_ms, end_ms)
    for number, event in enumerate(events, start=1):
        event_time_ms = end_ms if number == count else event.event_time_ms
        merchant = event.merchant
        yield SimulatedTransaction(
            Transaction(
                transaction_id=f"{id_prefix}{number}",
                event_time_ms=event_time_ms,
                card_id=event.customer.card_id,
                merchant_id=merchant.merchant_id,
                amount_minor=merchant.local_minor(event.usd_cents),
                currency=merchant.currency,
                type="refund" if event.refund else "purchase",
                auth_result="declined" if rng.random() < _DECLINED_SHARE else "approved",
                merchant_category=merchant.category,
                channel=_channel(merchant),
                country=merchant.country,
                latitude=merchant.latitude,
                longitude=merchant.longitude,
                device_id=event.device_id,
            ),
            event.scenario is not None,
            event.scenario,
        )


def _channel(merchant: Merchant) -> Literal["ecom", "atm", "pos"]:
    if merchant.is_online:
        return "ecom"
    return "atm" if merchant.category == "cash" else "pos"


def _events(count: int, population: Population, run: str, start_ms: int, end_ms: int) -> Iterator[Event]:
    """Exactly `count` events of [start, end) in time order, one UTC day after the other."""
    rng = generator("events", run)
    life, thieves = EverydayLife(population, rng), Thieves(population, rng)
    ticket = count_from()  # ties in time keep the order in which they were drawn
    later: list[tuple[int, int, Event]] = []
    for from_ms, until_ms, quota in _days(count, start_ms, end_ms):
        drawn = thieves.scheduled(from_ms, until_ms, quota) + life.special(from_ms, until_ms)
        for event in drawn:
            heapq.heappush(later, (event.event_time_ms, next(ticket), event))
        today = _due(later, until_ms)
        ordinary = life.ordinary(from_ms, until_ms, max(0, quota - len(today)))
        for event in thieves.after(ordinary, from_ms, until_ms, quota):
            heapq.heappush(later, (event.event_time_ms, next(ticket), event))
        for event in life.refunds(ordinary, until_ms):
            heapq.heappush(later, (event.event_time_ms, next(ticket), event))
        today += _due(later, until_ms)
        # What the thieves added to the day, an honest purchase gives way for; a tiny quota may not even hold the rest.
        surplus = len(today) + len(ordinary) - quota
        if surplus > 0:
            del ordinary[len(ordinary) - min(surplus, len(ordinary)) :]
            rng.shuffle(today)
            del today[quota - len(ordinary) :]
        today += ordinary
        today.sort(key=_event_time)
        yield from today


def _event_time(event: Event) -> int:
    return event.event_time_ms


def _due(later: list[tuple[int, int, Event]], until_ms: int) -> list[Event]:
    due = []
    while later and later[0][0] < until_ms:
        due.append(heapq.heappop(later)[2])
    return due


def _days(count: int, start_ms: int, end_ms: int) -> Iterator[tuple[int, int, int]]:
    """The UTC days of [start, end) as (from, until, transactions), the transactions adding up to `count`."""
    edges = [start_ms, *range(start_ms - start_ms % DAY_MS + DAY_MS, end_ms, DAY_MS), end_ms]
    days = list(pairwise(edges))
    weights = [
        (until_ms - from_ms) * _WEEKDAY_WEIGHTS[(from_ms // DAY_MS + 3) % 7]  # 1970-01-01 was a Thursday
        for from_ms, until_ms in days
    ]
    total, drawn, passed = sum(weights), 0, 0.0
    for (from_ms, until_ms), weight in zip(days, weights, strict=True):
        passed += weight
        reached = count if until_ms == end_ms else round(count * passed / total)
        yield from_ms, until_ms, reached - drawn
        drawn = reached
