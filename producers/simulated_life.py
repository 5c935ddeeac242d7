"""What honest customers do: habits, trips, shopping tours, subscriptions, games, refunds, the odd big purchase."""

from __future__ import annotations

import random
from bisect import bisect
from typing import Final, NamedTuple

from producers.simulated_chance import Instalments, between, pick, pick_evenly, skewed, whole_between
from producers.simulated_population import (
    CITIES,
    CUSTOMERS_PER_AREA,
    DAY_MS,
    HOUR_MS,
    TRIP_PERIOD_MS,
    Customer,
    Merchant,
    Population,
    Shops,
    Trip,
)

MINUTE_MS: Final = 60_000

_BIG_PURCHASE_SHARE: Final = 0.004
_PARTNER_SHARE: Final = 0.10
_REFUND_SHARE: Final = 0.007
_TOURS_PER_DAY: Final = 1 / 60  # per customer
_GAMES_PER_DAY: Final = 1 / 20  # per customer who plays


class Event(NamedTuple):
    """One payment before it is written as a transaction; `scenario` is None for an honest one."""

    event_time_ms: int
    customer: Customer
    merchant: Merchant
    usd_cents: float
    scenario: str | None = None
    refund: bool = False
    device_id: str | None = None


class EverydayLife:
    """Draws honest payments for one UTC day (or a part of one) at a time."""

    def __init__(self, population: Population, rng: random.Random) -> None:
        self._population = population
        self._rng = rng
        self._online = population.online
        self._tours_due = Instalments(rng)
        self._games_due = Instalments(rng)
        self._refunds_due = Instalments(rng)
        self._period = -1
        self._trips: dict[int, Trip | None] = {}

    def ordinary(self, start_ms: int, until_ms: int, count: int) -> list[Event]:
        """Exactly `count` single purchases at times in [start, until) of one UTC day."""
        population, rng = self._population, self._rng
        self._enter_period(start_ms // TRIP_PERIOD_MS)
        day_ms = start_ms - start_ms % DAY_MS
        whole_day = until_ms - start_ms == DAY_MS
        buyers = rng.choices(population.customers, cum_weights=population.rate_totals, k=count)
        events = []
        for customer in buyers:
            event_time_ms = self._time_of_day(customer, day_ms)
            if not whole_day and not start_ms <= event_time_ms < until_ms:
                event_time_ms = start_ms + int(rng.random() * (until_ms - start_ms))
            events.append(self._purchase(customer, event_time_ms))
        return events

    def special(self, start_ms: int, until_ms: int) -> list[Event]:
        """Shopping tours, games and subscriptions that begin in [start, until) of one UTC day; may run on past it."""
        population, rng = self._population, self._rng
        self._enter_period(start_ms // TRIP_PERIOD_MS)
        days = (until_ms - start_ms) / DAY_MS
        events: list[Event] = []
        for _ in range(self._tours_due.take(len(population.customers) * _TOURS_PER_DAY * days)):
            customer = pick(rng, population.customers, population.rate_totals)
            events += self._tour(customer, start_ms + int(rng.random() * (until_ms - start_ms)))
        for _ in range(self._games_due.take(len(population.players) * _GAMES_PER_DAY * days)):
            customer = pick_evenly(rng, population.players)
            events += self._games(customer, start_ms + int(rng.random() * (until_ms - start_ms)))
        return events + self._subscriptions(start_ms, until_ms)

    def refunds(self, events: list[Event], until_ms: int) -> list[Event]:
        """Refunds, some days after `until`, of a few of the honest purchases in `events`."""
        rng = self._rng
        chosen = (pick_evenly(rng, events) for _ in range(self._refunds_due.take(len(events) * _REFUND_SHARE)))
        return [
            event._replace(event_time_ms=until_ms + int(between(rng, 0.1, 9.0) * DAY_MS), refund=True)
            for event in chosen
            if event.scenario is None and not event.refund
        ]

    def _enter_period(self, period: int) -> None:
        if period != self._period:
            self._period = period
            self._trips.clear()

    def _trip(self, customer: Customer) -> Trip | None:
        trips = self._trips
        if customer.index not in trips:
            trips[customer.index] = self._population.trip(customer, self._period)
        return trips[customer.index]

    def _time_of_day(self, customer: Customer, day_ms: int) -> int:
        hours, rng = customer.hours, self._rng
        hour = bisect(hours, rng.random() * hours[-1], 0, 23)
        return day_ms + hour * HOUR_MS + int(rng.random() * HOUR_MS)

    def _shops_at(self, customer: Customer, event_time_ms: int) -> Shops | None:
        """The shops around the customer at that time; None at home, where habits rule."""
        trip = self._trip(customer)
        if trip is None or not trip.departs_ms <= event_time_ms < trip.home_ms:
            return None
        if trip.arrives_ms <= event_time_ms < trip.returns_ms:
            return self._population.shops_of_city(trip.city)
        return self._online  # on the way

    def _purchase(self, customer: Customer, event_time_ms: int) -> Event:
        rng = self._rng
        luck = rng.random()
        away = self._shops_at(customer, event_time_ms)
        if customer.partner_area is not None and luck < _PARTNER_SHARE:
            merchant = self._population.shops_of_area(customer.partner_area).any(rng)
        elif away is not None:
            merchant = (self._online if luck < 0.25 else away).any(rng)
        elif luck > customer.curiosity:
            favourites = customer.favourites
            merchant = pick(rng, favourites.merchants, favourites.totals)
        elif rng.random() < customer.online_share:
            merchant = self._online.any(rng)
        else:
            merchant = self._population.shops_of_area(customer.area).any(rng)
        usd_cents = customer.level_cents * merchant.amount_factor * skewed(rng, customer.spread)
        if rng.random() < _BIG_PURCHASE_SHARE:
            usd_cents *= between(rng, 3.0, 7.0)
        device_id = customer.devices[int(rng.random() * len(customer.devices))] if merchant.is_online else None
        return Event(event_time_ms, customer, merchant, usd_cents, None, False, device_id)

    def _tour(self, customer: Customer, start_ms: int) -> list[Event]:
        """Three to five shops within some hours, wherever the customer is; one tour in four sits before a screen."""
        rng = self._rng
        away = self._shops_at(customer, start_ms)
        near = away if away is not None else self._population.shops_of_area(customer.area)
        shops = self._online if rng.random() < 0.25 else near
        event_time_ms, events = start_ms, []
        for _ in range(whole_between(rng, 3, 5)):
            merchant = shops.any(rng)
            usd_cents = customer.level_cents * merchant.amount_factor * skewed(rng, customer.spread)
            device_id = customer.devices[0] if merchant.is_online else None
            events.append(Event(event_time_ms, customer, merchant, usd_cents, None, False, device_id))
            event_time_ms += int(between(rng, 8.0, 50.0) * MINUTE_MS)
        return events

    def _games(self, customer: Customer, start_ms: int) -> list[Event]:
        """Tiny online purchases one after another."""
        rng = self._rng
        merchant = self._online.any(rng)
        event_time_ms, events = start_ms, []
        for _ in range(whole_between(rng, 2, 6)):
            usd_cents = whole_between(rng, 1, 5) * 100 - 1
            events.append(Event(event_time_ms, customer, merchant, usd_cents, None, False, customer.devices[0]))
            event_time_ms += int(between(rng, 0.5, 9.0) * MINUTE_MS)
        return events

    def _subscriptions(self, start_ms: int, until_ms: int) -> list[Event]:
        day_ms = start_ms - start_ms % DAY_MS
        day_of_month = (day_ms // DAY_MS) % 28 + 1  # a simulated month has 28 days
        return [
            Event(day_ms + time_of_day_ms, customer, merchant, usd_cents, None, False, customer.devices[0])
            for customer in self._population.customers
            for day, time_of_day_ms, merchant, usd_cents in customer.subscriptions
            if day == day_of_month and start_ms <= day_ms + time_of_day_ms < until_ms
        ]


def far_city(rng: random.Random, population: Population, customer: Customer) -> int:
    """Index of a city out of reach of the customer's home within hours."""
    home = population.city_of_area(customer.index // CUSTOMERS_PER_AREA)
    while True:
        index = whole_between(rng, 0, len(CITIES) - 1)
        away = CITIES[index]
        if abs(home.latitude - away.latitude) + abs(home.longitude - away.longitude) > 20.0:
            return index
