"""The history of a key that the job sees for the first time: what the Lambda engine or `bootstrap` left in the tables.

One consistent read a key. A read that fails is tried again a few times and then fails the job, which goes on from its
last checkpoint: features without a card's history would be wrong for weeks, a job that waits is late for seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from stream_features.aws_answers import HalfAnswer, whole
from stream_features.errors import PortFailure
from stream_features.flink_job.aws_calls import FAILURES
from stream_features.flink_job.keyed_state import KeyedState
from stream_features.flink_job.read_ahead import ReadAhead
from stream_features.names import card_key, merchant_effect_key, merchant_key

TRIES: Final = 5
FIRST_PAUSE_S: Final = 0.1
ENTITY: Final = "entity"  # the key of `entity_state`


class StoredHistory(NamedTuple):
    """One item of `entity_state`: the layout of its state, and the state."""

    layout_id: str
    state: KeyedState


class HistorySource(Protocol):
    """Where the histories are."""

    def card(self, card_id: str) -> StoredHistory | None:
        """What is known of a card; None for nothing. Raises PortFailure."""
        ...

    def merchant(self, merchant_id: str) -> StoredHistory | None:
        """What is known of a merchant; None for nothing. Raises PortFailure."""
        ...

    def label_effect(self, merchant_id: str, transaction_id: str) -> tuple[int, bytes] | None:
        """Revision and fraud entries (JSON) of the label that stands in the merchant's history; None for none.

        Raises PortFailure.
        """
        ...


class DynamoHistory:
    """Reads `entity_state` and `effects`.

    Args:
        dynamodb: boto3 client.
        entity_state_table: its name.
        effects_table: its name.
        ahead: what may have read `entity_state` already; None for nothing.
        pause: waits that many seconds.
    """

    def __init__(
        self,
        dynamodb: Any,
        entity_state_table: str,
        effects_table: str,
        ahead: ReadAhead | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._dynamodb = dynamodb
        self._entity_state_table = entity_state_table
        self._effects_table = effects_table
        self._ahead = ahead
        self._pause = pause

    def card(self, card_id: str) -> StoredHistory | None:
        return self._entity(card_key(card_id))

    def merchant(self, merchant_id: str) -> StoredHistory | None:
        return self._entity(merchant_key(merchant_id))

    def label_effect(self, merchant_id: str, transaction_id: str) -> tuple[int, bytes] | None:
        effect = merchant_effect_key(merchant_id, transaction_id, "label")
        item = self._get(self._effects_table, {"effect": {"S": effect}})
        return None if item is None else (int(item["revision"]["N"]), item["document"]["S"].encode())

    def _entity(self, key: str) -> StoredHistory | None:
        found = None if self._ahead is None else self._ahead.take(key)
        item = self._get(self._entity_state_table, {ENTITY: {"S": key}}) if found is None else found.item
        if item is None:
            return None
        complete_from = item.get("complete_from")
        state = KeyedState(item["state"]["B"], int(complete_from["N"]) if complete_from else None, True)
        return StoredHistory(item["layout"]["S"], state)

    def _get(self, table: str, key: dict[str, Any]) -> dict[str, Any] | None:
        pause_s = FIRST_PAUSE_S
        for attempt in range(TRIES):
            try:
                return self._get_once(table, key)
            except FAILURES as error:
                if attempt == TRIES - 1:
                    raise PortFailure(f"history from table {table}: {error}") from error
                self._pause(pause_s)
                pause_s *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    def _get_once(self, table: str, key: dict[str, Any]) -> dict[str, Any] | None:
        # Not GetItem: when its answer breaks off, it says "no such item", and the card would have no history.
        answer = self._dynamodb.batch_get_item(RequestItems={table: {"Keys": [key], "ConsistentRead": True}})
        found: list[dict[str, Any]] = whole(answer, "Responses")["Responses"].get(table, [])
        if answer.get("UnprocessedKeys", {}).get(table):
            raise HalfAnswer("a key that was not processed")
        return found[0] if found else None
