"""One decision computed again from the raw archive: what was published, in the order in which it arrived.

Only what concerns the decision's card and merchant is read into memory; the archive has no index, so all of it is
looked through. The values come from the scalar path, as in `console.consistency`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from console.archive import archived_records, bring_up_to_date
from console.bootstrap import bootstraps
from console.consistency import History, Served, difference, not_comparable, replayed
from console.past import Past
from console.provenance import MerchantPast, PastPurchase
from console.recheck import archived_transactions, past_of, recorded_frauds
from console.running import Pipeline
from console.tables import tables_of
from stream_features.decision import Decision
from stream_features.entity_event import FraudEntry
from stream_features.errors import MalformedRecord, PortFailure, UsageError
from stream_features.feature_sets import FeatureSet
from stream_features.transaction import Transaction, parse_transaction, payload_sha256

_ANY_ARRIVAL_MS = 2**62  # the archive does not say when a record arrived, so no event is ahead of it
_FLUSH_TIMEOUT_S = 20.0
_SERVED = msgspec.json.Decoder(Served)


@dataclass(slots=True)
class Recomputed:
    """What the archive says about a decision.

    Attributes:
        values: the vector in feature-set order, NaN for no value; None where it was not computed.
        why_not: the reason, where it was not.
        records: archived records of this transaction with the decision's payload; more than one were published again.
        conflicting: archived records of this transaction with another payload.
        same_payload: whether the decision's payload is the archived one; None without a record.
        loaded: the card's purchases that bootstraps loaded before the decision.
        merchant_past: of its merchant, as of the decision; None where it was not computed.
        notes: what a reader of the values should know.
    """

    values: tuple[float, ...] | None = None
    why_not: str = ""
    records: int = 0
    conflicting: int = 0
    same_payload: bool | None = None
    loaded: list[PastPurchase] = field(default_factory=list)
    merchant_past: MerchantPast | None = None
    notes: list[str] = field(default_factory=list)

    def differences(self, decision: Decision, features: FeatureSet) -> dict[str, dict[str, float | str | None]]:
        """By feature: how it differs, the served value and the one computed again; empty where all bits are equal."""
        assert self.values is not None  # noqa: S101  asked only where there are some
        found: dict[str, dict[str, float | str | None]] = {}
        for name, value in zip(features.names, self.values, strict=True):
            served = decision.features[name]
            if kind := difference(served, value):
                found[name] = {"kind": kind, "served": served, "recomputed": None if value != value else value}
        return found


def recompute(
    pipeline: Pipeline, decision: Decision, features: FeatureSet, card_past: Collection[str] = ()
) -> Recomputed:
    """Compute the vector of `decision` again.

    Args:
        pipeline: where it was made.
        decision: as stored.
        features: its feature set.
        card_past: ids of the card's purchases that were decided before it; without the record of each, nothing is
            computed.

    Raises:
        PortFailure: an AWS service did not answer.
    """
    found = Recomputed()
    try:
        bring_up_to_date(pipeline, _FLUSH_TIMEOUT_S)
    except PortFailure as error:
        found.notes.append(f"the archive is read as it is, which may lack the newest records: {error}")
    lines = list(lines_about(archived_records(pipeline, flush=False), (decision.card_id, decision.merchant_id)))
    _count_records(found, lines, decision)
    if found.same_payload is None:
        found.why_not = (
            "it was asked of the score API, and no record of it has reached the raw archive; it has none if nobody "
            "published the transaction (docs/application-developer.md)"
            if decision.stream_position.of_request
            else f"its record is not in the raw archive yet: try again {delivery_pause(pipeline)}"
        )
        return found
    card_id, merchant_id = decision.card_id, decision.merchant_id
    concerned = [
        one.transaction_id
        for one in archived_transactions(lines, {}).values()
        if card_id == one.card_id or merchant_id == one.merchant_id
    ]
    documents = tables_of(pipeline).decisions.get(concerned)
    served = {transaction_id: _SERVED.decode(document) for transaction_id, document in documents.items()}
    archived = archived_transactions(lines, served)
    try:
        pasts = [(note, past_of(note, features)) for note in bootstraps(pipeline)]
    except UsageError as error:
        found.why_not = str(error)
        return found
    histories = [
        History(
            *(note.started_at_ms, note.finished_at_ms, note.until_ms),
            dict(past.card_states(card_id)),
            dict(past.merchant_states(merchant_id)),
        )
        for note, past in pasts
    ]
    arrived_ms = decision.arrival_ms
    before = [past for note, past in pasts if note.started_at_ms <= arrived_ms]
    found.loaded = _each_once(one for past in before for one in past.purchases(card_id=card_id))
    known = archived.keys() | {one.transaction_id for one in found.loaded}
    if lacking := [one for one in card_past if one not in known]:
        found.why_not = (
            f"{len(lacking)} earlier decisions of its card have no record in the raw archive, as {lacking[0]}: "
            "asked of the score API and not published, or not delivered yet"
        )
        return found
    frauds = recorded_frauds(pipeline, archived, merchant_id=merchant_id)
    found.merchant_past = merchant_past_of(archived, served, before, frauds, merchant_id)
    _replay(found, served, archived, features, histories, frauds, decision.transaction_id)
    return found


def _replay(
    found: Recomputed,
    served: dict[str, Served],
    archived: dict[str, Transaction],
    features: FeatureSet,
    histories: list[History],
    frauds: dict[str, list[FraudEntry]],
    wanted: str,
) -> None:
    """Fill in the values of `wanted`, or why there are none."""
    for one, _, values in replayed(served.values(), archived, features, histories=histories, frauds=frauds):
        if one.transaction_id == wanted:
            found.why_not = not_comparable(one, features, histories)
            found.values = None if found.why_not else values
            return
    found.why_not = "its decision is not in the table any more"


def lines_about(records: Iterable[bytes], ids: tuple[str, ...]) -> Iterator[bytes]:
    """The records that may name one of `ids`; one with a backslash may spell an id in another way."""
    needles = [entity.encode() for entity in ids]
    return (record for record in records if b"\\" in record or any(needle in record for needle in needles))


def _count_records(found: Recomputed, lines: Iterable[bytes], decision: Decision) -> None:
    for line in lines:
        try:
            transaction = parse_transaction(line, arrival_ms=_ANY_ARRIVAL_MS)
        except MalformedRecord:
            continue
        if transaction.transaction_id != decision.transaction_id:
            continue
        if payload_sha256(transaction) == decision.payload_sha256:
            found.records += 1
        else:
            found.conflicting += 1
    if found.records or found.conflicting:
        found.same_payload = found.records > 0


def merchant_past_of(
    archived: dict[str, Transaction],
    served: dict[str, Served],
    pasts: Iterable[Past],
    frauds: dict[str, list[FraudEntry]],
    merchant_id: str,
) -> MerchantPast:
    """A merchant's purchases, streamed and loaded, each once, and what is known of frauds."""
    times = {
        transaction_id: one.event_time_ms
        for transaction_id, one in archived.items()
        if transaction_id in served and one.merchant_id == merchant_id and one.type == "purchase"
    }
    for past in pasts:
        times |= {one.transaction_id: one.event_time_ms for one in past.purchases(merchant_id=merchant_id)}
    return MerchantPast(sorted(times.values()), frauds.get(merchant_id, []))


def _each_once(purchases: Iterable[PastPurchase]) -> list[PastPurchase]:
    return list({one.transaction_id: one for one in purchases}.values())


def delivery_pause(pipeline: Pipeline) -> str:
    """How long a record may wait on its way into the archive, for people."""
    from botocore.exceptions import BotoCoreError, ClientError

    firehose = pipeline.client("firehose")
    try:
        for name in firehose.list_delivery_streams()["DeliveryStreamNames"]:
            described = firehose.describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]
            source = described.get("Source", {}).get("KinesisStreamSourceDescription", {})
            if source.get("KinesisStreamARN", "").endswith(f"/{pipeline.output('TransactionsStreamName')}"):
                destination = described["Destinations"][0]
                s3 = destination.get("ExtendedS3DestinationDescription") or destination["S3DestinationDescription"]
                return f"in {s3['BufferingHints']['IntervalInSeconds']} s, which Firehose may hold it"
    except (ClientError, BotoCoreError, KeyError, IndexError):
        pass  # a figure for people; without it the sentence holds as well
    return "in a few minutes, which Firehose may hold it"


def names_transaction(payload: bytes, transaction_id: str) -> bool:
    """Whether a record, valid or not, carries this transaction id."""
    try:
        document = json.loads(payload)
    except ValueError:
        return transaction_id.encode() in payload
    return isinstance(document, dict) and document.get("transaction_id") == transaction_id
