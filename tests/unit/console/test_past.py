"""What a bootstrap makes of a file equals what the scalar path makes of it, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.past import Past, read_past
from producers.file_writer import write_transactions
from producers.files import FileRow
from producers.labels import labels_of
from producers.simulator import simulate
from stream_features.codec import pack
from stream_features.errors import MalformedRecord
from stream_features.feature_sets import FEATURE_SETS, feature_set
from stream_features.history import history_states
from stream_features.merchant_codec import pack_merchant
from stream_features.transaction import Transaction
from stream_features.vectorised.columns import history_columns

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
END_MS = 1_767_225_600_000

Packed = tuple[dict[str, bytes], dict[str, bytes]]


def of_past(past: Past) -> Packed:
    return (
        {card: pack(state) for card, state in past.card_states()},
        {merchant: pack_merchant(state) for merchant, state in past.merchant_states()},
    )


def of_scalar_path(rows: list[FileRow], set_name: str, until_ms: int, delay_ms: int) -> Packed:
    seen: dict[str, FileRow] = {}
    for row in rows:
        if row.transaction.event_time_ms < until_ms:
            seen.setdefault(row.transaction.transaction_id, row)
    labels = list(labels_of(seen.values(), label_delay_ms=delay_ms))
    states = history_states(
        [row.transaction for row in seen.values()], feature_set(set_name), labels, before_ms=until_ms
    )
    return (
        {card: pack(state) for card, state in states.cards.items()},
        {merchant: pack_merchant(state) for merchant, state in states.merchants.items() if not state.is_empty},
    )


@st.composite
def histories(draw: st.DrawFn) -> list[FileRow]:
    """Few cards and merchants over 60 days, so that retention ends within; ids may repeat."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 60 * 24),  # hours
                st.sampled_from((0, 1, 999, 1_000, 59_999, HOUR_MS - 1)),
                st.sampled_from("ab"),
                st.sampled_from("xyz"),
                st.integers(0, 10_000),
                st.sampled_from(("purchase", "purchase", "purchase", "refund")),
                st.sampled_from((True, False, None)),
            ),
            min_size=1,
            max_size=40,
        )
    )
    repeated = draw(st.booleans())
    made = [
        FileRow(
            Transaction(
                transaction_id=f"t{number // 2 if repeated else number}",
                event_time_ms=END_MS + hours * HOUR_MS + millis,
                card_id=card,
                merchant_id=merchant,
                amount_minor=amount,
                currency="USD",
                type=kind,
            ),
            is_fraud,
        )
        for number, (hours, millis, card, merchant, amount, kind, is_fraud) in enumerate(rows)
    ]
    return sorted(made, key=lambda row: row.transaction.event_time_ms)


@settings(max_examples=80, deadline=None)
@given(
    rows=histories(),
    set_name=st.sampled_from(sorted(FEATURE_SETS)),
    t_hours=st.integers(0, 61 * 24),
    delay_hours=st.sampled_from((0, 1, 5 * 24, 40 * 24)),
)
def test_states_are_those_of_the_scalar_path(
    rows: list[FileRow], set_name: str, t_hours: int, delay_hours: int
) -> None:
    until_ms = END_MS + t_hours * HOUR_MS
    past = Past(history_columns(rows), feature_set(set_name), until_ms, delay_hours * HOUR_MS)
    assert of_past(past) == of_scalar_path(rows, set_name, until_ms, delay_hours * HOUR_MS)


@pytest.mark.parametrize("set_name", sorted(FEATURE_SETS))
def test_a_simulated_file_gives_the_states_of_the_scalar_path(tmp_path: Path, set_name: str) -> None:
    """With a card that has more purchases than stay exact, and a merchant that everybody visits."""
    rows = [FileRow(row.transaction, row.is_fraud) for row in simulate(2_000, seed=3, end_ms=END_MS, days=50)]
    busy = [
        FileRow(
            Transaction(
                transaction_id=f"busy-{number}",
                event_time_ms=END_MS - 12 * DAY_MS + number * 400_000,
                card_id="busy",
                merchant_id="hot",
                amount_minor=number,
                currency="USD",
            ),
            number % 9 == 0,
        )
        for number in range(1_500)
    ]
    rows = sorted(rows + busy, key=lambda row: row.transaction.event_time_ms)
    file = tmp_path / "history.parquet"
    write_transactions(file, rows)
    until_ms = END_MS - DAY_MS
    past = read_past(file, None, feature_set(set_name), until_ms=until_ms, label_delay_ms=5 * DAY_MS)
    mine = of_past(past)
    assert "busy" in mine[0]
    assert len(past.reported_frauds()) > 50
    assert past.transactions == sum(row.transaction.event_time_ms < until_ms for row in rows)
    assert mine == of_scalar_path(rows, set_name, until_ms, 5 * DAY_MS)


def test_a_bad_row_counts_only_before_t(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text(
        "transaction_id,event_time_ms,card_id,merchant_id,amount_minor,currency\n"
        f"t1,{END_MS},c,m,100,USD\n"
        f"t2,{END_MS + 5_000},c,m,-1,USD\n"
    )
    core = feature_set("core")
    past = read_past(file, None, core, until_ms=END_MS + 5_000, label_delay_ms=0)
    assert past.transactions == 1
    with pytest.raises(MalformedRecord, match="amount_minor"):
        read_past(file, None, core, until_ms=END_MS + 5_001, label_delay_ms=0)
    with pytest.raises(MalformedRecord, match="amount_minor"):
        read_past(file, None, core, until_ms=None, label_delay_ms=0)
