"""Shards are split and merged under load: 1, 2, 1, with the Lambda engine.

No target of ours can do that, so here the streams are those of kinesis-mock, which splits and merges as AWS does. The
injector hands every Kinesis call of functions and mapping runner on to it; everything else is the embedded AWS. The
judge is the history in the order of publishing: a card whose records were taken out of order, a child before its
parent, would have other features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from console.running import Pipeline
from console.status import read_counters
from producers.publisher import TransactionPublisher
from producers.simulator import simulate
from stream_features.codec import pack
from stream_features.decision import Decision
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.history import HistoryStates, observe_history
from stream_features.kernel import features_json
from stream_features.merchant_codec import pack_merchant
from stream_features.names import (
    DECISIONS_STREAM,
    ENTITY_EVENTS_STREAM,
    FEATURES_STREAM,
    LABELS_STREAM,
    TRANSACTIONS_STREAM,
    card_key,
    merchant_key,
)
from stream_features.transaction import Transaction
from tests.e2e.driver import stored_decisions, stored_states
from tests.e2e.judge import bits, state_differences
from tests.faults.effects import Delay
from tests.faults.injector import Injection
from tests.faults.rest import purchases_told, wait_until_true
from tests.faults.setting import Run, Setting, running
from tests.integration.kinesis_mock import KinesisMock, kinesis_mock, missing

STREAMS: Final = (TRANSACTIONS_STREAM, LABELS_STREAM, ENTITY_EVENTS_STREAM, FEATURES_STREAM, DECISIONS_STREAM)
SETTING: Final = Setting()
PHASE: Final = 180  # transactions before the split, between it and the merge, and after that
RATE: Final = 60.0  # a second: kinesis-mock shares two cores with the pipeline
DAYS: Final = 5.0  # less than the set's smallest merchant delay: what is under way is in no merchant's window
CUSTOMERS: Final = 30
HALF: Final = 2**127
# AWS takes five reads a second of a shard; kinesis-mock takes as many as come, and has no time for anything else then.
READS: Final = Injection(
    name="reads", effect=Delay(seconds=0.2), service="kinesis", operations=frozenset({"GetRecords"})
)


@dataclass
class Resharded:
    """What was published, in order, and what came of it.

    Attributes:
        sent: in the order of publishing.
        shards: parents by shard id, at the end.
        decisions: by transaction id.
        states: packed, by entity.
        recovery_s: from the last record to rest.
        problems: what did not hold.
    """

    sent: list[Transaction] = field(default_factory=list)
    shards: dict[str, tuple[str, ...]] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    recovery_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        if self.problems:
            return f"FAILED: {'; '.join(self.problems[:2])}"
        return (
            f"held: {len(self.sent):,} transactions over {len(self.shards)} shards, split and merged once each under "
            f"load, decided once; at rest {self.recovery_s:.1f} s after the last record"
        )


def reshard_under_load(folder: Path) -> Resharded:
    """Run the pipeline on kinesis-mock, split and merge its stream while it works, and judge what is stored."""
    with kinesis_mock(folder) as mock:
        kinesis = mock.client()
        for stream in STREAMS:
            kinesis.create_stream(StreamName=stream, ShardCount=1)
            _wait_until_active(kinesis, stream)
        with running(SETTING, folder / "state", injected=True, kinesis=mock.url) as run:
            return _conducted(run, mock)


def history_problems(
    sent: Sequence[Transaction], features: FeatureSet, decisions: dict[str, Decision], states: dict[str, bytes]
) -> list[str]:
    """Where decisions and states are not those of the history `sent`, each transaction once and in this order."""
    left = HistoryStates()
    problems = [
        f"{name} was decided and never sent" for name in decisions.keys() - {one.transaction_id for one in sent}
    ]
    for one, observation in observe_history(sent, features, states=left):
        decision = decisions.get(one.transaction_id)
        if decision is None:
            problems.append(f"{one.transaction_id} has no decision")
            continue
        expected = features_json(features, observation.values)
        wrong = [name for name in features.names if bits(decision.features[name]) != bits(expected[name])]
        problems += [f"{one.transaction_id}: {name} is not the history's" for name in wrong]
    packed = {card_key(card): pack(state) for card, state in left.cards.items()}
    packed |= {merchant_key(merchant): pack_merchant(state) for merchant, state in left.merchants.items()}
    return problems + [f"state of {key} is not the history's" for key in state_differences(states, packed)]


def _conducted(run: Run, mock: KinesisMock) -> Resharded:
    assert run.injector is not None
    run.injector.set_plan(READS)
    found = Resharded()
    kinesis = mock.client()
    found.sent = [
        row.transaction
        for row in simulate(
            3 * PHASE, seed=41, end_ms=time.time_ns() // 1_000_000 - 1_000, days=DAYS, customers=CUSTOMERS
        )
    ]
    with TransactionPublisher(kinesis, TRANSACTIONS_STREAM, max_records=10, linger_s=0.0) as publisher:
        for number, change in enumerate((_split, _merge, None)):
            _publish(publisher, found.sent[number * PHASE : (number + 1) * PHASE])
            if change is not None:
                change(kinesis)  # what is published before, meanwhile and behind lies in three generations of shards
    ended_s = time.monotonic()
    _wait_for(run.pipeline, found.sent)
    found.recovery_s = time.monotonic() - ended_s
    listed = kinesis.list_shards(StreamName=TRANSACTIONS_STREAM)["Shards"]
    found.shards = {shard["ShardId"]: _parents(shard) for shard in listed}
    found.decisions, found.states = stored_decisions(run.pipeline), stored_states(run.pipeline)
    features = feature_set(SETTING.feature_set)
    found.problems += history_problems(found.sent, features, found.decisions, found.states)
    used = {decision.stream_position.shard_id for decision in found.decisions.values()}
    if used != found.shards.keys() or sorted(map(len, found.shards.values())) != [0, 1, 1, 2]:
        found.problems.append(f"{found.shards}: no split and merge whose shards were all used: {sorted(used)}")
    return found


def _publish(publisher: TransactionPublisher, rows: Sequence[Transaction]) -> None:
    began_s = time.monotonic()
    for number, one in enumerate(rows):
        time.sleep(max(0.0, began_s + number / RATE - time.monotonic()))
        publisher.publish(one)
        publisher.send_due()
    publisher.flush()


def _split(kinesis: Any) -> None:
    (shard,) = _open_shards(kinesis)
    kinesis.split_shard(StreamName=TRANSACTIONS_STREAM, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(HALF))
    _wait_until_active(kinesis, TRANSACTIONS_STREAM)


def _merge(kinesis: Any) -> None:
    one, other = (shard["ShardId"] for shard in _open_shards(kinesis))
    kinesis.merge_shards(StreamName=TRANSACTIONS_STREAM, ShardToMerge=one, AdjacentShardToMerge=other)
    _wait_until_active(kinesis, TRANSACTIONS_STREAM)


def _open_shards(kinesis: Any) -> list[dict[str, Any]]:
    shards = kinesis.list_shards(StreamName=TRANSACTIONS_STREAM)["Shards"]
    return [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]


def _parents(shard: dict[str, Any]) -> tuple[str, ...]:
    return tuple(shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if shard.get(name))


def _wait_until_active(kinesis: Any, stream: str) -> None:
    ends_at = time.monotonic() + 60
    while kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
        assert time.monotonic() < ends_at, stream
        time.sleep(0.1)


def _wait_for(pipeline: Pipeline, sent: Sequence[Transaction]) -> None:
    """Until every transaction is decided and every purchase has reached its merchant."""
    purchases = sum(one.type == "purchase" for one in sent)

    def lacks() -> list[int]:
        decided = read_counters(pipeline.client("dynamodb"), pipeline.output("EffectsTableName"))["decided"]
        left = [len(sent) - decided, purchases - purchases_told(pipeline)]
        return left if any(left) else []

    wait_until_true(lacks)


__all__ = ["Resharded", "history_problems", "missing", "reshard_under_load"]
