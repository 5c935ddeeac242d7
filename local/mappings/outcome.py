"""What happens to a batch after a call: the rules of an event source mapping, without clock, network or records.

A batch is a half-open range of indices into what its lane has read. Everything a lane has to do stands in one queue
of batches, in stream order; settling the first one replaces it by what is left of it.

    call          rest of the batch is retried
    succeeded     nothing
    failed from k [k, stop): at once if k > start, for that is progress; else as if the call had failed
    failed        both halves, first the first (bisect on, more than one record; costs no retry)
                  the same batch, one retry more (bisect off, or one record)
                  nothing: discarded, if its retries are used up
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Rules:
    """When to split, and when to give up. None is: never."""

    bisects: bool
    max_retries: int | None
    max_age_s: int | None


class Batch(NamedTuple):
    """Records [start, stop) of a lane, tried `retries` times without progress after the first call."""

    start: int
    stop: int
    retries: int = 0

    @property
    def size(self) -> int:
        return self.stop - self.start


class Outcome(NamedTuple):
    """How a call ended: `failed_from` is the index of the first record not done, None if all are."""

    failed_from: int | None


class Settled(NamedTuple):
    """What a call's outcome makes of its batch.

    Records before `done_until` are finished, discarded ones included. `rest` is tried next, in this order;
    `discarded` is what was given up; `waits` tells that the same call comes again, so it should not come at once.
    """

    done_until: int
    rest: tuple[Batch, ...]
    discarded: Batch | None
    waits: bool


def settle(batch: Batch, outcome: Outcome, rules: Rules) -> Settled:
    """Apply `rules` to the outcome of a call with `batch`."""
    if outcome.failed_from is None:
        return Settled(batch.stop, (), None, waits=False)
    if outcome.failed_from > batch.start:
        return Settled(outcome.failed_from, (Batch(outcome.failed_from, batch.stop),), None, waits=False)
    if rules.bisects and batch.size > 1:
        middle = batch.start + batch.size // 2
        halves = (Batch(batch.start, middle, batch.retries), Batch(middle, batch.stop))
        return Settled(batch.start, halves, None, waits=False)  # soon down to one record, which waits
    if rules.max_retries is not None and batch.retries >= rules.max_retries:
        return Settled(batch.stop, (), batch, waits=False)
    return Settled(batch.start, (batch._replace(retries=batch.retries + 1),), None, waits=True)


def split_expired(batch: Batch, expired_until: int) -> tuple[Batch | None, Batch | None]:
    """Cut off the records that are too old, [start, expired_until): (given up, left). Each None if it is empty."""
    if expired_until <= batch.start:
        return None, batch
    if expired_until >= batch.stop:
        return batch, None
    return batch._replace(stop=expired_until), Batch(expired_until, batch.stop)


def wait_s(repeated_calls: int) -> float:
    """Seconds before a call comes again as it was, the `repeated_calls`-th time in a row (1 is the first)."""
    return float(min(_FIRST_WAIT_S * 2 ** min(repeated_calls - 1, 10), _LONGEST_WAIT_S))


def reported_outcome(batch: Batch, sequence_numbers: list[str], answer: Any) -> Outcome:
    """Read what a function answered under ReportBatchItemFailures, as AWS reads it.

    No answer, an empty one, or one without failures: all done. The lowest failed sequence number is where to go on.
    An answer that is no object, or an identifier that is missing, empty or none of the batch's: all failed.

    Args:
        batch: what the function was called with.
        sequence_numbers: those of the batch's records, in order.
        answer: its answer, parsed from JSON.
    """
    if answer is None or answer == {} or answer == "":
        return Outcome(None)
    if not isinstance(answer, dict):
        return Outcome(batch.start)
    failures = answer.get("batchItemFailures")
    if failures is None or failures == []:
        return Outcome(None)
    if not isinstance(failures, list):
        return Outcome(batch.start)
    places = {sequence_number: place for place, sequence_number in enumerate(sequence_numbers)}
    failed = []
    for failure in failures:
        identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
        if not isinstance(identifier, str) or identifier not in places:
            return Outcome(batch.start)
        failed.append(places[identifier])
    return Outcome(batch.start + min(failed))
