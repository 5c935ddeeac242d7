"""When what the stream refused is sent again, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter: after n refusals wait a random part of min(cap, base * 2^(n-1)) seconds.

    Attempts are counted, not time: a function that was frozen for an hour has not used up its patience.

    Attributes:
        max_attempts: a record is given up after that many requests in a row of which nothing at all was accepted.
        max_refusals: or after that many refusals of its own while other records got through (a hot shard).
        base_s: the first wait at most.
        cap_s: any wait at most.
    """

    max_attempts: int = 12
    max_refusals: int = 100
    base_s: float = 0.05
    cap_s: float = 5.0

    def delay_s(self, failed_attempts: int, chance: float) -> float:
        """Seconds to wait after `failed_attempts` (at least 1); `chance` is uniform in [0, 1)."""
        return float(chance * min(self.cap_s, self.base_s * 2.0 ** min(failed_attempts - 1, 1000)))
