"""Lockstep: before the first transaction of a bucket everything that was sent in earlier ones is finished with."""

from __future__ import annotations

from typing import Any

import pytest

from console import publishing
from console.publishing import Item, Replay, publish
from producers.injection import BadRecord
from stream_features.label import Label
from stream_features.transaction import Transaction

MINUTE_MS = 60_000
START_MS = 1_735_689_600_000


def purchase(name: str, minutes: float) -> Transaction:
    return Transaction(
        transaction_id=name,
        event_time_ms=START_MS + round(minutes * MINUTE_MS),
        card_id="c",
        merchant_id="m",
        amount_minor=1,
        currency="USD",
    )


def reported(name: str, minutes: float) -> Label:
    return Label(
        transaction_id=name, is_fraud=True, reported_at_ms=START_MS + round(minutes * MINUTE_MS), source="chargeback"
    )


class Pipeline:
    """Notes what is sent, flushed and waited for."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.run: Any = None
        self.features: Any = type("Features", (), {"smallest_merchant_delay_ms": 2 * MINUTE_MS})


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    noted_by = Pipeline()

    class Outgoing:
        def __init__(self, *_: Any) -> None:
            pass

        def send(self, item: Item) -> None:
            noted_by.noted.append(getattr(item, "transaction_id", "bad"))

        def flush(self) -> None:
            noted_by.noted.append("flush")

    class Consumers:
        def wait_until_at_rest(self, **_: Any) -> None:
            noted_by.noted.append("rest")

    monkeypatch.setattr(publishing, "_Outgoing", Outgoing)
    monkeypatch.setattr(publishing, "consumers_of", lambda _: Consumers())
    return noted_by


def published(pipeline: Any, items: list[Item], *, lockstep: bool = True) -> str:
    publish(pipeline, items, Replay(lockstep=lockstep, progress=lambda line: None), 5 * 1_440 * MINUTE_MS)
    return " ".join(pipeline.noted)


def test_a_bucket_waits_for_the_one_before(pipeline: Pipeline) -> None:
    items: list[Item] = [purchase("a", 0), purchase("b", 1.99), purchase("c", 2), purchase("d", 9)]
    assert published(pipeline, items) == "flush rest a b flush rest c flush rest d flush"


def test_labels_alone_wait_for_nothing_but_are_waited_for(pipeline: Pipeline) -> None:
    items: list[Item] = [purchase("a", 0), reported("x", 3), reported("y", 5), reported("z", 6), purchase("b", 6.5)]
    assert published(pipeline, [*items, reported("last", 99)]) == "flush rest a x y z flush rest b last flush"


def test_what_has_no_time_or_an_older_one_goes_with_what_is_before_it(pipeline: Pipeline) -> None:
    items: list[Item] = [
        purchase("a", 0),
        BadRecord("garbage", "k", b"{"),
        purchase("b", 2),
        purchase("a", 0),
        purchase("c", 3),
    ]
    assert published(pipeline, items) == "flush rest a bad flush rest b a c flush"


def test_without_lockstep_nothing_is_waited_for(pipeline: Pipeline) -> None:
    assert published(pipeline, [purchase("a", 0), purchase("b", 9)], lockstep=False) == "a b flush"
