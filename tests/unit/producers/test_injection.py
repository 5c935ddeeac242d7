from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.injection import GARBAGE, BadRecord, inject, plan_injection
from producers.publisher import MAX_RECORD_BYTES
from stream_features.errors import MalformedRecord, UsageError
from stream_features.transaction import Transaction, parse_transaction

FAR_FUTURE_MS = 4_000_000_000_000


def transactions(count: int) -> list[Transaction]:
    return [
        Transaction(
            transaction_id=f"t{number}",
            event_time_ms=number,
            card_id=f"c{number % 3}",
            merchant_id="m",
            amount_minor=1,
            currency="USD",
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_breaks_the_contract_and_fits_into_a_kinesis_record(kind: str) -> None:
    for number in (0, 7, 10**6):
        payload = GARBAGE[kind](number)
        assert len(payload) <= MAX_RECORD_BYTES - 256
        with pytest.raises(MalformedRecord):
            parse_transaction(payload, arrival_ms=FAR_FUTURE_MS)


def test_no_two_pieces_of_garbage_are_alike() -> None:
    digests = [hashlib.sha256(make(number)).digest() for make in GARBAGE.values() for number in range(5)]
    assert len(set(digests)) == len(digests) - 4  # nothing is nothing


@given(st.integers(0, 200), st.integers(0, 10), st.floats(0, 1), st.floats(0, 1))
def test_the_plan_is_kept_to_the_letter(count: int, seed: int, bad_share: float, duplicate_share: float) -> None:
    plan = plan_injection(count, seed=seed, bad_share=bad_share, duplicate_share=duplicate_share)
    assert plan.bad_count == round(count * bad_share)
    assert plan.duplicate_count == round(count * duplicate_share)
    published = list(inject(transactions(count), plan))
    bad = [item for item in published if isinstance(item, BadRecord)]
    good = [item for item in published if isinstance(item, Transaction)]
    assert dict(Counter(record.kind for record in bad)) == plan.bad_by_kind
    assert len({record.partition_key for record in bad}) == len(bad)
    times = Counter(item.transaction_id for item in good)
    assert {name for name, seen in times.items() if seen == 2} == {f"t{number}" for number in plan.duplicates}
    assert len(good) == count + plan.duplicate_count
    assert list(dict.fromkeys(good)) == transactions(count)


def test_every_kind_comes_up_before_any_comes_up_twice() -> None:
    plan = plan_injection(len(GARBAGE) * 10, seed=1, bad_share=0.1)
    assert plan.bad_by_kind == dict.fromkeys(GARBAGE, 1)


def test_the_same_seed_gives_the_same_plan_and_another_another() -> None:
    arguments = {"bad_share": 0.05, "duplicate_share": 0.05}
    assert plan_injection(500, seed=3, **arguments) == plan_injection(500, seed=3, **arguments)
    assert plan_injection(500, seed=3, **arguments) != plan_injection(500, seed=4, **arguments)


def test_a_plan_for_another_number_of_transactions_is_noticed() -> None:
    with pytest.raises(ValueError, match="10 transactions, there were 9"):
        list(inject(transactions(9), plan_injection(10, seed=1)))


@pytest.mark.parametrize("shares", [{"bad_share": -0.1}, {"duplicate_share": 1.1}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        plan_injection(10, seed=1, **shares)
