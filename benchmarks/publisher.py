"""How many transactions a second a local Kinesis confirms: one call each, in batches, and through our publisher.

All ways talk to one fresh local AWS in turn, round after round, each to a new stream of four shards, with the same
client settings and two requests at a time. A transaction counts when the stream has said that it has it.

    python -m benchmarks.publisher [--seconds 3] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.figures import Findings, repeated
from producers.async_publisher import AsyncTransactionPublisher
from producers.deliveries import Undelivered
from producers.publisher import Aggregation, TransactionPublisher
from producers.put_records import kinesis_client
from producers.simulator import simulate
from stream_features.errors import PipelineError
from stream_features.transaction import Transaction, encode_transaction
from tests.integration.embedded_aws import REGION, embedded_aws

SHARDS = 4
REQUESTS_AT_A_TIME = 2
BATCH = 500
GOAL_PER_S = 30_000.0
AGGREGATED = "ours, aggregated"
_TRANSACTIONS = 50_000
_CARDS = 10_000  # strict order costs more the fewer cards there are: one record of each is under way at a time
_END_MS = 1_750_000_000_000

Way = Callable[[Any, str, Iterator[Transaction], float], int]


@dataclass(frozen=True, slots=True)
class Rate:
    """One way in one round: confirmed transactions a second, and our own process's time for each."""

    way: str
    per_s: float
    cpu_us: float


def measure(seconds: float = 3.0, rounds: int = 3) -> list[list[Rate]]:
    """Rounds of every way for `seconds` each; each round begins with another way.

    Raises:
        PipelineError: the stream did not confirm a transaction.
    """
    transactions = [row.transaction for row in simulate(_TRANSACTIONS, seed=11, end_ms=_END_MS, customers=_CARDS)]
    found: list[list[Rate]] = []
    with tempfile.TemporaryDirectory(prefix="fraudstream-bench-") as folder, embedded_aws(Path(folder)) as aws:
        credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        client = kinesis_client(endpoint_url=aws.url, region_name=REGION, **credentials)
        for number in range(-1, rounds):  # a short round to warm up
            names = list(WAYS)
            names = names[number % len(names) :] + names[: number % len(names)]
            rates = {
                name: _rate(client, f"{number + 1}-{place}", name, transactions, seconds if number >= 0 else 0.5)
                for place, name in enumerate(names)
            }
            if number >= 0:
                found.append([rates[name] for name in WAYS])
    return found


def _rate(client: Any, stream: str, name: str, transactions: Sequence[Transaction], seconds: float) -> Rate:
    client.create_stream(StreamName=stream, ShardCount=SHARDS)
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    confirmed = WAYS[name](client, stream, cycle(transactions), begun_s + seconds)
    wall_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    client.delete_stream(StreamName=stream)
    return Rate(name, confirmed / wall_s, cpu_s / confirmed * 1e6)


def _until(ends_s: float, transactions: Iterator[Transaction]) -> Iterator[Transaction]:
    """Transactions until it is time; the clock is read once in a hundred."""
    while time.perf_counter() < ends_s:
        yield from islice(transactions, 100)


def put_record(client: Any, stream: str, transactions: Iterator[Transaction], ends_s: float) -> int:
    """What an application does first: one call for each transaction."""
    lock = threading.Lock()

    def work() -> int:
        confirmed = 0
        while time.perf_counter() < ends_s:
            with lock:
                transaction = next(transactions)
            client.put_record(StreamName=stream, PartitionKey=transaction.card_id, Data=encode_transaction(transaction))
            confirmed += 1
        return confirmed

    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        return sum(future.result() for future in [pool.submit(work) for _ in range(REQUESTS_AT_A_TIME)])


def batches(client: Any, stream: str, transactions: Iterator[Transaction], ends_s: float) -> int:
    """What batching clients such as aiokpl without aggregation do: 500 a call, refused ones sent again.

    It checks nothing and keeps no order: two records of a card may share a request, and requests overtake each other.
    """

    def put(records: list[dict[str, Any]]) -> int:
        confirmed = 0
        while records:
            results = client.put_records(StreamName=stream, Records=records)["Records"]
            refused = [one for one, result in zip(records, results, strict=True) if result.get("ErrorCode")]
            confirmed += len(records) - len(refused)
            records = refused
        return confirmed

    under_way: list[Future[int]] = []
    confirmed = 0
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        records: list[dict[str, Any]] = []
        for transaction in _until(ends_s, transactions):
            records.append({"PartitionKey": transaction.card_id, "Data": encode_transaction(transaction)})
            if len(records) == BATCH:
                under_way.append(pool.submit(put, records))
                records = []
                if len(under_way) > REQUESTS_AT_A_TIME:
                    confirmed += under_way.pop(0).result()
        under_way.append(pool.submit(put, records))
        return confirmed + sum(future.result() for future in under_way)


def _fail(undelivered: Undelivered) -> None:
    raise PipelineError(undelivered.reason)  # counted by the publisher, and then by us


def ours(
    client: Any, stream: str, transactions: Iterator[Transaction], ends_s: float, *, aggregation: Aggregation | None
) -> int:
    """Every rule of the contract checked, strict order per card."""
    with TransactionPublisher(
        client, stream, aggregation=aggregation, sender_threads=REQUESTS_AT_A_TIME, on_failed=_fail
    ) as publisher:
        for transaction in _until(ends_s, transactions):
            publisher.publish(transaction)
    if publisher.counters.failed or publisher.counters.unanswered:
        raise PipelineError(f"not every transaction was confirmed: {publisher.counters}")
    return publisher.counters.published


def ours_async(client: Any, stream: str, transactions: Iterator[Transaction], ends_s: float) -> int:
    """The same from an event loop, aggregated."""

    async def publish() -> int:
        async with AsyncTransactionPublisher(
            client, stream, aggregation=Aggregation(), max_in_flight=REQUESTS_AT_A_TIME, on_failed=_fail
        ) as publisher:
            for number, transaction in enumerate(_until(ends_s, transactions)):
                await publisher.publish(transaction)
                if number % 100 == 0:
                    await asyncio.sleep(0)
        if publisher.counters.failed or publisher.counters.unanswered:
            raise PipelineError(f"not every transaction was confirmed: {publisher.counters}")
        return publisher.counters.published

    return asyncio.run(publish())


WAYS: dict[str, Way] = {
    "put_record, one a call": put_record,
    "PutRecords of 500, as batching clients do": batches,
    "ours, plain": functools.partial(ours, aggregation=None),
    AGGREGATED: functools.partial(ours, aggregation=Aggregation()),
    "ours, aggregated, asyncio": ours_async,
}


def publisher_figures() -> Findings:
    """Confirmed transactions a second by way, and the ratios of ours to the others within a round."""
    rounds = measure()
    figures = [
        repeated(same[0].way, "transactions/s", [rate.per_s for rate in same]) for same in zip(*rounds, strict=True)
    ]
    names = list(WAYS)
    aggregated = names.index(AGGREGATED)
    for place, name in enumerate(names[:aggregated]):
        figures.append(
            repeated(
                f"{AGGREGATED} / {name}", "ratio", [rates[aggregated].per_s / rates[place].per_s for rates in rounds]
            )
        )
    median = statistics.median(rates[aggregated].per_s for rates in rounds)
    met = f"goal {GOAL_PER_S:,.0f} confirmed transactions/s aggregated: {'met' if median >= GOAL_PER_S else 'NO'}"
    cpu = ", ".join(
        f"{name} {statistics.median(rates[place].cpu_us for rates in rounds):.0f}" for place, name in enumerate(names)
    )
    return Findings(
        figures=tuple(figures),
        remarks=(
            met,
            f"CPU of the publishing process, microseconds a transaction: {cpu}.",
            f"{len(rounds)} rounds on one local AWS, {REQUESTS_AT_A_TIME} requests at a time in every way. Ours checks "
            f"the contract and keeps the order of each of {_CARDS:,} cards; the two others do neither.",
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure each way in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    rounds = measure(arguments.seconds, arguments.rounds)
    if arguments.json:
        print(json.dumps([[asdict(rate) for rate in rates] for rates in rounds]))
        return
    for place, name in enumerate(WAYS):
        per_s = [rates[place].per_s for rates in rounds]
        ratio = statistics.median(rates[place].per_s / rates[0].per_s for rates in rounds)
        cpu_us = statistics.median(rates[place].cpu_us for rates in rounds)
        print(
            f"{name:42} {statistics.median(per_s):8,.0f}/s ({min(per_s):,.0f} to {max(per_s):,.0f})"
            f"  {ratio:6.1f} x  {cpu_us:6.0f} us of our own CPU each"
        )


if __name__ == "__main__":
    main()
