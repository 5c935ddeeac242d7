"""What the tests of this folder share: a valid transaction to vary, small layouts, and strategies for arrivals."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from stream_features.card_event import CardEvent
from stream_features.card_state import BASE_GRID_MS, CardLayout
from stream_features.feature_sets import CORE, FeatureSet
from stream_features.tiles import HOUR_MS, MINUTE_MS
from stream_features.transaction import Transaction

ARRIVAL_MS = 1_700_000_000_000

# a late minute before the hour at which, with three hours of retention, stored offsets are computed anew
REBASE_MS = 1_500 * BASE_GRID_MS // HOUR_MS * HOUR_MS + 4 * HOUR_MS


def a_transaction(**changes: Any) -> Transaction:
    fields: dict[str, Any] = {
        "transaction_id": "t-1",
        "event_time_ms": ARRIVAL_MS,
        "card_id": "card-1",
        "merchant_id": "Café 24/7",
        "amount_minor": 1_234,
        "currency": "USD",
    }
    return Transaction(**{**fields, **changes})


def a_full_transaction(**changes: Any) -> Transaction:
    fields: dict[str, Any] = {
        "type": "purchase",
        "auth_result": "approved",
        "merchant_category": "grocery",
        "channel": "pos",
        "country": "DE",
        "latitude": 52.520008,
        "longitude": 13.404954,
        "device_id": "device 7",
        "ip": "192.0.2.7",
    }
    return a_transaction(**{**fields, **changes})


def core_with(layout: CardLayout) -> FeatureSet:
    """The core features over a state of other bounds."""
    features = FeatureSet(CORE.name, CORE.version, CORE.features)
    object.__setattr__(features, "card_layout", layout)
    return features


def an_event(time_ms: int, id_hash: int = 1, **changes: Any) -> CardEvent:
    event = CardEvent(time_ms, 100, id_hash, 7, 0, 0, 0, True)
    return event._replace(**changes)


small_layouts = st.builds(
    CardLayout,
    retention_ms=st.integers(1, 12).map(lambda quarters: quarters * HOUR_MS // 4),
    exact_entries=st.integers(1, 5),
    merchants=st.integers(1, 3),
    countries=st.integers(1, 2),
    minutes_behind_ms=st.sampled_from([1, MINUTE_MS, 10 * MINUTE_MS, 90 * MINUTE_MS]),
)

event_times = st.one_of(
    st.integers(0, 5 * HOUR_MS),
    st.sampled_from([0, 1, MINUTE_MS - 1, MINUTE_MS, HOUR_MS - 1, HOUR_MS, HOUR_MS + 1, 2 * HOUR_MS, 3 * HOUR_MS]),
    st.integers(0, 40).map(lambda tens: tens * 10_000),
    st.integers(0, 40 * HOUR_MS),
)

events = st.builds(
    CardEvent,
    event_time_ms=st.builds(
        lambda origin, after: origin + after, st.sampled_from([0, REBASE_MS, REBASE_MS]), event_times
    ),
    amount_base=st.one_of(st.integers(0, 500), st.sampled_from([0, 2**32 - 1, 2**32, 10**12])),
    id_hash=st.integers(0, 2**64 - 1),
    merchant_hash=st.sampled_from([1, 2, 3, 256, 2**63]),
    country=st.sampled_from([0, 0x4445, 0x4652, 0x5553]),
    latitude_e6=st.sampled_from([0, 1, 90_000_001, 142_520_009]),
    longitude_e6=st.sampled_from([1, 180_000_001, 360_000_001]),
    is_purchase=st.sampled_from([True, True, True, True, False]),
).map(lambda event: event if event.latitude_e6 else event._replace(longitude_e6=0))


def distinct_arrivals(most: int = 16) -> st.SearchStrategy[list[CardEvent]]:
    """Arrivals of one card in any order, each id once."""
    return st.lists(events, min_size=1, max_size=most, unique_by=lambda event: event.id_hash)
