"""Transactions and labels of a file or a simulation together, in the order in which they would have become known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from producers.labels import NO_NOISE, LabelledRow, LabelNoise, label_of
from stream_features.label import Label
from stream_features.transaction import Transaction


def known_at_ms(item: Transaction | Label) -> int:
    """When an item of `replay` becomes known: a transaction as it happens, a label as it is reported."""
    return item.reported_at_ms if isinstance(item, Label) else item.event_time_ms


def replay(
    rows: Iterable[LabelledRow],
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
    label_delay_ms: int | None,
    noise: LabelNoise = NO_NOISE,
) -> Iterator[Transaction | Label]:
    """Transactions that happen and labels that are reported in [from, until), ordered by that time.

    At one instant the labels of earlier transactions come first: what is reported at t is known at t.

    Args:
        rows: in event-time order; they must reach back to `rows_from_ms` for all labels of the period to be there.
        from_ms: None is the beginning.
        until_ms: None is the end, and then every transaction's label follows, however late.
        label_delay_ms: from a transaction to its label; None publishes no labels.
        noise: how labels differ from the truth.
    """
    first_ms = from_ms if from_ms is not None else -(2**63)
    end_ms = until_ms if until_ms is not None else 2**63
    reported: deque[Label] = deque()
    for row in rows:
        transaction = row.transaction
        now_ms = transaction.event_time_ms
        if now_ms >= end_ms:
            break
        while reported and reported[0].reported_at_ms <= now_ms:
            yield reported.popleft()
        if label_delay_ms is not None and row.is_fraud is not None and first_ms <= now_ms + label_delay_ms < end_ms:
            reported.append(label_of(transaction, row.is_fraud, label_delay_ms=label_delay_ms, noise=noise))
        if now_ms >= first_ms:
            yield transaction
    yield from reported


def rows_from_ms(from_ms: int | None, label_delay_ms: int | None) -> int | None:
    """From when on `replay` needs rows: transactions before `from` may have labels after it."""
    return None if from_ms is None else from_ms - (label_delay_ms or 0)


def by_bucket(items: Iterable[Transaction | Label], bucket_ms: int) -> Iterator[tuple[int, list[Transaction | Label]]]:
    """Consecutive items of one bucket of time together, as (start of the bucket, items); empty buckets are skipped."""
    bucket: list[Transaction | Label] = []
    start_ms = 0
    for item in items:
        item_start_ms = known_at_ms(item) // bucket_ms * bucket_ms
        if bucket and item_start_ms != start_ms:
            yield start_ms, bucket
            bucket = []
        start_ms = item_start_ms
        bucket.append(item)
    if bucket:
        yield start_ms, bucket
