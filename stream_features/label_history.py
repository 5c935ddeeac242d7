"""All reports about one transaction, and what they mean for its merchant: only changes of the fraud state count.

Reports are sorted by (reported, arrived, sequence number), whatever order they came in; the last one holds. Walking
them from "legitimate", each change of state is one fraud entry. So a history grown by a late report is a new list of
entries, which replaces the one that stood before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stream_features.contract import MAX_TIME_MS
from stream_features.label import LabelSource
from stream_features.merchant_state import LABEL_EFFECT_MS, MerchantLayout, MerchantState

FRAUD: Final = 1
WITHDRAWN: Final = -1


class LabelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One report as it arrived.

    Attributes:
        reported_at_ms: when it was made, epoch ms.
        arrival_ms: when its record arrived, epoch ms.
        sequence_number: of its record; decimal digits, compared as a number.
        is_fraud: what it says.
        source: who says so.
    """

    reported_at_ms: int
    arrival_ms: int
    sequence_number: str
    is_fraud: bool
    source: LabelSource


class FraudEntry(msgspec.Struct, frozen=True):
    """One change of a transaction's fraud state, as its merchant counts it.

    Attributes:
        event_time_ms: when the transaction happened, epoch ms.
        effective_ms: when the change takes effect, epoch ms; merchants round it up to their fraud tile.
        delta: +1 legitimate became fraud, -1 fraud became legitimate.
    """

    event_time_ms: Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
    effective_ms: Annotated[int, Meta(ge=0, le=MAX_TIME_MS + LABEL_EFFECT_MS)]
    delta: Annotated[int, Meta(ge=WITHDRAWN, le=FRAUD)]


def sorted_reports(reports: Iterable[LabelReport]) -> list[LabelReport]:
    """`reports` in the order in which they hold, each once."""
    return sorted(
        set(reports),
        key=lambda report: (
            report.reported_at_ms,
            report.arrival_ms,
            len(report.sequence_number),  # decimal digits without leading zeros: longer is greater
            report.sequence_number,
            report.is_fraud,
            report.source,
        ),
    )


def current_label(reports: Iterable[LabelReport]) -> LabelReport | None:
    """The report that holds; None without any."""
    in_order = sorted_reports(reports)
    return in_order[-1] if in_order else None


def fraud_entries(reports: Iterable[LabelReport], event_time_ms: int) -> list[FraudEntry]:
    """The entries that stand for one transaction.

    Args:
        reports: everything reported about it, in any order.
        event_time_ms: when it happened, epoch ms.
    """
    entries = []
    was_fraud = False
    for report in sorted_reports(reports):
        if report.is_fraud != was_fraud:
            was_fraud = report.is_fraud
            entries.append(fraud_entry(event_time_ms, report.reported_at_ms, was_fraud))
    return entries


def fraud_entry(event_time_ms: int, reported_at_ms: int, is_fraud: bool) -> FraudEntry:
    """The entry of one change of state to `is_fraud`."""
    return FraudEntry(event_time_ms, reported_at_ms + LABEL_EFFECT_MS, FRAUD if is_fraud else WITHDRAWN)


def replace_frauds(
    layout: MerchantLayout, state: MerchantState, before: Iterable[FraudEntry], after: Iterable[FraudEntry]
) -> bool:
    """Take the entries back that stood for a transaction and add those that now do; whether `state` changed."""
    net: Counter[tuple[int, int]] = Counter()
    for entry in after:
        net[entry.event_time_ms, entry.effective_ms] += entry.delta
    for entry in before:
        net[entry.event_time_ms, entry.effective_ms] -= entry.delta
    changed = False
    for (event_time_ms, effective_ms), delta in net.items():
        if delta:
            changed |= state.add_fraud(layout, event_time_ms, effective_ms, delta)
    return changed
