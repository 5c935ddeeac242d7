"""Commits in packs: as many cards as fit in one transaction, each card all or nothing.

A chain is one card's or one merchant's transactions in order (or one effect to count, or one label). Its links go out
in rounds: the first link of every chain, packed together; then the second link of those whose first one stands; and so
on. Each pack also holds one update of the counters, so that a count and what it counts are one transaction.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lambdas.budget import Budget
from lambdas.ports import Clock, ConditionFailed, Ledger
from lambdas.writes import PutDecision, Write
from stream_features.errors import PipelineError, PortFailure

MAX_ITEMS: Final = 100  # of one TransactWriteItems
MAX_WRITES: Final = MAX_ITEMS - 1  # one is the counter item
MAX_CARD_DECISIONS: Final = MAX_WRITES - 1  # and one is the card's state
MAX_ENTITY_EFFECTS: Final = MAX_WRITES - 1  # likewise beside a merchant's state
MAX_BYTES: Final = 3_500_000  # the service's limit is 4 MB

TRIES: Final = 4
FIRST_PAUSE_S: Final = 0.05

Jitter = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Link:
    """Writes that stand or fall together, and what they add to the counters."""

    writes: tuple[Write, ...]
    counts: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        return sum(write.size_bytes for write in self.writes)

    @property
    def decisions(self) -> int:
        """How many decisions it writes."""
        return sum(isinstance(write, PutDecision) for write in self.writes)


class Conflict(PipelineError):
    """Someone else wrote one of a chain's items first."""


@dataclass(slots=True)
class Chain:
    """Links to commit in order. Afterwards `committed` of them stand, and `error` says why not all of them do."""

    links: Sequence[Link]
    committed: int = 0
    error: Conflict | PortFailure | None = None


class Committer:
    """Writes chains to the ledger. Raises nothing of its own: every chain carries its outcome."""

    def __init__(self, ledger: Ledger, budget: Budget, clock: Clock, jitter: Jitter) -> None:
        self._ledger = ledger
        self._budget = budget
        self._clock = clock
        self._jitter = jitter

    def commit(self, chains: Sequence[Chain]) -> None:
        """Commit every chain as far as it goes; each link at most once."""
        while open_chains := [c for c in chains if c.error is None and c.committed < len(c.links)]:
            for pack in packs(open_chains):
                self._commit_pack(pack)

    def _commit_pack(self, pack: Sequence[Chain]) -> None:
        try:
            self._transact([chain.links[chain.committed] for chain in pack])
        except ConditionFailed as error:
            if len(pack) == 1:
                pack[0].error = Conflict(str(error))
                return
            for chain in pack:  # alone, so that only those fail whose own condition does not hold
                self._commit_pack([chain])
        except PortFailure as error:
            for chain in pack:
                chain.error = error
        else:
            for chain in pack:
                chain.committed += 1

    def _transact(self, links: Sequence[Link]) -> None:
        writes = [write for link in links for write in link.writes]
        sums: Counter[str] = Counter()
        for link in links:
            sums.update(link.counts)
        counts = {name: count for name, count in sums.items() if count}
        # The same token for every try: a try whose answer was lost counts as the one that is made again.
        token = uuid.uuid4().hex
        for tries_left in reversed(range(TRIES)):
            self._budget.check()
            try:
                self._ledger.transact(writes, counts, token=token)
                return
            except PortFailure:
                if not tries_left:
                    raise
            self._clock.pause(self._jitter(FIRST_PAUSE_S * 2 ** (TRIES - 1 - tries_left)))


def packs(chains: Iterable[Chain]) -> Iterator[list[Chain]]:
    """Group chains, in order, so that their next links fit into one transaction each."""
    pack: list[Chain] = []
    items = size_bytes = 0
    for chain in chains:
        link = chain.links[chain.committed]
        link_bytes = link.size_bytes
        if pack and (items + len(link.writes) > MAX_WRITES or size_bytes + link_bytes > MAX_BYTES):
            yield pack
            pack, items, size_bytes = [], 0, 0
        pack.append(chain)
        items += len(link.writes)
        size_bytes += link_bytes
    if pack:
        yield pack
