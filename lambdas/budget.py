"""The time one invocation has.

A function that is cut off in a call says nothing; one that stops early says what it has not done.
"""

from __future__ import annotations

from lambdas.ports import Clock
from stream_features.errors import PortFailure

STOP_BEFORE_TIMEOUT_MS = 2_000


class OutOfTime(PortFailure):
    """The invocation has to stop; what it has not done yet goes back to the stream."""


class Budget:
    """Shared by the service and its adapters; asked before every call that leaves the process.

    A call begun in time must also end in time, so the longest possible call is kept back on top of the two seconds
    (`stop_before_ms`). The function's timeout has to be well above both.
    """

    def __init__(self, clock: Clock, *, longest_call_ms: int, stop_before_ms: int = STOP_BEFORE_TIMEOUT_MS) -> None:
        self._clock = clock
        self._reserve_s = (stop_before_ms + longest_call_ms) / 1000
        self._stop_at_s = float("inf")

    def renew(self, remaining_ms: int) -> None:
        """Begin an invocation that will be cut off in `remaining_ms`."""
        self._stop_at_s = self._clock.elapsed_s() + remaining_ms / 1000 - self._reserve_s

    def check(self) -> None:
        """Raise OutOfTime if another call might not end in time."""
        if self._clock.elapsed_s() >= self._stop_at_s:
            raise OutOfTime("stopped before the function's timeout")
