"""The scalar path: a transaction, its card's and its merchant's state give the features; then the card holds it too.

Ask, then add. The merchant is only asked: purchases and frauds reach it by their own way, minutes later
(`MerchantState.add`, `add_fraud`). Everything is integers until the last step, where each feature is one or two IEEE
operations on float64, so every runner gives the same bits. What counts, what is late and how ties go stands in
docs/features.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import nan
from struct import Struct
from typing import Final, NamedTuple

from stream_features.card_event import LATITUDE_SHIFT, LONGITUDE_SHIFT, CardEvent, card_event
from stream_features.card_state import REST, CardState
from stream_features.distance import metres_between
from stream_features.feature_plan import Plan, feature_plan
from stream_features.feature_sets import FeatureSet
from stream_features.last_seen import LastSeen
from stream_features.merchant_answers import merchant_answers
from stream_features.merchant_state import MerchantState
from stream_features.tiles import HOUR_MS, MINUTE_MS, Merged

__all__ = ["CardEvent", "Observation", "card_event", "features_json", "observe"]

DAY_MS: Final = 24 * HOUR_MS
NIGHT_ENDS_MS: Final = 7 * HOUR_MS
PLACE: Final = Struct("<II")  # latitude and longitude, the last 8 bytes of an entry's REST row
PLACE_AT: Final = REST.size - PLACE.size
LEAST_GAP_MS: Final = 1_000  # two purchases in one second still have a finite speed


class Observation(NamedTuple):
    """What one transaction looked like against its card's and its merchant's past.

    Attributes:
        values: float64 in feature-set order; NaN where there is no value.
        late: the transaction is older than its card's newest purchase.
        stateless: it is so late that its windows cannot be asked; every feature that reads state is NaN.
        stored: the card's state changed.
    """

    values: tuple[float, ...]
    late: bool
    stateless: bool
    stored: bool


def observe(
    features: FeatureSet, card: CardState, event: CardEvent, merchant: MerchantState | None = None
) -> Observation:
    """Ask as of `event`, then add it to `card` in place.

    Args:
        features: the feature set; its `card_layout` bounds the state.
        card: everything that arrived earlier, of this card.
        event: the transaction. One that already stands exactly in `card` is asked as if it did not and changes nothing.
        merchant: what is known of its merchant, only read; None for nothing.
    """
    plan = feature_plan(features)
    times = card.times
    late = False
    if times and event.event_time_ms - card.base_ms <= times[-1]:
        newest_ms = card.base_ms + times[-1]
        late = event.event_time_ms < newest_ms
        forgotten = event.event_time_ms < features.card_layout.cut_ms(newest_ms)
        if forgotten or card.is_merged_range(event):
            stored = event.is_purchase and not forgotten and event.event_time_ms >= (card.complete_from_ms or 0)
            if stored:
                card.add_merged(features.card_layout, event)
            return Observation(_stateless(plan, event), True, True, stored)
        index = card.insertion_index(event)
        if card.holds(event, index):
            return Observation(
                plan.pick(_answers(plan, card.without(index), event, True, merchant)), late, False, False
            )
    values = plan.pick(_answers(plan, card, event, False, merchant))
    if event.is_purchase:
        card.add(features.card_layout, event)
    return Observation(values, late, False, event.is_purchase)


def features_json(features: FeatureSet, values: Sequence[float]) -> dict[str, float | None]:
    """`values` by feature name, None for NaN: the form decisions carry."""
    return {name: value if value == value else None for name, value in zip(features.names, values, strict=True)}


def _of_transaction(event: CardEvent) -> tuple[float, float, float, float]:
    """The answers that need no state: amount, amount_major, is_night, is_weekend."""
    days, day_ms = divmod(event.event_time_ms, DAY_MS)
    amount = float(event.amount_base)
    # day 0 was a Thursday
    return amount, amount / 100.0, 1.0 if day_ms < NIGHT_ENDS_MS else 0.0, 1.0 if (days + 3) % 7 >= 5 else 0.0


def _stateless(plan: Plan, event: CardEvent) -> tuple[float, ...]:
    return plan.pick([*_of_transaction(event), *plan.no_state])


def _answers(
    plan: Plan, card: CardState, event: CardEvent, repeated: bool, merchant: MerchantState | None
) -> list[float]:
    """Every answer of the plan as of `event`, which is not among the exact entries of `card`.

    Args:
        plan: the compiled feature set.
        card: the card's past.
        event: newer than the newest merged purchase, if any.
        repeated: whether the maps know the event itself.
        merchant: the merchant's past; None for none.
    """
    amount = event.amount_base
    times = card.times
    amounts = card.amounts.tolist()  # summing a list is three times faster than summing an array
    offset = event.event_time_ms - card.base_ms
    upto = len(times)
    if upto and times[-1] > offset:
        upto = bisect_right(times, offset)

    # windows hold entries with offset - window < time; summed in segments, from the newest to the oldest
    own_count, own_amount = (1, amount) if event.is_purchase else (0, 0)
    counts: list[int] = []
    sums: list[int] = []
    start, total = upto, own_amount
    for window_ms in plan.windows:
        after = offset - window_ms
        if start and times[start - 1] > after:
            before = start
            start = bisect_right(times, after, 0, before)
            total += sum(amounts[start:before])
        counts.append(upto - start + own_count)
        sums.append(total)
    largest = 0
    if plan.largest >= 0:
        past_start = upto + own_count - counts[plan.largest]
        largest = max(amounts[past_start:upto]) if past_start < upto else 0
    merged = card.merged
    if merged is not None:
        largest = _add_tiles(plan, merged, event.event_time_ms, counts, sums, largest)

    answers = [*_of_transaction(event), *map(float, counts), *map(float, sums)]
    for window in plan.means:
        count = counts[window]
        answers.append(float(sums[window]) / float(count * 100) if count else 0.0)
    for window in plan.mean_ratios:
        past_sum = sums[window] - own_amount
        answers.append(float(amount) / (float(past_sum) / float(counts[window] - own_count)) if past_sum else nan)
    if plan.largest >= 0:
        answers.append(float(amount) / float(largest) if largest else nan)
    if plan.reads_memory:
        answers += _of_memory(plan, card, event, upto, repeated)
    if plan.merchant_layout is not None:
        answers += merchant_answers(plan, plan.merchant_layout, merchant, event.event_time_ms)
    return answers


def _of_memory(plan: Plan, card: CardState, event: CardEvent, upto: int, repeated: bool) -> tuple[float, ...]:
    """The answers from the card's maps and last entries, in the order of MEMORY_ANSWERS.

    Args:
        plan: the compiled feature set.
        card: the card's past.
        event: see `_answers`.
        upto: how many of the exact entries are not later than `event`.
        repeated: see `_answers`.
    """
    times, merged = card.times, card.merged
    offset = event.event_time_ms - card.base_ms
    own = 1 if event.is_purchase else 0
    since_last = first_time = nan
    if upto:
        since_last = (offset - times[upto - 1]) / 1000.0
    elif merged is not None:
        since_last = (event.event_time_ms - merged.time_ms) / 1000.0
    if repeated or upto < len(times):
        merchants, countries, known = _late_from_maps(plan, card, event, upto, repeated)
    else:
        merchants, known = _distinct(card.merchant_last, event.merchant_hash, offset - plan.merchants_ms, own)
        # an unknown country counts for nothing
        countries, _ = _distinct(
            card.country_last, event.country, offset - plan.countries_ms, own if event.country else 0
        )
    if upto or merged is not None:
        first_time = 0.0 if known else 1.0

    distance = speed = nan
    if event.latitude_e6:
        last, last_latitude, last_longitude = _last_place(card.rest, upto)
        if last_latitude:
            metres = metres_between(
                event.latitude_e6 - LATITUDE_SHIFT,
                event.longitude_e6 - LONGITUDE_SHIFT,
                last_latitude - LATITUDE_SHIFT,
                last_longitude - LONGITUDE_SHIFT,
            )
            distance = float(metres)
            speed = float(metres * 1000) / float(max(offset - times[last], LEAST_GAP_MS))
    return since_last, float(merchants), float(countries), first_time, distance, speed


def _add_tiles(plan: Plan, merged: Merged, time_ms: int, counts: list[int], sums: list[int], largest: int) -> int:
    """Add what is merged to `counts` and `sums`; returns the largest amount of its window, tiles included."""
    for tiles, tile_ms in ((merged.minutes, MINUTE_MS), (merged.hours, HOUR_MS)):
        for window, window_ms in enumerate(plan.windows):
            # a tile counts whole when its end lies after the window's start
            first = bisect_left(tiles.starts, (time_ms - window_ms) // tile_ms)
            counts[window] += sum(tiles.counts[first:])
            sums[window] += sum(tiles.sums[first:])
            if window == plan.largest:
                largest = max(largest, max(tiles.largest[first:], default=0))
    return largest


def _last_place(rest: bytes, upto: int) -> tuple[int, int, int]:
    """Index, latitude and longitude of the newest of the first `upto` entries with a place; latitude 0: none."""
    for index in range(upto - 1, -1, -1):
        latitude, longitude = PLACE.unpack_from(rest, index * REST.size + PLACE_AT)
        if latitude:
            return index, latitude, longitude
    return 0, 0, 0


def _distinct(last_seen: LastSeen, value: int, after: int, own: int) -> tuple[int, bool]:
    """How many values were seen later than `after`, and whether `value` is known; for an event newer than the map.

    Where `own` is 1, `value` counts in any case.
    """
    times = last_seen.times
    at = last_seen.index(value)
    count = len(times) - bisect_right(times, after)
    if own and (at < 0 or times[at] <= after):
        count += 1
    return count, at >= 0


def _late_from_maps(plan: Plan, card: CardState, event: CardEvent, upto: int, repeated: bool) -> tuple[int, int, bool]:
    """Distinct merchants and countries and whether the merchant is known, where the maps may know what came later.

    A value last seen after the event counts as unseen unless an exact entry up to the event has it.
    """
    offset = event.event_time_ms - card.base_ms
    rows = list(REST.iter_unpack(card.rest[: upto * REST.size]))
    found = []
    for last_seen, column, value, window_ms in (
        (card.merchant_last, 1, event.merchant_hash, plan.merchants_ms),
        (card.country_last, 2, event.country, plan.countries_ms),
    ):
        after = offset - window_ms
        until = bisect_right(last_seen.times, offset)
        values = last_seen.between(bisect_right(last_seen.times, after), until)
        exact = {row[column] for row in rows[bisect_right(card.times, after, 0, upto) :]}
        values |= last_seen.between(until, len(last_seen.times)) & exact
        if event.is_purchase and value:
            values.add(value)
        found.append(len(values))
    at = card.merchant_last.index(event.merchant_hash)
    known = at >= 0
    if known and card.merchant_last.times[at] >= offset + (0 if repeated else 1):
        known = any(row[1] == event.merchant_hash for row in rows)
    return found[0], found[1], known
