"""A card with 50,000 purchases in 30 days: bounded state, and every feature within the resolution it declares."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import random
from typing import NamedTuple

import pytest

from stream_features.card_event import CardEvent
from stream_features.card_state import CardState
from stream_features.codec import pack
from stream_features.feature_sets import CORE, DAY_MS, HANDBOOK, Feature, FeatureSet
from stream_features.kernel import observe

PURCHASES = 50_000
SAMPLED_EVERY = 997
START_MS = 1_700_000_000_000
ONE_HOUR_MS = 3_600_000


class Sample(NamedTuple):
    arrived_before: int
    event: CardEvent
    values: tuple[float, ...]


@functools.cache
def arrivals() -> tuple[CardEvent, ...]:
    """Mostly steady, with bursts that fill all exact entries in minutes; one in fifty up to an hour late."""
    source = random.Random(50_000)
    times = [START_MS + source.randrange(30 * DAY_MS) for _ in range(PURCHASES * 4 // 5)]
    for _ in range(8):
        burst = START_MS + source.randrange(30 * DAY_MS)
        times += [burst + source.randrange(20 * 60_000) for _ in range(PURCHASES // 40)]
    events = [
        CardEvent(
            time_ms,
            source.randrange(100_000),
            source.getrandbits(64),
            source.randrange(1, 100),
            source.randrange(1, 20),
            0,
            0,
            True,
        )
        for time_ms in times
    ]
    lateness = {event: source.randrange(ONE_HOUR_MS) if source.random() < 0.02 else 0 for event in events}
    return tuple(sorted(events, key=lambda event: event.event_time_ms + lateness[event]))


def run(features: FeatureSet) -> tuple[CardState, list[Sample]]:
    card, samples = CardState.empty(), []
    for number, event in enumerate(arrivals()):
        observation = observe(features, card, event)
        if number % SAMPLED_EVERY == 0 and not observation.stateless:
            samples.append(Sample(number, event, observation.values))
    return card, samples


class Past:
    """Purchases up to one event, summed from the newest back, so that every window that ends there can be read off."""

    def __init__(self, past: list[CardEvent], event: CardEvent) -> None:
        self.event = event
        newest_first = sorted(past, key=lambda e: -e.event_time_ms)
        amounts = [e.amount_base for e in newest_first]
        self.ages = [event.event_time_ms - e.event_time_ms for e in newest_first]
        self.sums = [0, *itertools.accumulate(amounts)]
        self.largest = [0, *itertools.accumulate(amounts, max)]

    def answer(self, feature: Feature, count: int) -> float:
        """What `feature` is, exactly, when its window reaches back over `count` purchases."""
        amount = self.event.amount_base
        total, own = self.sums[count], int(feature.includes_current)
        if feature.aggregation == "count":
            return float(count + own)
        if feature.aggregation == "sum":
            return float(total + own * amount)
        if feature.aggregation == "mean_major":
            return float(total + own * amount) / float(100 * (count + own))
        if not total:
            return math.nan
        if feature.aggregation == "ratio_to_mean":
            return float(amount) / (float(total) / float(count))
        if feature.aggregation == "ratio_to_max":
            return float(amount) / float(self.largest[count])
        raise ValueError(feature.aggregation)

    def answers(self, feature: Feature) -> list[float]:
        """The exact answer, then all those of windows that start up to the feature's resolution earlier."""
        exact = bisect.bisect_left(self.ages, feature.window_ms or 0)
        most = bisect.bisect_left(self.ages, (feature.window_ms or 0) + feature.resolution_ms)
        return [self.answer(feature, count) for count in range(exact, most + 1)]


@pytest.mark.parametrize("features", [CORE, HANDBOOK], ids=lambda features: features.name)
def test_every_feature_is_that_of_a_window_within_its_resolution(features: FeatureSet) -> None:
    card, samples = run(features)
    assert len(pack(card)) <= 64 * 1024
    assert len(samples) > 45
    rounded = 0
    for number, event, values in samples:
        # one more day than the longest window is enough of the past
        since = event.event_time_ms - 31 * DAY_MS
        past = [e for e in arrivals()[:number] if since < e.event_time_ms <= event.event_time_ms]
        summed = Past(past, event)
        for feature, value in zip(features.features, values, strict=True):
            if feature.entity != "card":
                continue
            if feature.structure == "card_entries" and feature.window_ms:
                exact, *rounded_out = summed.answers(feature)
                if math.isnan(value):
                    assert math.isnan(exact)
                    continue
                rounded += value != exact
                assert value in (exact, *rounded_out), (number, feature.name)
            elif feature.name == "seconds_since_last" and past:
                assert value == (event.event_time_ms - max(e.event_time_ms for e in past)) / 1000.0
            elif feature.name == "card_merchants_24h":
                assert value == distinct(event, past, "merchant_hash")
            elif feature.name == "card_countries_24h":
                assert value == distinct(event, past, "country")
            elif feature.name == "first_time_at_merchant" and past:
                assert value == float(event.merchant_hash not in {e.merchant_hash for e in past})
    assert rounded > len(samples)  # the test sees windows that are rounded out


def distinct(event: CardEvent, past: list[CardEvent], field: str) -> float:
    today = [e for e in past if e.event_time_ms > event.event_time_ms - DAY_MS]
    return float(len({getattr(e, field) for e in [*today, event]}))


def test_its_bytes_do_not_depend_on_the_order_of_arrival() -> None:
    shuffled = list(arrivals())
    random.Random(1).shuffle(shuffled)
    packed = []
    for order in (arrivals(), shuffled):
        card = CardState.empty()
        for event in order:
            card.take_in(CORE.card_layout, event)
        packed.append(pack(card))
    assert packed[0] == packed[1]
    assert len(packed[0]) <= 64 * 1024
