"""What a policy would have decided: a replay over the decisions in the lake, with what labels know by now.

Scores and features are those that were served; what was decided without a score is decided without one again. List
memberships are those of now: the lists keep no history.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError

from console.running import Pipeline
from lambdas.judging import Judge, entries_asked, listed_of
from local.firehose.control import request_flush
from stream_features.currency import RATES
from stream_features.decision import Verdict
from stream_features.errors import PortFailure
from stream_features.names import DECISIONS_PREFIX
from stream_features.transaction import FIELDS, Transaction

SAMPLE: Final = 20  # changed decisions named in the answer
VERDICTS: Final[tuple[Verdict, ...]] = ("approve", "review", "decline")
_FLUSH_TIMEOUT_S: Final = 120
_COLUMNS: Final = [*FIELDS, "score", "decision", "degraded", "features"]


class Archived(msgspec.Struct, frozen=True):
    """A decision as the lake has it."""

    transaction: Transaction
    features: dict[str, float | None]
    score: float | None  # None: decided while the endpoint was down, and not rescored yet
    decision: Verdict


@dataclass
class Firing:
    """What one rule would have done. Amounts in base minor units (USD cents).

    Attributes:
        fired: decisions it would have fired on.
        decided: those of them that it would have decided, nothing having come before it.
        labelled: those it fired on that have a label.
        frauds: those of them that are fraud.
        value_saved: amount of the frauds that it decided to stop (review or decline) and that were approved.
    """

    fired: int = 0
    decided: int = 0
    labelled: int = 0
    frauds: int = 0
    value_saved: int = 0

    @property
    def precision(self) -> float | None:
        """Share of frauds among the labelled; None without labels."""
        return self.frauds / self.labelled if self.labelled else None


@dataclass
class Backtest:
    """What a policy would have changed. Amounts in base minor units (USD cents).

    Attributes:
        policy_version: of the policy.
        decisions: replayed.
        degraded: of them without a score: the policy's rules and `degraded_decision` decide these.
        labelled: of them with a label.
        rules: by id, every rule of the policy and every list and switch that applied.
        outcomes: decisions by (then, now).
        value_saved: amount of known frauds that were approved and would be stopped.
        value_lost: amount of known frauds that were stopped and would be approved.
        value_refused: amount of known good ones that would be declined and were not.
        changed: the first `SAMPLE` changed ones: id, then, now, rules.
    """

    policy_version: str
    decisions: int = 0
    degraded: int = 0
    labelled: int = 0
    rules: dict[str, Firing] = field(default_factory=dict)
    outcomes: Counter[tuple[Verdict, Verdict]] = field(default_factory=Counter)
    value_saved: int = 0
    value_lost: int = 0
    value_refused: int = 0
    changed: list[tuple[str, Verdict, Verdict, list[str]]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {
            "policy_version": self.policy_version,
            "decisions": self.decisions,
            "degraded": self.degraded,
            "labelled": self.labelled,
            "changed": sum(count for (then, now), count in self.outcomes.items() if then != now),
            "outcomes": {f"{then} -> {now}": count for (then, now), count in sorted(self.outcomes.items())},
            "value_saved_minor": self.value_saved,
            "value_lost_minor": self.value_lost,
            "value_refused_minor": self.value_refused,
            "rules": [
                {
                    "id": rule_id,
                    "fired": firing.fired,
                    "decided": firing.decided,
                    "labelled": firing.labelled,
                    "frauds": firing.frauds,
                    "precision": firing.precision,
                    "value_saved_minor": firing.value_saved,
                }
                for rule_id, firing in self.rules.items()
            ],
            "changed_sample": [
                {"transaction_id": key, "then": then, "now": now, "rules": rules}
                for key, then, now, rules in self.changed
            ],
        }

    def lines(self) -> list[str]:
        figures = self.document()
        lines = [
            f"policy {self.policy_version} over {self.decisions} decisions, {self.labelled} of them labelled",
            f"  {figures['changed']} would change: "
            + (", ".join(f"{n} {change}" for change, n in figures["outcomes"].items() if _changes(change)) or "none"),
            f"  value saved {_usd(self.value_saved)}, lost {_usd(self.value_lost)}, "
            f"good ones refused {_usd(self.value_refused)}",
        ]
        if self.degraded:
            lines.append(f"  {self.degraded} have no score and are decided without one (fraudstream rescore)")
        for rule_id, firing in self.rules.items():
            precision = "unknown" if firing.precision is None else f"{firing.precision:.3f}"
            lines.append(
                f"  {rule_id}: would have fired {firing.fired} times, decided {firing.decided}, "
                f"precision {precision} of {firing.labelled} labelled, value saved {_usd(firing.value_saved)}"
            )
        lines += [
            f"  {key}: {then} -> {now}" + (f" by {', '.join(rules)}" if rules else "")
            for key, then, now, rules in self.changed
        ]
        return lines


def backtest(
    judge: Judge, archived: Iterable[Archived], frauds: Mapping[str, bool], listed: Mapping[str, str]
) -> Backtest:
    """Replay a policy.

    Args:
        judge: the policy.
        archived: one per transaction.
        frauds: what labels say, by transaction id.
        listed: the list of each listed entity, by entry.
    """
    policy = judge.policy
    found = Backtest(policy.policy_version, rules={rule.id: Firing() for rule in policy.rules})
    for one in archived:
        transaction = one.transaction
        now = judge.judge(transaction, one.features, one.score, listed_of(policy, transaction, listed))
        then = one.decision
        fraud = frauds.get(transaction.transaction_id)
        amount = RATES.base_amount(transaction.amount_minor, transaction.currency, transaction.event_time_ms)
        found.decisions += 1
        found.degraded += one.score is None
        found.labelled += fraud is not None
        found.outcomes[then, now.decision] += 1
        saves = amount if fraud and then == "approve" and now.decision != "approve" else 0
        found.value_saved += saves
        if fraud and then != "approve" and now.decision == "approve":
            found.value_lost += amount
        if fraud is False and then != "decline" and now.decision == "decline":
            found.value_refused += amount
        for place, rule_id in enumerate(now.rules):
            firing = found.rules.setdefault(rule_id, Firing())
            firing.fired += 1
            firing.labelled += fraud is not None
            firing.frauds += bool(fraud)
            if place == 0:
                firing.decided += 1
                firing.value_saved += saves
        if then != now.decision and len(found.changed) < SAMPLE:
            found.changed.append((transaction.transaction_id, then, now.decision, now.rules))
    return found


def archived_decisions(
    pipeline: Pipeline, *, from_ms: int | None, until_ms: int | None, progress: Callable[[str], None]
) -> list[Archived]:
    """The lake's decisions of event times in `[from_ms, until_ms)`, each transaction once, in event-time order.

    Raises:
        PortFailure: the lake did not answer, or the delivery into it stands still.
    """
    request_flush(pipeline.state_dir / "firehose", timeout_s=_FLUSH_TIMEOUT_S)
    found: dict[str, Archived] = {}
    for rows in _parquet_rows(pipeline):
        for row in rows:
            key, event_time_ms = row["transaction_id"], row["event_time_ms"]
            if (from_ms is not None and event_time_ms < from_ms) or (
                until_ms is not None and event_time_ms >= until_ms
            ):
                continue
            if key not in found or not row["degraded"]:  # a rescored decision replaces the first one
                found[key] = _archived(row)
    progress(f"{len(found)} decisions read from the lake")
    return sorted(found.values(), key=lambda one: (one.transaction.event_time_ms, one.transaction.transaction_id))


def _parquet_rows(pipeline: Pipeline) -> Iterator[list[dict[str, Any]]]:
    s3, bucket = pipeline.client("s3"), pipeline.output("LakeBucketName")
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=DECISIONS_PREFIX):
            for entry in page.get("Contents", []):
                content = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                yield pq.read_table(io.BytesIO(content), columns=_COLUMNS).to_pylist()
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"bucket {bucket}: {error}") from error


def _archived(row: dict[str, Any]) -> Archived:
    return Archived(
        Transaction(**{name: row[name] for name in FIELDS}), dict(row["features"]), row["score"], row["decision"]
    )


def known_frauds(pipeline: Pipeline) -> dict[str, bool]:
    """What the labels say, by transaction id. Raises PortFailure."""
    table = pipeline.output("LabelsTableName")
    pages = (
        pipeline.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=table, ConsistentRead=True, ProjectionExpression="transaction_id, is_fraud")
    )
    try:
        return {item["transaction_id"]["S"]: item["is_fraud"]["BOOL"] for page in pages for item in page["Items"]}
    except (ClientError, BotoCoreError) as error:
        raise PortFailure(f"table {table}: {error}") from error


def listed_now(pipeline: Pipeline, judge: Judge, archived: Iterable[Archived]) -> dict[str, str]:
    """The lists of the archive's entities as they are now; nothing is read for a policy without lists."""
    if not judge.uses_lists:
        return {}
    from console.entity_lists import EntityLists
    from lambdas.judging import list_entry

    asked = set(entries_asked(judge.policy, (one.transaction for one in archived)))
    entries = ((list_entry(item.kind, item.value), item.list_name) for item in EntityLists(pipeline).all())
    return {entry: name for entry, name in entries if entry in asked}


def _changes(change: str) -> bool:
    then, _, now = change.partition(" -> ")
    return then != now


def _usd(minor: int) -> str:
    return f"{minor / 100:,.2f} USD"
