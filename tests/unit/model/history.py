"""A tiny history with fraud that the card windows can see: bursts on cards that otherwise buy a few times a week."""

from __future__ import annotations

import random

from stream_features.transaction import Transaction

DAY_MS = 24 * 3600 * 1000
START_MS = 1_760_000_000_000 // DAY_MS * DAY_MS


def a_history(*, cards: int = 40, days: int = 40, seed: int = 0) -> list[tuple[Transaction, bool | None]]:
    """(transaction, is fraud) in event-time order; about 2,000 rows, 7 % fraud, with the default arguments."""
    rng = random.Random(seed)
    events: list[tuple[int, str, int, str, bool]] = []
    for card in range(cards):
        typical_minor = rng.randint(500, 8_000)
        for day in range(days):
            for _ in range(rng.choice((0, 1, 1, 2))):
                at_ms = START_MS + day * DAY_MS + rng.randrange(DAY_MS)
                amount_minor = max(1, int(typical_minor * rng.lognormvariate(0, 0.4)))
                events.append((at_ms, f"card-{card}", amount_minor, f"merchant-{rng.randrange(30)}", False))
        if rng.random() < 0.5:
            burst_ms = START_MS + rng.randrange(3, days) * DAY_MS + rng.randrange(DAY_MS)
            for number in range(rng.randint(4, 9)):
                amount_minor = typical_minor * rng.randint(3, 9)
                events.append((burst_ms + number * 40_000, f"card-{card}", amount_minor, f"merchant-{number}", True))
    events.sort()
    return [
        (
            Transaction(
                transaction_id=f"t-{number}",
                event_time_ms=at_ms,
                card_id=card_id,
                merchant_id=merchant_id,
                amount_minor=amount_minor,
                currency="USD",
            ),
            is_fraud,
        )
        for number, (at_ms, card_id, amount_minor, merchant_id, is_fraud) in enumerate(events)
    ]
