"""The feature semantics of docs/features.md restated with plain loops, to judge the clever code by.

No tiles, no arrays, no packing, nothing from the kernel: each value is computed from the list of everything that
arrived earlier. Of tiles only their definition is left: the instants that a merchant's purchases and reports are
rounded up to. Exact as long as a card keeps at most 1,024 purchases within retention, because nothing is merged until
then.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stream_features.currency_rates import CURRENCY_RATES
from stream_features.feature_sets import feature_set
from stream_features.label import Label
from stream_features.transaction import Transaction

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
RETENTION = 31 * DAY
KEPT_MERCHANTS = 128
KEPT_COUNTRIES = 32
EXACT_ENTRIES = 1024
CORE_WINDOWS = {"1m": MINUTE, "10m": 10 * MINUTE, "1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
DAYS = {"1": DAY, "7": 7 * DAY, "30": 30 * DAY}

LABEL_DELAY = 7 * DAY
REPORT_TAKES_EFFECT_AFTER = 2 * MINUTE
MERCHANT_RETENTION = 38 * DAY
COARSE_AFTER = 48 * HOUR

Row = dict[str, float | None]


def oracle_features(
    history: Sequence[Transaction], feature_set_name: str = "core", labels: Sequence[Label] = ()
) -> list[Row]:
    """The features of each transaction of `history`, which stands in order of arrival, by name in column order.

    `labels` stand in the order in which they were reported, and are known from `reported_at_ms` on by the latest event
    time so far.

    Raises:
        ValueError: no such feature set here, or a card exceeds what the oracle can judge.
    """
    rows_of = {"core": _core_row, "handbook": _handbook_row}
    if feature_set_name not in rows_of:
        raise ValueError(f"the oracle does not restate {feature_set_name}")
    names = feature_set(feature_set_name).names
    cards: dict[str, list[Transaction]] = {}
    merchants = _Merchants()
    unread = list(labels)
    rows = []
    clock = 0
    for transaction in history:
        clock = max(clock, transaction.event_time_ms)
        while unread and unread[0].reported_at_ms <= clock:
            merchants.report(unread.pop(0))
        stored = cards.setdefault(transaction.card_id, [])
        row, keep = rows_of[feature_set_name](stored, transaction, merchants.asked_by(transaction))
        merchants.decide(transaction)
        if tuple(row) != names:
            raise ValueError("the oracle's features are not the set's")
        rows.append(row)
        if keep:
            stored.append(transaction)
            newest = max(other.event_time_ms for other in stored)
            cards[transaction.card_id] = [other for other in stored if _hour_end(other) > newest - RETENTION]
            if len(cards[transaction.card_id]) > EXACT_ENTRIES:
                raise ValueError("a card has more purchases within retention than the oracle can judge")
    return rows


class _Merchants:
    """Everything that arrived about merchants: lists only."""

    def __init__(self) -> None:
        self.arrived: dict[str, Transaction] = {}
        self.purchases: dict[str, list[int]] = {}  # by merchant: event times
        self.labels: dict[str, list[Label]] = {}  # by transaction
        self.labelled: dict[str, list[str]] = {}  # by merchant: transactions

    def decide(self, transaction: Transaction) -> None:
        self.arrived[transaction.transaction_id] = transaction
        if transaction.type == "purchase":
            self.purchases.setdefault(transaction.merchant_id, []).append(transaction.event_time_ms)
        if transaction.transaction_id in self.labels:
            self._attribute(transaction.transaction_id)

    def report(self, label: Label) -> None:
        self.labels.setdefault(label.transaction_id, []).append(label)
        self._attribute(label.transaction_id)

    def _attribute(self, transaction_id: str) -> None:
        purchase = self.purchase(transaction_id)
        if purchase is not None:
            labelled = self.labelled.setdefault(purchase[0], [])
            if transaction_id not in labelled:
                labelled.append(transaction_id)

    def purchase(self, transaction_id: str) -> tuple[str, int] | None:
        """Merchant and event time of a labelled purchase: its own where it has arrived, else what a label says."""
        arrived = self.arrived.get(transaction_id)
        if arrived is not None:
            return (arrived.merchant_id, arrived.event_time_ms) if arrived.type == "purchase" else None
        for label in self.labels[transaction_id]:
            if label.merchant_id is not None and label.event_time_ms is not None:
                return label.merchant_id, label.event_time_ms
        return None

    def asked_by(self, current: Transaction) -> _Merchant:
        merchant_id = current.merchant_id
        changes = []
        for transaction_id in self.labelled.get(merchant_id, []):
            purchase = self.purchase(transaction_id)
            if purchase is None:
                continue
            state = False
            for label in self.labels[transaction_id]:
                if label.is_fraud != state:
                    effective = label.reported_at_ms + REPORT_TAKES_EFFECT_AFTER
                    changes.append((purchase[1], effective, 1 if label.is_fraud else -1))
                state = label.is_fraud
        return _Merchant(current.event_time_ms, self.purchases.get(merchant_id, []), changes)


class _Merchant:
    """What one merchant knows at `time`: event times of purchases; (event time, takes effect, change) of reports."""

    def __init__(self, time: int, purchases: list[int], changes: list[tuple[int, int, int]]) -> None:
        self.time = time
        self.newest = max(purchases, default=None)
        self.purchases = [event for event in purchases if not self._is_forgotten(event)]
        self.changes = [change for change in changes if not self._is_forgotten(change[0])]

    def _is_forgotten(self, time: int) -> bool:
        return self.newest is not None and _up(time, HOUR) <= self.newest - MERCHANT_RETENTION

    def count(self, length: int, delay: int, tile: int, coarse: int | None) -> int:
        """Purchases in the window of `length` that ends `delay` before now, their times rounded up to tiles."""
        end = self.time // tile * tile - delay
        newest = max(self.time, self.time if self.newest is None else self.newest)
        found = 0
        for purchase in self.purchases:
            rounded = _up(purchase, tile)
            if coarse is not None and rounded <= newest - COARSE_AFTER:
                rounded = _up(purchase, coarse)
            found += end - length < rounded <= end
        return found

    def frauds(self, length: int, delay: int, tile: int, fraud_tile: int) -> int:
        """Frauds of that window that are known by now."""
        end = self.time // tile * tile - delay
        return sum(
            change
            for event, effective, change in self.changes
            if end - length < _up(event, fraud_tile) <= end and _up(effective, fraud_tile) <= self.time
        )


def _up(time: int, length: int) -> int:
    """`time` rounded up to whole `length`s."""
    return (time + length - 1) // length * length


def is_late(history: Sequence[Transaction]) -> list[bool]:
    """For each transaction: whether a purchase of its card with a later event time arrived before it."""
    newest: dict[str, int] = {}
    late = []
    for transaction in history:
        late.append(transaction.event_time_ms < newest.get(transaction.card_id, 0))
        if transaction.type == "purchase":
            newest[transaction.card_id] = max(newest.get(transaction.card_id, 0), transaction.event_time_ms)
    return late


def _is_forgotten(stored: list[Transaction], current: Transaction) -> bool:
    newest = max((other.event_time_ms for other in stored), default=None)
    return newest is not None and _hour_end(current) <= newest - RETENTION


def _past_and_counted(
    stored: list[Transaction], current: Transaction
) -> tuple[list[Transaction], list[Transaction], bool]:
    """The card's past, the same with `current` if it counts, and whether `current` is to be stored."""
    is_purchase = current.type == "purchase"
    repeated = any(_same(other, current) for other in stored)
    past = [other for other in stored if other.event_time_ms <= current.event_time_ms and not _same(other, current)]
    return past, [*past, current] if is_purchase else past, is_purchase and not repeated


def _night_and_weekend(time: int) -> tuple[float, float]:
    when = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=time)
    return 1.0 if when.hour <= 6 else 0.0, 1.0 if when.weekday() >= 5 else 0.0


def _handbook_row(stored: list[Transaction], current: Transaction, merchant: _Merchant) -> tuple[Row, bool]:
    """The row of `current` against the `stored` purchases of its card, and whether it is to be stored."""
    time = current.event_time_ms
    night, weekend = _night_and_weekend(time)
    row: Row = {"TX_AMOUNT": float(cents(current)) / 100.0, "TX_DURING_WEEKEND": weekend, "TX_DURING_NIGHT": night}
    if _is_forgotten(stored, current):
        for entity, what in (("CUSTOMER", "AVG_AMOUNT"), ("TERMINAL", "RISK")):
            for days in DAYS:
                row[f"{entity}_ID_NB_TX_{days}DAY_WINDOW"] = None
                row[f"{entity}_ID_{what}_{days}DAY_WINDOW"] = None
        return row, False
    _, counted, keep = _past_and_counted(stored, current)
    for days, length in DAYS.items():
        inside = [cents(other) for other in counted if time - length < other.event_time_ms <= time]
        row[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"] = float(len(inside))
        mean = float(sum(inside)) / float(100 * len(inside)) if inside else 0.0
        row[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"] = mean
    for days, length in DAYS.items():
        purchases = merchant.count(length, LABEL_DELAY, SECOND, None)
        frauds = merchant.frauds(length, LABEL_DELAY, SECOND, SECOND)
        row[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"] = float(purchases)
        row[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"] = float(frauds) / float(purchases) if purchases else 0.0
    return row, keep


def _core_row(stored: list[Transaction], current: Transaction, merchant: _Merchant) -> tuple[Row, bool]:
    """The row of `current` against the `stored` purchases of its card, and whether it is to be stored."""
    time = current.event_time_ms
    amount = cents(current)
    night, weekend = _night_and_weekend(time)
    row: Row = {"amount": float(amount), "is_night": night, "is_weekend": weekend}
    names = (
        *(f"card_count_{w}" for w in CORE_WINDOWS),
        *(f"card_sum_{w}" for w in CORE_WINDOWS),
        "amount_over_card_mean_30d",
        "amount_over_card_max_30d",
        "seconds_since_last",
        "card_merchants_24h",
        "card_countries_24h",
        "first_time_at_merchant",
        "distance_from_last_m",
        "speed_from_last_m_s",
        "amount_over_card_mean_1d",
        "amount_over_card_mean_7d",
        *(f"merchant_count_{w}" for w in ("10m", "1h", "24h")),
        *(f"merchant_count_{days}d_delayed" for days in DAYS),
        *(f"merchant_risk_{days}d" for days in DAYS),
    )
    row.update(dict.fromkeys(names))
    if _is_forgotten(stored, current):
        return row, False  # older than retention: no windows, not stored
    is_purchase = current.type == "purchase"
    past, counted, keep = _past_and_counted(stored, current)

    for label, length in CORE_WINDOWS.items():
        inside = [other for other in counted if time - length < other.event_time_ms <= time]
        row[f"card_count_{label}"] = float(len(inside))
        row[f"card_sum_{label}"] = float(sum(cents(other) for other in inside))

    for days, length in DAYS.items():
        month = [cents(other) for other in past if other.event_time_ms > time - length]
        if sum(month) > 0:
            row[f"amount_over_card_mean_{days}d"] = float(amount) / (float(sum(month)) / float(len(month)))
            if days == "30":
                row["amount_over_card_max_30d"] = float(amount) / float(max(month))

    if past:
        row["seconds_since_last"] = (time - max(other.event_time_ms for other in past)) / 1000.0

    merchants = _remembered(stored, lambda other: other.merchant_id, _hash64, KEPT_MERCHANTS)
    countries = _remembered(stored, lambda other: other.country, _country_number, KEPT_COUNTRIES)
    today = [other for other in past if other.event_time_ms > time - DAY]
    seen_merchants = {other.merchant_id for other in today} & merchants
    seen_countries = {other.country for other in today} & countries
    if is_purchase:
        seen_merchants.add(current.merchant_id)
        seen_countries |= {current.country} - {None}
    row["card_merchants_24h"] = float(len(seen_merchants))
    row["card_countries_24h"] = float(len(seen_countries))
    if past:
        known = {other.merchant_id for other in past} & merchants
        row["first_time_at_merchant"] = 0.0 if current.merchant_id in known else 1.0

    placed = [other for other in past if other.latitude is not None and other.longitude is not None]
    if placed and current.latitude is not None and current.longitude is not None:
        last = max(placed, key=lambda other: (other.event_time_ms, _hash64(other.transaction_id)))
        metres = _metres(last, current)
        row["distance_from_last_m"] = float(metres)
        row["speed_from_last_m_s"] = float(metres * 1000) / float(max(time - last.event_time_ms, 1000))

    for label in ("10m", "1h", "24h"):
        row[f"merchant_count_{label}"] = float(merchant.count(CORE_WINDOWS[label], 2 * MINUTE, MINUTE, HOUR))
    for days, length in DAYS.items():
        purchases = merchant.count(length, LABEL_DELAY, MINUTE, HOUR)
        row[f"merchant_count_{days}d_delayed"] = float(purchases)
        if purchases:
            frauds = merchant.frauds(length, LABEL_DELAY, MINUTE, HOUR)
            row[f"merchant_risk_{days}d"] = float(frauds) / float(purchases)
    return row, keep


def _same(one: Transaction, other: Transaction) -> bool:
    return one.transaction_id == other.transaction_id and one.event_time_ms == other.event_time_ms


def _hour_end(transaction: Transaction) -> int:
    return (transaction.event_time_ms // HOUR + 1) * HOUR


def _remembered(
    stored: list[Transaction], value_of: Callable[[Transaction], Any], number: Callable[[Any], int], most: int
) -> set[Any]:
    """The values that a bounded map keeps: those with the greatest (last time, number)."""
    last: dict[Any, int] = {}
    for other in stored:
        value = value_of(other)
        if value is not None:
            last[value] = max(last.get(value, -1), other.event_time_ms)
    return set(sorted(last, key=lambda value: (last[value], number(value)))[-most:])


@functools.cache
def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _country_number(country: str) -> int:
    return ord(country[0]) * 256 + ord(country[1])


def cents(transaction: Transaction) -> int:
    """The amount in US cents by the newest rate dated on or before the transaction's UTC day."""
    rate = _rate(transaction.currency, transaction.event_time_ms // DAY)
    return (transaction.amount_minor * rate + 500_000) // 1_000_000


@functools.cache
def _rate(currency: str, days: int) -> int:
    day = (dt.date(1970, 1, 1) + dt.timedelta(days=days)).isoformat()
    return max((date, rate) for date, name, rate in CURRENCY_RATES if name == currency and date <= day)[1]


def _metres(one: Transaction, other: Transaction) -> int:
    places = []
    for transaction in (one, other):
        if transaction.latitude is None or transaction.longitude is None:
            raise ValueError("a distance needs two places")
        places.append((round(transaction.latitude * 1e6), round(transaction.longitude * 1e6)))
    (latitude_a, longitude_a), (latitude_b, longitude_b) = places
    across = abs(longitude_a - longitude_b)
    across = min(across, 360_000_000 - across)
    middle = abs(latitude_a + latitude_b) // 2
    degree, rest = middle // 10**6, middle % 10**6
    here, next_degree = (round(math.cos(math.radians(d)) * 10**9) for d in (degree, min(degree + 1, 90)))
    cosine = (here * (10**6 - rest) + next_degree * rest) // 10**6
    east = (across * cosine // 10**9) * 11_119_508 // 10**8
    north = abs(latitude_a - latitude_b) * 11_119_508 // 10**8
    return math.isqrt(east * east + north * north)


def bits(value: float | None) -> str | None:
    """A float64 as 16 hex digits, so that equal means equal bits; None for no value (NaN counts as none)."""
    if value is None or math.isnan(value):
        return None
    return struct.pack(">d", value).hex()


def assert_same_features(
    expected: Iterable[Mapping[str, float | None]], actual: Iterable[Mapping[str, float | None]]
) -> int:
    """Hold two lists of rows to the same names in the same order and the same bits; returns how many rows there were.

    Raises:
        AssertionError: naming the first row and feature that differ.
    """
    rows = 0
    for expected_row, actual_row in zip(expected, actual, strict=True):
        if list(expected_row) != list(actual_row):
            raise AssertionError(f"row {rows}: features {list(actual_row)}, expected {list(expected_row)}")
        for name, value in expected_row.items():
            if bits(value) != bits(actual_row[name]):
                raise AssertionError(f"row {rows}: {name} is {actual_row[name]!r}, expected {value!r}")
        rows += 1
    return rows
