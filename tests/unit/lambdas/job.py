"""The Flink job in memory: its stages over dictionaries, one record after the other, exactly once."""

from __future__ import annotations

from collections.abc import Sequence

from lambdas.batch import BatchOutcome
from lambdas.records import UserRecord
from stream_features.feature_record import encode_feature_record
from stream_features.feature_sets import FeatureSet, feature_set
from stream_features.flink_job.card_stage import CardStage, DuplicateOut
from stream_features.flink_job.intake import Arrived, CardInput, Refused, take_in_entity_event, take_in_transaction
from stream_features.flink_job.merchant_stage import MerchantStage, duplicate_record
from tests.unit.lambdas.fakes import NOW_MS, World


class Job:
    """Reads records of `transactions` and `entity-events`; what it writes to `features` is in `world.features_sent`."""

    def __init__(self, world: World, features: FeatureSet | None = None) -> None:
        features = features or feature_set("core")
        self._world = world
        self._cards = CardStage(features, None)
        self._merchants = MerchantStage(features, None)
        self._card_states: dict[str, bytes] = {}
        self._merchant_states: dict[str, bytes] = {}
        self._seen: dict[str, dict[int, bytes]] = {}
        self._applied: dict[str, _Applied] = {}

    def work_on(self, records: Sequence[UserRecord]) -> BatchOutcome:
        """Take in a batch. The job never gives a record back."""
        for record in records:
            arrived = Arrived(record.stream, record.position, record.arrival_ms, record.payload)
            if record.stream == "entity-events":
                self._entity_event(arrived)
            else:
                self._transaction(arrived)
        return BatchOutcome([], {}, {}, {}, [])

    def _transaction(self, arrived: Arrived) -> None:
        taken = take_in_transaction(arrived, now_ms=NOW_MS)
        if isinstance(taken, Refused):
            self._refuse(taken)
        else:
            self._card(taken)

    def _card(self, item: CardInput) -> None:
        seen = self._seen.setdefault(item.card_id, {})
        out, state = self._cards.process(item, self._card_states.get(item.card_id), _Seen(seen))
        if state is not None:
            self._card_states[item.card_id] = state
        if isinstance(out, DuplicateOut):
            self._world.features_sent.append(encode_feature_record(duplicate_record(out)))
            return
        record, merchant = self._merchants.purchase_or_ask(out, self._merchant_states.get(item.merchant_id))
        if merchant is not None:
            self._merchant_states[item.merchant_id] = merchant
        self._world.features_sent.append(encode_feature_record(record))

    def _entity_event(self, arrived: Arrived) -> None:
        taken = take_in_entity_event(arrived, now_ms=NOW_MS)
        if isinstance(taken, Refused):
            self._refuse(taken)
            return
        applied = self._applied.setdefault(taken.merchant_id, _Applied())
        state, _ = self._merchants.label(taken, self._merchant_states.get(taken.merchant_id), applied)
        if state is not None:
            self._merchant_states[taken.merchant_id] = state

    def _refuse(self, refused: Refused) -> None:
        position = refused.rejected.stream_position
        key = (position.shard_id, position.sequence_number, position.sub_sequence_number)
        self._world.objects[key] = refused.rejected
        self._world.features_sent.append(encode_feature_record(refused.mark))


class _Seen:
    def __init__(self, ids: dict[int, bytes]) -> None:
        self._ids = ids

    def get(self, id_hash: int) -> bytes | None:
        return self._ids.get(id_hash)

    def put(self, id_hash: int, payload_hash: bytes) -> None:
        self._ids[id_hash] = payload_hash


class _Applied:
    def __init__(self) -> None:
        self._labels: dict[str, bytes] = {}

    def get(self, transaction_id: str) -> bytes | None:
        return self._labels.get(transaction_id)

    def put(self, transaction_id: str, value: bytes) -> None:
        self._labels[transaction_id] = value
