"""The merchant's part of the job: asked as of a transaction, then told of it; and told of labels."""

from __future__ import annotations

import base64
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from stream_features.entity_event import FraudEntry
from stream_features.errors import ContractMismatch, StateCorrupt
from stream_features.feature_record import DuplicateRecord, FeaturesRecord
from stream_features.feature_sets import FeatureSet
from stream_features.flink_job.card_stage import DuplicateOut, MerchantInput
from stream_features.flink_job.history_source import HistorySource
from stream_features.flink_job.intake import LabelInput
from stream_features.flink_job.keyed_state import KeyedState, Unpacked, dump, load
from stream_features.kernel import features_json
from stream_features.label_history import replace_frauds
from stream_features.merchant_answers import with_merchant
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.merchant_state import MerchantState

LabelDone = Literal["applied", "superseded", "not_a_label", "not_asked"]


class AppliedLabel(msgspec.Struct, frozen=True, array_like=True):
    """What of a transaction's labels stands in its merchant's state."""

    revision: int
    frauds: list[FraudEntry]


class AppliedLabels(Protocol):
    """The labels of one merchant that the job has applied, for as long as labels are kept."""

    def get(self, transaction_id: str) -> bytes | None:
        """What `put` was given last; None for nothing."""
        ...

    def put(self, transaction_id: str, value: bytes) -> None:
        """Remember what was applied."""
        ...


class MerchantOutcome(NamedTuple):
    """The record for `features`, and the merchant's new keyed state; None where nothing has to be written."""

    record: FeaturesRecord
    state: bytes | None


class LabelOutcome(NamedTuple):
    """The merchant's new keyed state, None where nothing has to be written, and what became of the event."""

    state: bytes | None
    done: LabelDone


_NOTHING: Final = AppliedLabel(-1, [])
_encode_applied: Final = msgspec.json.Encoder().encode
_decode_applied: Final = msgspec.json.Decoder(AppliedLabel).decode
_decode_frauds: Final = msgspec.json.Decoder(list[FraudEntry]).decode


class MerchantStage:
    """Takes what concerns one merchant in the order in which it arrives; its state does not depend on that order.

    Args:
        features: the active feature set.
        history: where merchants seen for the first time may have a past; None for nowhere.
    """

    def __init__(self, features: FeatureSet, history: HistorySource | None) -> None:
        self._features = features
        self._layout = features.merchant_layout
        self._layout_id = features.merchant_layout.layout_id if features.merchant_layout is not None else ""
        self._history = history
        self._unpacked: Unpacked[MerchantState] = Unpacked()

    def purchase_or_ask(self, item: MerchantInput, state: bytes | None) -> MerchantOutcome:
        """A transaction: ask as of it, then add it if it counts.

        Args:
            item: the transaction with its card's answers.
            state: its merchant's keyed state; None for a merchant seen for the first time.

        Raises:
            StateCorrupt: the merchant's state cannot be read.
            PortFailure: its history cannot be read.
        """
        if self._layout is None:
            return MerchantOutcome(self._record(item, item.values), None)
        before, merchant = self._load(item.merchant_id, state)
        values = item.values
        if not item.stateless:
            values = with_merchant(self._features, values, item.event_time_ms, merchant)
        changed = item.counts and merchant.add(self._layout, item.event_time_ms, item.amount_base)
        return MerchantOutcome(
            self._record(item, values), self._dump(item.merchant_id, before, merchant, changed, state)
        )

    def label(self, item: LabelInput, state: bytes | None, applied: AppliedLabels) -> LabelOutcome:
        """A label event: a higher revision replaces what stood for its transaction, any other is ignored.

        Events about decided purchases are the Lambda engine's; this engine knows the purchases themselves.

        Args:
            item: the event.
            state: its merchant's keyed state; None for a merchant seen for the first time.
            applied: its merchant's labels.

        Raises:
            StateCorrupt: the merchant's state cannot be read.
            ContractMismatch: what was applied before cannot be read.
            PortFailure: the merchant's history cannot be read.
        """
        event = item.event
        if event.kind != "label":
            return LabelOutcome(None, "not_a_label")
        if self._layout is None:
            return LabelOutcome(None, "not_asked")
        before, merchant = self._load(item.merchant_id, state)
        known = self._known(item, before, applied)
        if event.revision <= known.revision:
            return LabelOutcome(self._dump(item.merchant_id, before, merchant, False, state), "superseded")
        applied.put(event.transaction_id, _encode_applied(AppliedLabel(event.revision, event.frauds)))
        changed = replace_frauds(self._layout, merchant, known.frauds, event.frauds)
        return LabelOutcome(self._dump(item.merchant_id, before, merchant, changed, state), "applied")

    def _known(self, item: LabelInput, before: KeyedState, applied: AppliedLabels) -> AppliedLabel:
        transaction_id = item.event.transaction_id
        stored = applied.get(transaction_id)
        try:
            if stored is not None:
                return _decode_applied(stored)
            if before.from_table and self._history is not None:
                found = self._history.label_effect(item.merchant_id, transaction_id)
                if found is not None:
                    return AppliedLabel(found[0], _decode_frauds(found[1]))
        except msgspec.MsgspecError as error:
            raise ContractMismatch(f"applied label of {transaction_id}: {error}") from error
        return _NOTHING

    def _load(self, merchant_id: str, state: bytes | None) -> tuple[KeyedState, MerchantState]:
        if state is not None:
            before = load(self._layout_id, state)
        else:
            found = None if self._history is None else self._history.merchant(merchant_id)
            if found is not None and found.layout_id != self._layout_id:
                raise StateCorrupt(f"merchant state layout {found.layout_id!r} is not {self._layout_id!r}")
            before = KeyedState(b"", None, False) if found is None else found.state
        kept = None if state is None else self._unpacked.take(merchant_id, state)
        if kept is not None:
            return before, kept
        if not before.packed:
            return before, MerchantState.empty(before.complete_from_ms)
        return before, unpack_merchant(before.packed, before.complete_from_ms)

    def _dump(
        self, merchant_id: str, before: KeyedState, merchant: MerchantState, changed: bool, state: bytes | None
    ) -> bytes | None:
        after = state
        if changed:
            after = dump(self._layout_id, before._replace(packed=pack_merchant(merchant)))
        elif after is None:
            after = dump(self._layout_id, before)
        self._unpacked.keep(merchant_id, after, merchant)
        return after if after is not state else None

    def _record(self, item: MerchantInput, values: tuple[float, ...]) -> FeaturesRecord:
        arrived = item.arrived
        return FeaturesRecord(
            payload=arrived.payload.decode(),
            position=arrived.position,
            arrival_ms=arrived.arrival_ms,
            feature_set_id=self._features.feature_set_id,
            features=features_json(self._features, values),
            late=item.late,
            state=base64.b64encode(item.state).decode() if item.state else "",
        )


def duplicate_record(item: DuplicateOut) -> DuplicateRecord:
    """What `features` says of a duplicate."""
    arrived = item.arrived
    return DuplicateRecord(payload=arrived.payload.decode(), position=arrived.position, arrival_ms=arrived.arrival_ms)
