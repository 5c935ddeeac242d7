"""Steps 1 to 4 of the scoring service: from arrivals to stored decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

from lambdas.batch import Arrival, Batch
from lambdas.budget import Budget
from lambdas.cards import CardWork, decided, links
from lambdas.commit import Chain, Committer, Conflict
from lambdas.failpoints import AFTER_COMMIT, BEFORE_COMMIT, Reach
from lambdas.judging import Judge, entries_asked
from lambdas.outage import PatientScorer
from lambdas.port_sets import ScoringPorts
from lambdas.ports import Prediction, RowRefused
from lambdas.windows import Windows
from lambdas.writes import StoredDecision
from stream_features.decision import Engine
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.feature_sets import FeatureSet

COMMIT_ATTEMPTS = 2  # a card whose commit meets another writer starts again once

Scored = list[tuple[CardWork, list[StoredDecision]]]


class Settlement:
    """Decides what is new in a batch. What fails is returned as failed through the batch, card by card.

    One that lives as long as its process does: it remembers since when the endpoint has been failing.
    """

    def __init__(
        self,
        ports: ScoringPorts,
        features: FeatureSet,
        windows: Windows,
        committer: Committer,
        budget: Budget,
        *,
        engine: Engine,
        ttl_days: int,
        reach: Reach,
    ) -> None:
        self._ports = ports
        self._features = features
        self._windows = windows
        self._committer = committer
        self._budget = budget
        self._engine: Engine = engine
        self._ttl_days = ttl_days
        self._reach = reach
        self._endpoint = PatientScorer(ports.scorer, ports.clock)
        self._compiled: Judge | None = None

    def settle(self, batch: Batch, settled: dict[str, StoredDecision]) -> set[str]:
        """Steps 1 to 4. Fills `settled` with the stored decision of every id that has one; answers the new ones.

        Of several records of one id the first is decided; one that only repeats asks for a stored decision.
        """
        first: dict[str, Arrival] = {}
        for arrival in batch.arrivals:
            known = first.get(arrival.transaction.transaction_id)
            if known is None or (known.repeats and not arrival.repeats):
                first[arrival.transaction.transaction_id] = arrival
        unsettled = list(first.values())
        newly: set[str] = set()
        for _ in range(COMMIT_ATTEMPTS):
            try:
                with batch.stage("read"):
                    unsettled = self._read_decisions(batch, unsettled, settled)
                works = self._windows.observe(batch, [a for a in unsettled if not a.repeats])
            except PortFailure as error:
                batch.fail([a.record for a in unsettled], error)
                return newly
            with batch.stage("score"):
                scored = self._score(batch, works)
            with batch.stage("commit"):
                unsettled = self._commit(batch, scored, settled, newly)
            if not unsettled:
                return newly
        batch.fail([a.record for a in unsettled], Conflict("another writer came first, twice"))
        return newly

    def _read_decisions(
        self, batch: Batch, arrivals: Sequence[Arrival], settled: dict[str, StoredDecision]
    ) -> list[Arrival]:
        """Step 1. Answers the arrivals that are still to be decided."""
        if not arrivals:
            return []
        self._budget.check()
        documents = self._ports.decisions.get([a.transaction.transaction_id for a in arrivals])
        unreadable: dict[str, ContractMismatch] = {}
        for arrival in arrivals:
            transaction_id = arrival.transaction.transaction_id
            if transaction_id in documents:
                try:
                    settled[transaction_id] = StoredDecision.from_document(documents[transaction_id])
                except ContractMismatch as error:
                    unreadable.setdefault(arrival.transaction.card_id, error)
        left = [a for a in arrivals if a.transaction.transaction_id not in settled]
        for card_id, why in unreadable.items():
            batch.fail([a.record for a in left if a.transaction.card_id == card_id], why)
        return [a for a in left if a.transaction.card_id not in unreadable]

    def _score(self, batch: Batch, works: list[CardWork]) -> Scored:
        """One request for all rows; cards with a row that the endpoint refuses fail, the others are asked for again."""
        while works:
            try:
                self._budget.check()
                judge = self._judge(batch)
                listed = self._listed(judge, works)
                rows = [observation.values for work in works for observation in work.observations]
                predictions = self._endpoint.score(rows, judge.policy)
                batch.endpoint_problem = self._endpoint.problem if predictions is None else None
            except RowRefused as error:
                refused = _works_of_row(works, error.row)
                batch.fail([a.record for work in refused for a in work.arrivals], error)
                works = [work for work in works if work not in refused]
            except (ContractMismatch, PortFailure) as error:
                batch.fail([a.record for work in works for a in work.arrivals], error)
                return []
            else:
                return self._decide(works, predictions, judge, listed)
        return []

    def _judge(self, batch: Batch) -> Judge:
        """The policy in force, compiled when it has changed."""
        policy = self._ports.policies.current()
        batch.policy_problem = self._ports.policies.problem()
        if self._compiled is None or self._compiled.policy is not policy:
            self._compiled = Judge(policy, self._features)
        return self._compiled

    def _listed(self, judge: Judge, works: Sequence[CardWork]) -> Mapping[str, str]:
        """The listed ones among the works' entities, with their lists; nothing is read for a policy without lists."""
        if not judge.uses_lists:
            return {}
        asked = entries_asked(judge.policy, [a.transaction for work in works for a in work.arrivals])
        now_s = self._ports.clock.now_ms() // 1000
        return {
            entry: listed.list_name
            for entry, listed in (self._ports.lists.get(asked) if asked else {}).items()
            if listed.expires_at_s is None or listed.expires_at_s > now_s
        }

    def _decide(
        self,
        works: Sequence[CardWork],
        predictions: Sequence[Prediction] | None,
        judge: Judge,
        listed: Mapping[str, str],
    ) -> Scored:
        scored_at_ms = self._ports.clock.now_ms()
        answers: Iterator[Prediction | None] = repeat(None) if predictions is None else iter(predictions)
        return [
            (
                work,
                [
                    decided(
                        arrival,
                        observation,
                        next(answers),
                        judge,
                        listed,
                        features=self._features,
                        engine=self._engine,
                        scored_at_ms=scored_at_ms,
                    )
                    for arrival, observation in zip(work.arrivals, work.observations, strict=True)
                ],
            )
            for work in works
        ]

    def _commit(
        self, batch: Batch, scored: Scored, settled: dict[str, StoredDecision], newly: set[str]
    ) -> list[Arrival]:
        """Step 4. Answers the arrivals of cards that met another writer: they start again."""
        if not scored:
            return []
        self._reach(BEFORE_COMMIT)
        chains = [Chain(links(work, decisions, ttl_days=self._ttl_days)) for work, decisions in scored]
        self._committer.commit(chains)
        again: list[Arrival] = []
        for (work, decisions), chain in zip(scored, chains, strict=True):
            done = sum(link.decisions for link in chain.links[: chain.committed])
            for stored in decisions[:done]:
                settled[stored.decision.transaction_id] = stored
                newly.add(stored.decision.transaction_id)
            for link in chain.links[: chain.committed]:
                batch.counts.update(link.counts)
            if isinstance(chain.error, Conflict):
                again += work.arrivals[done:]
            elif chain.error is not None:
                batch.fail([a.record for a in work.arrivals[done:]], chain.error)
        if any(chain.committed for chain in chains):
            self._reach(AFTER_COMMIT)
        return again


def _works_of_row(works: Sequence[CardWork], row: int) -> Sequence[CardWork]:
    """The card that a row of the request belongs to; all cards if no such row was sent."""
    end = 0
    for work in works:
        end += len(work.observations)
        if 0 <= row < end:
            return [work]
    return works
