"""Loading history into the online state, before or while the stream runs.

Cards and merchants get the state that all of the history before T makes, merged with what they have streamed, and the
mark `complete_from` = T: what happened or was reported before T is not taken in again. The frauds among it get an item
in the labels table, so that a report that comes later is judged together with the first one; legitimate rows get none,
for no report is the same as "legitimate". Nothing is scored, and no decision and no effect is written.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from console.meter import published_meter
from console.past import Past, ReportedFraud, read_past
from console.running import Pipeline
from console.tables import tables_of
from lambdas.cards import DAY_S
from lambdas.commit import Chain, Conflict, Link
from lambdas.wiring import SystemClock
from lambdas.writes import PutLabel, PutState, StoredLabel, StoredState
from producers.labels import DEFAULT_LABEL_DELAY_MS, LabelPublisher
from stream_features.card_state import CardState
from stream_features.codec import pack, unpack
from stream_features.errors import PipelineError, UsageError
from stream_features.feature_sets import FeatureSet
from stream_features.label import Label
from stream_features.label_history import LabelReport
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.merchant_state import MerchantState
from stream_features.merging import with_history, with_merchant_history
from stream_features.names import card_key, merchant_key

BOOTSTRAPS_PREFIX: Final = "bootstraps/"  # in the lake bucket: what was loaded from where

_State = TypeVar("_State")
_ENTITIES_A_ROUND: Final = 500
_ATTEMPTS: Final = 8
_LABEL_DAYS: Final = 180  # labels come for 120 days; counted from now, like every time to live


@dataclass(slots=True)
class Loaded:
    """What a bootstrap did. `refused` maps an entity's key to the reason."""

    transactions: int = 0
    cards: int = 0
    merchants: int = 0
    frauds: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def summary(self) -> str:
        return (
            f"loaded {self.transactions} transactions of {self.cards} cards and {self.merchants} merchants "
            f"and {self.frauds} reported frauds in {self.seconds:.1f} s"
        )


class EntitiesRefused(PipelineError):
    """Some cards or merchants keep the state they had; the message names each with its reason."""


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded from where, as the lake keeps it. Times are epoch ms; started and finished by the wall clock."""

    file: str
    sha256: str
    mapping: str | None
    until_ms: int
    label_delay_ms: int
    started_at_ms: int
    finished_at_ms: int


def bootstrap(
    pipeline: Pipeline,
    file: Path,
    mapping: str | None,
    *,
    until_ms: int | None,
    label_delay_ms: int | None = None,
    progress: Callable[[str], None],
) -> Loaded:
    """Give every card and merchant of `file` its history before T; correct while the stream runs.

    Args:
        pipeline: the running pipeline.
        file: transactions, any order.
        mapping: how its columns are named; None for Transaction's own names.
        until_ms: T; None for one millisecond after the newest transaction.
        label_delay_ms: from a transaction to its label; None for the default.
        progress: takes a line about what is going on.

    Raises:
        UsageError: the file cannot be read as asked, or the Flink job may have seen cards already.
        MalformedRecord: a row breaks the contract; names row, field and rule.
        EntitiesRefused: after all others were loaded.
        PortFailure: a table did not answer; what was loaded stays, and the same command refuses it by name.
    """
    refuse_where_the_job_has_begun(pipeline)
    clock = SystemClock()
    started, started_at_ms = time.monotonic(), clock.now_ms()
    delay_ms = DEFAULT_LABEL_DELAY_MS if label_delay_ms is None else label_delay_ms
    past = read_past(file, mapping, pipeline.features, until_ms=until_ms, label_delay_ms=delay_ms)
    loaded = Loaded(transactions=past.transactions)
    progress(f"{loaded.transactions} transactions read")
    loader = _Loader(pipeline, past.until_ms, loaded)
    for states in _rounds(past.card_states()):
        loaded.cards += loader.load({card_key(card_id): state for card_id, state in states.items()})
        progress(f"{loaded.cards} cards loaded")
    for merchants in _rounds(past.merchant_states()):
        loaded.merchants += loader.load({merchant_key(merchant): state for merchant, state in merchants.items()})
        progress(f"{loaded.merchants} merchants loaded")
    loaded.frauds = loader.record(past.reported_frauds())
    _note(pipeline, past, file, mapping, started_at_ms, clock.now_ms())
    refuse_where_the_job_has_begun(pipeline)  # it may have begun while we loaded
    loaded.seconds = time.monotonic() - started
    if loaded.refused:
        reasons = "\n".join(f"  {key}: {reason}" for key, reason in sorted(loaded.refused.items()))
        raise EntitiesRefused(f"{loaded.summary()}; {len(loaded.refused)} cards or merchants refused:\n{reasons}")
    return loaded


def refuse_where_the_job_has_begun(pipeline: Pipeline) -> None:
    """With engine flink, let history be loaded only while nothing has been published.

    The job reads a card's or merchant's history once, when it first sees it, and keeps the state itself from then on.

    Raises:
        UsageError: something has been published.
        PortFailure: Kinesis did not answer.
    """
    if pipeline.run.engine != "flink":
        return
    for output in ("TransactionsStreamName", "LabelsStreamName"):
        count = published_meter(pipeline.run, output).read()
        if count:
            raise UsageError(
                f"{count} records have been published to {pipeline.output(output)}, and the Flink job reads a card's "
                "history only when it first sees the card: history loaded now would be ignored for those it knows. "
                "Start afresh, in this order: fraudstream down; fraudstream up --engine flink; fraudstream bootstrap; "
                "fraudstream publish"
            )


def bootstraps(pipeline: Pipeline) -> list[Bootstrap]:
    """What was bootstrapped into `pipeline`, oldest first."""
    s3, bucket = pipeline.client("s3"), pipeline.output("LakeBucketName")
    found = [
        msgspec.json.decode(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read(), type=Bootstrap)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=BOOTSTRAPS_PREFIX)
        for entry in page.get("Contents", [])
    ]
    return sorted(found, key=lambda one: one.started_at_ms)


def file_sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def merged_state(
    features: FeatureSet,
    history: CardState | MerchantState,
    stored: StoredState | None,
    complete_from_ms: int,
) -> tuple[str, bytes]:
    """Layout and bytes of `history`, which changes, merged with what the stream has stored.

    Raises:
        UsageError: they cannot be merged; says why.
        StateCorrupt: what is stored cannot be unpacked.
    """
    layout_id = features.card_layout_id if isinstance(history, CardState) else features.merchant_layout_id
    if stored is not None and stored.layout != layout_id:
        raise UsageError(f"its state has layout {stored.layout}, the pipeline writes {layout_id}")
    if isinstance(history, CardState):
        card = unpack(stored.packed, stored.complete_from_ms) if stored else None
        return features.card_layout_id, pack(with_history(features.card_layout, history, card, complete_from_ms))
    layout = features.merchant_layout
    if layout is None:
        raise UsageError(f"feature set {features.name} has no merchant features")
    merchant = unpack_merchant(stored.packed, stored.complete_from_ms) if stored else None
    return layout.layout_id, pack_merchant(with_merchant_history(layout, history, merchant, complete_from_ms))


class _Loader:
    """Writes by the same conditional transactions as the functions."""

    def __init__(self, pipeline: Pipeline, complete_from_ms: int, loaded: Loaded) -> None:
        self._pipeline = pipeline
        self._tables = tables_of(pipeline)
        self._features = pipeline.features
        self._complete_from_ms = complete_from_ms
        self._loaded = loaded

    def load(self, histories: Mapping[str, CardState] | Mapping[str, MerchantState]) -> int:
        """Store `histories` by entity key, merged with what is there; answers how many.

        An entity that is written meanwhile starts again.
        """
        count = 0
        waiting: dict[str, bytes] = {
            key: pack(history) if isinstance(history, CardState) else pack_merchant(history)
            for key, history in histories.items()
        }
        are_cards = any(isinstance(history, CardState) for history in histories.values())
        for _ in range(_ATTEMPTS):
            stored = self._tables.entities.get(list(waiting))
            puts: list[PutState] = []
            for key in list(waiting):
                history = unpack(waiting[key]) if are_cards else unpack_merchant(waiting[key])
                try:
                    puts.append(self._put(key, history, stored.get(key)))
                except UsageError as error:
                    self._loaded.refused[key] = str(error)
                    del waiting[key]
            chains = [Chain([Link((put,), {})]) for put in puts]
            self._tables.committer.commit(chains)
            for put, chain in zip(puts, chains, strict=True):
                if chain.error is None:
                    count += 1
                    del waiting[put.entity]
                elif not isinstance(chain.error, Conflict):
                    raise chain.error
            if not waiting:
                return count
        for key in waiting:
            self._loaded.refused[key] = f"the stream wrote it {_ATTEMPTS} times in a row meanwhile; try again"
        return count

    def record(self, frauds: list[ReportedFraud]) -> int:
        """Put reported frauds into the labels table, after the states; answers how many.

        Where the stream has recorded something about a transaction, the report goes through the stream as well: it
        finds its place among the others there.
        """
        now_ms = self._tables.clock.now_ms()
        chains = [Chain([Link((self._label(fraud, now_ms),), {})]) for fraud in frauds]
        self._tables.committer.commit(chains)
        kinesis, stream = self._pipeline.client("kinesis"), self._pipeline.output("LabelsStreamName")
        with LabelPublisher(kinesis, stream) as publisher:
            for fraud, chain in zip(frauds, chains, strict=True):
                if isinstance(chain.error, Conflict):
                    publisher.publish(_as_label(fraud))
                elif chain.error is not None:
                    raise chain.error
        return len(frauds)

    def _put(self, key: str, history: CardState | MerchantState, stored: StoredState | None) -> PutState:
        features = self._features
        layout_id, packed = merged_state(features, history, stored, self._complete_from_ms)
        retention_ms = features.card_layout.retention_ms
        if isinstance(history, MerchantState) and features.merchant_layout is not None:
            retention_ms = features.merchant_layout.retention_ms
        return PutState(
            entity=key,
            expected_version=None if stored is None else stored.version,
            layout=layout_id,
            packed=packed,
            complete_from_ms=self._complete_from_ms,
            expires_at_s=int(time.time()) + retention_ms // 1_000 + 2 * DAY_S,
        )

    def _label(self, fraud: ReportedFraud, now_ms: int) -> PutLabel:
        label = _as_label(fraud)
        report = LabelReport(
            reported_at_ms=label.reported_at_ms,
            arrival_ms=now_ms,
            sequence_number="0",
            is_fraud=label.is_fraud,
            source=label.source,
        )
        stored = StoredLabel(
            revision=1,
            is_fraud=label.is_fraud,
            reported_at_ms=label.reported_at_ms,
            source=label.source,
            history=msgspec.json.encode([report]),
            merchant_id=fraud.merchant_id,
            event_time_ms=fraud.event_time_ms,
            waiting=False,
            told=msgspec.json.encode([fraud.merchant_id]),
        )
        return PutLabel(fraud.transaction_id, None, stored, now_ms // 1_000 + _LABEL_DAYS * DAY_S)


def _as_label(fraud: ReportedFraud) -> Label:
    return Label(
        transaction_id=fraud.transaction_id,
        is_fraud=True,
        reported_at_ms=fraud.reported_at_ms,
        source="chargeback",
        merchant_id=fraud.merchant_id,
        event_time_ms=fraud.event_time_ms,
    )


def _rounds(states: Iterable[tuple[str, _State]]) -> Iterator[dict[str, _State]]:
    upcoming = iter(states)
    while some := dict(islice(upcoming, _ENTITIES_A_ROUND)):
        yield some


def _note(
    pipeline: Pipeline, past: Past, file: Path, mapping: str | None, started_at_ms: int, finished_at_ms: int
) -> None:
    """Keep in the lake what was loaded, for those who compute the features again."""
    note = Bootstrap(
        file=str(file.resolve()),
        sha256=file_sha256(file),
        mapping=mapping,
        until_ms=past.until_ms,
        label_delay_ms=past.label_delay_ms,
        started_at_ms=started_at_ms,
        finished_at_ms=finished_at_ms,
    )
    pipeline.client("s3").put_object(
        Bucket=pipeline.output("LakeBucketName"),
        Key=f"{BOOTSTRAPS_PREFIX}{started_at_ms}-{uuid.uuid4().hex[:8]}.json",
        Body=msgspec.json.encode(note),
    )
