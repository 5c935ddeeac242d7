"""How every adapter calls AWS: one try at a time with explicit timeouts, a bounded number of tries, one error out.

botocore's own retries are off. Its count of tries does not know the invocation's deadline, and a transaction's
tries have to share a token; so the tries are made here, and in `commit.py` for transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from lambdas.budget import Budget
from lambdas.ports import Clock
from stream_features.aws_answers import HalfAnswer
from stream_features.errors import PortFailure

T = TypeVar("T")

# The last three are what becomes of an answer that breaks off in the middle.
FAILURES: Final = (BotoCoreError, ClientError, ResponseParserError, UnicodeDecodeError, HalfAnswer)

TRIES = 3
FIRST_PAUSE_S = 0.05


def client_config(*, connect_timeout_s: float, read_timeout_s: float) -> Config:
    """For clients that adapters are given."""
    return Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": 1},
        # The adapters build every request by hand and the contract tests send them; checking each again costs time.
        parameter_validation=False,
        tcp_keepalive=True,
    )


def error_code(error: Exception) -> str:
    """The service's error code, or the class of what went wrong on the way to it."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


class Caller:
    """Makes calls within the invocation's budget."""

    def __init__(self, budget: Budget, clock: Clock, jitter: Callable[[float], float], tries: int = TRIES) -> None:
        self._budget = budget
        self._clock = clock
        self._jitter = jitter
        self._tries = tries

    def call(
        self,
        operation: Callable[[], T],
        *,
        what: str,
        translate: Callable[[ClientError], None] | None = None,
        once: bool = False,
    ) -> T:
        """Run `operation`, again after a failure, at most `tries` times.

        Args:
            operation: one botocore call; safe to make twice.
            what: names the call in the error.
            translate: raises for an error that is an answer rather than a failure.
            once: one try only.

        Raises:
            PortFailure: the last try failed as well, or time is up.
        """
        tried = 0
        while True:
            self._budget.check()
            try:
                return operation()
            except FAILURES as error:
                if translate and isinstance(error, ClientError):
                    translate(error)
                tried += 1
                if once or tried >= self._tries:
                    raise PortFailure(f"{what}: {error_code(error)}") from error
            self.back_off(tried)

    def back_off(self, tried: int) -> None:
        """Pause after the `tried`-th failure in a row: exponentially longer, jittered, at most 1 s."""
        self._clock.pause(self._jitter(min(1.0, FIRST_PAUSE_S * 2 ** (tried - 1))))

    def refused_in_part(
        self, send: Callable[[Sequence[T]], Sequence[int]], entries: Sequence[T], *, what: str
    ) -> tuple[list[T], str]:
        """Send one request's worth of entries; again those that the service refused, at most `tries` times.

        Args:
            send: makes the request, answers the indexes of refused entries.
            entries: what to send; sending an accepted entry twice is harmless.
            what: names the call in the error.

        Returns:
            The entries still not accepted, and why; empty when all went out.
        """
        reason = ""
        for tried in range(1, self._tries + 1):
            try:
                self._budget.check()
                refused = send(entries)
                reason = f"{what}: {len(refused)} entries refused"
                entries = [entries[index] for index in refused]
            except FAILURES as error:
                reason = f"{what}: {error_code(error)}"
            except PortFailure as error:
                return list(entries), str(error)
            if not entries:
                return [], ""
            if tried < self._tries:
                self.back_off(tried)
        return list(entries), reason


def in_chunks(entries: Sequence[T], *, most: int, most_bytes: int, size: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Cut `entries`, in order, into requests of at most `most` entries and `most_bytes` in total."""
    start = total = 0
    for index, entry in enumerate(entries):
        entry_bytes = size(entry)
        if index > start and (index - start >= most or total + entry_bytes > most_bytes):
            yield entries[start:index]
            start, total = index, 0
        total += entry_bytes
    if start < len(entries):
        yield entries[start:]
