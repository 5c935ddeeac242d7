"""What the consistency job reads: decisions, archive, labels and bootstraps of a running pipeline."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from console.archive import archived_records
from console.bootstrap import Bootstrap, bootstraps, file_sha256
from console.consistency import Consistency, History, Served, compare
from console.past import Past, read_past
from console.quarantine import rejected_records
from console.running import Pipeline
from console.tables import scan
from stream_features.errors import MalformedRecord, UsageError
from stream_features.feature_sets import FeatureSet
from stream_features.label_history import FraudEntry, LabelReport, fraud_entries
from stream_features.transaction import Transaction, parse_transaction, payload_sha256

_ANY_ARRIVAL_MS: Final = 2**62  # the archive does not say when a record arrived, so no event is ahead of it
_SERVED: Final = msgspec.json.Decoder(Served)
_REPORTS: Final = msgspec.json.Decoder(list[LabelReport])


def check_consistency(
    pipeline: Pipeline, *, from_ms: int | None, until_ms: int | None, progress: Callable[[str], None]
) -> Consistency:
    """Compute the served vectors of `[from_ms, until_ms)` again and compare them; see `console.consistency`.

    Nothing should be in flight: what is published and not yet decided counts as without decision.

    Raises:
        UsageError: a file that was bootstrapped is gone or has changed.
        PortFailure: an AWS service did not answer.
    """
    served = {one.transaction_id: one for one in served_decisions(pipeline)}
    progress(f"{len(served)} decisions read")
    archived = archived_transactions(archived_records(pipeline), served)
    progress(f"{len(archived)} archived transactions read")
    frauds = recorded_frauds(pipeline, archived)
    histories = []
    for note in bootstraps(pipeline):
        progress(f"computing what {note.file} made of cards and merchants")
        histories.append(history_of(note, pipeline.features))
    found = compare(
        served.values(),
        archived,
        pipeline.features,
        histories=histories,
        frauds=frauds,
        from_ms=from_ms,
        until_ms=until_ms,
    )
    if found.without_decision:
        quarantined = set(_quarantined_ids(pipeline))
        found.without_decision = [one for one in found.without_decision if one not in quarantined]
    return found


def served_decisions(pipeline: Pipeline) -> Iterator[Served]:
    """What is compared of every decision. Raises PortFailure."""
    for item in scan(pipeline, "DecisionsTableName", ProjectionExpression="document"):
        yield _SERVED.decode(item["document"]["S"])


def archived_transactions(records: Iterable[bytes], served: dict[str, Served]) -> dict[str, Transaction]:
    """The valid ones among the records by id; of several with one id the one that was decided, else the first."""
    found: dict[str, Transaction] = {}
    for record in records:
        try:
            transaction = parse_transaction(record, arrival_ms=_ANY_ARRIVAL_MS)
        except MalformedRecord:
            continue  # in quarantine, with its own count
        decided = served.get(transaction.transaction_id)
        known = found.setdefault(transaction.transaction_id, transaction)
        if known is not transaction and decided and payload_sha256(transaction) == decided.payload_sha256:
            found[transaction.transaction_id] = transaction
    return found


def recorded_frauds(
    pipeline: Pipeline, archived: dict[str, Transaction], *, merchant_id: str | None = None
) -> dict[str, list[FraudEntry]]:
    """The fraud entries that stand, by merchant or of one merchant, from the histories in the labels table.

    Raises:
        PortFailure: the table did not answer.
    """
    frauds: dict[str, list[FraudEntry]] = {}
    wanted, values = "told <> :nobody", {":nobody": {"S": "[]"}}
    if merchant_id is not None:
        wanted, values = f"{wanted} AND merchant_id = :merchant", values | {":merchant": {"S": merchant_id}}
    told: dict[str, Any] = {"FilterExpression": wanted, "ExpressionAttributeValues": values}
    for item in scan(pipeline, "LabelsTableName", **told):
        transaction = archived.get(item["transaction_id"]["S"])
        if item["waiting"]["BOOL"] or (transaction is not None and transaction.type != "purchase"):
            continue
        reports = _REPORTS.decode(item["history"]["S"])
        entries = fraud_entries(reports, int(item["event_time_ms"]["N"]))
        frauds.setdefault(item["merchant_id"]["S"], []).extend(entries)
    return frauds


def history_of(
    note: Bootstrap, features: FeatureSet, *, card_id: str | None = None, merchant_id: str | None = None
) -> History:
    """The states that a bootstrap loaded; of one card and of one merchant only, if they are given.

    Raises:
        UsageError: the file is gone or has changed since.
    """
    past = past_of(note, features)
    return History(
        note.started_at_ms,
        note.finished_at_ms,
        note.until_ms,
        dict(past.card_states(card_id)),
        dict(past.merchant_states(merchant_id)),
    )


def past_of(note: Bootstrap, features: FeatureSet) -> Past:
    """What a bootstrap loaded its states from; raises UsageError as `history_of`."""
    file = Path(note.file)
    if not file.exists() or file_sha256(file) != note.sha256:
        raise UsageError(f"{file} was bootstrapped but is {'not as it was' if file.exists() else 'not there any more'}")
    return read_past(file, note.mapping, features, until_ms=note.until_ms, label_delay_ms=note.label_delay_ms)


def _quarantined_ids(pipeline: Pipeline) -> Iterator[str]:
    """Ids of the rejected records that are transactions all the same, for example dated in the future."""
    for _, rejected in rejected_records(pipeline):
        try:
            payload = base64.b64decode(rejected.payload_base64)
            yield parse_transaction(payload, arrival_ms=_ANY_ARRIVAL_MS).transaction_id
        except MalformedRecord:
            continue  # no transaction, so it has no id
