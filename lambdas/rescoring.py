"""Degraded decisions get their score: asked with the features that were stored, judged by the policy in force.

Per decision: replace it if it is still the one that was read, keep what is replaced, move the counters (one
transaction); publish the new one, alert if the verdict is worse; then take it out of the index. Whoever dies before
that last step leaves it in the index, and the next run publishes it again: the replacement happens once, its
publication at least once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import msgspec

from lambdas.commit import Chain, Committer, Conflict, Link
from lambdas.judging import Judge, entries_asked, listed_of
from lambdas.port_sets import RescorePorts
from lambdas.ports import Prediction, RowRefused, ToRescore
from lambdas.writes import DecisionSettled, PutRevisedEffect, ReplaceDecision, StoredDecision
from stream_features.decision import Decision, Verdict, decode_decision
from stream_features.errors import ContractMismatch, PipelineError
from stream_features.feature_sets import FeatureSet
from stream_features.names import rescored_effect_key
from stream_features.transaction import FIELDS, Transaction

AT_ONCE: Final = 500  # decisions per request to the endpoint
_SEVERITY: Final[dict[Verdict, int]] = {"approve": 0, "review": 1, "decline": 2}


@dataclass
class RescoreOutcome:
    """What a run did.

    Attributes:
        found: degraded decisions that were looked at.
        rescored: of them replaced by this run.
        outcomes: of those, by (then, now).
        alerted: of those that are worse now.
        told_again: decisions that an earlier run had replaced, published now because it may not have done so.
        left: degraded decisions that stay, by id, with the reason.
    """

    found: int = 0
    rescored: int = 0
    outcomes: Counter[tuple[Verdict, Verdict]] = field(default_factory=Counter)
    alerted: int = 0
    told_again: int = 0
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Replaced:
    """A decision that stands in the table and has to be told, and whether it is worse than what it replaced."""

    stored: StoredDecision
    worse: bool


class Rescoring:
    """Rescores what the index names."""

    def __init__(self, ports: RescorePorts, judge: Judge, features: FeatureSet, committer: Committer) -> None:
        self._ports = ports
        self._judge = judge
        self._features = features
        self._committer = committer

    def rescore(self, *, from_ms: int | None = None, until_ms: int | None = None) -> RescoreOutcome:
        """Rescore the degraded decisions on records that arrived in `[from_ms, until_ms)`.

        Raises:
            PortFailure: the endpoint or another service did not answer; what was done stays done.
            ContractMismatch: the endpoint's model does not fit the active feature set.
        """
        outcome = RescoreOutcome()
        entries = (
            entry
            for entry in self._ports.to_rescore.entries()
            if (from_ms is None or entry.arrival_ms >= from_ms) and (until_ms is None or entry.arrival_ms < until_ms)
        )
        while part := list(islice(entries, AT_ONCE)):
            self._rescore_part(part, outcome)
        return outcome

    def _rescore_part(self, entries: Sequence[ToRescore], outcome: RescoreOutcome) -> None:
        expires_at_s = {entry.transaction_id: entry.expires_at_s for entry in entries}
        documents = self._ports.decisions.get(list(expires_at_s))
        stored = [StoredDecision.from_document(document) for document in documents.values()]
        untold = self._replaced_before([one for one in stored if not one.decision.degraded])
        self._tell(untold, outcome)
        outcome.told_again += len(untold)
        degraded = [one for one in stored if one.decision.degraded]
        outcome.found += len(degraded)
        replaced, failure = self._replace(self._scored(degraded, outcome), expires_at_s, outcome)
        self._tell(replaced, outcome)
        if failure is not None:
            raise failure

    def _replaced_before(self, stored: Sequence[StoredDecision]) -> list[_Replaced]:
        """What an earlier run has replaced, compared with what it kept."""
        key_of = {rescored_effect_key(one.decision.transaction_id): one for one in stored}
        kept = self._ports.effects.get(list(key_of)) if key_of else {}
        return [
            _Replaced(one, _is_worse(one.decision, decode_decision(kept[key].document)))
            for key, one in key_of.items()
            if key in kept  # without it, it was settled since the index was read
        ]

    def _scored(
        self, degraded: Sequence[StoredDecision], outcome: RescoreOutcome
    ) -> Iterator[tuple[StoredDecision, StoredDecision]]:
        """(what is stored, what is to replace it) for every decision that the endpoint scores."""
        left: list[StoredDecision] = []
        for one in degraded:
            if one.decision.feature_set_id == self._features.feature_set_id:
                left.append(one)
            else:
                outcome.left[one.decision.transaction_id] = (
                    f"its features are of set {one.decision.feature_set_id}, "
                    f"the active one is {self._features.feature_set_id}"
                )
        predictions: list[Prediction] = []
        while left:
            rows = [_row(self._features, one.decision) for one in left]
            try:
                predictions = self._ports.scorer.score(rows, explain_from=self._judge.policy.review_from)
                break
            except RowRefused as error:
                if not 0 <= error.row < len(left):
                    raise
                outcome.left[left.pop(error.row).decision.transaction_id] = str(error)
        if not left:
            return
        transactions = [Transaction(**{name: getattr(one.decision, name) for name in FIELDS}) for one in left]
        listed = self._listed(transactions)
        now_ms = self._ports.clock.now_ms()
        for one, transaction, prediction in zip(left, transactions, predictions, strict=True):
            policy = self._judge.policy
            judgement = self._judge.judge(
                transaction, one.decision.features, prediction.score, listed_of(policy, transaction, listed)
            )
            yield (
                one,
                StoredDecision.of(
                    msgspec.structs.replace(
                        one.decision,
                        score=prediction.score,
                        decision=judgement.decision,
                        reasons=prediction.reasons,
                        rules=judgement.rules,
                        model_version=prediction.model_version,
                        variant=prediction.variant,
                        policy_version=policy.policy_version,
                        degraded=False,
                        rescored_at_ms=now_ms,
                    )
                ),
            )

    def _listed(self, transactions: Sequence[Transaction]) -> dict[str, str]:
        asked = entries_asked(self._judge.policy, transactions)
        now_s = self._ports.clock.now_ms() // 1000
        return {
            entry: listed.list_name
            for entry, listed in (self._ports.lists.get(asked) if asked else {}).items()
            if listed.expires_at_s is None or listed.expires_at_s > now_s
        }

    def _replace(
        self,
        pairs: Iterator[tuple[StoredDecision, StoredDecision]],
        expires_at_s: dict[str, int],
        outcome: RescoreOutcome,
    ) -> tuple[list[_Replaced], PipelineError | None]:
        """Commit the replacements. Answers those that stand by now, and the first failure that stopped others."""
        works: list[tuple[Decision, StoredDecision, Chain]] = []
        for then, now in pairs:
            key = then.decision.transaction_id
            kept = PutRevisedEffect(rescored_effect_key(key), None, 1, then.document, expires_at_s[key])
            alerts = (now.decision.decision != "approve") - (then.decision.decision != "approve")
            link = Link((ReplaceDecision(now, then), kept), {"degraded": -1, "alerts": alerts})
            works.append((then.decision, now, Chain([link])))
        self._committer.commit([chain for _, _, chain in works])
        replaced: list[_Replaced] = []
        failure: PipelineError | None = None
        for then_decision, now, chain in works:
            if chain.error is None:
                outcome.rescored += 1
                outcome.outcomes[then_decision.decision, now.decision.decision] += 1
                replaced.append(_Replaced(now, _is_worse(now.decision, then_decision)))
            elif not isinstance(chain.error, Conflict):  # a conflict: another run has replaced it, and tells of it
                failure = failure or chain.error
        return replaced, failure

    def _tell(self, replaced: Sequence[_Replaced], outcome: RescoreOutcome) -> None:
        if not replaced:
            return
        self._ports.publisher.publish([one.stored for one in replaced])
        worse = [one.stored for one in replaced if one.worse]
        if worse:
            self._ports.alerts.raise_alerts(worse)
            outcome.alerted += len(worse)
        chains = [Chain([Link((DecisionSettled(one.stored),), {})]) for one in replaced]
        self._committer.commit(chains)
        for chain in chains:
            if chain.error is not None and not isinstance(chain.error, Conflict):
                raise chain.error


def _is_worse(now: Decision, then: Decision) -> bool:
    return _SEVERITY[now.decision] > _SEVERITY[then.decision]


def _row(features: FeatureSet, decision: Decision) -> tuple[float, ...]:
    """The stored features as the endpoint takes them, bit for bit those of the decision."""
    missing = [name for name in features.names if name not in decision.features]
    if missing:
        raise ContractMismatch(f"decision {decision.transaction_id} lacks the features {', '.join(missing)}")
    values = (decision.features[name] for name in features.names)
    return tuple(math.nan if value is None else value for value in values)
