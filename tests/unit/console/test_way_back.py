"""Rejected records back into their stream, once, whatever dies on the way: what was put is delivered and counted."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pytest

from console.corrections import problems
from console.quarantine import Entry, Wanted, entries_of, fix_key, key_of, position_of
from console.way_back import Replayed, WayBack
from lambdas.adapters.calls import Caller
from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.records import UserRecord
from stream_features.decision import StreamPosition, decode_decision
from stream_features.errors import PipelineError, PortFailure, UsageError
from stream_features.label import Label, encode_label, parse_label
from stream_features.names import quarantine_key, way_back_effect_key
from stream_features.rejected import Rejected
from stream_features.transaction import encode_transaction, payload_sha256
from tests.unit.lambdas.deliveries import SHARD, a_record, a_transaction, deliver
from tests.unit.lambdas.fakes import (
    NOW_MS,
    Crash,
    FakeClock,
    FakeDecisionStore,
    FakeEffectStore,
    FakeLedger,
    Fault,
    World,
    service_on,
)
from tests.unit.lambdas.loop import label_records
from tests.unit.lambdas.processes import labels_on


class Pipeline:
    """A stream with rejected records in quarantine, the function that reads it, S3 and Kinesis."""

    def __init__(self, *payloads: bytes) -> None:
        self.world = World()
        self.objects: dict[str, bytes] = {}
        self.put: list[tuple[str, str, bytes]] = []
        self.sequence = itertools.count(1_000)
        self.delivered = 0
        records = [a_record(n + 1, payload) for n, payload in enumerate(payloads)]
        assert deliver(service_on(self.world), records).failed == []
        self.published = len(records)

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        with self.world.call("s3.put_object"):
            self.objects[Key] = Body

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": io.BytesIO(self.objects[Key])}

    def put_record(self, *, StreamName: str, PartitionKey: str, Data: bytes) -> dict[str, str]:
        answer = {"ShardId": SHARD, "SequenceNumber": str(next(self.sequence))}
        with self.world.call("kinesis.put_record"):
            self.put.append((StreamName, PartitionKey, Data))
        return answer

    def rejected(self) -> list[tuple[str, Rejected]]:
        records = [(r.stream, r.stream_position, r) for r in self.world.objects.values()]
        keys = [
            (quarantine_key(stream, p.shard_id, p.sequence_number, p.sub_sequence_number), rejected)
            for stream, p, rejected in records
        ]
        return sorted(keys, key=lambda pair: pair[0])

    def entries(self) -> list[Entry]:
        return entries_of(self.rejected(), FakeEffectStore(self.world))

    def entry(self) -> Entry:
        (entry,) = self.entries()
        return entry

    def way_back(self, clock: FakeClock | None = None) -> WayBack:
        clock = clock or FakeClock(self.world)
        budget = Budget(clock, longest_call_ms=0)
        return WayBack(
            self,
            self,
            bucket="lake",
            decisions=FakeDecisionStore(self.world),
            committer=Committer(FakeLedger(self.world), budget, clock, lambda seconds: seconds),
            caller=Caller(budget, clock, lambda seconds: seconds),
            clock=clock,
        )

    def fix(self, entry: Entry | None = None, whole: bytes | None = None, **sets: str) -> None:
        self.way_back().fix(entry or self.entry(), sets=sets, unset=[], whole=whole, author="ann", reason="typo")

    def replay(self, entries: Sequence[Entry] | None = None) -> list[Replayed]:
        chosen = self.entries() if entries is None else entries
        return self.way_back().replay(chosen, author="bob", told=lambda outcome: None)

    def deliver(self) -> None:
        """What has been put, to the function that reads the stream."""
        new = self.put[self.delivered :]
        records = [
            UserRecord(data, stream, StreamPosition(SHARD, str(5_000 + self.delivered + n)), NOW_MS)
            for n, (stream, _, data) in enumerate(new)
        ]
        assert deliver(service_on(self.world), records).failed == []
        self.delivered = len(self.put)

    def assert_conserved(self) -> None:
        counters = self.world.counters
        assert self.published + len(self.put) == sum(
            counters[name] for name in ("decided", "duplicates", "quarantined")
        )


def bad(transaction_id: str = "t1", **changes: Any) -> bytes:
    return encode_transaction(a_transaction(transaction_id, **changes)).replace(b'"USD"', b'"XXQ"')


def test_a_corrected_record_goes_back_once() -> None:
    pipeline = Pipeline(bad(), encode_transaction(a_transaction("good")))
    original = pipeline.entry()
    assert original.state == "open"
    pipeline.fix(currency="USD")
    assert pipeline.entry().state == "fixed"
    assert pipeline.put == []
    (outcome,) = pipeline.replay()
    assert outcome.result == "replayed"
    assert outcome.entry.mark is not None
    assert outcome.entry.mark.position == StreamPosition(SHARD, "1000")
    ((stream, key, data),) = pipeline.put
    assert (stream, key) == ("transactions", "card-a")
    assert problems("transaction", data, arrival_ms=NOW_MS) == []
    pipeline.deliver()
    assert decode_decision(pipeline.world.decisions["t1"]).payload_sha256 == payload_sha256(a_transaction("t1"))
    assert [outcome.result for outcome in pipeline.replay()] == ["replayed already"]
    assert len(pipeline.put) == 1
    assert pipeline.entry().rejected == original.rejected
    pipeline.assert_conserved()
    assert pipeline.world.counters["duplicates"] == 0


def test_a_correction_is_kept_with_author_and_reason_and_a_later_one_replaces_it() -> None:
    pipeline = Pipeline(bad())
    pipeline.fix(currency="EUR")
    pipeline.fix(currency="GBP")
    first, second = sorted(pipeline.objects)
    mark = pipeline.entry().mark
    assert mark is not None
    assert mark.fix == second
    fix = pipeline.way_back().fix_at(second)
    assert (fix.author, fix.reason, fix.changes, fix.of) == ("ann", "typo", ["currency=GBP"], pipeline.entry().key)
    assert b'"EUR"' in base64.b64decode(pipeline.way_back().fix_at(first).payload_base64)
    pipeline.replay()
    assert b'"GBP"' in pipeline.put[0][2]
    assert pipeline.world.expiry[way_back_effect_key(pipeline.entry().position)] > NOW_MS // 1000 + 730 * 86_400


def test_what_no_rule_refuses_any_more_goes_back_as_it_is() -> None:
    ahead = encode_transaction(a_transaction("t1", event_time_ms=NOW_MS + 400_000))
    pipeline = Pipeline(ahead)
    (outcome,) = pipeline.replay()
    assert outcome.result == "refused"
    assert "event_time_ms: future_time" in outcome.why
    assert (pipeline.put, pipeline.entry().state) == ([], "open")
    later = pipeline.way_back(clock=Later(pipeline.world))
    (outcome,) = later.replay(pipeline.entries(), author="bob", told=lambda outcome: None)
    assert outcome.result == "replayed"
    assert pipeline.put == [("transactions", "card-a", ahead)]


class Later(FakeClock):
    def now_ms(self) -> int:
        return NOW_MS + 400_000


@pytest.mark.parametrize("payload", [b"", b"hello", b"\xff\xfe", b"{}"])
def test_garbage_needs_an_id_and_everything_else(payload: bytes) -> None:
    pipeline = Pipeline(payload)
    with pytest.raises(UsageError, match="transaction_id: missing"):
        pipeline.fix(currency="USD")
    pipeline.fix(whole=encode_transaction(a_transaction("found")))
    pipeline.replay()
    pipeline.deliver()
    assert set(pipeline.world.decisions) == {"found"}
    pipeline.assert_conserved()


def test_a_correction_that_breaks_the_contract_is_refused_and_nothing_is_kept() -> None:
    pipeline = Pipeline(bad())
    for sets in (
        {"currency": "usd"},
        {"currency": "USD", "amount_minor": "-5"},
        {"currency": "USD", "card_id": "4" * 16},
    ):
        with pytest.raises(UsageError, match="the corrected record is refused"):
            pipeline.fix(**sets)
    assert (pipeline.objects, pipeline.entry().state) == ({}, "open")


def test_a_replay_that_would_be_a_conflict_is_refused() -> None:
    pipeline = Pipeline(
        encode_transaction(a_transaction("t1")), bad("t1"), encode_transaction(a_transaction("t1", amount_minor=7))
    )
    conflict, broken = sorted(pipeline.entries(), key=lambda entry: entry.rejected.rule)
    assert conflict.rejected.rule == "conflicting_duplicate"
    pipeline.fix(broken, currency="EUR")
    outcomes = pipeline.replay()
    assert [outcome.result for outcome in outcomes] == ["refused", "refused"]
    assert all("another payload has been decided under transaction_id t1" in outcome.why for outcome in outcomes)
    assert pipeline.put == []
    pipeline.fix(conflict, transaction_id="t2")
    assert [outcome.result for outcome in pipeline.replay()] == ["refused", "replayed"]
    pipeline.deliver()
    assert set(pipeline.world.decisions) == {"t1", "t2"}
    pipeline.assert_conserved()


def test_two_of_one_replay_under_one_id() -> None:
    pipeline = Pipeline(bad("t1"), bad("t1"), bad("t1", amount_minor=7))
    for entry in pipeline.entries():
        pipeline.fix(entry, currency="USD")
    outcomes = pipeline.replay()
    assert [outcome.result for outcome in outcomes] == ["replayed", "there already", "refused"]
    assert "another payload has just been replayed" in outcomes[2].why
    pipeline.deliver()
    assert (len(pipeline.put), pipeline.world.counters["decided"]) == (1, 1)


def test_what_its_publisher_has_sent_again_is_not_sent() -> None:
    pipeline = Pipeline(bad("t1"))
    pipeline.put.append(("transactions", "card-a", encode_transaction(a_transaction("t1"))))
    pipeline.deliver()
    pipeline.fix(currency="USD")
    (outcome,) = pipeline.replay()
    assert (outcome.result, pipeline.entry().state, len(pipeline.put)) == ("there already", "replayed", 1)
    pipeline.assert_conserved()


def run_again_after(fault: Fault | None, *, delivered_between: bool = False) -> Pipeline:
    """Replay until it is done; the fault strikes once, counted from the replay's first call."""
    pipeline = Pipeline(bad("t1"), bad("t2", card_id="card-b"))
    for entry in pipeline.entries():
        pipeline.fix(entry, currency="USD")
    pipeline.world.calls.clear()
    pipeline.world.fault = fault
    for _ in range(3):
        try:
            pipeline.replay()
        except (Crash, PortFailure):
            pipeline.world.fault = None
            if delivered_between:
                pipeline.deliver()
        else:
            pipeline.world.fault = None
            pipeline.deliver()
            return pipeline
    raise AssertionError("never done")


@pytest.mark.parametrize("kind", ["crash", "failure", "outage"])
@pytest.mark.parametrize("effect", [False, True], ids=["nothing happened", "it happened"])
@pytest.mark.parametrize("delivered_between", [False, True])
def test_a_fault_at_any_call_decides_each_record_once(
    kind: Literal["crash", "failure", "outage"], effect: bool, delivered_between: bool
) -> None:
    undisturbed = run_again_after(None)
    calls = undisturbed.world.calls
    last = max(n for n, call in enumerate(calls) if call == "kinesis.put_record") + 2
    twice = 0
    for at in range(last):
        pipeline = run_again_after(Fault(at, kind, effect), delivered_between=delivered_between)
        assert pipeline.world.decisions.keys() == {"t1", "t2"}
        assert pipeline.world.counters["decided"] == 2
        assert {entry.state for entry in pipeline.entries()} == {"replayed"}
        pipeline.assert_conserved()
        again = len(pipeline.put) - 2
        assert pipeline.world.counters["duplicates"] == again <= 1
        assert not (again and delivered_between and calls[at] != "kinesis.put_record")
        twice += again
    if kind == "crash" and effect and not delivered_between:
        assert twice > 0, "no put was ever repeated: the fault struck in vain"


def test_after_an_interrupted_replay_the_record_cannot_be_corrected_into_another_one() -> None:
    pipeline = Pipeline(bad("t1"))
    pipeline.fix(currency="USD")
    pipeline.world.calls.clear()
    pipeline.world.down.add("kinesis.put_record")
    with pytest.raises(PortFailure):
        pipeline.replay()
    assert pipeline.entry().state == "replaying"
    with pytest.raises(UsageError, match="finish it first"):
        pipeline.fix(transaction_id="t9", currency="USD")
    pipeline.world.down.clear()
    assert [outcome.result for outcome in pipeline.replay()] == ["replayed"]
    with pytest.raises(UsageError, match="has been replayed"):
        pipeline.fix(transaction_id="t9", currency="USD")


def test_two_people_at_one_record() -> None:
    pipeline = Pipeline(bad("t1"))
    stale = pipeline.entry()
    pipeline.fix(stale, currency="USD")
    with pytest.raises(PipelineError, match="somebody else is at it"):
        pipeline.fix(stale, currency="EUR")
    fixed = pipeline.entries()
    pipeline.replay(fixed)
    with pytest.raises(PipelineError, match="somebody else is at it"):
        pipeline.replay(fixed)
    assert len(pipeline.put) == 1


def test_labels_go_back_to_labels_and_the_pipelines_own_records_nowhere() -> None:
    pipeline = Pipeline()
    label = Label(transaction_id="t1", is_fraud=True, reported_at_ms=5, source="analyst")
    labels = labels_on(pipeline.world)
    records = label_records([encode_label(label).replace(b"analyst", b"me")])
    assert labels.record_batch(records, remaining_ms=60_000).failed == []
    pipeline.fix(source="analyst")
    assert [outcome.result for outcome in pipeline.replay()] == ["replayed"]
    ((stream, key, data),) = pipeline.put
    assert (stream, key, parse_label(data)) == ("labels", "t1", label)

    own = Entry(
        key="quarantine/entity-events/s/1-0.json", rejected=_of_stream(pipeline.entry().rejected, "entity-events")
    )
    assert own.kind is None
    with pytest.raises(UsageError, match="written by the pipeline alone"):
        pipeline.fix(own, source="analyst")
    assert [outcome.result for outcome in pipeline.replay([own])] == ["refused"]


def _of_stream(rejected: Rejected, stream: str) -> Rejected:
    return msgspec.structs.replace(rejected, stream=stream)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Wanted(), 3),
        (Wanted(field="currency"), 2),
        (Wanted(field="$", rule="not_json"), 1),
        (Wanted(rule="no_rate"), 0),
        (Wanted(stream="transactions", state="open"), 2),
        (Wanted(state="fixed"), 1),
        (Wanted(stream="labels"), 0),
        (Wanted(from_ms=NOW_MS, until_ms=NOW_MS + 1), 3),
        (Wanted(from_ms=NOW_MS + 1), 0),
        (Wanted(until_ms=NOW_MS), 0),
    ],
)
def test_filters(wanted: Wanted, count: int) -> None:
    pipeline = Pipeline(bad("t1"), bad("t2"), b"hello")
    pipeline.fix(pipeline.entries()[0], currency="USD")
    assert sum(wanted.takes(entry) for entry in pipeline.entries()) == count


def test_names_of_records() -> None:
    key = quarantine_key("transactions", SHARD, "4963", 2)
    assert position_of(key) == f"transactions/{SHARD}/4963-2"
    assert key_of(position_of(key)) == key_of(key) == key
    assert fix_key(position_of(key), 1, b"a") != fix_key(position_of(key), 1, b"b")
