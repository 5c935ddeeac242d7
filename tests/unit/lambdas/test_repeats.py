"""Two writers of one transaction: the score API and the stream. One decision, and every record counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lambdas.repeats import alerted_effect, claim_effect, recorded_effect
from lambdas.writes import Write
from stream_features.codec import unpack
from stream_features.decision import StreamPosition, decode_decision
from stream_features.transaction import Transaction, payload_sha256
from tests.unit.lambdas.deliveries import REMAINING_MS, a_record, a_transaction, deliver, position, run_to_the_end
from tests.unit.lambdas.fakes import NOW_MS, Crash, FakeLedger, Fault, World, features_service_on, service_on
from tests.unit.lambdas.job import Job
from tests.unit.lambdas.loop import feature_records
from tests.unit.lambdas.requests import an_event, api_on, ask, score


def of_records(world: World) -> Counter[str]:
    """The counters that make up what was published, and those of the API."""
    names = ("decided", "duplicates", "quarantined", "api_decided", "api_recorded")
    return Counter({name: world.counters[name] for name in names if world.counters[name]})


def test_the_first_record_of_a_transaction_that_the_api_decided_counts_as_decided() -> None:
    world = World()
    transaction = a_transaction()
    status, body = score(api_on(world), transaction)
    assert status == 200
    assert of_records(world) == Counter(api_decided=1)
    assert deliver(service_on(world), [a_record(7, transaction)]).failed == []
    assert of_records(world) == Counter(api_decided=1, api_recorded=1, decided=1)
    assert world.decisions["t1"] == body
    assert [stored.document for stored in world.published] == [body, body]
    assert {recorded_effect("t1"), claim_effect("t1", position(7))} <= world.effects


def test_every_further_record_is_a_duplicate_and_a_redelivery_is_not() -> None:
    world = World()
    transaction = a_transaction()
    score(api_on(world), transaction)
    deliver(service_on(world), [a_record(7, transaction), a_record(8, transaction)])
    expected = Counter(api_decided=1, api_recorded=1, decided=1, duplicates=1)
    assert of_records(world) == expected
    outcome = deliver(service_on(world), [a_record(7, transaction), a_record(8, transaction)])
    assert (outcome.failed, of_records(world)) == ([], expected)
    assert outcome.counts["redelivered"] == 1
    deliver(service_on(world), [a_record(9, transaction)])
    assert of_records(world) == expected + Counter(duplicates=1)


def test_an_answer_is_the_decision_that_the_stream_would_have_made() -> None:
    by_api, by_stream = World(), World()
    past = [
        a_transaction(f"p{n}", event_time_ms=NOW_MS - 600_000 + n * 1_000, amount_minor=100 * n + 1) for n in range(9)
    ]
    asked = a_transaction("asked", amount_minor=7_777, country="DE", latitude=52.5, longitude=13.4)
    for world in (by_api, by_stream):
        deliver(service_on(world), [a_record(n + 1, one) for n, one in enumerate(past)])
    score(api_on(by_api), asked)
    deliver(service_on(by_stream), [a_record(10, asked)])
    answered, streamed = (decode_decision(world.decisions["asked"]) for world in (by_api, by_stream))
    assert answered.stream_position == StreamPosition("api", str(NOW_MS))
    assert msgspec.structs.replace(answered, stream_position=streamed.stream_position) == streamed
    assert by_api.states == by_stream.states
    assert [e.transaction_id for e in by_api.entity_events] == [e.transaction_id for e in by_stream.entity_events]
    changed = msgspec.structs.replace(streamed, features={**streamed.features, "amount": 1.0})
    assert msgspec.structs.replace(answered, stream_position=streamed.stream_position) != changed


def test_a_transaction_that_the_stream_decided_is_answered_and_counts_nothing() -> None:
    world = World()
    transaction = a_transaction()
    deliver(service_on(world), [a_record(1, transaction)])
    assert score(api_on(world), transaction) == (200, world.decisions["t1"])
    assert of_records(world) == Counter(decided=1)
    assert decode_decision(world.decisions["t1"]).stream_position == position(1)


def test_another_payload_in_the_stream_is_quarantined_and_claims_nothing() -> None:
    world = World()
    score(api_on(world), a_transaction())
    deliver(service_on(world), [a_record(1, a_transaction(amount_minor=9))])
    assert of_records(world) == Counter(api_decided=1, quarantined=1)
    deliver(service_on(world), [a_record(2, a_transaction())])
    assert of_records(world) == Counter(api_decided=1, quarantined=1, decided=1, api_recorded=1)


def test_another_payload_in_a_request_quarantines_and_counts_nothing() -> None:
    world = World()
    deliver(service_on(world), [a_record(1, a_transaction())])
    handled = ask(api_on(world), an_event(a_transaction(amount_minor=9)))
    assert (handled.answer["statusCode"], handled.code) == (409, "conflicting_duplicate")
    assert of_records(world) == Counter(decided=1)
    assert (world.objects, world.pointers, world.effects) == ({}, [], set())


def test_behind_the_flink_job_a_decision_of_the_api_is_claimed_as_well() -> None:
    """Decided before the engine was switched; the job may send what it made of one record twice."""
    world = World()
    transaction = a_transaction()
    score(api_on(world), transaction)
    Job(world).work_on([a_record(7, transaction), a_record(8, transaction)])
    first, second = world.features_sent
    for batch in ([first, first, second], [first, second, second]):
        outcome = features_service_on(world).score_batch(feature_records(batch), remaining_ms=REMAINING_MS)
        assert outcome.failed == []
        assert of_records(world) == Counter(api_decided=1, api_recorded=1, decided=1, duplicates=1)
    assert claim_effect("t1", position(7)) in world.effects


# --- alerts --------------------------------------------------------------------------------------------------------


def an_alerting() -> Transaction:
    """A transaction whose decision is not to approve."""
    for amount in range(1, 200):
        world = World()
        transaction = a_transaction("alerting", amount_minor=amount)
        score(api_on(world), transaction)
        if world.alerts:
            return transaction
    raise AssertionError("none found")


def test_an_alert_is_raised_once_by_the_api_and_not_again_by_the_record() -> None:
    world = World()
    transaction = an_alerting()
    score(api_on(world), transaction)
    assert alerted_effect("alerting") in world.effects
    score(api_on(world), transaction)
    deliver(service_on(world), [a_record(1, transaction)])
    deliver(service_on(world), [a_record(1, transaction)])
    assert [stored.decision.transaction_id for stored in world.alerts] == ["alerting"]
    assert world.counters["alerts"] == 1


def test_the_record_raises_the_alert_that_the_api_could_not() -> None:
    world = World(down={"alerts.raise_alerts"})
    transaction = an_alerting()
    assert score(api_on(world), transaction)[0] == 200  # the decision stands; the record brings the rest
    assert world.alerts == []
    world.down.clear()
    deliver(service_on(world), [a_record(1, transaction)])
    assert [stored.decision.transaction_id for stored in world.alerts] == ["alerting"]


# --- races ---------------------------------------------------------------------------------------------------------


class Interposed(FakeLedger):
    """Lets another writer finish between this one's reads and its first transaction."""

    def __init__(self, world: World, other: object) -> None:
        super().__init__(world)
        self._other = other

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        other, self._other = self._other, None
        if callable(other):
            other()
        super().transact(writes, counts, token=token)


def test_the_stream_comes_first_between_the_apis_read_and_its_commit() -> None:
    world = World()
    transaction = a_transaction()
    ledger = Interposed(world, lambda: deliver(service_on(world), [a_record(1, transaction)]))
    assert score(api_on(world, ledger=ledger), transaction) == (200, world.decisions["t1"])
    assert of_records(world) == Counter(decided=1)
    assert world.states["card#card-a"].version == 1


def test_the_api_comes_first_between_the_streams_read_and_its_commit() -> None:
    world = World()
    transaction = a_transaction()
    ledger = Interposed(world, lambda: score(api_on(world), transaction))
    assert deliver(service_on(world, ledger=ledger), [a_record(1, transaction)]).failed == []
    assert of_records(world) == Counter(api_decided=1, api_recorded=1, decided=1)
    assert world.states["card#card-a"].version == 1


def test_two_transactions_of_one_card_meet_and_both_count_in_the_cards_state() -> None:
    world = World()
    streamed, asked = a_transaction("streamed"), a_transaction("asked", event_time_ms=NOW_MS - 30_000)
    ledger = Interposed(world, lambda: deliver(service_on(world), [a_record(1, streamed)]))
    assert score(api_on(world, ledger=ledger), asked)[0] == 200
    assert decode_decision(world.decisions["asked"]).features["card_count_1h"] == 2
    stored = world.states["card#card-a"]
    assert stored.version == 2
    assert len(unpack(stored.packed, None).times) == 2


def test_another_record_that_claims_in_between_leaves_one_decided_and_one_duplicate() -> None:
    world = World()
    transaction = a_transaction()
    score(api_on(world), transaction)
    ledger = Interposed(world, lambda: deliver(service_on(world), [a_record(1, transaction)]))
    outcome = deliver(service_on(world, ledger=ledger), [a_record(2, transaction)])
    assert outcome.failed == ["2"]  # who claimed it is read with the next delivery
    deliver(service_on(world), [a_record(2, transaction)])
    assert of_records(world) == Counter(api_decided=1, api_recorded=1, decided=1, duplicates=1)


def test_a_failed_claim_is_delivered_again() -> None:
    world = World()
    transaction = a_transaction()
    score(api_on(world), transaction)
    for down in ("ledger.recorded", "ledger.transact"):
        world.down = {down}
        assert deliver(service_on(world), [a_record(1, transaction)]).failed == ["1"]
        world.down = set()
        assert of_records(world) == Counter(api_decided=1)
    deliver(service_on(world), [a_record(1, transaction)])
    assert of_records(world) == Counter(api_decided=1, api_recorded=1, decided=1)


_DEEDS = st.lists(st.tuples(st.sampled_from(["ask", "publish"]), st.integers(0, 3)), min_size=1, max_size=14)


@settings(max_examples=60, deadline=None)
@given(deeds=_DEEDS, fault=st.integers(0, 120), kind=st.sampled_from(["crash", "failure"]), effect=st.booleans())
def test_whatever_order_they_come_in_nothing_is_lost_and_nothing_counts_twice(
    deeds: list[tuple[str, int]], fault: int, kind: str, effect: bool
) -> None:
    world = World()
    transactions = [a_transaction(f"t{n}", card_id=f"card-{n % 2}", amount_minor=n + 1) for n in range(4)]
    records = []
    world.fault = Fault(fault, kind, effect)  # type: ignore[arg-type]
    asked: set[str] = set()
    for deed, number in deeds:
        if deed == "publish":
            records.append(a_record(len(records) + 1, transactions[number]))
            run_to_the_end(world, [records[-1]])
            continue
        asked.add(f"t{number}")
        while True:  # as an application does
            try:
                status, _ = score(api_on(world), transactions[number])
            except Crash:
                status = 502
                world.fault = None
            if status == 200:
                break
    if records:
        run_to_the_end(world, records)  # everything once more
    published = Counter(decode_id(record.payload) for record in records)
    counts = world.counters
    assert counts["decided"] == len(published)
    assert counts["duplicates"] == len(records) - len(published)
    assert counts["quarantined"] == 0
    assert set(world.decisions) == asked | set(published)
    assert len(world.decisions) == counts["decided"] + counts["api_decided"] - counts["api_recorded"]
    for transaction in transactions:
        if transaction.transaction_id in world.decisions:
            decision = decode_decision(world.decisions[transaction.transaction_id])
            assert decision.payload_sha256 == payload_sha256(transaction)
    held = sum(len(unpack(state.packed, None).times) for state in world.states.values())
    assert held == len(world.decisions)


def decode_id(payload: bytes) -> str:
    return str(msgspec.json.decode(payload)["transaction_id"])


def test_marks_expire_with_their_decision() -> None:
    world = World()
    transaction = an_alerting()
    score(api_on(world), transaction)
    deliver(service_on(world), [a_record(1, transaction)])
    marks = {recorded_effect("alerting"), claim_effect("alerting", position(1)), alerted_effect("alerting")}
    assert {world.expiry[mark] for mark in marks} == {world.decision_expiry["alerting"]}
