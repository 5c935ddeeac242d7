"""What the tests about merchants share: small layouts, and strategies for what reaches a merchant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from stream_features.merchant_state import HOUR_MS, MerchantLayout, MerchantState

SECOND_MS = 1_000
MINUTE_MS = 60_000
FAR_MS = 1_700_000_000_000


class Effect(NamedTuple):
    """A purchase (`delta` 0, `number` its amount) or a fraud entry (`number` is when it takes effect)."""

    time_ms: int
    number: int
    delta: int


@st.composite
def _layouts(draw: st.DrawFn) -> MerchantLayout:
    coarse = draw(st.booleans())
    return MerchantLayout(
        retention_ms=draw(st.integers(1, 20).map(lambda quarters: quarters * HOUR_MS // 4)),
        tile_ms=draw(st.sampled_from([SECOND_MS, MINUTE_MS, 10 * MINUTE_MS])),
        fine_behind_ms=draw(st.sampled_from([0, 1, 20 * MINUTE_MS, HOUR_MS, 90 * MINUTE_MS])) if coarse else None,
        coarse_tile_ms=draw(st.sampled_from([20 * MINUTE_MS, HOUR_MS])) if coarse else None,
        fraud_tile_ms=draw(st.sampled_from([SECOND_MS, 10 * MINUTE_MS, HOUR_MS])),
        settled_ms=draw(st.sampled_from([0, 5 * MINUTE_MS, HOUR_MS])),
    )


small_merchant_layouts = _layouts()

times = st.one_of(
    st.integers(0, 6 * HOUR_MS),
    st.integers(0, 36).map(lambda tens: tens * 10 * MINUTE_MS),  # on edges
    st.builds(lambda minute, beside: minute * MINUTE_MS + beside, st.integers(1, 300), st.integers(-1, 1)),
    st.integers(0, 40 * HOUR_MS),
).map(lambda after: FAR_MS // HOUR_MS * HOUR_MS + after)

purchases = st.builds(
    Effect, times, st.one_of(st.integers(0, 500), st.sampled_from([2**16, 2**32, 10**12])), st.just(0)
)
fraud_entries = st.builds(
    lambda time_ms, after_ms, delta: Effect(time_ms, time_ms + after_ms, delta),
    times,
    st.one_of(st.integers(-HOUR_MS, 8 * HOUR_MS), st.sampled_from([0, MINUTE_MS, 5 * MINUTE_MS, HOUR_MS])),
    st.sampled_from([1, 1, -1]),
)
effects = st.one_of(purchases, purchases, fraud_entries)


def apply(layout: MerchantLayout, state: MerchantState, what: Effect) -> bool:
    if what.delta:
        return state.add_fraud(layout, what.time_ms, what.number, what.delta)
    return state.add(layout, what.time_ms, what.number)


def state_of(layout: MerchantLayout, arrivals: Iterable[Effect]) -> MerchantState:
    state = MerchantState.empty()
    for what in arrivals:
        apply(layout, state, what)
    return state
