"""AWS clients of the job, and which of their errors pass by themselves."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, IncompleteReadError

from stream_features.aws_answers import HalfAnswer
from stream_features.errors import PortFailure

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 2.0
READ_TIMEOUT_S: Final = 10.0
FIRST_PAUSE_MS: Final = 50
LONGEST_PAUSE_MS: Final = 5_000
TRIES: Final = 12  # about half a minute

_TRANSIENT: Final = {
    *("ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException"),
    *("ThrottlingException", "Throttling", "RequestLimitExceeded", "SlowDown", "RequestTimeout"),
    *("InternalFailure", "InternalFailureException", "InternalServerError", "ServiceUnavailable", "InternalError"),
}

# The last two are what becomes of an answer that breaks off in the middle.
FAILURES: Final = (ClientError, BotoCoreError, HalfAnswer, UnicodeDecodeError)

Jitter = Callable[[], float]  # 0..1

# Operators open in threads of one interpreter, and making the first client of a session is not thread-safe.
_making: Final = threading.Lock()


def client(service: str, *, region: str | None = None, endpoint: str | None = None) -> Any:
    """A boto3 client that tries once: its caller keeps the records and knows how long it may wait.

    Args:
        service: as boto3 names it.
        region: None for the environment's.
        endpoint: None for the environment's, else AWS's own.
    """
    for library in ("boto3", "botocore", "urllib3"):
        # PyFlink hands every line down to DEBUG to Java's log, which then says no: a tenth of the job's time, measured.
        logging.getLogger(library).setLevel(logging.WARNING)
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 1},
        parameter_validation=False,
        tcp_keepalive=True,
    )
    with _making:
        return boto3.client(service, region_name=region, endpoint_url=endpoint, config=config)


def wall_clock_ms() -> int:
    """Epoch ms."""
    return time.time_ns() // 1_000_000


def error_code(error: Exception) -> str:
    """The service's error code, or the class of what went wrong on the way to it."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


def is_transient(error: Exception) -> bool:
    """Whether the same call may work later: throttled, the service's own failure, or no answer."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _TRANSIENT or int(status) >= 500
    return isinstance(error, HTTPClientError | ConnectionError | IncompleteReadError | HalfAnswer | UnicodeDecodeError)


def pause_ms(failures: int, jitter: Jitter = random.random) -> int:
    """How long to wait after the `failures`-th failure in a row: doubling, half of it left to chance, at most 5 s."""
    longest = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(failures - 1, 20))
    return int(longest * (0.5 + 0.5 * jitter()))


def call(operation: Callable[[], T], *, what: str, sleep: Callable[[float], None] = time.sleep) -> T:
    """Run `operation`, again after a transient failure, at most `TRIES` times.

    Raises:
        PortFailure: an error that does not pass, or the last try failed as well.
    """
    failures = 0
    while True:
        try:
            return operation()
        except FAILURES as error:
            failures += 1
            if failures >= TRIES or not is_transient(error):
                raise PortFailure(f"{what}: {error_code(error)}: {error}") from error
            sleep(pause_ms(failures) / 1000)
