from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.simulated_population import DAY_MS, Population
from producers.simulator import SimulatedTransaction, simulate
from stream_features.errors import UsageError
from stream_features.transaction import check_transaction, encode_transaction

END_MS = 1_750_000_000_000


@cache
def a_month() -> list[SimulatedTransaction]:
    return list(simulate(20_000, seed=7, end_ms=END_MS, days=30))


def digest(rows: list[SimulatedTransaction]) -> str:
    sha256 = hashlib.sha256()
    for row in rows:
        sha256.update(encode_transaction(row.transaction) + str(row.scenario).encode())
    return sha256.hexdigest()


def test_the_same_arguments_give_the_same_stream_on_every_machine() -> None:
    """The digest was written down once; another one means that published seeds no longer mean what they meant."""
    assert (
        digest(list(simulate(3_000, seed=11, end_ms=END_MS)))
        == "5323d80905a79b6082bea82e9e26e66a463f2d76c9bba002b67375a5e42fb588"
    )


@settings(max_examples=40)
@given(st.integers(0, 300), st.integers(0, 2**53), st.floats(0.01, 400), st.integers(1, 50) | st.none())
def test_exactly_as_many_valid_transactions_as_asked_in_time_order(
    count: int, seed: int, days: float, customers: int | None
) -> None:
    rows = list(simulate(count, seed=seed, end_ms=END_MS, days=days, customers=customers))
    times_ms = [row.transaction.event_time_ms for row in rows]
    assert len(rows) == count == len({row.transaction.transaction_id for row in rows})
    assert times_ms == sorted(times_ms)
    for row in rows:
        check_transaction(row.transaction, arrival_ms=END_MS)
        assert row.is_fraud is (row.scenario is not None)
    if rows:
        assert times_ms[-1] == END_MS
        assert times_ms[0] >= END_MS - days * DAY_MS - 1


def test_a_stream_fills_its_span_evenly() -> None:
    per_day = Counter((END_MS - row.transaction.event_time_ms) // DAY_MS for row in a_month())
    assert set(per_day) <= set(range(31))
    assert all(400 < per_day[day] < 1_000 for day in range(30))


def test_every_row_of_a_large_stream_is_valid() -> None:
    for row in a_month():
        check_transaction(row.transaction, arrival_ms=END_MS)


def test_fraud_is_rare_and_of_six_kinds() -> None:
    scenarios = Counter(row.scenario for row in a_month())
    honest = scenarios.pop(None)
    assert 0.005 < 1 - honest / len(a_month()) < 0.02
    assert set(scenarios) == {
        "large_amount", "stolen_card_spree", "card_testing",
        "impossible_travel", "compromised_merchant", "account_takeover",
    }  # fmt: skip
    assert min(scenarios.values()) >= 5


def test_a_compromised_merchant_hurts_only_cards_that_paid_somewhere_it_leaked() -> None:
    """Every victim paid before at a merchant through which compromised-merchant fraud passes."""
    leaking = {row.transaction.merchant_id for row in a_month() if row.scenario == "compromised_merchant"}
    paid: dict[str, set[str]] = {}
    for row in a_month():
        transaction = row.transaction
        if row.scenario == "compromised_merchant":
            assert paid.get(transaction.card_id, set()) & leaking
        elif row.scenario is None:
            paid.setdefault(transaction.card_id, set()).add(transaction.merchant_id)


def test_impossible_travel_begins_abroad_within_two_hours_of_paying_at_home() -> None:
    last: dict[str, tuple[int, str | None]] = {}
    speeds = 0
    for row in a_month():
        transaction = row.transaction
        if transaction.latitude is None:
            continue
        before = last.get(transaction.card_id)
        if row.scenario == "impossible_travel" and before is not None:
            assert transaction.event_time_ms - before[0] < 2 * 3_600_000
            speeds += before[1] != transaction.merchant_id.split("-")[2][0]
        last[transaction.card_id] = (transaction.event_time_ms, transaction.merchant_id.split("-")[2][0])
    assert speeds >= 5


def test_honest_customers_travel_repeat_themselves_and_spend_much_at_times() -> None:
    """Without honest doubles every kind of fraud could be told by one feature."""
    honest = [row.transaction for row in a_month() if not row.is_fraud]
    countries, amounts = {}, {}
    times: dict[str, list[int]] = {}
    for transaction in honest:
        countries.setdefault(transaction.card_id, set()).add(transaction.country)
        amounts.setdefault((transaction.card_id, transaction.currency), []).append(transaction.amount_minor)
        times.setdefault(transaction.card_id, []).append(transaction.event_time_ms)
    assert sum(len(seen) > 2 for seen in countries.values()) > len(countries) / 10
    assert sum(max(seen) > 5 * sum(seen) / len(seen) for seen in amounts.values()) > 20
    bursts = sum(after - before < 600_000 for seen in times.values() for before, after in pairwise(seen))
    assert bursts > 100
    assert any(transaction.type == "refund" for transaction in honest)


def test_streams_of_other_seeds_ends_counts_and_spans_share_no_id() -> None:
    base = {"count": 200, "seed": 1, "end_ms": END_MS, "days": 10.0}
    ids: list[str] = []
    variants = [{}, {"seed": 2}, {"seed": 12}, {"end_ms": END_MS + 1}, {"count": 201}, {"days": 11.0}]
    for change in variants:
        ids += [row.transaction.transaction_id for row in simulate(**(base | change))]
    assert len(set(ids)) == len(ids)


def test_a_later_and_longer_stream_of_one_seed_is_about_the_same_people() -> None:
    early = Population(5, 30)
    late = Population(5, 90)
    for before, after in zip(early.customers, late.customers, strict=False):
        assert before == after
    assert early.online == late.online
    first = {row.transaction.card_id for row in simulate(2_000, seed=5, end_ms=END_MS)}
    second = {row.transaction.card_id for row in simulate(4_000, seed=5, end_ms=END_MS + 10 * DAY_MS)}
    assert first < second


def test_a_stream_is_drawn_as_it_is_read() -> None:
    stream = simulate(10**7, seed=1, end_ms=END_MS, customers=20, days=2_000)
    assert len(list(islice(stream, 5))) == 5


@pytest.mark.parametrize(
    "change",
    [{"count": -1}, {"seed": -1}, {"seed": 2**53 + 1}, {"days": 0}, {"days": 1e9}, {"end_ms": 0}, {"customers": 0}],
)
def test_arguments_out_of_range_are_refused_at_once(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        simulate(**({"count": 1, "seed": 1, "end_ms": END_MS, "days": 1.0} | change))
