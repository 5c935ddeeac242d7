"""The core's figures: contract parse, and one batch of card states from bytes to bytes. `python -m benchmarks.kernel`.

Goals on a 2-core machine: parse at most 3 µs a transaction; 500 transactions over 450 cards with 100 entries each,
decode to encode, at most 5 ms.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from functools import partial

from stream_features.card_state import CardState
from stream_features.codec import pack, unpack
from stream_features.feature_sets import CORE
from stream_features.kernel import CardEvent, card_event, observe
from stream_features.transaction import Transaction, encode_transaction, parse_transaction

REPEATS = 15
CARDS = 450
TRANSACTIONS = 500
ENTRIES = 100
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def _transaction(number: int, card: int, event_time_ms: int, random_source: random.Random) -> Transaction:
    return Transaction(
        transaction_id=f"3f1c2b34-aaaa-4bbb-8ccc-{number:012d}",
        event_time_ms=event_time_ms,
        card_id=f"card-{card:06d}",
        merchant_id=f"merchant-{random_source.randrange(40):05d}",
        amount_minor=random_source.randrange(100, 20_000),
        currency="EUR",
        auth_result="approved",
        merchant_category="grocery",
        channel="pos",
        country="DE",
        latitude=52 + random_source.random(),
        longitude=13 + random_source.random(),
        device_id="device-1234567",
        ip="192.168.10.27",
    )


def _seconds(work: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return taken


def _batch(entries: int) -> tuple[list[bytes], list[tuple[int, Transaction]]]:
    """Packed states of CARDS cards with `entries` purchases each, and TRANSACTIONS new ones with their card's index."""
    random_source = random.Random(7)
    packed = []
    number = 0
    for card in range(CARDS):
        state = CardState.empty()
        times = sorted(NOW_MS - random_source.randrange(30 * DAY_MS) for _ in range(entries))
        for event_time_ms in times:
            number += 1
            observe(CORE, state, card_event(_transaction(number, card, event_time_ms, random_source)))
        packed.append(pack(state))
    cards = [*range(CARDS), *(random_source.randrange(CARDS) for _ in range(TRANSACTIONS - CARDS))]
    arrivals = []
    for place, card in enumerate(cards):
        number += 1
        arrivals.append((card, _transaction(number, card, NOW_MS + place, random_source)))
    return packed, arrivals


def _observe_all(states: list[CardState], prepared: list[tuple[int, CardEvent]]) -> None:
    for card, event in prepared:
        observe(CORE, states[card], event)


def samples() -> list[tuple[str, str, list[float]]]:
    """(name, unit, values of the repeats) of each figure: µs a transaction or card, ms a batch, bytes a state."""
    found: list[tuple[str, str, list[float]]] = []
    packed, arrivals = _batch(ENTRIES)
    raws = [encode_transaction(transaction) for _, transaction in arrivals]
    parse = _seconds(lambda: [parse_transaction(raw, arrival_ms=NOW_MS + DAY_MS) for raw in raws])
    found.append(("parse_transaction_us", "µs", [seconds / TRANSACTIONS * 1e6 for seconds in parse]))
    events = _seconds(lambda: [card_event(transaction) for _, transaction in arrivals])
    found.append(("card_event_us", "µs", [seconds / TRANSACTIONS * 1e6 for seconds in events]))

    def batch() -> list[bytes]:
        states = [unpack(state) for state in packed]
        for card, transaction in arrivals:
            observe(CORE, states[card], card_event(transaction))
        return [pack(state) for state in states]

    found.append(("batch_decode_observe_encode_ms", "ms", [seconds * 1e3 for seconds in _seconds(batch)]))
    unpacking = _seconds(lambda: [unpack(state) for state in packed])
    found.append(("unpack_us", "µs", [seconds / CARDS * 1e6 for seconds in unpacking]))
    states = [unpack(state) for state in packed]
    packing = _seconds(lambda: [pack(state) for state in states])
    found.append(("pack_us", "µs", [seconds / CARDS * 1e6 for seconds in packing]))

    observing = []
    prepared = [(card, card_event(transaction)) for card, transaction in arrivals]
    for _ in range(REPEATS):
        fresh = [unpack(state) for state in packed]
        observing += _seconds(partial(_observe_all, fresh, prepared), 1)
    found.append(("observe_us", "µs", [seconds / TRANSACTIONS * 1e6 for seconds in observing]))
    found.append(("state_bytes_100_entries", "bytes", [float(len(state)) for state in packed]))
    return found


def measure() -> dict[str, float]:
    """Print min, median and max of each figure and return the medians: µs a transaction, ms a batch, bytes a state."""
    figures: dict[str, float] = {}
    for name, unit, values in samples():
        figures[name] = statistics.median(values)
        print(f"{name:38} {min(values):9.2f} {figures[name]:9.2f} {max(values):9.2f}  {unit} (min, median, max)")
    return figures


if __name__ == "__main__":
    measure()
