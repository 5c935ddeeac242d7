"""Decisions as events on an EventBridge bus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lambdas.adapters.calls import Caller
from lambdas.ports import NotPublished
from stream_features.decision_event import DETAIL_TYPE, EVENT_SOURCE, DecisionEvent, encode_decision_event

PUT_EVENTS_MOST: Final = 10


class EventBridgeEvents:
    """Puts events on one bus; retries exactly the refused ones."""

    def __init__(self, client: Any, bus_name: str, caller: Caller) -> None:
        self._client = client
        self._bus_name = bus_name
        self._caller = caller

    def publish(self, events: Sequence[DecisionEvent]) -> None:
        failed: list[DecisionEvent] = []
        reason = ""
        for start in range(0, len(events), PUT_EVENTS_MOST):
            chunk = events[start : start + PUT_EVENTS_MOST]
            left, why = self._caller.refused_in_part(self._put, chunk, what="PutEvents")
            failed += left
            reason = why or reason
        if failed:
            raise NotPublished(reason, [event.transaction_id for event in failed])

    def _put(self, events: Sequence[DecisionEvent]) -> list[int]:
        answer = self._client.put_events(
            Entries=[
                {
                    "EventBusName": self._bus_name,
                    "Source": EVENT_SOURCE,
                    "DetailType": DETAIL_TYPE,
                    "Detail": encode_decision_event(event).decode(),
                }
                for event in events
            ]
        )
        if not answer.get("FailedEntryCount"):
            return []
        return [index for index, entry in enumerate(answer["Entries"]) if entry.get("ErrorCode")]
