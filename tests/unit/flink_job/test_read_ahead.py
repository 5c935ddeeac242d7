"""Histories read ahead: what is found was read in batches, and whatever is not found is read by whoever needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stream_features.feature_record import RejectedMark
from stream_features.flink_job import read_ahead
from stream_features.flink_job.elements import entities
from stream_features.flink_job.history_source import ENTITY, DynamoHistory
from stream_features.flink_job.intake import Arrived, LabelInput, Refused, take_in_transaction
from stream_features.flink_job.read_ahead import KEYS_A_CALL, Found, ReadAhead
from stream_features.transaction import Transaction, encode_transaction

TABLE = "entity-state"
KEPT = {key: {ENTITY: {"S": key}, "layout": {"S": "l"}, "state": {"B": key.encode()}} for key in ("card#a", "card#b")}


class FakeTable:
    """BatchGetItem on one table; notes the keys of each call."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = dict(KEPT)
        self.calls: list[list[str]] = []
        self.fails = False
        self.unprocessed: set[str] = set()

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
        request = RequestItems[TABLE]
        assert request["ConsistentRead"] is True
        keys = [key[ENTITY]["S"] for key in request["Keys"]]
        assert len(keys) <= 100
        self.calls.append(keys)
        if self.fails:
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, "BatchGetItem")
        left = [{ENTITY: {"S": key}} for key in keys if key in self.unprocessed]
        return {
            "Responses": {
                TABLE: [self.items[key] for key in reversed(keys) if key in self.items and key not in self.unprocessed]
            },
            "UnprocessedKeys": {TABLE: {"Keys": left}} if left else {},
        }


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


def histories(ahead: ReadAhead, own: FakeTable, cards: Sequence[str]) -> list[bytes | None]:
    history = DynamoHistory(own, TABLE, "effects", ahead, pause=lambda seconds: None)
    found = [history.card(card) for card in cards]
    return [None if one is None else one.state.packed for one in found]


def test_what_was_announced_is_read_in_one_call_and_by_nobody_else(table: FakeTable) -> None:
    ahead, own = ReadAhead(table, TABLE, ENTITY), FakeTable()
    ahead.announce(["card#a", "card#none", "card#b", "card#a"])
    assert histories(ahead, own, ["a", "none", "b"]) == [b"card#a", None, b"card#b"]
    assert table.calls == [["card#a", "card#none", "card#b"]]
    assert own.calls == []


def test_an_answer_is_told_once_and_a_key_read_ahead_once(table: FakeTable) -> None:
    ahead, own = ReadAhead(table, TABLE, ENTITY), FakeTable()
    ahead.announce(["card#a"])
    assert ahead.take("card#a") == Found(KEPT["card#a"])
    ahead.announce(["card#a"])
    assert ahead.take("card#a") is None
    assert len(table.calls) == 1
    own.items["card#a"] = KEPT["card#a"] | {"state": {"B": b"newer"}}
    assert histories(ahead, own, ["a"]) == [b"newer"]


def test_more_keys_than_a_call_takes_are_read_in_several(table: FakeTable) -> None:
    keys = [f"card#{number}" for number in range(2 * KEYS_A_CALL + 1)]
    table.items = {key: {ENTITY: {"S": key}} for key in keys}
    ahead = ReadAhead(table, TABLE, ENTITY)
    ahead.announce(keys)
    assert [ahead.take(key) for key in keys] == [Found({ENTITY: {"S": key}}) for key in keys]
    assert sorted(map(len, table.calls)) == [1, KEYS_A_CALL, KEYS_A_CALL]


@pytest.mark.parametrize("trouble", ["fails", "unprocessed"])
def test_what_could_not_be_read_ahead_is_read_when_it_is_needed(table: FakeTable, trouble: str) -> None:
    """It must not be taken for a card without a past."""
    table.fails = trouble == "fails"
    table.unprocessed = {"card#a"}
    ahead, own = ReadAhead(table, TABLE, ENTITY), FakeTable()
    ahead.announce(["card#a", "card#b"])
    assert histories(ahead, own, ["a", "b"]) == [b"card#a", b"card#b"]
    assert own.calls == [["card#a"], ["card#b"]][: 2 if table.fails else 1]


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    class Broken(FakeTable):
        def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
            return {}

    ahead, own = ReadAhead(Broken(), TABLE, ENTITY), FakeTable()
    ahead.announce(["card#a"])
    assert histories(ahead, own, ["a"]) == [b"card#a"]


def test_an_error_of_ours_is_not_swallowed() -> None:
    class Wrong(FakeTable):
        def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
            raise ZeroDivisionError

    ahead = ReadAhead(Wrong(), TABLE, ENTITY)
    ahead.announce(["card#a"])
    with pytest.raises(ZeroDivisionError):
        ahead.take("card#a")


def test_what_waits_too_long_is_read_again(table: FakeTable) -> None:
    clock = Clock()
    ahead, own = ReadAhead(table, TABLE, ENTITY, clock), FakeTable()
    ahead.announce(["card#a", "card#b"])
    clock.now_s = read_ahead.FRESH_S
    assert histories(ahead, own, ["a"]) == [b"card#a"]
    assert own.calls == []
    clock.now_s += 0.001
    assert histories(ahead, own, ["b"]) == [b"card#b"]
    assert own.calls == [["card#b"]]


def test_what_nobody_asks_for_is_forgotten(table: FakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "WAITING", 3)
    monkeypatch.setattr(read_ahead, "ANNOUNCED", 4)
    ahead = ReadAhead(table, TABLE, ENTITY)
    for number in range(6):
        ahead.announce([f"card#{number}"])
    assert [ahead.take(f"card#{number}") is not None for number in range(6)] == [False] * 3 + [True] * 3
    ahead.announce(["card#0", "card#5"])  # only the first is unknown again
    assert ahead.take("card#0") == Found(None)
    assert ahead.take("card#5") is None


def test_the_keys_of_what_the_reader_hands_out() -> None:
    transaction = Transaction(
        transaction_id="t",
        event_time_ms=1_700_000_000_000,
        card_id="a",
        merchant_id="m",
        amount_minor=100,
        currency="USD",
    )
    arrived = Arrived("transactions", None, 1_700_000_000_000, encode_transaction(transaction))  # type: ignore[arg-type]
    card = take_in_transaction(arrived, now_ms=0)
    assert not isinstance(card, Refused)
    label = LabelInput("other", None, arrived)  # type: ignore[arg-type]
    mark = RejectedMark(stream="transactions", position=None, arrival_ms=0, field="f", rule="r", key="k")  # type: ignore[arg-type]
    assert list(entities([card, label, mark], merchants=True)) == ["card#a", "merchant#m", "merchant#other"]
    assert list(entities([card, label, mark], merchants=False)) == ["card#a"]
