"""Whole metres, the same everywhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.distance import COSINE_E9, metres_between

latitudes = st.integers(-90_000_000, 90_000_000)
longitudes = st.integers(-180_000_000, 180_000_000)


def great_circle_m(a: tuple[int, int], b: tuple[int, int]) -> float:
    (lat_a, lon_a), (lat_b, lon_b) = ((math.radians(lat / 1e6), math.radians(lon / 1e6)) for lat, lon in (a, b))
    half = math.sin((lat_b - lat_a) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6_371_008.8 * math.asin(math.sqrt(half))


def test_the_table_holds_cosines() -> None:
    assert [round(math.cos(math.radians(degree)) * 10**9) for degree in range(91)] == list(COSINE_E9)


@settings(deadline=None)
@given(
    st.integers(-60_000_000, 60_000_000),
    longitudes,
    st.integers(-4_000_000, 4_000_000),
    st.integers(-6_000_000, 6_000_000),
)
def test_near_places_are_as_far_apart_as_on_the_sphere(lat: int, lon: int, north: int, east: int) -> None:
    there = max(-60_000_000, min(60_000_000, lat + north)), (lon + east + 180_000_000) % 360_000_000 - 180_000_000
    exact = great_circle_m((lat, lon), there)
    if exact <= 1_000_000:
        assert metres_between(lat, lon, *there) == pytest.approx(exact, rel=0.005, abs=3)


@settings(deadline=None)
@given(latitudes, longitudes, latitudes, longitudes)
def test_distance_is_symmetric_and_bounded(lat_a: int, lon_a: int, lat_b: int, lon_b: int) -> None:
    metres = metres_between(lat_a, lon_a, lat_b, lon_b)
    assert metres == metres_between(lat_b, lon_b, lat_a, lon_a)
    assert 0 <= metres <= 28_400_000
    assert metres_between(lat_a, lon_a, lat_a, lon_a) == 0


def test_the_date_line_is_no_wall() -> None:
    assert metres_between(0, 179_900_000, 0, -179_900_000) == metres_between(0, -100_000, 0, 100_000)


def test_known_distances() -> None:
    assert metres_between(52_520_008, 13_404_954, 48_856_613, 2_352_222) == pytest.approx(877_460, rel=0.005)
    assert metres_between(0, 0, 1_000_000, 0) == 111_195
