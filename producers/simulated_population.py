"""Who buys and who sells in the simulated world, and what each of them is like.

Everything here is a function of the seed and of an index (customer 12, area 3, online merchant 7, month 590), never of
the length of the stream: a longer or a later stream of one seed meets the same customers with the same habits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from producers.simulated_chance import (
    bell,
    between,
    generator,
    pick,
    pick_evenly,
    running_totals,
    skewed,
    whole_between,
)

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
TRIP_PERIOD_MS: Final = 28 * DAY_MS

CUSTOMERS_PER_AREA: Final = 40
PLACED_MERCHANTS_PER_AREA: Final = 36
ONLINE_MERCHANTS: Final = 90


@dataclass(frozen=True, slots=True)
class City:
    country: str
    latitude: float
    longitude: float
    utc_offset_hours: int


CITIES: Final = (
    City("US", 40.71, -74.01, -5),
    City("US", 41.88, -87.63, -6),
    City("US", 34.05, -118.24, -8),
    City("US", 29.76, -95.37, -6),
    City("US", 25.76, -80.19, -5),
    City("CA", 43.65, -79.38, -5),
    City("GB", 51.51, -0.13, 0),
    City("GB", 53.48, -2.24, 0),
    City("FR", 48.86, 2.35, 1),
    City("DE", 52.52, 13.41, 1),
    City("DE", 48.14, 11.58, 1),
    City("ES", 40.42, -3.70, 1),
    City("IT", 41.90, 12.50, 1),
    City("NL", 52.37, 4.90, 1),
    City("PL", 52.23, 21.01, 1),
    City("GR", 37.98, 23.73, 2),
    City("TR", 41.01, 28.98, 3),
    City("AE", 25.20, 55.27, 4),
    City("IN", 19.08, 72.88, 5),
    City("TH", 13.76, 100.50, 7),
    City("SG", 1.35, 103.82, 8),
    City("JP", 35.68, 139.69, 9),
    City("AU", -33.87, 151.21, 10),
    City("ZA", -26.20, 28.05, 2),
    City("NG", 6.52, 3.38, 1),
    City("BR", -23.55, -46.63, -3),
    City("MX", 19.43, -99.13, -6),
    City("AR", -34.60, -58.38, -3),
)
_HOME_CITIES: Final = CITIES[:16]

_EURO: Final = ("FR", "DE", "ES", "IT", "NL", "GR")
CURRENCY_OF_COUNTRY: Final = dict.fromkeys(_EURO, "EUR") | {
    "GB": "GBP", "CA": "CAD", "IN": "INR", "TH": "THB", "SG": "SGD",
    "JP": "JPY", "AU": "AUD", "ZA": "ZAR", "BR": "BRL", "MX": "MXN",
}  # fmt: skip
_MINOR_PER_US_CENT: Final = {  # only to make plausible prices; scoring has rates of its own
    "USD": 1.0, "EUR": 0.9, "GBP": 0.8, "CAD": 1.35, "INR": 80.0, "THB": 34.0, "SGD": 1.35,
    "JPY": 1.3, "AUD": 1.5, "ZAR": 17.0, "BRL": 5.0, "MXN": 19.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trade:
    """A line of business: what a purchase costs against the customer's own level, and how common the shops are."""

    category: str
    amount_factor: float
    weight: float


_PLACED_TRADES: Final = (
    Trade("grocery", 0.8, 7),
    Trade("restaurant", 0.6, 7),
    Trade("fuel", 0.9, 3),
    Trade("pharmacy", 0.45, 3),
    Trade("clothing", 1.3, 4),
    Trade("electronics", 2.6, 2),
    Trade("household", 1.4, 3),
    Trade("leisure", 0.7, 4),
    Trade("jewellery", 3.5, 1),
    Trade("cash", 1.8, 2),
)
_ONLINE_TRADES: Final = (
    Trade("marketplace", 0.8, 6),
    Trade("digital", 0.25, 5),
    Trade("clothing", 1.2, 4),
    Trade("electronics", 2.2, 3),
    Trade("travel", 3.2, 2),
    Trade("food_delivery", 0.55, 4),
    Trade("tickets", 1.4, 2),
)

# Share of purchases by local hour: office worker, early riser, at home in the day, evening, night shift.
_HOUR_PROFILES: Final = (
    (1, 0.5, 0.3, 0.2, 0.2, 0.5, 1.5, 4, 5, 3, 3, 5, 8, 6, 3, 3, 4, 8, 9, 8, 6, 4, 3, 2),
    (0.2, 0.2, 0.2, 0.3, 1, 4, 7, 8, 8, 7, 6, 6, 6, 5, 5, 5, 5, 5, 4, 3, 2, 1, 0.5, 0.3),
    (0.5, 0.3, 0.2, 0.2, 0.2, 0.4, 1, 2, 5, 8, 9, 9, 8, 7, 7, 7, 6, 5, 5, 4, 3, 2, 1, 1),
    (4, 2.5, 1.5, 0.8, 0.5, 0.4, 0.5, 1, 2, 2, 3, 4, 5, 5, 4, 4, 5, 6, 8, 9, 9, 8, 7, 6),
    (7, 7, 6, 6, 5, 5, 5, 5, 4, 2, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 4, 5, 6, 7),
)
_HOUR_PROFILE_WEIGHTS: Final = running_totals((40, 15, 20, 18, 7))


@dataclass(frozen=True, slots=True)
class Merchant:
    merchant_id: str
    category: str
    country: str
    currency: str
    latitude: float | None  # None: sells online
    longitude: float | None
    amount_factor: float  # price level against a customer's own

    @property
    def is_online(self) -> bool:
        return self.latitude is None

    def local_minor(self, usd_cents: float) -> int:
        """An amount of US cents in this merchant's currency, at least one minor unit."""
        return max(1, int(usd_cents * _MINOR_PER_US_CENT[self.currency] + 0.5))


@dataclass(frozen=True, slots=True)
class Shops:
    """Merchants of one kind with the running totals of their popularity."""

    merchants: tuple[Merchant, ...]
    totals: tuple[float, ...]

    def any(self, rng: random.Random) -> Merchant:
        return pick(rng, self.merchants, self.totals)


@dataclass(frozen=True, slots=True)
class Trip:
    """Away from home: nothing is bought in a shop in departs..arrives and returns..home."""

    departs_ms: int
    arrives_ms: int
    returns_ms: int
    home_ms: int
    city: int


@dataclass(frozen=True, slots=True)
class Customer:
    index: int
    card_id: str
    area: int
    rate: float  # purchases against the average customer's
    level_cents: float  # typical purchase, US cents
    spread: float  # of the customer's own amounts, see `skewed`
    hours: tuple[float, ...]  # running totals of 24 weights, by UTC hour
    favourites: Shops
    curiosity: float  # share of purchases at a merchant picked by popularity alone
    online_share: float  # of those
    plays_games: bool  # runs of tiny online purchases are normal for this card
    partner_area: int | None  # a second holder of the same card lives there
    trips_per_period: float
    subscriptions: tuple[tuple[int, int, Merchant, int], ...]  # day of month, ms of the day, merchant, US cents
    devices: tuple[str, ...]


class Population:
    """The world of one seed with its first `customers` customers; areas and merchants appear as they are needed."""

    def __init__(self, seed: int, customers: int) -> None:
        self.seed = seed
        self._areas: dict[int, Shops] = {}
        self._resorts: dict[int, Shops] = {}
        self.customers = [self._customer(index) for index in range(customers)]
        self.rate_totals = running_totals(customer.rate for customer in self.customers)
        self.players = [customer for customer in self.customers if customer.plays_games]

    @property
    def area_count(self) -> int:
        return (len(self.customers) - 1) // CUSTOMERS_PER_AREA + 1

    def city_of_area(self, area: int) -> City:
        return pick_evenly(generator(self.seed, "area", area), _HOME_CITIES)

    def shops_of_area(self, area: int) -> Shops:
        """The shops around the homes of one area."""
        if area not in self._areas:
            rng = generator(self.seed, "shops", area)
            self._areas[area] = self._shops(rng, self.city_of_area(area), f"a{area}", PLACED_MERCHANTS_PER_AREA)
        return self._areas[area]

    def shops_of_city(self, city: int) -> Shops:
        """The shops that visitors of `CITIES[city]` use."""
        if city not in self._resorts:
            rng = generator(self.seed, "resort", city)
            self._resorts[city] = self._shops(rng, CITIES[city], f"v{city}", PLACED_MERCHANTS_PER_AREA)
        return self._resorts[city]

    @cached_property
    def online(self) -> Shops:
        rng = generator(self.seed, "online")
        trades = running_totals(trade.weight for trade in _ONLINE_TRADES)
        merchants = []
        for index in range(ONLINE_MERCHANTS):
            trade = pick(rng, _ONLINE_TRADES, trades)
            country = pick_evenly(rng, _HOME_CITIES).country
            merchants.append(self._merchant(f"o{index}", trade, country, None, None, rng))
        return Shops(tuple(merchants), tuple(running_totals(1.0 / (rank + 4) for rank in range(ONLINE_MERCHANTS))))

    def trip(self, customer: Customer, period: int) -> Trip | None:
        """The customer's trip that departs in the given period of `TRIP_PERIOD_MS` since the epoch, if any."""
        rng = generator(self.seed, "trip", customer.index, period)
        if rng.random() >= customer.trips_per_period:
            return None
        # A week of room at the end keeps two trips of neighbouring periods apart.
        departs_ms = period * TRIP_PERIOD_MS + int(rng.random() * (TRIP_PERIOD_MS - 10 * DAY_MS))
        city = whole_between(rng, 0, len(CITIES) - 1)
        home, away = self.city_of_area(customer.area), CITIES[city]
        degrees = abs(home.latitude - away.latitude) + abs(home.longitude - away.longitude)
        journey_ms = int((3.0 + degrees * 0.12) * HOUR_MS)
        arrives_ms = departs_ms + journey_ms
        returns_ms = arrives_ms + int(between(rng, 1.0, 7.0) * DAY_MS)
        return Trip(departs_ms, arrives_ms, returns_ms, returns_ms + journey_ms, city)

    def _merchant(
        self,
        name: str,
        trade: Trade,
        country: str,
        latitude: float | None,
        longitude: float | None,
        rng: random.Random,
    ) -> Merchant:
        return Merchant(
            merchant_id=f"m-{self.seed}-{name}",
            category=trade.category,
            country=country,
            currency=CURRENCY_OF_COUNTRY.get(country, "USD"),
            latitude=latitude,
            longitude=longitude,
            amount_factor=trade.amount_factor * skewed(rng, 0.25),
        )

    def _shops(self, rng: random.Random, city: City, name: str, count: int) -> Shops:
        trades = running_totals(trade.weight for trade in _PLACED_TRADES)
        # Areas of one city lie apart from each other, shops of one area close together.
        latitude, longitude = city.latitude + bell(rng) * 0.12, city.longitude + bell(rng) * 0.12
        merchants = tuple(
            self._merchant(
                f"{name}-{index}",
                pick(rng, _PLACED_TRADES, trades),
                city.country,
                round(latitude + bell(rng) * 0.03, 5),
                round(longitude + bell(rng) * 0.03, 5),
                rng,
            )
            for index in range(count)
        )
        return Shops(merchants, tuple(running_totals(1.0 / (rank + 3) for rank in range(count))))

    def _customer(self, index: int) -> Customer:
        rng = generator(self.seed, "customer", index)
        area = index // CUSTOMERS_PER_AREA
        near = self.shops_of_area(area)
        level_cents = 3_500.0 * skewed(rng, 0.65)
        favourites = [near.any(rng) for _ in range(whole_between(rng, 4, 11))]
        favourites += [self.online.any(rng) for _ in range(whole_between(rng, 1, 5))]
        favourites = list(dict.fromkeys(favourites))
        fondness = running_totals(skewed(rng, 0.9) for _ in favourites)
        profile = pick(rng, _HOUR_PROFILES, _HOUR_PROFILE_WEIGHTS)
        offset = self.city_of_area(area).utc_offset_hours
        subscriptions = tuple(
            (
                whole_between(rng, 1, 28),
                int(rng.random() * DAY_MS),
                self.online.any(rng),
                whole_between(rng, 4, 60) * 100 - 1,
            )
            for _ in range(whole_between(rng, 0, 3))
        )
        return Customer(
            index=index,
            card_id=f"c-{self.seed}-{index}",
            area=area,
            rate=skewed(rng, 0.6),
            level_cents=level_cents,
            spread=between(rng, 0.4, 0.8),
            hours=tuple(running_totals(profile[(hour + offset) % 24] for hour in range(24))),
            favourites=Shops(tuple(favourites), tuple(fondness)),
            curiosity=between(rng, 0.03, 0.15),
            online_share=between(rng, 0.2, 0.6),
            plays_games=rng.random() < 0.15,
            partner_area=self._partner_area(rng, area),
            trips_per_period=between(rng, 0.0, 0.5),
            subscriptions=subscriptions,
            devices=tuple(f"d-{self.seed}-{index}-{device}" for device in range(whole_between(rng, 1, 3))),
        )

    def _partner_area(self, rng: random.Random, area: int) -> int | None:
        """Another area for one customer in 50: two people in two places then use one card, and rightly so."""
        shares_card, step = rng.random() < 0.02, whole_between(rng, 1, 5)
        return area + step if shares_card else None
