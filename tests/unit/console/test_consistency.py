"""The consistency job: a served range computed again says what differs, and only that."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from console.consistency import History, Replay, Served, compare, in_arrival_order
from console.past import Past
from producers.labels import labels_of
from producers.simulator import SimulatedTransaction, simulate
from stream_features.decision import StreamPosition
from stream_features.errors import ContractMismatch
from stream_features.feature_sets import FEATURE_SETS, feature_set
from stream_features.history import HistoryStates, history_states, observe_history
from stream_features.kernel import features_json
from stream_features.label_history import FraudEntry, fraud_entry
from stream_features.transaction import Transaction, payload_sha256
from stream_features.vectorised.columns import history_columns

END_MS = 1_767_225_600_000
DAY_MS = 86_400_000
DELAY_MS = 5 * DAY_MS
ARRIVED_MS = END_MS + 1_000


@pytest.fixture(scope="module")
def rows() -> list[SimulatedTransaction]:
    return list(simulate(1_200, seed=4, end_ms=END_MS, days=30))


def served_by_the_stream(
    rows: list[SimulatedTransaction], set_name: str, states: HistoryStates | None = None
) -> list[Served]:
    """What lockstep serves: the scalar path's values; cards lie in two shards."""
    features = feature_set(set_name)
    observed = observe_history(
        [row.transaction for row in rows], features, list(labels_of(rows, label_delay_ms=DELAY_MS)), states=states
    )
    return [
        Served(
            transaction_id=one.transaction_id,
            event_time_ms=one.event_time_ms,
            feature_set_id=features.feature_set_id,
            stream_position=StreamPosition(f"shard-{len(one.card_id) % 2}", str(9_990 + number)),
            arrival_ms=ARRIVED_MS + number,
            payload_sha256=payload_sha256(one),
            features=features_json(features, observation.values),
        )
        for number, (one, observation) in enumerate(observed)
    ]


def frauds_of(rows: list[SimulatedTransaction]) -> dict[str, list[FraudEntry]]:
    frauds: dict[str, list[FraudEntry]] = {}
    for row in rows:
        one = row.transaction
        if row.is_fraud and one.type == "purchase":
            entry = fraud_entry(one.event_time_ms, one.event_time_ms + DELAY_MS, True)
            frauds.setdefault(one.merchant_id, []).append(entry)
    return frauds


def archive_of(rows: list[SimulatedTransaction]) -> dict[str, Transaction]:
    return {row.transaction.transaction_id: row.transaction for row in rows}


@pytest.mark.parametrize("set_name", sorted(FEATURE_SETS))
def test_what_the_stream_served_in_lockstep_is_found_equal(rows: list[SimulatedTransaction], set_name: str) -> None:
    served = served_by_the_stream(rows, set_name)
    random.Random(1).shuffle(served)
    found = compare(served, archive_of(rows), feature_set(set_name), frauds=frauds_of(rows))
    assert found.holds, found.as_text()
    assert found.compared == len(rows)
    assert json.loads(found.as_json())["holds"] is True


def test_each_kind_of_difference_is_counted_by_feature(rows: list[SimulatedTransaction]) -> None:
    served = served_by_the_stream(rows, "core")
    for number, name, value in (
        (500, "card_count_1h", -0.0),
        (501, "amount", None),
        (502, "distance_from_last_m", 5.0),
    ):
        assert served[number].features is not msgspec.UNSET
        served[number].features[name] = value
    served[502].features["distance_from_last_m"] = None  # type: ignore[index]
    found = compare(served, archive_of(rows), feature_set("core"), frauds=frauds_of(rows))
    differences = {name: (one.mismatch, one.missing, one.extra) for name, one in found.features.items()}
    assert differences["card_count_1h"] == (1, 0, 0)
    assert differences["amount"] == (0, 1, 0)
    assert set(differences) <= {"card_count_1h", "amount", "distance_from_last_m"}
    assert found.features["amount"].examples == [rows[501].transaction.transaction_id]
    assert not found.holds
    assert "amount: 0 mismatches, 1 missing, 0 extra" in found.as_text()


def test_only_the_range_is_compared_but_all_of_the_past_counts(rows: list[SimulatedTransaction]) -> None:
    served = served_by_the_stream(rows, "core")
    from_ms, until_ms = END_MS - 5 * DAY_MS, END_MS - 3 * DAY_MS
    for one in served:
        if not from_ms <= one.event_time_ms < until_ms:
            one.features["amount"] = 1.0  # type: ignore[index]
    found = compare(
        served, archive_of(rows), feature_set("core"), frauds=frauds_of(rows), from_ms=from_ms, until_ms=until_ms
    )
    assert found.holds
    assert found.compared == sum(from_ms <= row.transaction.event_time_ms < until_ms for row in rows) > 20


def test_a_changed_row_of_the_archive_shows_in_what_it_touches(rows: list[SimulatedTransaction]) -> None:
    archive = archive_of(rows)
    victim = rows[600].transaction
    archive[victim.transaction_id] = msgspec.structs.replace(victim, amount_minor=victim.amount_minor + 1)
    served = served_by_the_stream(rows, "core")
    found = compare(served, archive, feature_set("core"), frauds=frauds_of(rows))
    assert found.other_payload == [victim.transaction_id]
    assert found.features["amount"].mismatch == 1
    assert "card_count_30d" not in found.features


def test_missing_rows_and_missing_decisions_are_named(rows: list[SimulatedTransaction]) -> None:
    archive, served = archive_of(rows), served_by_the_stream(rows, "handbook")
    lost = served.pop().transaction_id
    gone = served[-1].transaction_id
    del archive[gone]
    found = compare(served, archive, feature_set("handbook"), frauds=frauds_of(rows))
    assert (found.without_decision, found.without_record) == ([lost], [gone])
    assert not found.holds


def test_a_label_that_never_reached_its_merchant_is_noticed(rows: list[SimulatedTransaction]) -> None:
    served = served_by_the_stream(rows, "handbook")
    found = compare(served, archive_of(rows), feature_set("handbook"), frauds={})
    assert found.features
    assert all("RISK" in name for name in found.features)


def test_what_was_bootstrapped_counts_from_then_on(rows: list[SimulatedTransaction]) -> None:
    until_ms = END_MS - 8 * DAY_MS
    features = feature_set("handbook")
    before = [row for row in rows if row.transaction.event_time_ms < until_ms]
    rest = rows[len(before) :]
    states = history_states(
        [row.transaction for row in before],
        features,
        list(labels_of(before, label_delay_ms=DELAY_MS)),
        before_ms=until_ms,
    )
    for state in (*states.cards.values(), *states.merchants.values()):
        state.complete_from_ms = until_ms
    # labels reported from T on, also of what happened before it
    features_served = served_by_the_stream_after(rows, rest, states, until_ms)
    past = Past(history_columns([(row.transaction, row.is_fraud) for row in rows]), features, until_ms, DELAY_MS)
    history = History(ARRIVED_MS - 10, ARRIVED_MS - 5, until_ms, dict(past.card_states()), dict(past.merchant_states()))
    found = compare(features_served, archive_of(rest), features, histories=[history], frauds=frauds_of(rows))
    assert found.holds, found.as_text()
    assert found.compared == len(rest) > 200
    without = compare(features_served, archive_of(rest), features, frauds=frauds_of(rows))
    assert "CUSTOMER_ID_NB_TX_30DAY_WINDOW" in without.features


def served_by_the_stream_after(
    rows: list[SimulatedTransaction], rest: list[SimulatedTransaction], states: HistoryStates, until_ms: int
) -> list[Served]:
    features = feature_set("handbook")
    labels = [label for label in labels_of(rows, label_delay_ms=DELAY_MS) if label.reported_at_ms >= until_ms]
    observed = observe_history([row.transaction for row in rest], features, labels, states=states)
    return [
        Served(
            transaction_id=one.transaction_id,
            event_time_ms=one.event_time_ms,
            feature_set_id=features.feature_set_id,
            stream_position=StreamPosition("shard", str(number)),
            arrival_ms=ARRIVED_MS + number,
            payload_sha256=payload_sha256(one),
            features=features_json(features, observation.values),
        )
        for number, (one, observation) in enumerate(observed)
    ]


def test_decisions_of_another_feature_set_or_during_a_bootstrap_are_not_compared(
    rows: list[SimulatedTransaction],
) -> None:
    served = served_by_the_stream(rows[:50], "core")
    served[0] = msgspec.structs.replace(served[0], feature_set_id="core-1-older")
    history = History(ARRIVED_MS + 10, ARRIVED_MS + 12, 0, {}, {})
    found = compare(served, archive_of(rows[:50]), feature_set("core"), histories=[history], frauds=frauds_of(rows))
    assert found.not_compared == {"another feature set": 1, "decided while a bootstrap ran": 3}
    assert found.compared == 46


def test_a_decision_without_a_feature_of_its_set_is_an_error(rows: list[SimulatedTransaction]) -> None:
    served = served_by_the_stream(rows[:3], "core")
    del served[1].features["amount"]  # type: ignore[attr-defined]
    with pytest.raises(ContractMismatch, match=rows[1].transaction.transaction_id):
        compare(served, archive_of(rows[:3]), feature_set("core"), frauds={})


def test_the_records_of_a_shard_keep_their_order_whatever_the_clock_says() -> None:
    def at(shard: str, number: int, arrival_ms: int) -> Served:
        return Served(
            transaction_id=f"{shard}{number}",
            event_time_ms=0,
            feature_set_id="",
            stream_position=StreamPosition(shard, str(number)),
            arrival_ms=arrival_ms,
            payload_sha256="",
        )

    served = [at("a", 10, 5), at("a", 9, 7), at("b", 1, 6), at("a", 100, 8)]
    ordered = [one.transaction_id for one in in_arrival_order(served)]
    assert [name for name in ordered if name.startswith("a")] == ["a9", "a10", "a100"]
    assert set(ordered) == {"a9", "a10", "a100", "b1"}


def test_a_request_comes_where_it_was_scored_and_not_where_it_arrived() -> None:
    def at(shard: str, number: int, scored_at_ms: int) -> Served:
        return Served(
            transaction_id=f"{shard}{number}",
            event_time_ms=0,
            feature_set_id="",
            stream_position=StreamPosition(shard, str(number)),
            arrival_ms=number,
            scored_at_ms=scored_at_ms,
            payload_sha256="",
        )

    # records 1 and 2 waited in their stream while requests 3 and 4 were decided, 4 before 3
    served = [at("a", 1, 104), at("a", 2, 109), at("api", 3, 107), at("api", 4, 103)]
    assert [one.transaction_id for one in in_arrival_order(served)] == ["api4", "a1", "api3", "a2"]


def test_what_a_later_bootstrap_brings_is_not_known_before_it(rows: list[SimulatedTransaction]) -> None:
    """A purchase of after T came before the bootstrap: its merchant can still be loaded."""
    features = feature_set("handbook")
    until_ms = END_MS - 8 * DAY_MS
    before = [row for row in rows if row.transaction.event_time_ms < until_ms]
    rest = rows[len(before) :]
    one = rest[-1].transaction
    first = Transaction(
        transaction_id="came-first",
        event_time_ms=END_MS - 1,
        card_id="nobody-else",
        merchant_id=next(iter(frauds_of(before))),
        amount_minor=1,
        currency="USD",
    )
    past = Past(history_columns([(row.transaction, row.is_fraud) for row in rows]), features, until_ms, DELAY_MS)
    history = History(ARRIVED_MS - 10, ARRIVED_MS - 5, until_ms, {}, dict(past.merchant_states()))
    replay = Replay(features, frauds_of(rows))
    replay.observe(first, until_ms)
    replay.load(history)
    position = features.names.index("TERMINAL_ID_NB_TX_30DAY_WINDOW")
    asked = msgspec.structs.replace(one, merchant_id=first.merchant_id, event_time_ms=END_MS)
    assert replay.observe(asked)[position] > 1
