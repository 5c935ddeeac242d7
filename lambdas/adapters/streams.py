"""What leaves after the commit: records to Kinesis, alerts to SNS. Both at least once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from lambdas.adapters.calls import Caller, in_chunks
from lambdas.ports import NotPublished
from lambdas.writes import StoredDecision
from stream_features.aws_answers import whole
from stream_features.decision_event import DecisionEvent, decision_event, encode_decision_event
from stream_features.entity_event import EntityEvent, encode_entity_event
from stream_features.label import Label, encode_label
from stream_features.names import merchant_key
from stream_features.transaction import Transaction

PUT_RECORDS_MOST: Final = 500
PUT_RECORDS_BYTES: Final = 4_500_000  # the service's limit is 5 MiB with the partition keys
PARTITION_KEY_BYTES: Final = 1_024  # 256 characters of UTF-8 at most
PUBLISH_BATCH_MOST: Final = 10


class Entry(NamedTuple):
    """One record to put, and the transaction it is about."""

    payload: bytes
    partition_key: str
    transaction_id: str


class KinesisWriter:
    """Puts records on one stream; retries exactly the refused ones."""

    def __init__(self, client: Any, stream_name: str, caller: Caller) -> None:
        self._client = client
        self._stream_name = stream_name
        self._caller = caller

    def put(self, entries: Sequence[Entry]) -> None:
        """Put every entry. Raises `NotPublished` with the transactions of those that are not known to be out."""
        failed: list[Entry] = []
        reason = ""
        for chunk in in_chunks(
            entries,
            most=PUT_RECORDS_MOST,
            most_bytes=PUT_RECORDS_BYTES,
            size=lambda entry: len(entry.payload) + PARTITION_KEY_BYTES,
        ):
            left, why = self._caller.refused_in_part(self._put, chunk, what="PutRecords")
            failed += left
            reason = why or reason
        if failed:
            raise NotPublished(reason, [entry.transaction_id for entry in failed])

    def _put(self, entries: Sequence[Entry]) -> list[int]:
        answer = whole(
            self._client.put_records(
                StreamName=self._stream_name,
                Records=[{"Data": entry.payload, "PartitionKey": entry.partition_key} for entry in entries],
            ),
            "Records",
        )
        if not answer.get("FailedRecordCount"):
            return []
        return [index for index, record in enumerate(answer["Records"]) if record.get("ErrorCode")]


class KinesisDecisionPublisher:
    """Puts decisions on the decisions stream."""

    def __init__(self, client: Any, stream_name: str, caller: Caller) -> None:
        self._writer = KinesisWriter(client, stream_name, caller)

    def publish(self, decisions: Sequence[StoredDecision]) -> None:
        self._writer.put(
            [
                Entry(stored.document, stored.decision.transaction_id, stored.decision.transaction_id)
                for stored in decisions
            ]
        )


class KinesisTransactionPublisher:
    """Puts transactions on the transactions stream, all of one card under one key."""

    def __init__(self, client: Any, stream_name: str, caller: Caller) -> None:
        self._writer = KinesisWriter(client, stream_name, caller)

    def publish(self, transaction: Transaction, payload: bytes) -> None:
        self._writer.put([Entry(payload, transaction.card_id, transaction.transaction_id)])


class KinesisEntityEventPublisher:
    """Puts events on the entity-events stream, all of one merchant under one key."""

    def __init__(self, client: Any, stream_name: str, caller: Caller) -> None:
        self._writer = KinesisWriter(client, stream_name, caller)

    def publish(self, events: Sequence[EntityEvent]) -> None:
        self._writer.put(
            [
                Entry(encode_entity_event(event), merchant_key(event.merchant_id), event.transaction_id)
                for event in events
            ]
        )


class KinesisLabelPublisher:
    """Puts labels on the labels stream."""

    def __init__(self, client: Any, stream_name: str, caller: Caller) -> None:
        self._writer = KinesisWriter(client, stream_name, caller)

    def publish(self, labels: Sequence[Label]) -> None:
        self._writer.put([Entry(encode_label(label), label.transaction_id, label.transaction_id) for label in labels])


class SnsAlerts:
    """Publishes reviews and declines to the alerts topic, with the decision as an attribute to filter on."""

    def __init__(self, client: Any, topic_arn: str, caller: Caller) -> None:
        self._client = client
        self._topic_arn = topic_arn
        self._caller = caller

    def raise_alerts(self, decisions: Sequence[StoredDecision]) -> None:
        alerts = [decision_event(stored.decision) for stored in decisions]
        failed: list[DecisionEvent] = []
        reason = ""
        for start in range(0, len(alerts), PUBLISH_BATCH_MOST):
            chunk = alerts[start : start + PUBLISH_BATCH_MOST]
            left, why = self._caller.refused_in_part(self._publish, chunk, what="PublishBatch")
            failed += left
            reason = why or reason
        if failed:
            raise NotPublished(reason, [alert.transaction_id for alert in failed])

    def _publish(self, alerts: Sequence[DecisionEvent]) -> list[int]:
        answer = self._client.publish_batch(
            TopicArn=self._topic_arn,
            PublishBatchRequestEntries=[
                {
                    "Id": str(index),
                    "Message": encode_decision_event(alert).decode(),
                    "MessageAttributes": {"decision": {"DataType": "String", "StringValue": alert.decision}},
                }
                for index, alert in enumerate(alerts)
            ],
        )
        return [int(entry["Id"]) for entry in answer.get("Failed", ())]
