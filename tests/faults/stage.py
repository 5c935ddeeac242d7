"""What a fault's scenario works with: publishers, the injector, and waiting until everything is at rest again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import boto3
from botocore.config import Config

from console.running import Pipeline
from producers.publisher import TransactionPublisher
from stream_features.transaction import Transaction, encode_transaction
from tests.faults.injector import FaultInjector, Injection
from tests.faults.setting import Run, Setting

PUBLISHERS_PATIENCE_S = 2.0


class Stage:
    """One fault's turn on a running pipeline.

    Attributes:
        recovery_s: from the last record's acceptance, or from when the scenario ended the fault if that was later,
            until everything was at rest; None before `settle`.
    """

    def __init__(self, run: Run) -> None:
        if run.injector is None:
            raise ValueError("faults need an injector")
        self._run = run
        self.setting: Setting = run.setting
        self.pipeline: Pipeline = run.pipeline
        self.injector: FaultInjector = run.injector
        self.recovery_s: float | None = None
        self._last_s = time.monotonic()
        self._sent = 0

    def publish(self, rows: Iterable[Transaction], *, at_aws_directly: bool = True, max_records: int = 20) -> None:
        """Publish in strict order per card, in many small requests so that there is something to hit."""
        with self.publisher(at_aws_directly=at_aws_directly, max_records=max_records) as publisher:
            for one in rows:
                publisher.publish(one)
                self._sent += 1
        self._last_s = time.monotonic()

    def publish_bytes(self, records: Iterable[tuple[str, bytes]]) -> None:
        """Publish (partition key, payload) as they are, one after the other."""
        with self.publisher(at_aws_directly=True, max_records=20) as publisher:
            for key, payload in records:
                publisher.publish_raw(key, payload)
                self._sent += 1
        self._last_s = time.monotonic()

    @contextmanager
    def publisher(self, *, at_aws_directly: bool, max_records: int = 20) -> Iterator[TransactionPublisher]:
        """A publisher that sends at once; through the injector it has a publisher's usual patience."""
        stream = self.pipeline.output("TransactionsStreamName")
        if at_aws_directly:
            kinesis = self.pipeline.client("kinesis")
            with TransactionPublisher(kinesis, stream, max_records=max_records, linger_s=0.0) as publisher:
                yield publisher
            return
        with (
            closing(publishing_client(self.injector.url, self.pipeline.run.region)) as kinesis,
            TransactionPublisher(kinesis, stream, max_records=max_records, linger_s=0.0) as publisher,
        ):
            yield publisher

    @contextmanager
    def injecting(self, *injections: Injection) -> Iterator[None]:
        """As `FaultInjector.injecting`; the fault ends with the block."""
        with self.injector.injecting(*injections):
            yield
        self._last_s = time.monotonic()

    def fault_ended(self) -> None:
        """Count recovery from now, not from the last record."""
        self._last_s = time.monotonic()

    def settle(self) -> None:
        """Wait until everything is at rest."""
        self._run.rest(0)
        self.recovery_s = time.monotonic() - self._last_s


def publishing_client(url: str, region: str) -> Any:
    """A Kinesis client as publishers have it: one try a call, their own patience. The caller closes it."""
    config = Config(
        connect_timeout=PUBLISHERS_PATIENCE_S,
        read_timeout=PUBLISHERS_PATIENCE_S,
        retries={"total_max_attempts": 1},
        proxies={},
    )
    return boto3.client(
        "kinesis",
        endpoint_url=url,
        region_name=region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


def between(rows: Sequence[Transaction], bad: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """`rows` with the bad payloads spread evenly between them, each under the key of the row after it."""
    every = max(1, len(rows) // max(1, len(bad)))
    left = list(bad)
    for number, one in enumerate(rows):
        if number % every == 0 and left:
            yield one.card_id, left.pop(0)
        yield one.card_id, encode_transaction(one)
    for payload in left:
        yield rows[-1].card_id, payload
