"""When the next record is due: at a fixed rate, at the pace of its event times, or at once.

Due times are computed from the start, so rounding and slow sends do not add up: a publisher that fell behind catches
up, and the mean rate holds.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from stream_features.errors import UsageError


class Lingering(Protocol):
    """A publisher whose waiting records must not wait for the next record."""

    def due_in_s(self) -> float: ...

    def send_due(self) -> None: ...


class Pacer:
    """Holds the caller back until the next record is due. Without a rate and a speed everything is due at once.

    Args:
        rate: records per second.
        speed: event-time seconds per second; 1 is real time.
        clock: monotonic seconds.
        sleep: waits that many seconds.

    Raises:
        UsageError: both are given, or one is not a positive number.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        speed: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if rate is not None and speed is not None:
            raise UsageError("give a rate or a speed, not both")
        for name, value in (("rate", rate), ("speed", speed)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"the {name} must be a positive number, not {value}")
        self._rate = rate
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._start_s: float | None = None
        self._first_event_ms = 0
        self._passed = 0

    def wait_for(self, event_time_ms: int, publishers: Sequence[Lingering] = ()) -> None:
        """Return when the next record, of that event time, is due; `publishers` send what lingers meanwhile."""
        if self._rate is None and self._speed is None:
            return
        if self._start_s is None:
            self._start_s, self._first_event_ms = self._clock(), event_time_ms
        if self._rate is not None:
            due_s = self._start_s + self._passed / self._rate
        else:
            due_s = self._start_s + (event_time_ms - self._first_event_ms) / 1000 / (self._speed or 1.0)
        self._passed += 1
        while (left_s := due_s - self._clock()) > 0:
            linger_s = min((publisher.due_in_s() for publisher in publishers), default=math.inf)
            if linger_s <= 0:
                for publisher in publishers:
                    publisher.send_due()
            else:
                self._sleep(min(left_s, linger_s))


def parse_speed(text: str) -> float | None:
    """The event-time speed of `realtime` (1), `60x` (60) or `max` (None).

    Raises:
        UsageError: none of these.
    """
    if text == "max":
        return None
    if text == "realtime":
        return 1.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x", text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"speed is max, realtime or a factor such as 60x, not {text!r}")
    return float(match[1])
