from __future__ import annotations

from typing import Any

import pytest

from producers.pacing import Pacer, parse_speed
from producers.publisher import RecordPublisher
from stream_features.errors import UsageError
from tests.unit.producers.fake_kinesis import FakeKinesis


class Clock:
    """Time that only passes while somebody sleeps; `oversleep_s` longer than asked, as real machines do."""

    def __init__(self, oversleep_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.oversleep_s = oversleep_s

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.oversleep_s


def test_a_rate_does_not_drift_although_every_sleep_is_too_long() -> None:
    clock = Clock(oversleep_s=0.0015)
    pacer = Pacer(rate=500, clock=clock, sleep=clock.sleep)
    for number in range(30_001):
        pacer.wait_for(0)
        assert clock.now_s >= 100.0 + number / 500 - 1e-9
    assert clock.now_s == pytest.approx(160.0, abs=0.0016)


def test_what_a_slow_send_cost_is_caught_up() -> None:
    clock = Clock()
    pacer = Pacer(rate=10, clock=clock, sleep=clock.sleep)
    pacer.wait_for(0)
    clock.now_s += 0.35
    times = []
    for _ in range(5):
        pacer.wait_for(0)
        times.append(round(clock.now_s - 100.0, 6))
    assert times == [0.35, 0.35, 0.35, 0.4, 0.5]


def test_speed_follows_the_event_times() -> None:
    clock = Clock()
    pacer = Pacer(speed=60, clock=clock, sleep=clock.sleep)
    times = []
    for minute in (0, 1, 1, 5):
        pacer.wait_for(1_700_000_000_000 + minute * 60_000)
        times.append(clock.now_s - 100.0)
    assert times == pytest.approx([0, 1, 1, 5])


def test_without_rate_and_speed_nothing_waits() -> None:
    clock = Clock()
    pacer = Pacer(clock=clock, sleep=clock.sleep)
    for number in range(100):
        pacer.wait_for(number * 10**9)
    assert clock.now_s == 100.0


def test_records_do_not_linger_while_the_next_is_awaited() -> None:
    clock, stored_at = Clock(), []

    class NotingKinesis(FakeKinesis):
        def put_records(self, **request: Any) -> dict[str, Any]:
            stored_at.append(clock.now_s - 100.0)
            return super().put_records(**request)

    publisher = RecordPublisher(NotingKinesis(), "transactions", clock=clock, linger_s=0.02)
    pacer = Pacer(rate=1, clock=clock, sleep=clock.sleep)
    pacer.wait_for(0, [publisher])
    publisher.publish_raw("a", b"1")
    pacer.wait_for(0, [publisher])
    assert stored_at == pytest.approx([0.02])
    assert clock.now_s == pytest.approx(101.0)


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("realtime", 1.0), ("60x", 60.0), ("0.5x", 0.5)])
def test_speeds_as_they_are_typed(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "fast", "0x", "-1x", "60", "nanx"])
def test_other_speeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_speed(text)


@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": float("inf")}, {"speed": -1}, {"rate": 1, "speed": 1}])
def test_impossible_paces_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Pacer(**options)
