"""Histories read ahead: in batches, while the records that will ask for them are still on their way.

A key that the job sees for the first time takes its history from a table (`history_source`), and its operator waits for
that one answer while everything behind it waits too. After a switch of engines or a bootstrap every key is such a key.
So the reader announces the keys of what it hands out; up to a hundred are read at once, beside the operators' work.
An operator that finds nothing here reads for itself: what is read ahead is never needed, only sooner there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, NamedTuple

from stream_features.aws_answers import whole
from stream_features.flink_job.aws_calls import FAILURES

KEYS_A_CALL: Final = 100  # BatchGetItem's limit
CALLS_AT_ONCE: Final = 2
ANNOUNCED: Final = 100_000  # keys not to be read again
WAITING: Final = 10_000  # keys read and not asked for
FRESH_S: Final = 60.0  # what waits longer may have changed in the table

Items = dict[str, dict[str, Any] | None]  # by key; None for one that is not in the table


class Found(NamedTuple):
    """An answer of the table: the key's item, None for no such item."""

    item: dict[str, Any] | None


class _Waiting(NamedTuple):
    answer: Future[Items]
    asked_s: float


class ReadAhead:
    """Reads items of one table by their key before they are asked for; safe between threads.

    Args:
        dynamodb: boto3 client.
        table: its name.
        key_name: the table's key, a string.
        clock_s: a clock that never goes back.
    """

    def __init__(self, dynamodb: Any, table: str, key_name: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._key_name = key_name
        self._clock_s = clock_s
        self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="read-ahead")
        self._lock = threading.Lock()
        self._announced: dict[str, None] = {}  # in the order of their announcement
        self._waiting: dict[str, _Waiting] = {}

    def announce(self, keys: Iterable[str]) -> None:
        """Have those of `keys` read that were not announced before; returns at once."""
        with self._lock:
            fresh = [key for key in dict.fromkeys(keys) if key not in self._announced]
            if not fresh:
                return
            self._announced |= dict.fromkeys(fresh)
            _forget_oldest(self._announced, ANNOUNCED)
            for start in range(0, len(fresh), KEYS_A_CALL):
                batch = fresh[start : start + KEYS_A_CALL]
                waiting = _Waiting(self._pool.submit(self._read, batch), self._clock_s())
                self._waiting |= dict.fromkeys(batch, waiting)
            _forget_oldest(self._waiting, WAITING)

    def take(self, key: str) -> Found | None:
        """What the table says of `key`, told once; None where that was not read ahead, or in vain, or long ago."""
        with self._lock:
            waiting = self._waiting.pop(key, None)
        if waiting is None or self._clock_s() - waiting.asked_s > FRESH_S:
            return None
        items = waiting.answer.result()
        return Found(items[key]) if key in items else None

    def _read(self, keys: Sequence[str]) -> Items:
        """Every key that was processed. A failure is no error here: whoever reads for itself will meet it too."""
        request = {self._table: {"Keys": [{self._key_name: {"S": key}} for key in keys], "ConsistentRead": True}}
        try:
            answer = whole(self._dynamodb.batch_get_item(RequestItems=request), "Responses")
        except FAILURES:
            return {}
        items: Items = dict.fromkeys(keys)
        for item in answer["Responses"].get(self._table, ()):
            items[item[self._key_name]["S"]] = item
        for left in answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", ()):
            items.pop(left[self._key_name]["S"], None)
        return items


def _forget_oldest(kept: dict[str, Any], most: int) -> None:
    for key in list(islice(kept, max(0, len(kept) - most))):
        del kept[key]
