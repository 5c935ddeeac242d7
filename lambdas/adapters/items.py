"""What the tables' items look like, both ways.

Items are typed by hand: the resource layer would cost more than the calls.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from lambdas.writes import (
    DecisionSettled,
    PutDecision,
    PutEffect,
    PutLabel,
    PutRevisedEffect,
    PutState,
    ReplaceDecision,
    StoredEffect,
    StoredLabel,
    StoredState,
)
from stream_features.decision import Decision
from stream_features.label import LabelSource

Item = dict[str, dict[str, Any]]


def decision_item(write: PutDecision) -> Item:
    """The document, and beside it what the table's keys, indexes and expiry need.

    An index key must be a number: an alert without a score stands behind all others of its day.
    """
    decision = write.stored.decision
    item: Item = {
        "transaction_id": {"S": decision.transaction_id},
        "card_id": {"S": decision.card_id},
        "event_time_ms": {"N": str(decision.event_time_ms)},
        "score": {"N": "0" if decision.score is None else repr(decision.score)},
        "decision": {"S": decision.decision},
        "payload_sha256": {"S": decision.payload_sha256},
        "expires_at": {"N": str(write.expires_at_s)},
        "document": {"S": write.stored.document.decode()},
    }
    if decision.decision != "approve":  # the index of alerts holds nothing else
        item["alert_day"] = alert_day(decision)
    if decision.degraded:  # nor does that of what is to be rescored
        item["to_rescore_ms"] = {"N": str(decision.arrival_ms)}
    return item


def alert_day(decision: Decision) -> dict[str, str]:
    """The key of an alert's day: of its arrival, so that a rescored decision stays where it was."""
    return {"S": datetime.fromtimestamp(decision.arrival_ms // 1000, UTC).date().isoformat()}


def decision_update(write: ReplaceDecision) -> dict[str, Any]:
    """What changes in the item of a decision that is replaced; it expires when it would have."""
    decision = write.stored.decision
    values = {
        ":document": {"S": write.stored.document.decode()},
        ":replaced": {"S": write.replaced.document.decode()},
        ":score": {"N": repr(decision.score)},
        ":decision": {"S": decision.decision},
    }
    names = {"#document": "document", "#score": "score", "#decision": "decision", "#alert_day": "alert_day"}
    update = "SET #document = :document, #score = :score, #decision = :decision"
    if decision.decision == "approve":
        update += " REMOVE #alert_day"
    else:
        update += ", #alert_day = :alert_day"
        values[":alert_day"] = alert_day(decision)
    return {
        "Key": {"transaction_id": {"S": decision.transaction_id}},
        "UpdateExpression": update,
        "ConditionExpression": "#document = :replaced",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def settled_update(write: DecisionSettled) -> dict[str, Any]:
    """Takes a decision out of the index of what is to be rescored."""
    return {
        "Key": {"transaction_id": {"S": write.stored.decision.transaction_id}},
        "UpdateExpression": "REMOVE to_rescore_ms",
        "ConditionExpression": "#document = :document",
        "ExpressionAttributeNames": {"#document": "document"},
        "ExpressionAttributeValues": {":document": {"S": write.stored.document.decode()}},
    }


def state_item(write: PutState) -> Item:
    """One entity's state as the `entity_state` table holds it."""
    item: Item = {
        "entity": {"S": write.entity},
        "version": {"N": str(write.version)},
        "layout": {"S": write.layout},
        "state": {"B": write.packed},
        "expires_at": {"N": str(write.expires_at_s)},
    }
    if write.complete_from_ms is not None:
        item["complete_from"] = {"N": str(write.complete_from_ms)}
    return item


def stored_state(item: Item) -> StoredState:
    """What `state_item` wrote."""
    complete_from = item.get("complete_from")
    return StoredState(
        version=int(item["version"]["N"]),
        layout=item["layout"]["S"],
        packed=item["state"]["B"],
        complete_from_ms=int(complete_from["N"]) if complete_from else None,
    )


def effect_item(write: PutEffect) -> Item:
    """The mark of one effect as the `effects` table holds it."""
    return {"effect": {"S": write.effect}, "expires_at": {"N": str(write.expires_at_s)}}


def revised_effect_item(write: PutRevisedEffect) -> Item:
    """The mark of an effect with what was applied, as the `effects` table holds it."""
    return {
        "effect": {"S": write.effect},
        "revision": {"N": str(write.revision)},
        "document": {"S": write.document.decode()},
        "expires_at": {"N": str(write.expires_at_s)},
    }


def stored_effect(item: Item) -> StoredEffect:
    """What `effect_item` or `revised_effect_item` wrote."""
    return StoredEffect(
        revision=int(item["revision"]["N"]) if "revision" in item else 0,
        document=item["document"]["S"].encode() if "document" in item else b"",
    )


def label_item(write: PutLabel) -> Item:
    """One transaction's label as the `labels` table holds it."""
    label = write.label
    item: Item = {
        "transaction_id": {"S": write.transaction_id},
        "revision": {"N": str(label.revision)},
        "is_fraud": {"BOOL": label.is_fraud},
        "reported_at_ms": {"N": str(label.reported_at_ms)},
        "source": {"S": label.source},
        "history": {"S": label.history.decode()},
        "waiting": {"BOOL": label.waiting},
        "told": {"S": label.told.decode()},
        "expires_at": {"N": str(write.expires_at_s)},
    }
    if label.merchant_id is not None:
        item["merchant_id"] = {"S": label.merchant_id}
    if label.event_time_ms is not None:
        item["event_time_ms"] = {"N": str(label.event_time_ms)}
    if label.no_purchase:
        item["no_purchase"] = {"BOOL": True}
    return item


def stored_label(item: Item) -> StoredLabel:
    """What `label_item` wrote."""
    return StoredLabel(
        revision=int(item["revision"]["N"]),
        is_fraud=item["is_fraud"]["BOOL"],
        reported_at_ms=int(item["reported_at_ms"]["N"]),
        source=cast(LabelSource, item["source"]["S"]),
        history=item["history"]["S"].encode(),
        merchant_id=item["merchant_id"]["S"] if "merchant_id" in item else None,
        event_time_ms=int(item["event_time_ms"]["N"]) if "event_time_ms" in item else None,
        waiting=item["waiting"]["BOOL"],
        told=item["told"]["S"].encode() if "told" in item else b"[]",
        no_purchase="no_purchase" in item,
    )
