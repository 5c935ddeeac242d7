"""An analyst's verdict on one transaction, published as a label that can be applied at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from console.explain import stored_decision
from console.options import iso_utc
from console.running import Pipeline
from console.tables import tables_of
from lambdas.writes import StoredLabel
from producers.labels import LabelPublisher
from stream_features.decision import Decision
from stream_features.label import Label, LabelSource
from stream_features.label_history import LabelReport

WAIT_S: Final = 30.0
_POLL_S: Final = 0.2
_REPORTS: Final = msgspec.json.Decoder(list[LabelReport])


@dataclass(frozen=True, slots=True)
class Reported:
    """A label that was published, and what stood in the table then; None: it was not recorded in time."""

    label: Label
    recorded: StoredLabel | None

    def lines(self) -> list[str]:
        """For people: what was published, and what counts now."""
        said = [f"{self.label.transaction_id}: reported as {_word(self.label.is_fraud)} by {self.label.source}"]
        if self.recorded is None:
            return [*said, "  published, not recorded yet: `fraudstream status` shows the lag of record-labels"]
        if self.holds:
            return [*said, "  recorded; this report holds"]
        held = self.recorded
        at = iso_utc(held.reported_at_ms)
        return [*said, f"  recorded, but {_word(held.is_fraud)} by {held.source}, reported later ({at}), holds"]

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        held = self.recorded
        return {
            "label": msgspec.to_builtins(self.label),
            "recorded": held is not None,
            "holds": self.holds,
            "current": held
            and {"is_fraud": held.is_fraud, "reported_at_ms": held.reported_at_ms, "source": held.source},
        }

    @property
    def holds(self) -> bool:
        """Whether it is this report that counts now."""
        now = self.recorded
        return now is not None and (now.is_fraud, now.reported_at_ms, now.source) == (
            self.label.is_fraud,
            self.label.reported_at_ms,
            self.label.source,
        )


def _word(is_fraud: bool) -> str:
    return "fraud" if is_fraud else "legitimate"


def label_of_decision(decision: Decision, *, is_fraud: bool, source: LabelSource, reported_at_ms: int) -> Label:
    """A label that names card, merchant and event time, so that it need not wait for anything."""
    return Label(
        transaction_id=decision.transaction_id,
        is_fraud=is_fraud,
        reported_at_ms=reported_at_ms,
        source=source,
        card_id=decision.card_id,
        merchant_id=decision.merchant_id,
        event_time_ms=decision.event_time_ms,
    )


def report(
    pipeline: Pipeline, transaction_id: str, *, is_fraud: bool, source: LabelSource, reported_at_ms: int
) -> Reported:
    """Publish a label for a decided transaction and return when it is recorded, or after `WAIT_S`.

    Raises:
        NoDecision: the transaction has none.
        PortFailure: an AWS service did not answer.
    """
    decision = stored_decision(pipeline, transaction_id)
    label = label_of_decision(decision, is_fraud=is_fraud, source=source, reported_at_ms=reported_at_ms)
    with LabelPublisher(pipeline.client("kinesis"), pipeline.output("LabelsStreamName")) as publisher:
        publisher.publish(label)
    store = tables_of(pipeline).labels
    return Reported(label, await_report(label, lambda: store.get([transaction_id]).get(transaction_id)))


def await_report(
    label: Label,
    read: Callable[[], StoredLabel | None],
    *,
    timeout_s: float = WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> StoredLabel | None:
    """The table's item once it knows of `label`; None if it does not in time."""
    ends_at = clock() + timeout_s
    while True:
        item = read()
        if item is not None and any(
            (one.is_fraud, one.reported_at_ms, one.source) == (label.is_fraud, label.reported_at_ms, label.source)
            for one in _REPORTS.decode(item.history)
        ):
            return item
        if clock() >= ends_at:
            return None
        sleep(_POLL_S)
