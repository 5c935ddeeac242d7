"""The state of a card is a function of the set of its purchases; the kernel reads it by the letter of the design."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.card_event import CardEvent
from stream_features.card_state import BASE_GRID_MS, U32_LIMIT, CardLayout, CardState
from stream_features.codec import pack, unpack
from stream_features.feature_sets import CORE
from stream_features.kernel import observe
from stream_features.tiles import HOUR_MS, MINUTE_MS
from tests.oracle import bits
from tests.unit.stream_features.cards import REBASE_MS, an_event, core_with, distinct_arrivals, events, small_layouts
from tests.unit.stream_features.slow_card import HOUR, MINUTE, SlowCard


def contents(card: CardState) -> dict[str, Any]:
    """Everything a state says, in absolute times."""
    merged = card.merged
    return {
        "exact": card.exact_events(),
        "newest merged": merged and (merged.time_ms, merged.id_hash),
        "minutes": _rows(merged.minutes) if merged else [],
        "hours": _rows(merged.hours) if merged else [],
        "merchants": _last_seen(card, card.merchant_last),
        "countries": _last_seen(card, card.country_last),
    }


def _rows(tiles: Any) -> list[tuple[int, int, int, int]]:
    return list(zip(tiles.starts, tiles.counts, tiles.sums, tiles.largest, strict=True))


def _last_seen(card: CardState, last_seen: Any) -> list[tuple[int, int]]:
    width = last_seen.width
    values = [last_seen.values[at : at + width] for at in range(0, len(last_seen.values), width)]
    return [
        (card.base_ms + time, int.from_bytes(value, "big")) for time, value in zip(last_seen.times, values, strict=True)
    ]


def expected_contents(slow: SlowCard) -> dict[str, Any]:
    merged = slow.merged()
    return {
        "exact": slow.exact(),
        "newest merged": (merged[-1].event_time_ms, merged[-1].id_hash) if merged else None,
        "minutes": slow.tiles(MINUTE),
        "hours": slow.tiles(HOUR),
        "merchants": slow.last_seen("merchant_hash", slow.layout.merchants),
        "countries": slow.last_seen("country", slow.layout.countries),
    }


def state_of(layout: CardLayout, arrivals: list[CardEvent]) -> CardState:
    features = core_with(layout)
    card = CardState.empty()
    for event in arrivals:
        observe(features, card, event)
    return card


@settings(max_examples=250, deadline=None)
@given(small_layouts, st.lists(events, max_size=24), st.sampled_from([None, 0, HOUR_MS, REBASE_MS + HOUR_MS]))
def test_state_and_features_are_those_of_the_slow_card(
    layout: CardLayout, arrivals: list[CardEvent], complete_from_ms: int | None
) -> None:
    """Late, tied, repeated, refunded, forgotten and merged ones included."""
    features = core_with(layout)
    card, slow = CardState.empty(complete_from_ms), SlowCard(layout, complete_from_ms)
    for event in arrivals:
        observation = observe(features, card, event)
        values, late, stateless, stored = slow.observe(event)
        assert (observation.late, observation.stateless, observation.stored) == (late, stateless, stored)
        for name, value, wanted in zip(features.names, observation.values, values, strict=True):
            assert bits(value) == bits(wanted), name
        assert contents(card) == expected_contents(slow)


@settings(max_examples=150, deadline=None)
@given(small_layouts, distinct_arrivals(), st.randoms(use_true_random=False))
def test_bytes_do_not_depend_on_the_order_of_arrival(
    layout: CardLayout, arrivals: list[CardEvent], shuffler: random.Random
) -> None:
    shuffled = list(arrivals)
    shuffler.shuffle(shuffled)
    assert pack(state_of(layout, shuffled)) == pack(state_of(layout, arrivals))
    in_time = sorted(arrivals, key=lambda event: event.event_time_ms)
    assert pack(state_of(layout, in_time)) == pack(state_of(layout, arrivals))


@settings(max_examples=100, deadline=None)
@given(small_layouts, st.lists(events, max_size=16), st.lists(st.booleans(), min_size=16, max_size=16))
def test_packing_between_any_two_events_changes_nothing(
    layout: CardLayout, arrivals: list[CardEvent], cuts: list[bool]
) -> None:
    features = core_with(layout)
    whole, cut = CardState.empty(), CardState.empty()
    for event, pack_here in zip(arrivals, cuts, strict=False):
        expected, actual = observe(features, whole, event), observe(features, cut, event)
        assert [bits(value) for value in actual.values] == [bits(value) for value in expected.values]
        assert actual[1:] == expected[1:]
        if pack_here:
            cut = unpack(pack(cut))
    assert pack(cut) == pack(whole)


@settings(max_examples=120, deadline=None)
@given(small_layouts, st.lists(events, max_size=24), st.sampled_from([None, HOUR_MS, REBASE_MS + HOUR_MS]))
def test_taking_in_stores_what_observing_stores(
    layout: CardLayout, arrivals: list[CardEvent], complete_from_ms: int | None
) -> None:
    features = core_with(layout)
    observed, taken = CardState.empty(complete_from_ms), CardState.empty(complete_from_ms)
    for event in arrivals:
        stored = observe(features, observed, event).stored
        assert (event.is_purchase and taken.take_in(layout, event)) == stored
        assert pack(taken) == pack(observed)


def test_a_repeated_purchase_is_counted_once_and_changes_nothing() -> None:
    card = CardState.empty()
    first = observe(CORE, card, an_event(1_000_000, 1))
    observe(CORE, card, an_event(2_000_000, 2))
    before = pack(card)
    again = observe(CORE, card, an_event(1_000_000, 1))
    assert not again.stored
    assert pack(card) == before
    assert [bits(value) for value in again.values] == [bits(value) for value in first.values]
    assert again.late


def test_a_refund_is_asked_but_neither_counted_nor_stored() -> None:
    card = CardState.empty()
    observe(CORE, card, an_event(1_000_000, 1))
    before = pack(card)
    refund = observe(CORE, card, an_event(1_030_000, 2, is_purchase=False))
    assert refund.values[CORE.names.index("card_count_1m")] == 1.0
    assert refund.values[CORE.names.index("seconds_since_last")] == 30.0
    assert not refund.stored
    assert pack(card) == before


def test_of_two_purchases_in_one_millisecond_only_the_one_that_came_first_counts_for_the_other() -> None:
    card = CardState.empty()
    counts = [
        observe(CORE, card, an_event(1_000_000, id_hash)).values[CORE.names.index("card_count_1m")]
        for id_hash in (9, 3, 5)
    ]
    assert counts == [1.0, 2.0, 3.0]


def test_a_window_is_open_at_its_old_end_and_closed_at_its_new_end() -> None:
    count_1m = CORE.names.index("card_count_1m")
    card = CardState.empty()
    observe(CORE, card, an_event(1_000_000, 1))
    assert observe(CORE, card, an_event(1_059_999, 2)).values[count_1m] == 2.0
    assert observe(CORE, card, an_event(1_060_000, 3)).values[count_1m] == 2.0


def test_history_before_complete_from_is_not_merged_twice() -> None:
    """A bootstrapped purchase that is merged already arrives again: its decision is stateless, the state unchanged."""
    layout = CardLayout(retention_ms=30 * HOUR_MS, exact_entries=2)
    features = core_with(layout)
    history = [an_event(HOUR_MS * hour, hour) for hour in range(1, 6)]
    card = state_of(layout, history)
    card.complete_from_ms = 6 * HOUR_MS
    before = pack(card)
    again = observe(features, card, history[0])
    assert again.stateless
    assert again.late
    assert not again.stored
    assert not card.take_in(layout, history[0])
    assert pack(card) == before
    card.complete_from_ms = None
    assert observe(features, card, history[0]).stored
    assert pack(card) != before


@pytest.mark.parametrize(("newest_ms", "minutes", "hours"), [(1_799_999, 1, 0), (1_800_000, 0, 1)])
def test_a_minute_folds_into_its_hour_once_its_end_is_as_far_behind_as_the_layout_says(
    newest_ms: int, minutes: int, hours: int
) -> None:
    layout = CardLayout(retention_ms=5 * HOUR_MS, exact_entries=1, minutes_behind_ms=29 * MINUTE_MS)
    card = CardState.empty()
    for event in (an_event(0, 1), an_event(60_000, 2), an_event(newest_ms, 3)):
        card.add(layout, event)
    assert card.merged is not None
    # the minute of event 1 ends at 60,000; that of event 2 stays a minute
    assert (len(card.merged.minutes.starts), len(card.merged.hours.starts)) == (1 + minutes, hours)


def test_minutes_before_the_cut_are_forgotten_though_younger_ones_stay() -> None:
    #  0:59        1:01        1:02        3:00, retention 1.5 h: the cut is 1:00
    #   |  minute   |  minute   |  exact     |
    layout = CardLayout(retention_ms=3 * HOUR_MS // 2, exact_entries=1, minutes_behind_ms=5 * HOUR_MS)
    card = CardState.empty()
    minutes = (59, 61, 62, 180)
    for number, minute in enumerate(minutes):
        card.add(layout, an_event(minute * MINUTE_MS, number))
    assert card.merged is not None
    assert list(card.merged.minutes.starts) == [61, 62]
    assert list(card.merged.hours.starts) == []


def test_a_late_purchase_older_than_retention_is_not_stored() -> None:
    card = CardState.empty()
    observe(CORE, card, an_event(100 * 24 * HOUR_MS, 1))
    before = pack(card)
    newest = 100 * 24 * HOUR_MS
    forgotten = observe(CORE, card, an_event(newest - CORE.card_layout.retention_ms - 1, 2))
    assert forgotten.stateless
    assert not forgotten.stored
    assert pack(card) == before
    kept = observe(CORE, card, an_event(newest - CORE.card_layout.retention_ms, 3))
    assert not kept.stateless
    assert kept.stored


def test_the_worst_card_stays_under_64_kb() -> None:
    """Purchases with wide amounts over all of retention, denser at the end, every map full."""
    layout = CORE.card_layout
    card = CardState.empty()
    newest = 20_000 * 24 * HOUR_MS
    sparse = range(newest - layout.retention_ms, newest - 3 * HOUR_MS, HOUR_MS // 2)
    dense = range(newest - 3 * HOUR_MS, newest, MINUTE_MS // 16)
    for number, time_ms in enumerate([*sparse, *dense]):
        event = an_event(time_ms, number, amount_base=10**12, merchant_hash=number, country=number % 600 + 1)
        card.add(layout, event._replace(latitude_e6=180_000_001, longitude_e6=360_000_001))
    assert len(card.times) == layout.exact_entries
    assert card.merged is not None
    assert len(card.merged.hours.starts) > 700
    assert len(card.merged.minutes.starts) > 50
    assert len(pack(card)) < 64 * 1024


def test_a_card_with_200_purchases_stays_under_8_kb() -> None:
    card = CardState.empty()
    for number in range(200):
        event = an_event(10**12 + number * 10**7, number, merchant_hash=number % 90, latitude_e6=1, longitude_e6=1)
        card.add(CORE.card_layout, event)
    assert len(card.times) == 200
    assert len(pack(card)) < 8 * 1024


@pytest.mark.parametrize("bound", ["retention_ms", "exact_entries", "merchants", "countries", "minutes_behind_ms"])
def test_a_layout_without_room_is_refused(bound: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CardLayout(**{"retention_ms": HOUR_MS, bound: 0})


def test_a_retention_that_does_not_fit_the_offsets_is_refused() -> None:
    with pytest.raises(ValueError, match="32-bit"):
        CardLayout(retention_ms=U32_LIMIT - BASE_GRID_MS - 2 * HOUR_MS)
    assert CardLayout(retention_ms=37 * 24 * HOUR_MS).layout_id != CORE.card_layout_id
