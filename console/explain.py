"""One decision explained: what was decided, from which past, by which shares, and the same computed once more.

The checks hold a decision against what it claims to come from:

1. base value and contributions (exact TreeSHAP) sum to the margin, and the score is the margin's sigmoid;
2. every feature, computed again from the raw archive, has the stored bits;
3. the model's artefact gives the stored score, and the stored reasons, for the features computed again;
4. the policy of the stored version decides as stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from console.policies import PolicyStore
from console.provenance import Origin, PastPurchase, origins
from console.recompute import Recomputed, recompute
from console.rescoring import SUM_TOLERANCE, Rescored, artifact_of, rescore
from console.running import Pipeline
from lambdas.judging import Judge
from lambdas.policy import InvalidPolicy, Lists, Policy
from model.artifact import Artifact
from stream_features.decision import Decision, decode_decision
from stream_features.errors import ContractMismatch, PipelineError, PortFailure
from stream_features.feature_sets import FEATURE_SETS, FeatureSet
from stream_features.names import DECISIONS_BY_CARD_INDEX

MOST_OF_A_CARD: Final = 5_000  # decisions read of one card's past, newest first
REPLAYED_FAST: Final = (
    "values of merchants differ where purchases reached their merchant later than two minutes of event time, as in a "
    "fast replay without --lockstep; `fraudstream consistency` counts them"
)


class NoDecision(PipelineError):
    """A transaction has no decision."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison; `holds` is None where it could not be made, and `detail` says why or by how much."""

    name: str
    holds: bool | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known about a decision.

    Attributes:
        decision: as stored.
        features: its feature set; None where this code does not have it.
        policy: of its version; None where it is not kept.
        card_past: the card's purchases that arrived earlier, newest first.
        card_past_is_cut: whether there are more of them.
        origins: one per feature, in feature-set order; empty without a feature set.
        rescored: by the model's artefact; None where that was not possible.
        recomputed: from the raw archive; None where nobody asked.
        checks: see the module.
    """

    decision: Decision
    features: FeatureSet | None
    policy: Policy | None
    card_past: list[PastPurchase]
    card_past_is_cut: bool
    origins: list[Origin]
    rescored: Rescored | None
    recomputed: Recomputed | None
    checks: list[Check]

    @property
    def holds(self) -> bool:
        return all(check.holds is not False for check in self.checks)

    @property
    def contributions(self) -> dict[str, float]:
        """By feature, in log-odds: all of them from the artefact, else those that were stored."""
        reasons = self.decision.reasons if self.rescored is None else self.rescored.stored.reasons
        return {reason.feature: reason.contribution for reason in reasons}


def stored_decision(pipeline: Pipeline, transaction_id: str) -> Decision:
    """The decision of `transaction_id`, read consistently.

    Raises:
        NoDecision: there is none.
        PortFailure: the table did not answer.
    """
    table = pipeline.output("DecisionsTableName")
    try:
        answer = pipeline.client("dynamodb").get_item(
            TableName=table, Key={"transaction_id": {"S": transaction_id}}, ConsistentRead=True
        )
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"table {table}: {error}") from error
    if "Item" not in answer:
        raise NoDecision(f"no decision for transaction {transaction_id!r}")
    return decode_decision(answer["Item"]["document"]["S"])


def explain(
    pipeline: Pipeline, decision: Decision, *, from_archive: bool = True, progress: Callable[[str], None]
) -> Explanation:
    """Explain one decision.

    Args:
        pipeline: where it was made.
        decision: as stored.
        from_archive: whether to compute its features again; takes reading the whole archive.
        progress: takes a line about what is going on.

    Raises:
        PortFailure: an AWS service did not answer.
    """
    features = next((one for one in FEATURE_SETS.values() if one.feature_set_id == decision.feature_set_id), None)
    streamed, is_cut = card_past(pipeline, decision, features)
    recomputed = None
    if from_archive and features is not None:
        progress("computing its features again from the raw archive")
        recomputed = recompute(pipeline, decision, features, [one.transaction_id for one in streamed])
        loaded = {one.transaction_id for one in recomputed.loaded}
        streamed = [one for one in streamed if one.transaction_id not in loaded] + recomputed.loaded
    past = sorted(streamed, key=lambda one: one.event_time_ms, reverse=True)
    artifact, why_no_score = _artifact(pipeline, decision, features)
    rescored = None
    if artifact is not None and features is not None:
        rescored = rescore(artifact, decision, features, recomputed.values if recomputed else None)
    policy = _policy(pipeline, decision, artifact)
    return Explanation(
        decision=decision,
        features=features,
        policy=policy,
        card_past=past,
        card_past_is_cut=is_cut,
        origins=[]
        if features is None
        else origins(
            features,
            event_time_ms=decision.event_time_ms,
            merchant_id=decision.merchant_id,
            card_past=past,
            merchant_past=recomputed.merchant_past if recomputed else None,
        ),
        rescored=rescored,
        recomputed=recomputed,
        checks=[
            *_checks_of_contributions(rescored, why_no_score),
            _check_of_features(decision, features, recomputed, from_archive),
            _check_of_score(decision, rescored, why_no_score),
            _check_of_policy(decision, features, policy),
        ],
    )


def card_past(pipeline: Pipeline, decision: Decision, features: FeatureSet | None) -> tuple[list[PastPurchase], bool]:
    """The card's decided purchases that arrived before this one and are not newer, and whether there are more.

    Raises:
        PortFailure: the table did not answer.
    """
    retention_ms = features.card_layout.retention_ms if features is not None else 31 * 86_400_000
    request = {
        "TableName": pipeline.output("DecisionsTableName"),
        "IndexName": DECISIONS_BY_CARD_INDEX,
        "KeyConditionExpression": "card_id = :card AND event_time_ms BETWEEN :from AND :until",
        "ExpressionAttributeValues": {
            ":card": {"S": decision.card_id},
            ":from": {"N": str(decision.event_time_ms - retention_ms)},
            ":until": {"N": str(decision.event_time_ms)},
        },
        "ProjectionExpression": "#document",
        "ExpressionAttributeNames": {"#document": "document"},
        "ScanIndexForward": False,
    }
    past: list[PastPurchase] = []
    read = 0
    try:
        for page in pipeline.client("dynamodb").get_paginator("query").paginate(**request):
            for item in page["Items"]:
                if read == MOST_OF_A_CARD:
                    return past, True
                read += 1
                other = decode_decision(item["document"]["S"])
                if other.type == "purchase" and _arrived_before(other, decision):
                    past.append(_past_purchase(other))
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"table {request['TableName']}: {error}") from error
    return past, False


def _arrived_before(other: Decision, decision: Decision) -> bool:
    one, this = other.stream_position, decision.stream_position
    if one.of_request or this.of_request:  # a request does not wait behind records; see console.consistency
        return other.scored_at_ms < decision.scored_at_ms
    if one.shard_id == this.shard_id:
        return one.order < this.order
    return other.arrival_ms < decision.arrival_ms  # a card changes its shard only when shards are split or merged


def _past_purchase(decision: Decision) -> PastPurchase:
    return PastPurchase(
        transaction_id=decision.transaction_id,
        event_time_ms=decision.event_time_ms,
        merchant_id=decision.merchant_id,
        amount_minor=decision.amount_minor,
        currency=decision.currency,
        country=decision.country,
        has_place=decision.latitude is not None and decision.longitude is not None,
        loaded=False,
        decision=decision.decision,
        score=decision.score,
    )


def _artifact(pipeline: Pipeline, decision: Decision, features: FeatureSet | None) -> tuple[Artifact | None, str]:
    """The model's artefact, or why its score cannot be computed again."""
    if features is None:
        return None, f"this code does not have the feature set {decision.feature_set_id}"
    if decision.score is None:
        return None, "it was decided without the model (degraded): fraudstream rescore"
    try:
        artifact = artifact_of(pipeline, decision.model_version)
    except ContractMismatch as error:
        return None, str(error)
    if artifact is None:
        return None, f"the artefact of model {decision.model_version} is not kept here"
    return artifact, ""


def _policy(pipeline: Pipeline, decision: Decision, artifact: Artifact | None) -> Policy | None:
    """The policy of the decision's version; one that a model brought is nowhere else once it is replaced."""
    try:
        found = PolicyStore(pipeline).of_version(decision.policy_version)
    except InvalidPolicy:
        found = None
    if found is None and artifact is not None and artifact.manifest.model_version == decision.policy_version:
        limits = artifact.manifest.thresholds
        return Policy(
            policy_version=decision.policy_version, review_from=limits.review_from, decline_from=limits.decline_from
        )
    return found


def _checks_of_contributions(rescored: Rescored | None, why_not: str) -> list[Check]:
    if rescored is None:
        return [Check("contributions sum to the margin", None, why_not)]
    margin = rescored.stored.margin
    kind = "calibrated sigmoid" if rescored.manifest.calibration is not None else "sigmoid"
    return [
        Check(
            "contributions sum to the margin",
            rescored.sum_error <= SUM_TOLERANCE,
            f"|sum - margin| = {rescored.sum_error:.1e}, margin {margin:+.6f}",
        ),
        Check(
            f"{kind} of the margin is the score",
            rescored.score_follows_from_margin,
            f"{kind}({margin:+.6f}) = {rescored.stored.score:.6f}",
        ),
    ]


def _check_of_features(
    decision: Decision, features: FeatureSet | None, recomputed: Recomputed | None, asked: bool
) -> Check:
    name = "features, computed again from the raw archive"
    if features is None:
        return Check(name, None, f"this code does not have the feature set {decision.feature_set_id}")
    if recomputed is None:
        return Check(name, None, "not asked for" if not asked else "")
    if recomputed.same_payload is False:
        return Check(name, False, "the archived record of this transaction is another one than was decided")
    if recomputed.values is None:
        return Check(name, None, recomputed.why_not)
    differences = recomputed.differences(decision, features)
    if not differences:
        return Check(name, True, f"{len(features.names)} of {len(features.names)} equal")
    words = [f"{name}: {said['served']} stored, {said['recomputed']} computed" for name, said in differences.items()]
    of_merchants = {one.name for one in features.features if one.entity == "merchant"}
    hint = f" ({REPLAYED_FAST})" if differences.keys() <= of_merchants else ""
    return Check(name, False, f"{len(differences)} of {len(features.names)} differ: {'; '.join(words)}{hint}")


def _check_of_score(decision: Decision, rescored: Rescored | None, why_not: str) -> Check:
    name = f"score, by the artefact of model {decision.model_version}"
    if rescored is None:
        return Check(name, None, why_not)
    wrong = []
    if rescored.stored.score != decision.score:
        wrong.append(f"{decision.score!r} stored, {rescored.stored.score!r} computed from the stored features")
    if rescored.recomputed is not None and rescored.recomputed.score != decision.score:
        wrong.append(f"{decision.score!r} stored, {rescored.recomputed.score!r} from the features computed again")
    computed = [(reason.feature, reason.contribution) for reason in rescored.stored.reasons]
    if decision.reasons and [(reason.feature, reason.contribution) for reason in decision.reasons] != computed:
        wrong.append("the stored reasons are not the artefact's")
    if wrong:
        return Check(name, False, "; ".join(wrong))
    of = "computed again" if rescored.recomputed is not None else "stored"
    return Check(name, True, f"equal, from the features {of}" + (", reasons too" if decision.reasons else ""))


def _check_of_policy(decision: Decision, features: FeatureSet | None, policy: Policy | None) -> Check:
    name = f"decision, by policy {decision.policy_version}"
    if policy is None or features is None:
        missing = "this policy is not kept here" if policy is None else "this code does not have its feature set"
        return Check(name, None, missing)
    listed = Lists(*(_listed(decision, name) for name in ("block", "allow")))
    try:
        judgement = Judge(policy, features).judge(decision, decision.features, decision.score, listed)
    except InvalidPolicy as error:
        return Check(name, None, str(error))
    if (judgement.decision, judgement.rules) == (decision.decision, decision.rules):
        return Check(name, True, f"equal: {decision.decision}")
    said = f"{judgement.decision} {judgement.rules}"
    return Check(name, False, f"{decision.decision} {decision.rules} stored, {said} computed")


def _listed(decision: Decision, name: str) -> Any:
    """The kinds of entities that were on a list then: those that the decision's rules name."""
    prefix = f"list:{name}:"
    return tuple(rule.removeprefix(prefix) for rule in decision.rules if rule.startswith(prefix))
