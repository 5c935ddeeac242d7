from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from producers.labels import DAY_MS, LabelNoise, LabelPublisher, label_of, labels_of
from producers.replay import by_bucket, known_at_ms, replay, rows_from_ms
from producers.simulator import simulate
from stream_features.label import Label, parse_label
from stream_features.transaction import Transaction
from tests.unit.producers.fake_kinesis import FakeKinesis


class Row(NamedTuple):
    transaction: Transaction
    is_fraud: bool | None


def a_row(number: int, event_time_ms: int, is_fraud: bool | None = False) -> Row:
    return Row(
        Transaction(
            transaction_id=f"t{number}",
            event_time_ms=event_time_ms,
            card_id="c",
            merchant_id="m",
            amount_minor=1,
            currency="USD",
        ),
        is_fraud,
    )


def test_a_label_says_all_that_lets_it_apply_at_once() -> None:
    row = a_row(1, 1_000, is_fraud=True)
    assert label_of(row.transaction, True, label_delay_ms=5 * DAY_MS) == Label(
        transaction_id="t1",
        is_fraud=True,
        reported_at_ms=1_000 + 5 * DAY_MS,
        source="chargeback",
        card_id="c",
        merchant_id="m",
        event_time_ms=1_000,
    )
    assert label_of(row.transaction, False, label_delay_ms=0).source == "customer"


def test_every_row_whose_truth_is_known_gets_a_label() -> None:
    rows = [a_row(1, 10, True), a_row(2, 20, None), a_row(3, 30, False)]
    labels = list(labels_of(rows, label_delay_ms=7))
    assert [(label.transaction_id, label.is_fraud) for label in labels] == [("t1", True), ("t3", False)]


def test_noise_changes_reports_in_its_shares_and_always_the_same_ones() -> None:
    rows = [a_row(number, number, is_fraud=number % 2 == 0) for number in range(20_000)]
    noise = LabelNoise(missed_share=0.1, disputed_share=0.02)
    reported = [label.is_fraud for label in labels_of(rows, noise=noise)]
    assert 850 < reported[::2].count(False) < 1_150
    assert 150 < reported[1::2].count(True) < 250
    assert reported == [label.is_fraud for label in labels_of(rows, noise=noise)]
    assert [row.is_fraud for row in rows[:2]] == [True, False]


def test_labels_go_out_under_their_transaction_and_parse_back() -> None:
    kinesis = FakeKinesis()
    label = label_of(a_row(1, 1_000).transaction, True, label_delay_ms=5)
    with LabelPublisher(kinesis, "labels") as publisher:
        publisher.publish(label)
    assert [(key, parse_label(payload)) for key, payload in kinesis.stored] == [("t1", label)]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from([True, False, None])), max_size=20),
    st.integers(0, 35) | st.none(),
    st.integers(0, 35) | st.none(),
    st.integers(1, 12) | st.none(),
)
def test_replay_is_the_sorted_union_of_what_happens_and_what_is_reported(
    times: list[tuple[int, bool | None]], from_ms: int | None, until_ms: int | None, label_delay_ms: int | None
) -> None:
    rows = [a_row(number, time, truth) for number, (time, truth) in enumerate(sorted(times, key=lambda each: each[0]))]

    def inside(time_ms: int) -> bool:
        return (from_ms is None or from_ms <= time_ms) and (until_ms is None or time_ms < until_ms)

    expected = [(row.transaction.event_time_ms, 1, row.transaction.transaction_id) for row in rows]
    if label_delay_ms is not None:
        expected += [
            (row.transaction.event_time_ms + label_delay_ms, 0, row.transaction.transaction_id)
            for row in rows
            if row.is_fraud is not None
        ]
    expected = sorted((item for item in expected if inside(item[0])), key=lambda item: item[:2])
    got = replay(rows, from_ms=from_ms, until_ms=until_ms, label_delay_ms=label_delay_ms)
    assert [(known_at_ms(item), int(isinstance(item, Transaction)), item.transaction_id) for item in got] == expected


def test_labels_of_transactions_before_the_period_need_rows_before_it() -> None:
    rows = [a_row(1, 100), a_row(2, 104), a_row(3, 111)]
    assert rows_from_ms(110, 6) == 104
    items = list(replay(rows, from_ms=110, until_ms=112, label_delay_ms=6))
    assert [(type(item).__name__, item.transaction_id) for item in items] == [("Label", "t2"), ("Transaction", "t3")]
    assert rows_from_ms(None, 6) is None


def test_a_label_without_delay_follows_its_transaction() -> None:
    items = list(replay([a_row(1, 5), a_row(2, 5)], label_delay_ms=0))
    assert [(type(item).__name__, item.transaction_id) for item in items] == [
        ("Transaction", "t1"), ("Label", "t1"), ("Transaction", "t2"), ("Label", "t2"),
    ]  # fmt: skip


def test_a_simulation_replays_whole_with_all_its_labels() -> None:
    items = list(replay(simulate(500, seed=1, end_ms=1_750_000_000_000), label_delay_ms=DAY_MS))
    assert sum(isinstance(item, Transaction) for item in items) == 500
    assert sum(isinstance(item, Label) for item in items) == 500
    assert [known_at_ms(item) for item in items] == sorted(known_at_ms(item) for item in items)


def test_buckets_cut_time_without_losing_or_reordering() -> None:
    rows = [a_row(number, time) for number, time in enumerate([0, 9, 10, 35, 39])]
    items = list(replay(rows, label_delay_ms=None))
    buckets = list(by_bucket(items, 10))
    assert [(start_ms, len(bucket)) for start_ms, bucket in buckets] == [(0, 2), (10, 1), (30, 2)]
    assert [item for _, bucket in buckets for item in bucket] == items
