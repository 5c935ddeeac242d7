"""Waiting until nothing is in flight."""

from __future__ import annotations

import time
from collections.abc import Callable

from console.status import Status, read_status
from local.run import RunState
from stream_features.errors import PipelineError


class NotSettled(PipelineError):
    """The pipeline did not come to rest in time, or counted more outcomes than records; the message says what lacks."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


def wait_until_settled(
    run: RunState,
    timeout_s: float,
    *,
    expect_published: int | None = None,
    read: Callable[[RunState], Status] = read_status,
    poll_s: float = 0.25,
) -> Status:
    """Return the first status with nothing in flight and at least `expect_published` records published.

    Args:
        run: the running pipeline.
        timeout_s: how long to wait at most.
        expect_published: user records in the stream of transactions since `up`, all publishers together; without it, a
            pipeline that nothing has reached yet counts as settled.
        read: where the status comes from.
        poll_s: pause between two looks.

    Raises:
        NotSettled: time ran out, or more records came out than went in.
        PortFailure: an AWS service did not answer.
    """
    ends_at = time.monotonic() + timeout_s
    while True:
        status = read(run)
        if status.in_flight < 0:
            raise NotSettled(f"{-status.in_flight} more records have an outcome than were published", status)
        missing = max(0, (expect_published or 0) - status.published)
        if status.in_flight == 0 and missing == 0:
            return status
        if time.monotonic() >= ends_at:
            raise NotSettled(_what_is_missing(status, missing, expect_published, timeout_s), status)
        time.sleep(poll_s)


def _what_is_missing(status: Status, missing: int, expected: int | None, timeout_s: float) -> str:
    parts = [f"not settled after {timeout_s:g} s"]
    if missing:
        parts.append(f"{missing} of {expected} records were never published")
    if status.in_flight:
        parts.append(
            f"{status.in_flight} of {status.published} published records have no outcome "
            f"({status.decided} decided, {status.duplicates} duplicates, {status.quarantined} quarantined)"
        )
    behind = [f"{where} {ms} ms" for where, ms in sorted(status.lag.items()) if ms]
    if behind:
        parts.append("behind: " + ", ".join(behind))
    return "; ".join(parts)
