"""What thieves do with somebody's card, in six ways.

| scenario | what is seen |
| --- | --- |
| large_amount | one or two purchases far above the customer's level, mostly at merchants new to the card |
| stolen_card_spree | many shops around the victim's home within two hours |
| card_testing | tiny online amounts minutes apart, then one or two big ones |
| impossible_travel | purchases in a far city soon after the customer paid at home |
| compromised_merchant | for weeks, cards that paid at one merchant are used again, often through that very merchant |
| account_takeover | a few online purchases over days that look much like the customer's own |

Each has an honest double in `simulated_life` (big purchases, tours, games, trips and shared cards), so nothing here
can be told by one feature alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from producers.simulated_chance import Instalments, between, generator, pick, pick_evenly, skewed, whole_between
from producers.simulated_life import MINUTE_MS, Event, far_city
from producers.simulated_population import DAY_MS, HOUR_MS, Customer, Merchant, Population, Shops

FRAUD_SHARE: Final = 0.012  # of all transactions

COMPROMISED_MERCHANT: Final = "compromised_merchant"
IMPOSSIBLE_TRAVEL: Final = "impossible_travel"

_COMPROMISED_SHARE: Final = 0.10  # of the fraudulent transactions
_COMPROMISED_SIZE: Final = 1.5  # mean transactions per episode
_TRAVEL_SHARE: Final = 0.12
_TRAVEL_SIZE: Final = 2.5
_COMPROMISE_PERIOD_MS: Final = 14 * DAY_MS
_CUSTOMERS_PER_COMPROMISE: Final = 400
_EXPOSED_REMEMBERED: Final = 500
_NEW_DEVICE_SHARE: Final = 0.7


@dataclass(slots=True)
class Compromise:
    """A merchant whose customers' cards leak in [start, end)."""

    merchant: Merchant
    start_ms: int
    end_ms: int
    exposed: list[Customer] = field(default_factory=list)


class Thieves:
    """Draws the fraud that begins in one UTC day (or a part of one); an episode may run on past it."""

    def __init__(self, population: Population, rng: random.Random) -> None:
        self._population = population
        self._rng = rng
        self._compromises: list[Compromise] = []
        self._compromises_known_until = -1
        self._travel_due = Instalments(rng)
        self._leaks_due = Instalments(rng)
        self._scenarios = (
            (self._large_amount, 0.18, 1.5, Instalments(rng)),
            (self._stolen_card_spree, 0.32, 7.5, Instalments(rng)),
            (self._card_testing, 0.24, 6.0, Instalments(rng)),
            (self._account_takeover, 0.04, 3.0, Instalments(rng)),
        )

    def scheduled(self, start_ms: int, until_ms: int, transactions: int) -> list[Event]:
        """Fraud on victims picked by chance, in proportion to the day's `transactions`."""
        rng, population = self._rng, self._population
        events: list[Event] = []
        for episode, share, mean_size, due in self._scenarios:
            for _ in range(due.take(transactions * FRAUD_SHARE * share / mean_size)):
                victim = pick(rng, population.customers, population.rate_totals)
                events += episode(victim, start_ms + int(rng.random() * (until_ms - start_ms)))
        return events

    def after(self, honest: list[Event], start_ms: int, until_ms: int, transactions: int) -> list[Event]:
        """Fraud that follows what honest customers did in [start, until): far from home, or after a leak."""
        rng = self._rng
        events: list[Event] = []
        at_home = [event for event in honest if not event.merchant.is_online]
        if at_home:
            for _ in range(self._travel_due.take(transactions * FRAUD_SHARE * _TRAVEL_SHARE / _TRAVEL_SIZE)):
                events += self._impossible_travel(pick_evenly(rng, at_home))
        leaking = self._leaking(start_ms, until_ms)
        for compromise in leaking:
            merchant_id = compromise.merchant.merchant_id
            compromise.exposed += [event.customer for event in honest if event.merchant.merchant_id == merchant_id]
            del compromise.exposed[:-_EXPOSED_REMEMBERED]
        leaking = [compromise for compromise in leaking if compromise.exposed]
        if leaking:
            for _ in range(self._leaks_due.take(transactions * FRAUD_SHARE * _COMPROMISED_SHARE / _COMPROMISED_SIZE)):
                events += self._after_leak(pick_evenly(rng, leaking), until_ms)
        return events

    def _leaking(self, start_ms: int, until_ms: int) -> list[Compromise]:
        """The compromises of the present, which depend on the calendar and the population, not on the stream."""
        population = self._population
        last_period = (until_ms - 1) // _COMPROMISE_PERIOD_MS
        first_period = max(self._compromises_known_until + 1, start_ms // _COMPROMISE_PERIOD_MS - 2)
        for period in range(first_period, last_period + 1):
            rng = generator(population.seed, "compromises", period)
            for _ in range(1 + len(population.customers) // _CUSTOMERS_PER_COMPROMISE):
                area = whole_between(rng, 0, population.area_count - 1)
                shops = population.online if rng.random() < 0.5 else population.shops_of_area(area)
                # Only a busy merchant is worth the trouble.
                merchant = pick_evenly(rng, shops.merchants[:8])
                compromise_start_ms = period * _COMPROMISE_PERIOD_MS + int(rng.random() * _COMPROMISE_PERIOD_MS)
                days = between(rng, 14.0, 28.0)
                self._compromises.append(
                    Compromise(merchant, compromise_start_ms, compromise_start_ms + int(days * DAY_MS))
                )
        self._compromises_known_until = last_period
        self._compromises = [compromise for compromise in self._compromises if compromise.end_ms > start_ms]
        return [compromise for compromise in self._compromises if compromise.start_ms < until_ms]

    def _theft(self, scenario: str, event_time_ms: int, victim: Customer, merchant: Merchant, cents: float) -> Event:
        rng, device_id = self._rng, None
        if merchant.is_online:
            stranger = rng.random() < _NEW_DEVICE_SHARE
            device_id = f"d-{whole_between(rng, 0, 10**9):x}" if stranger else victim.devices[0]
        return Event(event_time_ms, victim, merchant, cents, scenario, False, device_id)

    def _near(self, victim: Customer) -> Shops:
        return self._population.shops_of_area(victim.area)

    def _large_amount(self, victim: Customer, start_ms: int) -> list[Event]:
        rng = self._rng
        shops = self._population.online if rng.random() < 0.6 else self._near(victim)
        events = []
        for _ in range(whole_between(rng, 1, 2)):
            cents = victim.level_cents * between(rng, 5.0, 18.0) * skewed(rng, 0.3)
            events.append(self._theft("large_amount", start_ms, victim, shops.any(rng), cents))
            start_ms += int(between(rng, 5.0, 240.0) * MINUTE_MS)
        return events

    def _stolen_card_spree(self, victim: Customer, start_ms: int) -> list[Event]:
        rng, near = self._rng, self._near(victim)
        events = []
        for _ in range(whole_between(rng, 5, 10)):
            merchant = near.any(rng)
            cents = victim.level_cents * merchant.amount_factor * between(rng, 1.2, 4.0) * skewed(rng, victim.spread)
            events.append(self._theft("stolen_card_spree", start_ms, victim, merchant, cents))
            start_ms += int(between(rng, 0.7, 9.0) * MINUTE_MS)
        return events

    def _card_testing(self, victim: Customer, start_ms: int) -> list[Event]:
        rng, online = self._rng, self._population.online
        events = []
        for _ in range(whole_between(rng, 3, 6)):
            cents = between(rng, 20.0, 300.0)
            events.append(self._theft("card_testing", start_ms, victim, online.any(rng), cents))
            start_ms += int(between(rng, 0.2, 4.0) * MINUTE_MS)
        for _ in range(whole_between(rng, 1, 2)):
            start_ms += int(between(rng, 2.0, 90.0) * MINUTE_MS)
            cents = victim.level_cents * between(rng, 2.5, 10.0) * skewed(rng, 0.3)
            events.append(self._theft("card_testing", start_ms, victim, online.any(rng), cents))
        return events

    def _account_takeover(self, victim: Customer, start_ms: int) -> list[Event]:
        rng, online = self._rng, self._population.online
        events = []
        for _ in range(whole_between(rng, 2, 4)):
            merchant = online.any(rng)
            cents = victim.level_cents * merchant.amount_factor * between(rng, 1.0, 2.5) * skewed(rng, victim.spread)
            events.append(self._theft("account_takeover", start_ms, victim, merchant, cents))
            start_ms += int(between(rng, 2.0, 40.0) * HOUR_MS)
        return events

    def _impossible_travel(self, last_seen: Event) -> list[Event]:
        rng, victim = self._rng, last_seen.customer
        shops = self._population.shops_of_city(far_city(rng, self._population, victim))
        event_time_ms, events = last_seen.event_time_ms, []
        for _ in range(whole_between(rng, 1, 4)):
            event_time_ms += int(between(rng, 5.0, 90.0) * MINUTE_MS)
            merchant = shops.any(rng)
            cents = victim.level_cents * merchant.amount_factor * between(rng, 1.0, 4.0) * skewed(rng, victim.spread)
            events.append(self._theft(IMPOSSIBLE_TRAVEL, event_time_ms, victim, merchant, cents))
        return events

    def _after_leak(self, compromise: Compromise, known_ms: int) -> list[Event]:
        rng = self._rng
        victim = pick_evenly(rng, compromise.exposed)
        event_time_ms, events = known_ms, []
        for _ in range(whole_between(rng, 1, 2)):
            event_time_ms += int(between(rng, 0.5, 72.0) * HOUR_MS)
            merchant = compromise.merchant if rng.random() < 0.6 else self._population.online.any(rng)
            cents = victim.level_cents * merchant.amount_factor * between(rng, 2.0, 8.0) * skewed(rng, victim.spread)
            events.append(self._theft(COMPROMISED_MERCHANT, event_time_ms, victim, merchant, cents))
        return events
