"""The keyed operators of the job: a card's, a merchant's. They hold state and count; the stages know what to do."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final

from pyflink.common import Time, Types
from pyflink.datastream import KeyedCoProcessFunction, KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, StateTtlConfig, ValueStateDescriptor

from stream_features.feature_record import RejectedMark
from stream_features.feature_sets import feature_set
from stream_features.flink_job.aws_calls import client
from stream_features.flink_job.card_stage import CardStage, DuplicateOut, MerchantInput
from stream_features.flink_job.elements import LABEL_DONE, Outgoing, outgoing, outgoing_mark
from stream_features.flink_job.history_source import ENTITY, DynamoHistory, HistorySource, StoredHistory
from stream_features.flink_job.intake import CardInput, LabelInput
from stream_features.flink_job.merchant_stage import MerchantStage, duplicate_record
from stream_features.flink_job.properties import JobProperties
from stream_features.flink_job.read_ahead import ReadAhead

CARD_STATE: Final = "card-v1"
SEEN_IDS: Final = "seen-ids-v1"
MERCHANT_STATE: Final = "merchant-v1"
APPLIED_LABELS: Final = "applied-labels-v1"

_SIGN: Final = 1 << 63

# In thread mode the operators of a process share its interpreter, and so this.
_ahead: Final[dict[str, ReadAhead]] = {}
_making_ahead: Final = threading.Lock()


class CardOperator(KeyedProcessFunction):
    """CardInput in, MerchantInput or DuplicateOut out; keyed by card. A RejectedMark passes."""

    def __init__(self, properties: JobProperties) -> None:
        self._properties = properties

    def open(self, runtime_context: RuntimeContext) -> None:
        properties = self._properties
        ttl = time_to_live(properties.state_ttl_ms)
        self._state = value_state(runtime_context, CARD_STATE, ttl)
        seen = MapStateDescriptor(SEEN_IDS, Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        seen.enable_time_to_live(ttl)
        self._seen = SeenIdsState(runtime_context.get_map_state(seen))
        metrics = runtime_context.get_metrics_group()
        self._transactions = metrics.counter("transactions")
        self._duplicates = metrics.counter("duplicates")
        self._late = metrics.counter("late")
        history = history_of(properties, metrics.counter("historyReads"))
        self._stage = CardStage(feature_set(properties.feature_set), history, properties.include_state)

    def process_element(self, value: CardInput | RejectedMark, ctx: Any) -> Iterable[Any]:
        if isinstance(value, RejectedMark):
            return (value,)
        outcome = self._stage.process(value, self._state.value(), self._seen)
        if outcome.state is not None:
            self._state.update(outcome.state)
        self._transactions.inc()
        if isinstance(outcome.out, DuplicateOut):
            self._duplicates.inc()
        elif outcome.out.late:
            self._late.inc()
        return (outcome.out,)


class MerchantOperator(KeyedCoProcessFunction):
    """What cards answered on the first input, label events on the second; keyed by merchant.

    Out goes what the writer takes: one record of the features stream for a transaction or a rejected record,
    `LABEL_DONE` for a label event.
    """

    def __init__(self, properties: JobProperties) -> None:
        self._properties = properties

    def open(self, runtime_context: RuntimeContext) -> None:
        properties = self._properties
        self._state = value_state(runtime_context, MERCHANT_STATE, time_to_live(properties.state_ttl_ms))
        applied = MapStateDescriptor(APPLIED_LABELS, Types.STRING(), Types.PICKLED_BYTE_ARRAY())
        applied.enable_time_to_live(time_to_live(properties.label_ttl_ms))
        self._applied = runtime_context.get_map_state(applied)
        metrics = runtime_context.get_metrics_group()
        self._labels_applied = metrics.counter("labelsApplied")
        self._labels_ignored = metrics.counter("labelsIgnored")
        history = history_of(properties, metrics.counter("historyReads"))
        self._stage = MerchantStage(feature_set(properties.feature_set), history)

    def process_element1(self, value: MerchantInput | DuplicateOut | RejectedMark, ctx: Any) -> Iterable[Outgoing]:
        if isinstance(value, MerchantInput):
            outcome = self._stage.purchase_or_ask(value, self._state.value())
            if outcome.state is not None:
                self._state.update(outcome.state)
            return (outgoing(outcome.record, value.card_id),)
        if isinstance(value, DuplicateOut):
            return (outgoing(duplicate_record(value), value.card_id),)
        return (outgoing_mark(value),)

    def process_element2(self, value: LabelInput | RejectedMark, ctx: Any) -> Iterable[Outgoing]:
        if isinstance(value, RejectedMark):
            return (outgoing_mark(value),)
        outcome = self._stage.label(value, self._state.value(), self._applied)
        if outcome.state is not None:
            self._state.update(outcome.state)
        (self._labels_applied if outcome.done == "applied" else self._labels_ignored).inc()
        return (LABEL_DONE,)


class Level:
    """A number that rises and falls, shown as a counter.

    Not as a gauge: in thread mode Flink's metric threads ask a Python gauge through pemja beside the task's thread, and
    that has ended the JVM with a segmentation fault in PyTuple_GetItem (pemja 0.5.7).
    """

    def __init__(self, group: Any, name: str) -> None:
        self._counter = group.counter(name)
        self._value = 0

    def set(self, value: int) -> None:
        """Show `value` from now on."""
        if value > self._value:
            self._counter.inc(value - self._value)
        elif value < self._value:
            self._counter.dec(self._value - value)
        self._value = value


class SeenIdsState:
    """`SeenIds` over a MapState, whose keys are signed."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def get(self, id_hash: int) -> bytes | None:
        found: bytes | None = self._state.get(id_hash - _SIGN)
        return found

    def put(self, id_hash: int, payload_hash: bytes) -> None:
        self._state.put(id_hash - _SIGN, payload_hash)


class CountedHistory:
    """`HistorySource` that counts its reads."""

    def __init__(self, history: HistorySource, reads: Any) -> None:
        self._history = history
        self._reads = reads

    def card(self, card_id: str) -> StoredHistory | None:
        self._reads.inc()
        return self._history.card(card_id)

    def merchant(self, merchant_id: str) -> StoredHistory | None:
        self._reads.inc()
        return self._history.merchant(merchant_id)

    def label_effect(self, merchant_id: str, transaction_id: str) -> tuple[int, bytes] | None:
        self._reads.inc()
        return self._history.label_effect(merchant_id, transaction_id)


def history_of(properties: JobProperties, reads: Any) -> HistorySource | None:
    """Where keys seen for the first time may have a past; None where no table is named."""
    table = properties.entity_state_table
    if not table:
        return None
    dynamodb = client("dynamodb", region=properties.transactions.region)
    history = DynamoHistory(dynamodb, table, properties.effects_table, read_ahead_of(properties))
    return CountedHistory(history, reads)


def read_ahead_of(properties: JobProperties) -> ReadAhead | None:
    """What reads histories ahead for all operators; None where they do not share an interpreter, or need no history."""
    table = properties.entity_state_table
    if not table or properties.execution_mode != "thread":
        return None
    with _making_ahead:
        if table not in _ahead:
            _ahead[table] = ReadAhead(client("dynamodb", region=properties.transactions.region), table, ENTITY)
        return _ahead[table]


def value_state(runtime_context: RuntimeContext, name: str, ttl: StateTtlConfig | None = None) -> Any:
    """A ValueState of bytes. Pickled: in thread mode the plain byte array cannot be empty."""
    descriptor = ValueStateDescriptor(name, Types.PICKLED_BYTE_ARRAY())
    if ttl is not None:
        descriptor.enable_time_to_live(ttl)
    return runtime_context.get_state(descriptor)


def time_to_live(ttl_ms: int) -> StateTtlConfig:
    """State that nobody writes for `ttl_ms` expires.

    With the default clean-up PyFlink starts a second JVM inside the task (it wants a Java Duration). Naming RocksDB's
    filter avoids that; the period must not be empty, and is read in neither execution mode.
    """
    builder = StateTtlConfig.new_builder(Time.milliseconds(ttl_ms)).disable_cleanup_in_background()
    return builder.cleanup_in_rocksdb_compact_filter(1_000, "30 d").build()
