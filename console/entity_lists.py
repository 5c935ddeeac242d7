"""The block and allow lists: one item per entity in the table `lists`, which scorers read where the policy says so."""

from __future__ import annotations

import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from console.running import Pipeline
from lambdas.judging import LISTED_FIELDS, list_entry
from lambdas.policy import EntityKind, ListName
from stream_features.errors import MalformedRecord, PortFailure, UsageError
from stream_features.transaction import FIELD_RULES

_RULES = {rule.name: rule for rule in FIELD_RULES}


class ListItem(Struct, frozen=True):
    """An entity on a list: who put it there and why, epoch ms; `expires_at_s` None: for ever."""

    list_name: ListName
    kind: EntityKind
    value: str
    author: str
    reason: str
    added_at_ms: int
    expires_at_s: int | None

    @property
    def expired(self) -> bool:
        """The table deletes what has expired hours later; scorers stop counting it at once."""
        return self.expires_at_s is not None and self.expires_at_s <= time.time()


class EntityLists:
    """The lists of a running pipeline. Every method raises PortFailure when AWS does not answer."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._dynamodb = pipeline.client("dynamodb")
        self._table = pipeline.output("ListsTableName")

    def add(
        self, list_name: ListName, kind: EntityKind, value: str, *, author: str, reason: str, lasts_ms: int | None
    ) -> tuple[ListItem, ListItem | None]:
        """Put an entity on a list; it leaves the other one. Answers the entry and the one it replaced.

        Raises:
            UsageError: no transaction can have this value.
        """
        _check(kind, value)
        now_ms = time.time_ns() // 1_000_000
        expires_at_s = None if lasts_ms is None else -(-(now_ms + lasts_ms) // 1000)
        entry = ListItem(list_name, kind, value, author, reason, now_ms, expires_at_s)
        item = {
            "entry": {"S": list_entry(kind, value)},
            "list": {"S": list_name},
            "kind": {"S": kind},
            "value": {"S": value},
            "author": {"S": author},
            "reason": {"S": reason},
            "added_at_ms": {"N": str(now_ms)},
        }
        if expires_at_s is not None:
            item["expires_at"] = {"N": str(expires_at_s)}
        try:
            answer = self._dynamodb.put_item(TableName=self._table, Item=item, ReturnValues="ALL_OLD")
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"table {self._table}: {error}") from error
        former = answer.get("Attributes")
        return entry, _item(former) if former else None

    def remove(self, kind: EntityKind, value: str) -> ListItem:
        """Take an entity off its list.

        Raises:
            UsageError: it is on none.
        """
        key = {"entry": {"S": list_entry(kind, value)}}
        try:
            answer = self._dynamodb.delete_item(TableName=self._table, Key=key, ReturnValues="ALL_OLD")
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"table {self._table}: {error}") from error
        if not answer.get("Attributes"):
            raise UsageError(f"{kind} {value!r} is on no list")
        return _item(answer["Attributes"])

    def all(self) -> list[ListItem]:
        """Every entry that counts, by list, kind and value."""
        try:
            pages = self._dynamodb.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True)
            items = [_item(item) for page in pages for item in page["Items"]]
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"table {self._table}: {error}") from error
        return sorted(
            (item for item in items if not item.expired), key=lambda item: (item.list_name, item.kind, item.value)
        )


def _check(kind: EntityKind, value: str) -> None:
    """What no valid transaction carries would never be found."""
    try:
        _RULES[LISTED_FIELDS[kind]].check(LISTED_FIELDS[kind], value)
    except MalformedRecord as error:
        raise UsageError(f"no transaction has the {kind} {value!r}: {error.message}") from error


def _item(item: dict[str, Any]) -> ListItem:
    expires_at = item.get("expires_at")
    return ListItem(
        item["list"]["S"],
        item["kind"]["S"],
        item["value"]["S"],
        item["author"]["S"],
        item["reason"]["S"],
        int(item["added_at_ms"]["N"]),
        int(expires_at["N"]) if expires_at else None,
    )
