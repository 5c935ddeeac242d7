"""When each value was last seen, for the most recent ones."""

from __future__ import annotations

from array import array
from bisect import bisect_left


class LastSeen:
    """Value -> the time it was last seen (an offset), sorted by (time, value); bounded.

    Attributes:
        times: array of offsets.
        values: the values one after the other, `width` bytes each, big-endian so that bytes sort like numbers.
        width: bytes of a value.
    """

    __slots__ = ("times", "values", "width")

    def __init__(self, width: int, times: array[int], values: bytes) -> None:
        self.width = width
        self.times = times
        self.values = values

    def index(self, value: int) -> int:
        """The position of `value`, -1 when it is not there."""
        width = self.width
        values = self.values
        at = values.find(value.to_bytes(width, "big"))
        while at > 0 and at % width:  # a find across two values
            at = values.find(value.to_bytes(width, "big"), at + 1)
        return at // width if at > 0 else at

    def between(self, first: int, end: int) -> set[int]:
        """The values at positions `first`..`end` - 1."""
        width = self.width
        return {int.from_bytes(self.values[at * width : at * width + width], "big") for at in range(first, end)}

    def see(self, value: int, time: int, bound: int) -> None:
        """Take in that `value` was seen at `time`; keep the `bound` greatest (time, value)."""
        times, width = self.times, self.width
        piece = value.to_bytes(width, "big")
        at = self.index(value)
        if at >= 0:
            if times[at] >= time:
                return
            del times[at]
            self.values = self.values[: at * width] + self.values[at * width + width :]
        if not times or time > times[-1]:
            times.append(time)
            self.values += piece
        else:
            at = bisect_left(times, time)
            while at < len(times) and times[at] == time and self.values[at * width : at * width + width] < piece:
                at += 1
            times.insert(at, time)
            self.values = self.values[: at * width] + piece + self.values[at * width :]
        if len(times) > bound:
            self.drop_first(1)

    def drop_first(self, count: int) -> None:
        del self.times[:count]
        self.values = self.values[count * self.width :]
