"""Amounts in US cents, by integers, from a table that is only appended to."""

from __future__ import annotations

import hashlib
import json
from decimal import ROUND_HALF_EVEN, Decimal

import pytest

from stream_features.currency import RateTable, base_amount
from stream_features.currency_rates import CURRENCY_RATES
from stream_features.errors import MalformedRecord
from stream_features.iso_codes import CURRENCIES

JANUARY_2018_MS = 1_514_764_800_000
SHIPPED_ROWS = 133
SHIPPED_SHA256 = "03e2b203bf2c937d7c0febbca96c4fce102276551f4507867134e7482a91a75d"

# G.5A, units per dollar; * dollars per unit
PUBLISHED = {
    ("*EUR", 2018): "1.1817",
    ("*GBP", 2020): "1.2829",
    ("CAD", 2019): "1.3269",
    ("CHF", 2022): "0.9550",
    ("CNY", 2023): "7.0809",
    ("INR", 2021): "73.9351",
    ("JPY", 2020): "106.7754",
    ("KRW", 2023): "1306.7637",
    ("MXN", 2018): "19.2179",
}


def test_the_rows_shipped_never_change() -> None:
    """New rows go after them."""
    shipped = json.dumps(CURRENCY_RATES[:SHIPPED_ROWS]).encode()
    assert hashlib.sha256(shipped).hexdigest() == SHIPPED_SHA256


@pytest.mark.parametrize("series", PUBLISHED)
def test_a_rate_is_the_published_one(series: tuple[str, int]) -> None:
    name, year = series
    currency = name.removeprefix("*")
    quote = Decimal(PUBLISHED[series])
    dollars = quote if name.startswith("*") else 1 / quote
    cents_per_minor_unit = dollars * 100 if currency in ("JPY", "KRW") else dollars
    rate = int((cents_per_minor_unit * 10**6).quantize(Decimal(1), ROUND_HALF_EVEN))
    assert (f"{year}-01-01", currency, rate) in CURRENCY_RATES


def test_every_currency_with_a_rate_is_a_currency() -> None:
    assert {currency for _, currency, _ in CURRENCY_RATES} <= CURRENCIES


def test_dollars_are_themselves_at_any_time() -> None:
    assert base_amount(10**12, "USD", 0) == 10**12


def test_yen_have_no_minor_unit() -> None:
    # 1,000 yen at 110.3974 yen a dollar
    assert base_amount(1_000, "JPY", JANUARY_2018_MS) == 906


def test_halves_round_up() -> None:
    table = RateTable([("1970-01-01", "XTS", 500_000)])
    assert [table.base_amount(minor, "XTS", 0) for minor in (0, 1, 2, 3)] == [0, 1, 1, 2]


def test_a_currency_with_three_digits_carries_its_exponent_in_the_rate() -> None:
    # 1 KWD = 1,000 fils = 3.25 dollars: 0.325 cents a fils
    table = RateTable([("2020-01-01", "KWD", 325_000)])
    assert table.base_amount(1_000, "KWD", 1_600_000_000_000) == 325


def test_the_newest_row_on_or_before_the_utc_date_holds() -> None:
    table = RateTable([("2020-01-02", "EUR", 3_000_000), ("2020-01-01", "EUR", 2_000_000)])
    midnight = 1_577_923_200_000  # 2020-01-02
    assert table.base_amount(1, "EUR", midnight - 1) == 2
    assert table.base_amount(1, "EUR", midnight) == 3
    assert table.base_amount(1, "EUR", midnight + 10**12) == 3


@pytest.mark.parametrize(("currency", "event_time_ms"), [("EUR", JANUARY_2018_MS - 1), ("ZWL", JANUARY_2018_MS)])
def test_without_a_row_there_is_no_rate(currency: str, event_time_ms: int) -> None:
    with pytest.raises(MalformedRecord) as caught:
        base_amount(1, currency, event_time_ms)
    assert (caught.value.field, caught.value.rule) == ("currency", "no_rate")


def test_contradicting_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="two rates"):
        RateTable([("2020-01-01", "EUR", 1), ("2020-01-01", "EUR", 2)])
    with pytest.raises(ValueError, match="below 1"):
        RateTable([("2020-01-01", "EUR", 0)])
