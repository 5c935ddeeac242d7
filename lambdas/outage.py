"""How long to wait for an endpoint that is down.

The time is counted by each execution environment for itself, from the first call that failed up to now, and any answer
ends it. Not by the age of the records: after a restart a backlog is old although the endpoint has just failed once, and
one lost call would decide an hour of it by rules. The price: an environment that begins during an outage waits once
more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lambdas.policy import Policy
from lambdas.ports import Clock, Prediction, Scorer, ScorerDown
from stream_features.errors import ContractMismatch

# Failures further apart than this are not one outage: between them nobody has looked. Redelivery is much quicker.
QUIET_S: Final = 120.0


class Outage:
    """Since when nothing but failures has been seen."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._until_s = 0.0

    @property
    def on(self) -> bool:
        """Whether the last call failed."""
        return self._since_s is not None

    def failed(self, begun_s: float, ended_s: float) -> float:
        """Note a call that failed; answers for how many seconds calls have been failing."""
        if self._since_s is None or begun_s - self._until_s > QUIET_S:
            self._since_s = begun_s
        self._until_s = ended_s
        return ended_s - self._since_s

    def answered(self) -> None:
        """Note a call that was answered, if only with a refusal."""
        self._since_s = None


class PatientScorer:
    """Asks the endpoint, and says when a batch is to be decided without it.

    While it is down every batch asks once: the first one that is answered ends the outage.
    """

    def __init__(self, scorer: Scorer, clock: Clock) -> None:
        self._scorer = scorer
        self._clock = clock
        self._outage = Outage()
        self.problem: str | None = None  # why the last call was not answered

    def score(self, rows: Sequence[tuple[float, ...]], policy: Policy) -> list[Prediction] | None:
        """Score rows as `Scorer.score` does; None once the endpoint has been down for `policy.degrade_after_ms`.

        Raises:
            ScorerDown: it is down, and the policy has the records wait (still, or for ever).
            PortFailure: it was not asked.
            RowRefused: see `Scorer.score`.
            ContractMismatch: see `Scorer.score`.
        """
        begun_s = self._clock.elapsed_s()
        try:
            predictions = self._scorer.score(rows, explain_from=policy.review_from, once=self._outage.on)
        except ScorerDown as error:
            self.problem = str(error)
            down_s = self._outage.failed(begun_s, self._clock.elapsed_s())
            if policy.degrade_after_ms is None or down_s * 1000 < policy.degrade_after_ms:
                raise
            return None
        except ContractMismatch:
            self._answered()
            raise
        self._answered()
        return predictions

    def _answered(self) -> None:
        self._outage.answered()
        self.problem = None
