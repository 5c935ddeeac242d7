"""Are the served features what the definitions say? A range of them is computed again from the archive and compared.

The archive holds what was published, a decision holds where its record stood, so the arrival order of every card is
known; labels come from their table, what was loaded before from the files that the bootstraps name. All of it goes
through the same scalar path as the stream, one decision after the other. Whatever differs is reported by feature.

Values differ where the pipeline lagged more than two minutes of event time behind (a fast replay without lockstep), or
where something is broken.
"""

from __future__ import annotations

import heapq
import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, NamedTuple

import msgspec

from stream_features.card_state import CardState
from stream_features.decision import API_SHARD, StreamPosition
from stream_features.entity_event import FraudEntry
from stream_features.errors import ContractMismatch, UsageError
from stream_features.feature_sets import FeatureSet
from stream_features.kernel import card_event, observe
from stream_features.merchant_state import LABEL_EFFECT_MS, MerchantState
from stream_features.merging import with_history, with_merchant_history
from stream_features.transaction import Transaction, payload_sha256

_EXAMPLES_KEPT: Final = 5
_BITS: Final = struct.Struct(">d").pack


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What of a decision is compared; read from its document."""

    transaction_id: str
    event_time_ms: int
    feature_set_id: str
    stream_position: StreamPosition
    arrival_ms: int
    payload_sha256: str
    scored_at_ms: int = 0
    features: dict[str, float | None] | msgspec.UnsetType = msgspec.UNSET


class History(NamedTuple):
    """What one bootstrap loaded: states by id, and when it ran by the wall clock."""

    started_at_ms: int
    finished_at_ms: int
    until_ms: int
    cards: dict[str, CardState]
    merchants: dict[str, MerchantState]


@dataclass(slots=True)
class FeatureDifferences:
    """How often a feature differs: another value, none where there should be one, one where there should be none."""

    mismatch: int = 0
    missing: int = 0
    extra: int = 0
    examples: list[str] = field(default_factory=list)  # transaction ids


@dataclass(slots=True)
class Consistency:
    """What the comparison found. `features` names only those that differ."""

    compared: int = 0
    features: dict[str, FeatureDifferences] = field(default_factory=dict)
    without_decision: list[str] = field(default_factory=list)  # archived, valid, not quarantined
    without_record: list[str] = field(default_factory=list)  # decided, not in the archive
    other_payload: list[str] = field(default_factory=list)  # decided from another record than the archived one
    not_compared: Counter[str] = field(default_factory=Counter)  # reason -> decisions in the range

    @property
    def holds(self) -> bool:
        return not (self.features or any(self._transactions().values()))

    def as_json(self) -> str:
        """One JSON document with sorted keys; lists of ids are counted and shortened."""
        document: dict[str, object] = {
            "holds": self.holds,
            "compared": self.compared,
            "not_compared": dict(self.not_compared),
            "features": {name: asdict(differences) for name, differences in self.features.items()},
        }
        for name, ids in self._transactions().items():
            document[name] = {"count": len(ids), "examples": ids[:_EXAMPLES_KEPT]}
        return json.dumps(document, sort_keys=True, indent=2)

    def as_text(self) -> str:
        lines = [f"{self.compared} vectors compared, {'all equal' if self.holds else 'not all equal'}"]
        lines += [f"not compared: {count}, {reason}" for reason, count in sorted(self.not_compared.items())]
        lines += [
            f"{name}: {one.mismatch} mismatches, {one.missing} missing, {one.extra} extra, as in {one.examples[0]}"
            for name, one in self.features.items()
        ]
        lines += [
            f"{name.replace('_', ' ')}: {len(ids)}, as {ids[0]}" for name, ids in self._transactions().items() if ids
        ]
        return "\n".join(lines)

    def _transactions(self) -> dict[str, list[str]]:
        return {name: getattr(self, name) for name in ("without_decision", "without_record", "other_payload")}


def compare(
    served: Iterable[Served],
    archived: Mapping[str, Transaction],
    features: FeatureSet,
    *,
    histories: Sequence[History] = (),
    frauds: Mapping[str, Sequence[FraudEntry]],
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> Consistency:
    """Compute the vectors of `[from_ms, until_ms)` again and compare them with the served ones, bit by bit.

    Args:
        served: every decision, in any order; those outside the range only as the past of those inside.
        archived: transaction by id, for every decision; also those that have none.
        features: the active feature set.
        histories: what was bootstrapped, oldest first.
        frauds: merchant id to the fraud entries that stand for its transactions.
        from_ms: first event time; None for the first there is.
        until_ms: end of event times; None for the end.
    """
    found = Consistency()
    decided: set[str] = set()
    for one, transaction, values in replayed(served, archived, features, histories=histories, frauds=frauds):
        decided.add(one.transaction_id)
        inside = _inside(one.event_time_ms, from_ms, until_ms)
        if transaction is None:
            if inside:
                found.without_record.append(one.transaction_id)
            continue
        if not inside:
            continue
        if payload_sha256(transaction) != one.payload_sha256:
            found.other_payload.append(one.transaction_id)
        if why := not_comparable(one, features, histories):
            found.not_compared[why] += 1
        else:
            found.compared += 1
            _count_differences(found, features, one, values)
    found.without_decision = sorted(
        transaction_id
        for transaction_id, transaction in archived.items()
        if transaction_id not in decided and _inside(transaction.event_time_ms, from_ms, until_ms)
    )
    return found


def replayed(
    served: Iterable[Served],
    archived: Mapping[str, Transaction],
    features: FeatureSet,
    *,
    histories: Sequence[History] = (),
    frauds: Mapping[str, Sequence[FraudEntry]],
) -> Iterator[tuple[Served, Transaction | None, tuple[float, ...]]]:
    """Every decision in order of arrival, its record, and its vector computed again; arguments as of `compare`.

    A decision without a record has no vector, and no part in those that follow.
    """
    replay = Replay(features, frauds)
    waiting = list(histories)
    for one in in_arrival_order(served):
        while waiting and waiting[0].started_at_ms <= one.arrival_ms:
            replay.load(waiting.pop(0))
        transaction = archived.get(one.transaction_id)
        if transaction is None:
            yield one, None, ()
        else:
            yield one, transaction, replay.observe(transaction, waiting[0].until_ms if waiting else 0)


def not_comparable(one: Served, features: FeatureSet, histories: Sequence[History]) -> str:
    """Why a decision's vector cannot be held against one computed again; empty if it can."""
    if one.feature_set_id != features.feature_set_id:
        return "another feature set"
    if any(h.started_at_ms <= one.arrival_ms <= h.finished_at_ms for h in histories):
        return "decided while a bootstrap ran"
    return ""


class Replay:
    """Cards and merchants as the stream must have had them. Frauds reach a merchant when their effect begins."""

    def __init__(self, features: FeatureSet, frauds: Mapping[str, Sequence[FraudEntry]]) -> None:
        self._features = features
        self._cards: dict[str, CardState] = {}
        self._merchants: dict[str, MerchantState] = {}
        self._frauds = {
            merchant: sorted(entries, key=lambda entry: entry.effective_ms) for merchant, entries in frauds.items()
        }

    def load(self, history: History) -> None:
        """Merge what a bootstrap loaded, by the rules it loaded it by; what it refused stays as it is."""
        for card_id, card in history.cards.items():
            try:
                streamed = self._cards.get(card_id)
                self._cards[card_id] = with_history(self._features.card_layout, card, streamed, history.until_ms)
            except UsageError:
                continue
        layout = self._features.merchant_layout
        if layout is None:
            return
        for merchant_id, merchant in history.merchants.items():
            try:
                known = self._merchants.get(merchant_id)
                self._merchants[merchant_id] = with_merchant_history(layout, merchant, known, history.until_ms)
            except UsageError:
                continue

    def observe(self, transaction: Transaction, loaded_later_ms: int = 0) -> tuple[float, ...]:
        """The vector of `transaction`, which from then on belongs to the past.

        Args:
            transaction: the next one in order of arrival.
            loaded_later_ms: T of a bootstrap that is still to come, and that brings what was reported before T.
        """
        event = card_event(transaction)
        card = self._cards.setdefault(transaction.card_id, CardState.empty())
        layout = self._features.merchant_layout
        if layout is None:
            return observe(self._features, card, event).values
        merchant_id = transaction.merchant_id
        merchant = self._merchants.get(merchant_id)
        if merchant is None:
            merchant = self._merchants[merchant_id] = MerchantState.empty()
        for entry in self._take_effective(merchant_id, transaction.event_time_ms, loaded_later_ms):
            merchant.add_fraud(layout, entry.event_time_ms, entry.effective_ms, entry.delta)
        values = observe(self._features, card, event, merchant).values
        if event.is_purchase:
            merchant.add(layout, event.event_time_ms, event.amount_base)
        return values

    def _take_effective(self, merchant_id: str, time_ms: int, loaded_later_ms: int) -> list[FraudEntry]:
        """The entries of a merchant that take effect by `time_ms` and were not taken before."""
        entries = self._frauds.get(merchant_id)
        if not entries or entries[0].effective_ms > time_ms:
            return []
        from_ms = loaded_later_ms + LABEL_EFFECT_MS if loaded_later_ms else 0
        taken: list[FraudEntry] = []
        left: list[FraudEntry] = []
        for entry in entries:
            (taken if from_ms <= entry.effective_ms <= time_ms else left).append(entry)
        self._frauds[merchant_id] = left
        return taken


def in_arrival_order(served: Iterable[Served]) -> Iterator[Served]:
    """By arrival time; the records of one shard, and so of one card, strictly by position.

    A request to the score API does not wait behind records that arrived before it. Where there were requests, what was
    scored first comes first: of two writers of a card, the second one scores after the first one's commit.
    """
    shards: dict[str, list[Served]] = {}
    for one in served:
        shards.setdefault(one.stream_position.shard_id, []).append(one)
    requests = shards.get(API_SHARD, [])
    for records in shards.values():
        records.sort(key=lambda one: one.stream_position.order)
    requests.sort(key=lambda one: one.scored_at_ms)
    in_order = sorted(shards)
    if requests:
        return heapq.merge(*(shards[shard] for shard in in_order), key=lambda one: one.scored_at_ms)
    return heapq.merge(*(shards[shard] for shard in in_order), key=lambda one: one.arrival_ms)


def difference(served: float | None, value: float) -> str:
    """How a served feature differs from the one computed again: by a bit is a mismatch; empty if it does not."""
    if math.isnan(value):
        return "" if served is None else "extra"
    if served is None:
        return "missing"
    return "" if _BITS(served) == _BITS(value) else "mismatch"


def _count_differences(found: Consistency, features: FeatureSet, one: Served, values: Sequence[float]) -> None:
    if one.features is msgspec.UNSET or one.features.keys() != set(features.names):
        raise ContractMismatch(f"decision {one.transaction_id} does not hold the features of {features.feature_set_id}")
    for name, value in zip(features.names, values, strict=True):
        kind = difference(one.features[name], value)
        if not kind:
            continue
        differences = found.features.setdefault(name, FeatureDifferences())
        setattr(differences, kind, getattr(differences, kind) + 1)
        if len(differences.examples) < _EXAMPLES_KEPT:
            differences.examples.append(one.transaction_id)


def _inside(time_ms: int, from_ms: int | None, until_ms: int | None) -> bool:
    return (from_ms is None or time_ms >= from_ms) and (until_ms is None or time_ms < until_ms)
