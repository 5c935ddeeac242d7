"""The state of a merchant is a function of the set of what reaches it; windows read it by the letter."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.errors import UsageError
from stream_features.feature_sets import CORE, DAY_MS, HANDBOOK
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.merchant_state import HOUR_MS, LABEL_EFFECT_MS, MerchantLayout, MerchantState
from stream_features.merging import with_merchant_history
from tests.unit.stream_features.merchants import (
    FAR_MS,
    MINUTE_MS,
    Effect,
    apply,
    effects,
    small_merchant_layouts,
    state_of,
    times,
)
from tests.unit.stream_features.slow_merchant import SlowMerchant, contents_of

NOON_MS = 20_000 * DAY_MS + 12 * HOUR_MS


def layout_of(features: Any) -> MerchantLayout:
    layout: MerchantLayout = features.merchant_layout
    return layout


@settings(max_examples=150, deadline=None)
@given(small_merchant_layouts, st.lists(effects, max_size=24), st.one_of(st.none(), times), st.data())
def test_state_and_windows_are_those_of_the_slow_merchant(
    layout: MerchantLayout, arrivals: list[Effect], complete_from_ms: int | None, data: st.DataObject
) -> None:
    """Late, tied, forgotten, withdrawn and loaded ones included; asked before and after the newest purchase."""
    state, slow = MerchantState.empty(complete_from_ms), SlowMerchant(layout, complete_from_ms)
    for what in arrivals:
        before = pack_merchant(state)
        changed = apply(layout, state, what)
        (slow.add_fraud if what.delta else slow.add)(*what[: 3 if what.delta else 2])
        assert contents_of(layout, state) == slow.contents()
        assert changed == (pack_merchant(state) != before)
    for _ in range(3):
        now = data.draw(times)
        delay = data.draw(st.sampled_from([2 * MINUTE_MS, HOUR_MS, 3 * HOUR_MS]))
        upto = now // layout.tile_ms * layout.tile_ms - max(delay, layout.settled_ms)
        after = upto - data.draw(st.sampled_from([10 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS, 60 * HOUR_MS]))
        assert state.purchases_between(layout, now, after, upto) == slow.purchases_between(now, after, upto)
        assert state.frauds_between(layout, now, after, upto) == slow.frauds_between(now, after, upto)


@settings(max_examples=120, deadline=None)
@given(small_merchant_layouts, st.lists(effects, max_size=20), st.randoms(use_true_random=False))
def test_bytes_do_not_depend_on_the_order_of_arrival_or_on_batches(
    layout: MerchantLayout, arrivals: list[Effect], shuffler: random.Random
) -> None:
    shuffled = list(arrivals)
    shuffler.shuffle(shuffled)
    cut = MerchantState.empty()
    for what in shuffled:
        apply(layout, cut, what)
        if shuffler.random() < 0.5:
            cut = unpack_merchant(pack_merchant(cut))
    assert pack_merchant(cut) == pack_merchant(state_of(layout, arrivals))
    in_time = sorted(arrivals)
    assert pack_merchant(state_of(layout, in_time)) == pack_merchant(state_of(layout, arrivals))


@settings(max_examples=60, deadline=None)
@given(small_merchant_layouts, st.lists(effects, max_size=12), effects.filter(lambda what: what.delta != 0))
def test_entries_that_are_replaced_leave_no_trace(
    layout: MerchantLayout, arrivals: list[Effect], replaced: Effect
) -> None:
    """A higher revision takes back what stood; its first entry is never later than the one it replaces."""
    earlier = replaced._replace(number=replaced.number - 7 * MINUTE_MS)
    direct = state_of(layout, [*arrivals, earlier])
    revised = state_of(layout, [replaced, *arrivals, replaced._replace(delta=-replaced.delta), earlier])
    assert pack_merchant(revised) == pack_merchant(direct)


def test_a_purchase_on_the_edge_belongs_to_the_tile_that_ends_there() -> None:
    layout = layout_of(CORE)
    state = MerchantState.empty()
    for time_ms in (NOON_MS, NOON_MS + 1):
        assert state.add(layout, time_ms, 100)
    assert contents_of(layout, state)["fine"] == [(NOON_MS, 1, 100), (NOON_MS + MINUTE_MS, 1, 100)]


def test_a_minute_becomes_part_of_its_hour_48_hours_behind_the_newest_purchase() -> None:
    layout = layout_of(CORE)
    state = MerchantState.empty()
    state.add(layout, NOON_MS, 1)
    state.add(layout, NOON_MS + 48 * HOUR_MS - 1, 2)
    assert contents_of(layout, state)["coarse"] == []
    state.add(layout, NOON_MS + 48 * HOUR_MS, 4)
    assert contents_of(layout, state)["coarse"] == [(NOON_MS, 1, 1)]
    state.add(layout, NOON_MS - HOUR_MS + 1, 8)  # late: the same hour
    assert contents_of(layout, state)["coarse"] == [(NOON_MS, 2, 9)]


def test_a_minute_far_behind_counts_by_the_end_of_its_hour_though_it_is_still_stored_as_a_minute() -> None:
    layout = layout_of(CORE)
    state = MerchantState.empty()
    state.add(layout, NOON_MS + MINUTE_MS, 1)
    asked = NOON_MS + 8 * DAY_MS
    assert contents_of(layout, state)["coarse"] == []
    for edge_minutes, as_new_end, as_old_end in ((0, 0, 1), (1, 0, 1), (30, 0, 1), (59, 0, 1), (60, 1, 0), (61, 1, 0)):
        edge = NOON_MS + edge_minutes * MINUTE_MS
        assert state.purchases_between(layout, asked, edge - DAY_MS, edge) == as_new_end, edge_minutes
        assert state.purchases_between(layout, asked, edge, edge + DAY_MS) == as_old_end, edge_minutes


def test_seconds_never_become_coarse() -> None:
    layout = layout_of(HANDBOOK)
    state = MerchantState.empty()
    state.add(layout, NOON_MS + 1, 1)
    state.add(layout, NOON_MS + 30 * DAY_MS, 2)
    assert contents_of(layout, state)["fine"] == [(NOON_MS + 1000, 1, 1), (NOON_MS + 30 * DAY_MS, 1, 2)]


@settings(max_examples=100, deadline=None)
@given(
    old=st.lists(st.integers(0, 9 * 24 * 60), min_size=1, max_size=12),
    asked=st.integers(0, 90_000),
    recent=st.integers(0, 110_000),
)
def test_what_happened_in_the_last_two_minutes_changes_no_window(old: list[int], asked: int, recent: int) -> None:
    """A quiet merchant's newest purchase makes tiles coarse: whether it has arrived must not matter."""
    now = NOON_MS + 9 * DAY_MS + asked
    for features in (CORE, HANDBOOK):
        layout = layout_of(features)
        state = state_of(layout, [Effect(NOON_MS + minute * MINUTE_MS - 1, 5, 0) for minute in old])
        for feature in features.features:
            if feature.entity == "merchant":
                upto = now // layout.tile_ms * layout.tile_ms - feature.delay_ms
                window = (now, upto - (feature.window_ms or 0), upto)
                before = state.purchases_between(layout, *window)
                newer = unpack_merchant(pack_merchant(state))
                newer.add(layout, now - recent, 5)
                assert newer.purchases_between(layout, *window) == before, feature.name


def test_purchases_before_complete_from_and_labels_reported_before_it_change_nothing() -> None:
    layout = layout_of(CORE)
    state = MerchantState.empty(complete_from_ms=NOON_MS)
    empty = pack_merchant(state)
    assert not state.add(layout, NOON_MS - 1, 1)
    assert not state.add_fraud(layout, NOON_MS - DAY_MS, NOON_MS + LABEL_EFFECT_MS - 1, 1)
    assert pack_merchant(state) == empty
    assert state.is_empty
    assert state.add_fraud(layout, NOON_MS - DAY_MS, NOON_MS + LABEL_EFFECT_MS, 1)
    assert state.add(layout, NOON_MS, 1)
    assert not state.is_empty


def test_what_is_older_than_retention_is_not_taken_in() -> None:
    layout = layout_of(HANDBOOK)
    state = MerchantState.empty()
    state.add(layout, NOON_MS, 1)
    cut = NOON_MS - layout.retention_ms
    assert state.add(layout, cut + 1, 1)
    assert state.add_fraud(layout, cut + 1, NOON_MS, 1)
    kept = contents_of(layout, state)
    assert state.add(layout, cut, 1)  # only remembered as "something so old came"
    assert not state.add(layout, cut, 1)
    assert not state.add_fraud(layout, cut, NOON_MS, 1)
    assert contents_of(layout, state) == {**kept, "first": cut}


def test_a_hot_merchant_stays_under_64_kb_in_core() -> None:
    """2,000 purchases a day for 60 days, two in a hundred frauds, reported within 30 days at any time."""
    layout = layout_of(CORE)
    state = MerchantState.empty()
    source = random.Random(1)
    for number in range(60 * 2_000):
        time_ms = FAR_MS + number * DAY_MS // 2_000 + source.randrange(40_000)
        state.add(layout, time_ms, source.randrange(10**7))
        if number % 50 == 0:
            state.add_fraud(layout, time_ms, time_ms + source.randrange(30 * DAY_MS), 1)
    assert len(state.coarse.ends) > 36 * 24
    assert len(pack_merchant(state)) < 64 * 1024


def test_the_busiest_merchant_stays_under_64_kb_in_core() -> None:
    """Every tile is full, and every purchase's fraud is reported within a week."""
    layout = layout_of(CORE)
    state = MerchantState.empty()
    for hour in range(39 * 24):
        for minute in range(60):
            time_ms = FAR_MS + hour * HOUR_MS + minute * MINUTE_MS
            for _ in range(3):
                state.add(layout, time_ms, 2**40)
            state.add_fraud(layout, time_ms, time_ms + minute * 2 * HOUR_MS, 1)
    assert len(state.fine.ends) > 47 * 60
    assert len(pack_merchant(state)) < 64 * 1024


def test_seconds_of_a_hot_merchant_fit_an_item() -> None:
    """`handbook` keeps every second by definition; 2,000 a day still fit DynamoDB's 400 KB."""
    layout = layout_of(HANDBOOK)
    state = MerchantState.empty()
    source = random.Random(1)
    for number in range(40 * 2_000):
        state.add(layout, FAR_MS + number * 43_000 + source.randrange(43_000), source.randrange(60_000))
    assert len(state.fine.ends) > 70_000
    assert len(pack_merchant(state)) < 350_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retention_ms": 0}, "at least 1"),
        ({"tile_ms": 0}, "at least 1"),
        ({"settled_ms": -1}, "at least 1"),
        ({"fine_behind_ms": None}, "together"),
        ({"coarse_tile_ms": None}, "together"),
        ({"fine_behind_ms": -1}, "at least 0"),
        ({"coarse_tile_ms": 90_000}, "whole fine tiles"),
        ({"tile_ms": 7_000, "coarse_tile_ms": 7_000}, "whole tiles"),
        ({"fraud_tile_ms": 7_000}, "whole tiles"),
    ],
)
def test_a_grid_that_does_not_nest_is_refused(changes: dict[str, Any], message: str) -> None:
    bounds = {
        "retention_ms": DAY_MS,
        "tile_ms": MINUTE_MS,
        "fine_behind_ms": HOUR_MS,
        "coarse_tile_ms": HOUR_MS,
        "fraud_tile_ms": HOUR_MS,
    }
    MerchantLayout(**bounds)
    with pytest.raises(ValueError, match=message):
        MerchantLayout(**{**bounds, **changes})


T_MS = FAR_MS // HOUR_MS * HOUR_MS + 3 * HOUR_MS + 1_234


@settings(max_examples=120, deadline=None)
@given(small_merchant_layouts, st.lists(effects, max_size=24), st.sampled_from([T_MS, T_MS - 1_234, T_MS - 1_233]))
def test_history_loaded_beside_a_stream_equals_having_streamed_everything(
    layout: MerchantLayout, everything: list[Effect], t_ms: int
) -> None:
    """The stream may even bring what the history holds once more, after the loading."""

    def is_history(what: Effect) -> bool:
        return what.number - LABEL_EFFECT_MS < t_ms if what.delta else what.time_ms < t_ms

    history = [what for what in everything if is_history(what)]
    live = [what for what in everything if not is_history(what)]
    streamed = unpack_merchant(pack_merchant(state_of(layout, live))) if live else None
    merged = with_merchant_history(layout, state_of(layout, history), streamed, t_ms)
    assert pack_merchant(merged) == pack_merchant(state_of(layout, everything))
    assert merged.complete_from_ms == t_ms
    for what in history:
        assert not apply(layout, merged, what)
    assert pack_merchant(merged) == pack_merchant(state_of(layout, everything))


def test_a_stream_that_holds_what_the_history_holds_is_refused() -> None:
    layout = layout_of(CORE)
    label = Effect(T_MS - DAY_MS, T_MS - 1 + LABEL_EFFECT_MS, 1)
    for streamed, reason in (
        (state_of(layout, [Effect(T_MS - 1, 1, 0), Effect(T_MS + HOUR_MS, 1, 0)]), "purchases from before"),
        (state_of(layout, [Effect(T_MS, 1, 0), label]), "labels reported before"),
        (state_of(layout, [Effect(T_MS, 1, 0), label, label._replace(delta=-1)]), "labels reported before"),
        (MerchantState.empty(complete_from_ms=T_MS), "loaded already"),
        (MerchantState.empty(complete_from_ms=T_MS + 1), "loaded already"),
    ):
        with pytest.raises(UsageError, match=reason):
            with_merchant_history(layout, state_of(layout, []), streamed, T_MS)
    loaded_earlier = MerchantState.empty(complete_from_ms=T_MS - 1)
    loaded_earlier.add(layout, T_MS, 1)
    assert with_merchant_history(layout, state_of(layout, []), loaded_earlier, T_MS).newest_ms == T_MS
