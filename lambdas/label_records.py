"""One transaction's labels: from its reports and its decision to the item, and to what its merchant is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from lambdas.records import UserRecord
from lambdas.writes import StoredDecision, StoredLabel
from stream_features.entity_event import EntityEvent, FraudEntry
from stream_features.errors import ContractMismatch, MalformedRecord
from stream_features.label import Label
from stream_features.label_history import LabelReport, fraud_entries, sorted_reports

MOST_REPORTS: Final = 256  # of one transaction; bounds the item, its events and the transactions they are written in

_encode: Final = msgspec.json.Encoder().encode
_decode_history: Final = msgspec.json.Decoder(list[LabelReport]).decode
_decode_told: Final = msgspec.json.Decoder(list[str]).decode


class Reported(Struct, frozen=True, eq=False):
    """A valid label with the record that brought it."""

    label: Label
    record: UserRecord


class Derived(Struct, frozen=True):
    """What stands, or is to stand, about one transaction.

    Attributes:
        label: the item.
        frauds: the entries that stand for the transaction; empty while the label waits and for what is no purchase.
        decided: the transaction's decision was known.
        added: reports that are new.
        refused: labels that are not recorded, and why.
    """

    label: StoredLabel
    frauds: list[FraudEntry]
    decided: bool
    added: int
    refused: list[tuple[UserRecord, MalformedRecord]]


def derive(stored: StoredLabel | None, reported: Sequence[Reported], decision: StoredDecision | None) -> Derived:
    """Add reports to what is stored.

    The order of arrival decides between reports of one `reported_at_ms` and nothing else, so the same reports give the
    same item in whatever order and however often they are delivered. A report is known by what it says: a record that
    was published twice, or sent again completed, is the same report.

    Args:
        stored: the item as read; None when there is none.
        reported: the batch's labels of this transaction; at least one.
        decision: the transaction's, if it has one.

    Raises:
        ContractMismatch: the stored item cannot be read.
    """
    history, told = _stored_lists(stored)
    reports = {_content(report): report for report in history}
    refused: list[tuple[UserRecord, MalformedRecord]] = []
    for each in reported:
        report = _report(each)
        known = reports.get(_content(report))
        if known is None and len(reports) >= MOST_REPORTS:
            error = MalformedRecord("transaction_id", "too_many_reports", f"has {MOST_REPORTS} different reports")
            refused.append((each.record, error))
        elif known is None or _arrival(report) < _arrival(known):
            reports[_content(report)] = report
    ordered = sorted_reports(reports.values())
    merchant_id, event_time_ms = _whose(stored, reported, decision)
    waiting = merchant_id is None or event_time_ms is None
    if decision is not None:
        no_purchase = decision.decision.type != "purchase"
    else:
        no_purchase = stored is not None and stored.no_purchase
    frauds: list[FraudEntry] = []
    if merchant_id is not None and event_time_ms is not None and not no_purchase:
        frauds = fraud_entries(ordered, event_time_ms)
        if frauds and merchant_id not in told:
            told = [*told, merchant_id]
    holds = ordered[-1]
    label = StoredLabel(
        revision=0 if stored is None else stored.revision,
        is_fraud=holds.is_fraud,
        reported_at_ms=holds.reported_at_ms,
        source=holds.source,
        history=_encode(ordered),
        merchant_id=merchant_id,
        event_time_ms=event_time_ms,
        waiting=waiting,
        told=_encode(told),
        no_purchase=no_purchase,
    )
    if label != stored:
        label = msgspec.structs.replace(label, revision=label.revision + 1)
    return Derived(label, frauds, decision is not None, len(reports) - len(history), refused)


def label_events(transaction_id: str, derived: Derived) -> list[EntityEvent]:
    """What merchants have to be told: the entries that stand, and none any more for whom the transaction is not.

    Nothing for a label that waits, and nothing where no report ever said fraud.
    """
    label = derived.label
    if label.merchant_id is None or label.event_time_ms is None:
        return []
    return [
        EntityEvent(
            kind="label",
            merchant_id=merchant_id,
            transaction_id=transaction_id,
            event_time_ms=label.event_time_ms,
            revision=label.revision,
            frauds=derived.frauds if merchant_id == label.merchant_id else [],
        )
        for merchant_id in _decode_told(label.told)
    ]


def _stored_lists(stored: StoredLabel | None) -> tuple[list[LabelReport], list[str]]:
    if stored is None:
        return [], []
    try:
        return _decode_history(stored.history), _decode_told(stored.told)
    except msgspec.MsgspecError as error:
        raise ContractMismatch(f"stored label: {error}") from error


def _report(reported: Reported) -> LabelReport:
    return LabelReport(
        reported_at_ms=reported.label.reported_at_ms,
        arrival_ms=reported.record.arrival_ms,
        sequence_number=reported.record.position.sequence_number,
        is_fraud=reported.label.is_fraud,
        source=reported.label.source,
    )


def _content(report: LabelReport) -> tuple[int, bool, str]:
    return report.reported_at_ms, report.is_fraud, report.source


def _arrival(report: LabelReport) -> tuple[int, int]:
    return report.arrival_ms, int(report.sequence_number)


def _whose(
    stored: StoredLabel | None, reported: Sequence[Reported], decision: StoredDecision | None
) -> tuple[str | None, int | None]:
    """Merchant and event time: the decision's; else what stands; else what the first label that has both says."""
    if decision is not None:
        return decision.decision.merchant_id, decision.decision.event_time_ms
    if stored is not None and not stored.waiting:
        return stored.merchant_id, stored.event_time_ms
    for each in reported:
        if each.label.merchant_id is not None and each.label.event_time_ms is not None:
            return each.label.merchant_id, each.label.event_time_ms
    return None, None
