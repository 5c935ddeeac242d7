"""The keyed stages with dictionaries for state: what the job does, without Flink."""

from __future__ import annotations

from collections.abc import Mapping

from stream_features.decision import StreamPosition
from stream_features.entity_event import EntityEvent, encode_entity_event
from stream_features.feature_record import DuplicateRecord, FeaturesRecord, RejectedMark
from stream_features.feature_sets import FeatureSet
from stream_features.flink_job.card_stage import CardStage, DuplicateOut
from stream_features.flink_job.history_source import StoredHistory
from stream_features.flink_job.intake import Arrived, Refused, take_in_entity_event, take_in_transaction
from stream_features.flink_job.merchant_stage import LabelDone, MerchantStage, duplicate_record

NOW_MS = 1_900_000_000_000


class KnownHistory:
    """A HistorySource over dictionaries; counts its reads."""

    def __init__(
        self,
        cards: Mapping[str, StoredHistory] | None = None,
        merchants: Mapping[str, StoredHistory] | None = None,
        labels: Mapping[tuple[str, str], tuple[int, bytes]] | None = None,
    ) -> None:
        self.cards, self.merchants, self.labels = cards or {}, merchants or {}, labels or {}
        self.reads = 0

    def card(self, card_id: str) -> StoredHistory | None:
        self.reads += 1
        return self.cards.get(card_id)

    def merchant(self, merchant_id: str) -> StoredHistory | None:
        self.reads += 1
        return self.merchants.get(merchant_id)

    def label_effect(self, merchant_id: str, transaction_id: str) -> tuple[int, bytes] | None:
        self.reads += 1
        return self.labels.get((merchant_id, transaction_id))


class KeyedJob:
    """Both stages, one key at a time, state in dictionaries."""

    def __init__(self, features: FeatureSet, history: KnownHistory | None = None) -> None:
        self._card_stage = CardStage(features, history, include_state=True)
        self._merchant_stage = MerchantStage(features, history)
        self.cards: dict[str, bytes] = {}
        self.merchants: dict[str, bytes] = {}
        self.seen: dict[str, dict[int, bytes]] = {}
        self.applied: dict[str, _Applied] = {}
        self._number = 0

    def _arrived(self, stream: str, payload: bytes) -> Arrived:
        self._number += 1
        return Arrived(stream, StreamPosition("shard-0", str(self._number)), NOW_MS, payload)

    def transaction(self, payload: bytes) -> FeaturesRecord | DuplicateRecord | RejectedMark:
        """What `features` says of one record of `transactions`."""
        item = take_in_transaction(self._arrived("transactions", payload), now_ms=NOW_MS)
        if isinstance(item, Refused):
            return item.mark
        seen = _Seen(self.seen.setdefault(item.card_id, {}))
        out, state = self._card_stage.process(item, self.cards.get(item.card_id), seen)
        if state is not None:
            self.cards[item.card_id] = state
        if isinstance(out, DuplicateOut):
            return duplicate_record(out)
        record, state = self._merchant_stage.purchase_or_ask(out, self.merchants.get(out.merchant_id))
        if state is not None:
            self.merchants[out.merchant_id] = state
        return record

    def label(self, event: EntityEvent) -> LabelDone | RejectedMark:
        """What becomes of one record of `entity-events`."""
        item = take_in_entity_event(self._arrived("entity-events", encode_entity_event(event)), now_ms=NOW_MS)
        if isinstance(item, Refused):
            return item.mark
        applied = self.applied.setdefault(item.merchant_id, _Applied())
        state, done = self._merchant_stage.label(item, self.merchants.get(item.merchant_id), applied)
        if state is not None:
            self.merchants[item.merchant_id] = state
        return done


class _Seen:
    def __init__(self, ids: dict[int, bytes]) -> None:
        self._ids = ids

    def get(self, id_hash: int) -> bytes | None:
        return self._ids.get(id_hash)

    def put(self, id_hash: int, payload_hash: bytes) -> None:
        self._ids[id_hash] = payload_hash


class _Applied(dict[str, bytes]):
    def put(self, transaction_id: str, value: bytes) -> None:
        self[transaction_id] = value
