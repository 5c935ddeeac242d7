"""The tables: reading items by key, and transactions over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from botocore.exceptions import ClientError

from lambdas.adapters.calls import FAILURES, Caller, error_code
from lambdas.adapters.items import (
    Item,
    decision_item,
    decision_update,
    effect_item,
    label_item,
    revised_effect_item,
    settled_update,
    state_item,
    stored_effect,
    stored_label,
    stored_state,
)
from lambdas.ports import ConditionFailed, ListedEntity, ToRescore
from lambdas.writes import (
    DecisionSettled,
    PutDecision,
    PutLabel,
    PutRevisedEffect,
    PutState,
    ReplaceDecision,
    StoredEffect,
    StoredLabel,
    StoredState,
    Write,
)
from stream_features.aws_answers import whole
from stream_features.errors import PortFailure
from stream_features.names import TO_RESCORE_INDEX, counter_key

BATCH_GET_KEYS: Final = 100
MOST_ROUNDS_WITHOUT_PROGRESS: Final = 5


def batch_get(
    client: Any,
    caller: Caller,
    table: str,
    key_name: str,
    keys: Sequence[str],
    read: Callable[[Item], None],
    attributes: Sequence[str] = (),
) -> None:
    """Read items consistently, 100 keys a call; unprocessed keys (16 MB a call, throttling) are asked for again.

    Args:
        client: DynamoDB client.
        caller: makes the calls.
        table: table name.
        key_name: name of the partition key, of type S.
        keys: distinct keys.
        read: called with every item found, in no order.
        attributes: which attributes to return; all when empty.

    Raises:
        PortFailure: a call failed, or some keys stay unprocessed.
    """
    shape: dict[str, Any] = {"ConsistentRead": True}
    if attributes:
        names = {f"#{index}": name for index, name in enumerate(attributes)}
        shape |= {"ProjectionExpression": ",".join(names), "ExpressionAttributeNames": names}
    for start in range(0, len(keys), BATCH_GET_KEYS):
        open_keys = [{key_name: {"S": key}} for key in keys[start : start + BATCH_GET_KEYS]]
        without_progress = 0
        while open_keys:
            request = {table: {**shape, "Keys": open_keys}}
            answer = caller.call(partial(_batch_get_item, client, request), what="BatchGetItem")
            for item in answer["Responses"].get(table, ()):
                read(item)
            left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
            without_progress = without_progress + 1 if len(left) == len(open_keys) else 0
            if without_progress == MOST_ROUNDS_WITHOUT_PROGRESS:
                raise PortFailure(f"BatchGetItem: {len(left)} keys stay unprocessed")
            if without_progress:
                caller.back_off(without_progress)
            open_keys = left


def _batch_get_item(client: Any, request: dict[str, Any]) -> dict[str, Any]:
    return whole(client.batch_get_item(RequestItems=request), "Responses")


class DynamoDecisionStore:
    """Reads the `decisions` table."""

    def __init__(self, client: Any, table: str, caller: Caller) -> None:
        self._client = client
        self._table = table
        self._caller = caller

    def get(self, transaction_ids: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}

        def read(item: Item) -> None:
            found[item["transaction_id"]["S"]] = item["document"]["S"].encode()

        attributes = ("transaction_id", "document")
        batch_get(self._client, self._caller, self._table, "transaction_id", transaction_ids, read, attributes)
        return found


class DynamoEntityStore:
    """Reads the `entity_state` table."""

    def __init__(self, client: Any, table: str, caller: Caller) -> None:
        self._client = client
        self._table = table
        self._caller = caller

    def get(self, entities: Sequence[str]) -> dict[str, StoredState]:
        found: dict[str, StoredState] = {}

        def read(item: Item) -> None:
            found[item["entity"]["S"]] = stored_state(item)

        batch_get(self._client, self._caller, self._table, "entity", entities, read)
        return found


class DynamoEffectStore:
    """Reads the `effects` table."""

    def __init__(self, client: Any, table: str, caller: Caller) -> None:
        self._client = client
        self._table = table
        self._caller = caller

    def get(self, effects: Sequence[str]) -> dict[str, StoredEffect]:
        found: dict[str, StoredEffect] = {}

        def read(item: Item) -> None:
            found[item["effect"]["S"]] = stored_effect(item)

        batch_get(self._client, self._caller, self._table, "effect", effects, read)
        return found


class DynamoLabelStore:
    """Reads the `labels` table."""

    def __init__(self, client: Any, table: str, caller: Caller) -> None:
        self._client = client
        self._table = table
        self._caller = caller

    def get(self, transaction_ids: Sequence[str]) -> dict[str, StoredLabel]:
        found: dict[str, StoredLabel] = {}

        def read(item: Item) -> None:
            found[item["transaction_id"]["S"]] = stored_label(item)

        batch_get(self._client, self._caller, self._table, "transaction_id", transaction_ids, read)
        return found


class DynamoListStore:
    """Reads the `lists` table."""

    def __init__(self, client: Any, table: str, caller: Caller) -> None:
        self._client = client
        self._table = table
        self._caller = caller

    def get(self, entries: Sequence[str]) -> dict[str, ListedEntity]:
        found: dict[str, ListedEntity] = {}

        def read(item: Item) -> None:
            expires_at = item.get("expires_at")
            found[item["entry"]["S"]] = ListedEntity(item["list"]["S"], int(expires_at["N"]) if expires_at else None)

        batch_get(self._client, self._caller, self._table, "entry", entries, read, ("entry", "list", "expires_at"))
        return found


class DynamoRescoreIndex:
    """Reads the sparse index of the `decisions` table that holds only what is to be rescored."""

    def __init__(self, client: Any, table: str, caller: Caller) -> None:
        self._client = client
        self._table = table
        self._caller = caller

    def entries(self) -> Iterator[ToRescore]:
        request: dict[str, Any] = {"TableName": self._table, "IndexName": TO_RESCORE_INDEX}
        while True:
            page = self._caller.call(partial(self._client.scan, **request), what="Scan")
            for item in page["Items"]:
                arrival_ms, expires_at_s = (int(item[name]["N"]) for name in ("to_rescore_ms", "expires_at"))
                yield ToRescore(item["transaction_id"]["S"], arrival_ms, expires_at_s)
            if not page.get("LastEvaluatedKey"):
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


class DynamoLedger:
    """Writes transactions over the tables, each with its counts.

    Args:
        client: DynamoDB client.
        decisions_table: of `PutDecision`, `ReplaceDecision` and `DecisionSettled`; this and every other table may be
            empty where none of its items is written.
        entity_state_table: of `PutState`.
        effects_table: of `PutEffect`, `PutRevisedEffect` and the counters.
        counter_shard: which counter item this process adds to. A counter is one item, and transactions that meet on
            an item cancel each other; processes on different shards do not meet.
        caller: makes the reads. Transactions are tried once; who calls knows their token.
        labels_table: of `PutLabel`.
    """

    def __init__(
        self,
        client: Any,
        *,
        decisions_table: str,
        entity_state_table: str,
        effects_table: str,
        counter_shard: int,
        caller: Caller,
        labels_table: str = "",
    ) -> None:
        self._client = client
        self._labels_table = labels_table
        self._decisions_table = decisions_table
        self._entity_state_table = entity_state_table
        self._effects_table = effects_table
        self._counter = {"effect": {"S": counter_key(counter_shard)}}
        self._caller = caller

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        items = [self._item(write) for write in writes]
        if counts:
            items.append(self._counter_update(counts))
        try:
            self._client.transact_write_items(TransactItems=items, ClientRequestToken=token)
        except FAILURES as error:
            reasons = cancellation_codes(error)
            if "ConditionalCheckFailed" in reasons:
                raise ConditionFailed(
                    f"{reasons.count('ConditionalCheckFailed')} of {len(items)} conditions"
                ) from error
            why = ",".join(sorted({code for code in reasons if code != "None"})) or error_code(error)
            raise PortFailure(f"TransactWriteItems: {why}") from error

    def recorded(self, effects: Sequence[str]) -> frozenset[str]:
        found: set[str] = set()
        batch_get(
            self._client,
            self._caller,
            self._effects_table,
            "effect",
            effects,
            lambda item: found.add(item["effect"]["S"]),
            ("effect",),
        )
        return frozenset(found)

    def _item(self, write: Write) -> dict[str, Any]:
        if isinstance(write, PutDecision):
            return {
                "Put": {
                    "TableName": self._decisions_table,
                    "Item": decision_item(write),
                    "ConditionExpression": "attribute_not_exists(transaction_id)",
                }
            }
        if isinstance(write, ReplaceDecision):
            return {"Update": {"TableName": self._decisions_table, **decision_update(write)}}
        if isinstance(write, DecisionSettled):
            return {"Update": {"TableName": self._decisions_table, **settled_update(write)}}
        if isinstance(write, PutState):
            put = {"TableName": self._entity_state_table, "Item": state_item(write)}
            return {"Put": put | unchanged("entity", "version", write.expected_version)}
        if isinstance(write, PutLabel):
            put = {"TableName": self._labels_table, "Item": label_item(write)}
            return {"Put": put | unchanged("transaction_id", "revision", write.expected_revision)}
        if isinstance(write, PutRevisedEffect):
            put = {"TableName": self._effects_table, "Item": revised_effect_item(write)}
            return {"Put": put | unchanged("effect", "revision", write.expected_revision)}
        put = {"TableName": self._effects_table, "Item": effect_item(write)}
        return {"Put": put | unchanged("effect", "revision", None)}

    def _counter_update(self, counts: Mapping[str, int]) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._effects_table,
                "Key": self._counter,
                "UpdateExpression": "ADD " + ",".join(f"#{name} :{name}" for name in counts),
                "ExpressionAttributeNames": {f"#{name}": name for name in counts},
                "ExpressionAttributeValues": {f":{name}": {"N": str(count)} for name, count in counts.items()},
            }
        }


def unchanged(key_name: str, number_name: str, expected: int | None) -> dict[str, Any]:
    """The condition that an item still carries the number it was read with; None: that it is not there."""
    if expected is None:
        return {"ConditionExpression": f"attribute_not_exists({key_name})"}
    return {
        "ConditionExpression": "#number = :expected",
        "ExpressionAttributeNames": {"#number": number_name},
        "ExpressionAttributeValues": {":expected": {"N": str(expected)}},
    }


def cancellation_codes(error: Exception) -> list[str]:
    """Per item of a cancelled transaction its code ("None" for the innocent); empty for any other error."""
    if isinstance(error, ClientError) and error_code(error) == "TransactionCanceledException":
        return [str(reason.get("Code", "None")) for reason in error.response.get("CancellationReasons", ())]
    return []
