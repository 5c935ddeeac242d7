"""The ports in memory, over one `World` that outlives the process under test.

Every call counts, and a `Fault` can strike at the n-th one: before or after its effect.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from lambdas.budget import Budget
from lambdas.commit import Committer
from lambdas.engines import Scoring
from lambdas.failpoints import Reach
from lambdas.policy import Policy
from lambdas.port_sets import FeaturesPorts, TransactionPorts
from lambdas.ports import (
    Clock,
    ConditionFailed,
    Ledger,
    ListedEntity,
    Pointer,
    Prediction,
    RowRefused,
    Scorer,
    ScorerDown,
    ToRescore,
)
from lambdas.scoring import ScoringService
from lambdas.writes import (
    DecisionSettled,
    PutDecision,
    PutEffect,
    PutLabel,
    PutState,
    ReplaceDecision,
    StoredDecision,
    StoredEffect,
    StoredLabel,
    StoredState,
    Write,
)
from stream_features.decision import Reason
from stream_features.decision_event import DecisionEvent
from stream_features.entity_event import EntityEvent
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.label import Label
from stream_features.names import quarantine_key
from stream_features.rejected import Rejected
from stream_features.transaction import Transaction

NOW_MS = 1_760_000_000_000
POLICY = Policy(policy_version="p1", review_from=0.6, decline_from=0.9)
TTL_DAYS = 40


class Crash(BaseException):
    """The process dies: not an Exception, so that nothing in it can catch it."""


@dataclass
class Fault:
    """Strikes at call number `at` (counted from 0).

    kind: `crash` kills the process; `failure` fails the one call; `outage` fails it and every later one.
    effect: whether what was called happened nevertheless.
    """

    at: int
    kind: Literal["crash", "failure", "outage"]
    effect: bool


@dataclass
class World:
    """Everything outside the process."""

    decisions: dict[str, bytes] = field(default_factory=dict)
    decision_expiry: dict[str, int] = field(default_factory=dict)
    to_rescore: dict[str, int] = field(default_factory=dict)  # id to arrival, ms
    states: dict[str, StoredState] = field(default_factory=dict)
    effects: set[str] = field(default_factory=set)  # of every kind
    revised: dict[str, StoredEffect] = field(default_factory=dict)  # those that later revisions replace
    labels: dict[str, StoredLabel] = field(default_factory=dict)
    expiry: dict[str, int] = field(default_factory=dict)  # of states, effects and labels
    counters: Counter[str] = field(default_factory=Counter)
    tokens: set[str] = field(default_factory=set)
    published: list[StoredDecision] = field(default_factory=list)
    alerts: list[StoredDecision] = field(default_factory=list)
    entity_events: list[EntityEvent] = field(default_factory=list)
    labels_sent: list[Label] = field(default_factory=list)
    events_sent: list[DecisionEvent] = field(default_factory=list)
    transactions_sent: list[bytes] = field(default_factory=list)  # by the score API
    features_sent: list[bytes] = field(default_factory=list)  # by the Flink job
    objects: dict[tuple[str, str, int], Rejected] = field(default_factory=dict)
    pointers: list[Pointer] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    policy: Policy = POLICY
    policy_problem: str | None = None
    listed: dict[str, ListedEntity] = field(default_factory=dict)
    fault: Fault | None = None
    down: set[str] = field(default_factory=set)  # names of calls that fail
    endpoint_down: bool = False
    clock_s: float = 1_000.0
    seconds_per_call: float = 0.0

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Around the effect of every call."""
        number = len(self.calls)
        self.calls.append(name)
        self.clock_s += self.seconds_per_call
        if name in self.down:
            raise PortFailure(f"{name} is down")
        fault = self.fault
        if fault is None or number < fault.at or (number > fault.at and fault.kind != "outage"):
            yield
            return
        if fault.effect and number == fault.at:
            yield
        if fault.kind == "crash":
            raise Crash
        raise PortFailure(f"{name} failed")


class FakeClock:
    def __init__(self, world: World) -> None:
        self._world = world

    def now_ms(self) -> int:
        return NOW_MS

    def elapsed_s(self) -> float:
        return self._world.clock_s

    def pause(self, seconds: float) -> None:
        self._world.clock_s += seconds


class FakeDecisionStore:
    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, transaction_ids: Sequence[str]) -> dict[str, bytes]:
        assert len(set(transaction_ids)) == len(transaction_ids)
        found: dict[str, bytes] = {}
        with self._world.call("decisions.get"):
            found = {key: self._world.decisions[key] for key in transaction_ids if key in self._world.decisions}
        return found


class FakeEntityStore:
    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, entities: Sequence[str]) -> dict[str, StoredState]:
        assert len(set(entities)) == len(entities)
        found: dict[str, StoredState] = {}
        with self._world.call("entities.get"):
            found = {key: self._world.states[key] for key in entities if key in self._world.states}
        return found


class FakeEffectStore:
    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, effects: Sequence[str]) -> dict[str, StoredEffect]:
        assert len(set(effects)) == len(effects)
        found: dict[str, StoredEffect] = {}
        with self._world.call("effects.get"):
            found = {key: self._world.revised.get(key, StoredEffect()) for key in effects if key in self._world.effects}
        return found


class FakeLabelStore:
    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, transaction_ids: Sequence[str]) -> dict[str, StoredLabel]:
        assert len(set(transaction_ids)) == len(transaction_ids)
        found: dict[str, StoredLabel] = {}
        with self._world.call("labels.get"):
            found = {key: self._world.labels[key] for key in transaction_ids if key in self._world.labels}
        return found


class FakeRescoreIndex:
    def __init__(self, world: World) -> None:
        self._world = world

    def entries(self) -> Iterator[ToRescore]:
        with self._world.call("to_rescore.entries"):
            pass
        for key, arrival_ms in list(self._world.to_rescore.items()):
            yield ToRescore(key, arrival_ms, self._world.decision_expiry[key])


class FakeLedger:
    """Transactions with the rules of the real one: 100 items, each once, all conditions or nothing, tokens."""

    def __init__(self, world: World) -> None:
        self._world = world

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        keys = [key_of(write) for write in writes]
        assert len(set(keys)) == len(keys), "an item twice in one transaction"
        assert len(keys) + bool(counts) <= 100
        assert sum(write.size_bytes for write in writes) <= 4_000_000
        assert all(counts.values())
        assert 1 <= len(token) <= 36
        with self._world.call("ledger.transact"):
            self._apply(writes, counts, token)

    def _apply(self, writes: Sequence[Write], counts: Mapping[str, int], token: str) -> None:
        if token in self._world.tokens:
            return
        failed = sum(not self._holds(write) for write in writes)
        if failed:
            raise ConditionFailed(f"{failed} conditions")
        self._world.tokens.add(token)
        for write in writes:
            self._write(write)
        self._world.counters.update(counts)

    def _holds(self, write: Write) -> bool:
        if isinstance(write, PutDecision):
            return write.stored.decision.transaction_id not in self._world.decisions
        if isinstance(write, ReplaceDecision | DecisionSettled):
            expected = write.replaced if isinstance(write, ReplaceDecision) else write.stored
            return self._world.decisions.get(write.stored.decision.transaction_id) == expected.document
        if isinstance(write, PutState):
            stored = self._world.states.get(write.entity)
            return (stored.version if stored else None) == write.expected_version
        if isinstance(write, PutLabel):
            label = self._world.labels.get(write.transaction_id)
            return (label.revision if label else None) == write.expected_revision
        if isinstance(write, PutEffect):
            return write.effect not in self._world.effects
        if write.expected_revision is None:
            return write.effect not in self._world.effects
        revised = self._world.revised.get(write.effect)
        return revised is not None and revised.revision == write.expected_revision

    def _write(self, write: Write) -> None:
        if isinstance(write, PutDecision):
            self._world.decisions[write.stored.decision.transaction_id] = write.stored.document
            self._world.decision_expiry[write.stored.decision.transaction_id] = write.expires_at_s
            if write.stored.decision.degraded:
                self._world.to_rescore[write.stored.decision.transaction_id] = write.stored.decision.arrival_ms
        elif isinstance(write, ReplaceDecision):
            self._world.decisions[write.stored.decision.transaction_id] = write.stored.document
        elif isinstance(write, DecisionSettled):
            self._world.to_rescore.pop(write.stored.decision.transaction_id, None)
        elif isinstance(write, PutState):
            self._world.states[write.entity] = StoredState(
                write.version, write.layout, write.packed, write.complete_from_ms
            )
            self._world.expiry[write.entity] = write.expires_at_s
        elif isinstance(write, PutLabel):
            self._world.labels[write.transaction_id] = write.label
            self._world.expiry[write.transaction_id] = write.expires_at_s
        else:
            self._world.effects.add(write.effect)
            self._world.expiry[write.effect] = write.expires_at_s
            if not isinstance(write, PutEffect):
                self._world.revised[write.effect] = StoredEffect(write.revision, write.document)

    def recorded(self, effects: Sequence[str]) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        with self._world.call("ledger.recorded"):
            found = frozenset(effects) & self._world.effects
        return found


def key_of(write: Write) -> tuple[str, str]:
    if isinstance(write, PutDecision | ReplaceDecision | DecisionSettled):
        return ("decision", write.stored.decision.transaction_id)
    if isinstance(write, PutState):
        return ("state", write.entity)
    if isinstance(write, PutLabel):
        return ("label", write.transaction_id)
    return ("effect", write.effect)


class FakeScorer:
    """A score that depends on every bit of the row and on nothing else."""

    def __init__(self, world: World, features: FeatureSet) -> None:
        self._world = world
        self._features = features
        self.refused_amounts: set[float] = set()
        self.mismatch = False
        self.asked_once: list[bool] = []  # of every call

    def score(self, rows: Sequence[tuple[float, ...]], *, explain_from: float, once: bool = False) -> list[Prediction]:
        answers: list[Prediction] = []
        self.asked_once.append(once)
        with self._world.call("scorer.score"):
            if self._world.endpoint_down:
                raise ScorerDown("InvokeEndpoint: ReadTimeoutError")
            if self.mismatch:
                raise ContractMismatch("another definition")
            for index, row in enumerate(rows):
                if row[0] in self.refused_amounts:
                    raise RowRefused("cannot be scored", index)
                score = score_of(row)
                reasons = [Reason(self._features.names[0], score - 0.5)] if score >= explain_from else []
                answers.append(Prediction(score, reasons, "model-1", "AllTraffic"))
        return answers


def score_of(row: tuple[float, ...]) -> float:
    digest = hashlib.sha256(struct.pack(f"<{len(row)}d", *row)).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


class FakePolicies:
    def __init__(self, world: World) -> None:
        self._world = world

    def current(self) -> Policy:
        with self._world.call("policies.current"):
            policy = self._world.policy
        return policy

    def problem(self) -> str | None:
        return self._world.policy_problem


class FakeListStore:
    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, entries: Sequence[str]) -> dict[str, ListedEntity]:
        assert entries
        assert len(set(entries)) == len(entries)
        found: dict[str, ListedEntity] = {}
        with self._world.call("lists.get"):
            found = {key: self._world.listed[key] for key in entries if key in self._world.listed}
        return found


class FakePublisher:
    def __init__(self, world: World) -> None:
        self._world = world

    def publish(self, decisions: Sequence[StoredDecision]) -> None:
        with self._world.call("publisher.publish"):
            self._world.published += decisions


class FakeEntityEvents:
    def __init__(self, world: World) -> None:
        self._world = world

    def publish(self, events: Sequence[EntityEvent]) -> None:
        assert events
        with self._world.call("entity_events.publish"):
            self._world.entity_events += events


class FakeDecisionEvents:
    def __init__(self, world: World) -> None:
        self._world = world

    def publish(self, events: Sequence[DecisionEvent]) -> None:
        assert events
        with self._world.call("decision_events.publish"):
            self._world.events_sent += events


class FakeTransactionPublisher:
    def __init__(self, world: World) -> None:
        self._world = world

    def publish(self, transaction: Transaction, payload: bytes) -> None:
        with self._world.call("transactions.publish"):
            self._world.transactions_sent.append(payload)


class FakeLabelPublisher:
    def __init__(self, world: World) -> None:
        self._world = world

    def publish(self, labels: Sequence[Label]) -> None:
        assert labels
        with self._world.call("label_publisher.publish"):
            self._world.labels_sent += labels


class FakeAlerts:
    def __init__(self, world: World) -> None:
        self._world = world

    def raise_alerts(self, decisions: Sequence[StoredDecision]) -> None:
        with self._world.call("alerts.raise_alerts"):
            self._world.alerts += decisions


class FakeQuarantine:
    def __init__(self, world: World) -> None:
        self._world = world

    def keep(self, rejected: Rejected) -> None:
        position = rejected.stream_position
        with self._world.call("quarantine.put_object"):
            key = (position.shard_id, position.sequence_number, position.sub_sequence_number)
            self._world.objects[key] = rejected
        named = quarantine_key(
            rejected.stream, position.shard_id, position.sequence_number, position.sub_sequence_number
        )
        self.announce(key=named, field=rejected.field, rule=rejected.rule)

    def announce(self, *, key: str, field: str, rule: str) -> None:
        with self._world.call("quarantine.send_message"):
            self._world.pointers.append(Pointer("lake", key, field, rule))


def never(name: str) -> None:
    """No failpoints."""


def service_on(
    world: World,
    *,
    ledger: Ledger | None = None,
    scorer: Scorer | None = None,
    publisher: FakePublisher | None = None,
    entity_events: FakeEntityEvents | None = None,
    features: FeatureSet | None = None,
    reach: Reach = never,
    longest_call_ms: int = 4_000,
) -> ScoringService:
    """A fresh process of score_transactions on the world."""
    features = features or feature_set("core")
    ports = transaction_ports(world, features, ledger, scorer, publisher, entity_events)
    return scoring(ports.clock, ports.ledger, features, reach, longest_call_ms).of_transactions(ports)


def transaction_ports(
    world: World,
    features: FeatureSet,
    ledger: Ledger | None = None,
    scorer: Scorer | None = None,
    publisher: FakePublisher | None = None,
    entity_events: FakeEntityEvents | None = None,
) -> TransactionPorts:
    """The ports of a function that asks the windows itself."""
    return TransactionPorts(
        decisions=FakeDecisionStore(world),
        entities=FakeEntityStore(world),
        ledger=ledger or FakeLedger(world),
        scorer=scorer or FakeScorer(world, features),
        policies=FakePolicies(world),
        lists=FakeListStore(world),
        publisher=publisher or FakePublisher(world),
        entity_events=entity_events or FakeEntityEvents(world),
        alerts=FakeAlerts(world),
        quarantine=FakeQuarantine(world),
        clock=FakeClock(world),
    )


def features_service_on(
    world: World,
    *,
    ledger: Ledger | None = None,
    scorer: Scorer | None = None,
    label_publisher: FakeLabelPublisher | None = None,
    features: FeatureSet | None = None,
    reach: Reach = never,
    longest_call_ms: int = 4_000,
) -> ScoringService:
    """A fresh process of score_features on the world."""
    clock = FakeClock(world)
    features = features or feature_set("core")
    ledger = ledger or FakeLedger(world)
    ports = FeaturesPorts(
        decisions=FakeDecisionStore(world),
        ledger=ledger,
        scorer=scorer or FakeScorer(world, features),
        policies=FakePolicies(world),
        lists=FakeListStore(world),
        publisher=FakePublisher(world),
        labels=FakeLabelStore(world),
        label_publisher=label_publisher or FakeLabelPublisher(world),
        alerts=FakeAlerts(world),
        quarantine=FakeQuarantine(world),
        clock=clock,
    )
    return scoring(clock, ledger, features, reach, longest_call_ms).of_features(ports)


def scoring(clock: Clock, ledger: Ledger, features: FeatureSet, reach: Reach, longest_call_ms: int) -> Scoring:
    """What both engines' services are built from, without pauses at random."""
    budget = Budget(clock, longest_call_ms=longest_call_ms)
    committer = Committer(ledger, budget, clock, lambda seconds: seconds)
    return Scoring(features=features, committer=committer, budget=budget, ttl_days=TTL_DAYS, reach=reach)
