"""What is retried, split and given up: the state machine against its definition, written as plain recursion."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.mappings.outcome import Batch, Outcome, Rules, reported_outcome, settle, split_expired, wait_s

# A function under test says from which place of its batch on records are not done; None: all done.
Function = Callable[[Sequence[int], int], int | None]


class Script:
    """Fails the first calls wholly, then always at poisoned records, until it is mended."""

    def __init__(self, poisoned: set[int], failing_calls: int, mended_after: int) -> None:
        self._poisoned = poisoned
        self._failing_calls = failing_calls
        self._mended_after = mended_after
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, records: Sequence[int]) -> int | None:
        self.calls.append(tuple(records))
        if len(self.calls) <= self._failing_calls:
            return 0
        if len(self.calls) > self._mended_after:
            return None
        return next((place for place, record in enumerate(records) if record in self._poisoned), None)


def by_definition(count: int, function: Script, rules: Rules) -> tuple[list[int], list[int]]:
    """Deliver records 0..count-1 in one batch: (done, discarded), each in the order it happened."""
    done: list[int] = []
    discarded: list[int] = []

    def deliver(records: list[int], retries: int) -> None:
        place = function(records)
        if place is None:
            done.extend(records)
        elif place > 0:
            done.extend(records[:place])
            deliver(records[place:], 0)
        elif rules.bisects and len(records) > 1:
            deliver(records[: len(records) // 2], retries)
            deliver(records[len(records) // 2 :], 0)
        elif rules.max_retries is not None and retries >= rules.max_retries:
            discarded.extend(records)
        else:
            deliver(records, retries + 1)

    deliver(list(range(count)), 0)
    return done, discarded


def by_state_machine(count: int, function: Script, rules: Rules) -> tuple[list[int], list[int]]:
    """The same through `settle`, as a lane drives it."""
    done: list[int] = []
    discarded: list[int] = []
    queue = deque([Batch(0, count)])
    while queue:
        batch = queue.popleft()
        place = function(range(batch.start, batch.stop))
        settled = settle(batch, Outcome(None if place is None else batch.start + place), rules)
        if settled.discarded is not None:
            discarded.extend(range(settled.discarded.start, settled.discarded.stop))
        else:
            done.extend(range(batch.start, settled.done_until))
        queue.extendleft(reversed(settled.rest))
    return done, discarded


counts = st.integers(min_value=1, max_value=24)
limits = st.one_of(st.none(), st.integers(min_value=0, max_value=4))


@given(counts, st.sets(st.integers(0, 23), max_size=5), st.integers(0, 6), st.booleans(), limits)
def test_batches_are_settled_as_the_rules_say(
    count: int, poisoned: set[int], failing_calls: int, bisects: bool, max_retries: int | None
) -> None:
    rules = Rules(bisects=bisects, max_retries=max_retries, max_age_s=None)
    expected_function = Script(poisoned, failing_calls, mended_after=60)
    function = Script(poisoned, failing_calls, mended_after=60)
    expected = by_definition(count, expected_function, rules)
    assert by_state_machine(count, function, rules) == expected
    assert function.calls == expected_function.calls


@given(counts, st.sets(st.integers(0, 23), max_size=5), st.integers(0, 6), st.booleans(), limits)
def test_every_record_is_done_or_discarded_once_and_in_order(
    count: int, poisoned: set[int], failing_calls: int, bisects: bool, max_retries: int | None
) -> None:
    rules = Rules(bisects=bisects, max_retries=max_retries, max_age_s=None)
    done, discarded = by_state_machine(count, Script(poisoned, failing_calls, mended_after=60), rules)
    assert done == sorted(done)
    assert discarded == sorted(discarded)
    assert sorted(done + discarded) == list(range(count))
    if max_retries is None:
        assert discarded == []


@given(counts, st.sets(st.integers(0, 23), max_size=5), st.integers(0, 3))
def test_with_bisect_and_reports_only_poisoned_records_are_discarded(
    count: int, poisoned: set[int], max_retries: int
) -> None:
    rules = Rules(bisects=True, max_retries=max_retries, max_age_s=None)
    done, discarded = by_state_machine(count, Script(poisoned, 0, mended_after=10**9), rules)
    assert set(discarded) == poisoned & set(range(count))
    assert set(done) == set(range(count)) - poisoned


def test_a_poisoned_record_is_tried_once_and_as_often_again_as_retries_allow() -> None:
    function = Script({4}, 0, mended_after=10**9)
    by_state_machine(10, function, Rules(bisects=True, max_retries=2, max_age_s=None))
    assert [call for call in function.calls if call == (4,)] == [(4,)] * 3
    assert function.calls[0] == tuple(range(10))
    assert function.calls[1] == (4, 5, 6, 7, 8, 9)  # what came before it was done and does not come again


def test_waiting_comes_before_the_same_call_only() -> None:
    """Splitting and going on after progress are not delayed; repeating a call is."""
    rules = Rules(bisects=True, max_retries=None, max_age_s=None)
    assert settle(Batch(0, 8), Outcome(3), rules).waits is False
    assert settle(Batch(0, 8), Outcome(0), rules).waits is False
    assert settle(Batch(0, 1), Outcome(0), rules).waits is True


def test_waits_grow_and_stay_short() -> None:
    waits = [wait_s(repeated) for repeated in range(1, 30)]
    assert waits == sorted(waits)
    assert waits[0] < waits[1] < waits[-1] <= 2.0


@pytest.mark.parametrize(
    ("expired_until", "given_up", "left"),
    [
        (0, None, Batch(2, 6, 1)),
        (2, None, Batch(2, 6, 1)),
        (4, Batch(2, 4, 1), Batch(4, 6)),
        (6, Batch(2, 6, 1), None),
        (9, Batch(2, 6, 1), None),
    ],
)
def test_records_that_are_too_old_are_cut_off(expired_until: int, given_up: Batch | None, left: Batch | None) -> None:
    assert split_expired(Batch(2, 6, 1), expired_until) == (given_up, left)


ALL = Outcome(None)
NONE = Outcome(7)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, ALL),
        ({}, ALL),
        ({"batchItemFailures": None}, ALL),
        ({"batchItemFailures": []}, ALL),
        ({"batchItemFailures": [{"itemIdentifier": "12"}]}, Outcome(9)),
        ({"batchItemFailures": [{"itemIdentifier": "12"}, {"itemIdentifier": "11"}]}, Outcome(8)),
        ({"batchItemFailures": [{"itemIdentifier": "10"}]}, NONE),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, NONE),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, NONE),
        ({"batchItemFailures": [{"identifier": "12"}]}, NONE),
        ({"batchItemFailures": [{"itemIdentifier": "12"}, {"itemIdentifier": "99"}]}, NONE),
        ({"batchItemFailures": ["12"]}, NONE),
        ({"batchItemFailures": "12"}, NONE),
        ("done", NONE),
        ([], NONE),
    ],
)
def test_answers_mean_what_they_mean_on_aws(answer: object, outcome: Outcome) -> None:
    assert reported_outcome(Batch(7, 10), ["10", "11", "12"], answer) == outcome
