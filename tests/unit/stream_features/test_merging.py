"""History loaded beside a running stream: the card's state is that of the set of all its purchases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.card_event import CardEvent
from stream_features.card_state import CardLayout, CardState
from stream_features.codec import pack, unpack
from stream_features.errors import UsageError
from stream_features.merging import with_history

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
T_MS = START_MS + 30 * HOUR_MS
ROOMY = CardLayout(retention_ms=48 * HOUR_MS, exact_entries=512, merchants=64, countries=16)
TIGHT = CardLayout(retention_ms=24 * HOUR_MS, exact_entries=4, merchants=3, countries=2)


def purchase(number: int, time_ms: int) -> CardEvent:
    return CardEvent(time_ms, 100 + number, number * 2**40 + 7, number % 5 + 1, 0x5553 + number % 3, 0, 0, True)


def state_of(layout: CardLayout, events: list[CardEvent]) -> CardState:
    """Every event stored as the kernel stores it, in the order given."""
    card = CardState.empty()
    for event in events:
        newest_ms = card.newest_ms
        if newest_ms is not None and event.event_time_ms < layout.cut_ms(newest_ms):
            continue
        if card.is_merged_range(event):
            card.add_merged(layout, event)
            continue
        index = card.insertion_index(event)
        if not card.holds(event, index):
            card.add(layout, event)
    return card


before_t = st.integers(START_MS, T_MS - 1)
from_t_on = st.integers(T_MS, T_MS + 20 * HOUR_MS)


@pytest.mark.parametrize("layout", [ROOMY, TIGHT])
@settings(deadline=None)
@given(
    old=st.lists(before_t, max_size=12),
    new=st.lists(from_t_on, max_size=4),
    again=st.lists(st.integers(0, 11), max_size=3),
)
def test_merging_equals_having_seen_everything(
    layout: CardLayout, old: list[int], new: list[int], again: list[int]
) -> None:
    """Bootstrap at T, some old ids streaming again: the same bytes as streaming all of it once."""
    history = [purchase(number, time_ms) for number, time_ms in enumerate(old)]
    live = [purchase(100 + number, time_ms) for number, time_ms in enumerate(new)]
    if layout is ROOMY:
        live += [history[number] for number in again if number < len(history)]
    streamed = state_of(layout, live)
    if streamed.merged is not None:
        return
    merged = with_history(layout, state_of(layout, history), unpack(pack(streamed)) if streamed.times else None, T_MS)
    everything = state_of(layout, history + live)
    assert pack(merged) == pack(everything)
    assert merged.complete_from_ms == T_MS


def test_a_lost_purchase_would_be_noticed() -> None:
    history = [purchase(number, START_MS + number * HOUR_MS) for number in range(5)]
    merged = with_history(ROOMY, state_of(ROOMY, history[:-1]), None, T_MS)
    assert pack(merged) != pack(state_of(ROOMY, history))


def test_a_card_loaded_up_to_t_is_refused() -> None:
    streamed = state_of(ROOMY, [purchase(1, T_MS)])
    streamed.complete_from_ms = T_MS
    with pytest.raises(UsageError, match="loaded already"):
        with_history(ROOMY, CardState.empty(), streamed, T_MS)


def test_a_card_with_merged_tiles_is_refused() -> None:
    streamed = state_of(TIGHT, [purchase(number, T_MS + number) for number in range(9)])
    with pytest.raises(UsageError, match="merged tiles"):
        with_history(TIGHT, CardState.empty(), streamed, T_MS)


def test_exact_events_are_what_was_stored() -> None:
    events = [purchase(number, T_MS + number) for number in range(6)]
    assert state_of(ROOMY, events).exact_events() == events
