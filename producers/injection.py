"""Bad and duplicate records on purpose, planned beforehand, so that whoever publishes knows what must be found.

A bad record is garbage of one kind and belongs to no transaction; a duplicate is a transaction sent again, byte for
byte, some records after its first time.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from stream_features.errors import UsageError
from stream_features.transaction import Transaction

_LARGE_BYTES: Final = 1_000_000
_DUPLICATE_DISTANCE: Final = 400


def _valid(number: int) -> dict[str, Any]:
    return {
        "transaction_id": f"bad-{number}",
        "event_time_ms": 1_700_000_000_000,
        "card_id": f"bad-card-{number}",
        "merchant_id": "m-bad",
        "amount_minor": 1_000,
        "currency": "USD",
    }


def _without(name: str, number: int) -> bytes:
    return json.dumps({key: value for key, value in _valid(number).items() if key != name}).encode()


def _with(number: int, **fields: Any) -> bytes:
    return json.dumps(_valid(number) | fields).encode()


GARBAGE: Final[dict[str, Callable[[int], bytes]]] = {
    "invalid_utf8": lambda number: _with(number).replace(b"m-bad", b"m-\xff\xfe"),
    "nul_character": lambda number: _with(number, merchant_id="m\0bad"),
    "not_json": lambda number: f"transaction {number} of no particular form".encode(),
    "not_an_object": lambda number: json.dumps([_valid(number)]).encode(),
    "deep_json": lambda number: b"[" * 5_000 + str(number).encode() + b"]" * 5_000,
    "huge_number": lambda number: _with(number).replace(b": 1000,", b": 1" + b"0" * 400 + b","),
    "nan_amount": lambda number: _with(number).replace(b": 1000,", b": NaN,"),
    "negative_amount": lambda number: _with(number, amount_minor=-1),
    "fractional_amount": lambda number: _with(number, amount_minor=10.5),
    "wrong_type": lambda number: _with(number, event_time_ms="yesterday"),
    "missing_field": lambda number: _without("merchant_id", number),
    "card_number": lambda number: _with(number, card_id=f"4{number:015d}"),
    "unknown_currency": lambda number: _with(number, currency="???"),
    "large_record": lambda number: _with(number, merchant_id="m" * _LARGE_BYTES),
    "empty": lambda number: b"",
}


@dataclass(frozen=True, slots=True)
class BadRecord:
    kind: str
    partition_key: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class InjectionPlan:
    """Where what is injected among `count` transactions.

    Attributes:
        bad: number of the transaction before which bad records go (`count` means after the last) → their kinds.
        duplicates: number of a transaction → the number of the transaction after which it is sent again.
    """

    count: int
    bad: dict[int, tuple[str, ...]]
    duplicates: dict[int, int]

    @property
    def bad_count(self) -> int:
        return sum(map(len, self.bad.values()))

    @property
    def duplicate_count(self) -> int:
        return len(self.duplicates)

    @property
    def bad_by_kind(self) -> dict[str, int]:
        return dict(Counter(kind for kinds in self.bad.values() for kind in kinds))


def plan_injection(count: int, *, seed: int, bad_share: float = 0.0, duplicate_share: float = 0.0) -> InjectionPlan:
    """A plan with count x bad_share bad records (rounded), of all kinds in turn, and count x duplicate_share resends.

    The same arguments give the same plan.

    Raises:
        UsageError: a share is outside 0..1.
    """
    if not 0 <= bad_share <= 1 or not 0 <= duplicate_share <= 1:
        raise UsageError("the shares of bad and of duplicate records lie in 0..1")
    rng = random.Random(f"injection/{seed}/{count}")  # noqa: S311 - a repeatable plan, not cryptography
    kinds = list(GARBAGE)
    rng.shuffle(kinds)
    bad: dict[int, tuple[str, ...]] = {}
    for number in range(round(count * bad_share)):
        place = rng.randint(0, count)
        bad[place] = (*bad.get(place, ()), kinds[number % len(kinds)])
    chosen = rng.sample(range(count), round(count * duplicate_share))
    duplicates = {number: min(count - 1, number + rng.randint(0, _DUPLICATE_DISTANCE)) for number in sorted(chosen)}
    return InjectionPlan(count, bad, duplicates)


def inject(transactions: Iterable[Transaction], plan: InjectionPlan) -> Iterator[Transaction | BadRecord]:
    """The transactions in their order with the plan's bad records and duplicates between them.

    Raises:
        ValueError: there are not exactly `plan.count` transactions.
    """
    bad_number = 0
    again: dict[int, list[Transaction]] = {}
    number = -1
    for number, transaction in enumerate(transactions):
        for kind in plan.bad.get(number, ()):
            yield _bad_record(kind, bad_number)
            bad_number += 1
        yield transaction
        if number in plan.duplicates:
            again.setdefault(plan.duplicates[number], []).append(transaction)
        yield from again.pop(number, ())
    if number + 1 != plan.count:
        raise ValueError(f"the plan is for {plan.count} transactions, there were {number + 1}")
    for kind in plan.bad.get(plan.count, ()):
        yield _bad_record(kind, bad_number)
        bad_number += 1


def _bad_record(kind: str, number: int) -> BadRecord:
    return BadRecord(kind, f"bad-card-{number}", GARBAGE[kind](number))
