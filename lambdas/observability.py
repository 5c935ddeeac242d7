"""One log line and one set of metrics per batch. Facts are numbers and reasons, never cards or merchants."""

from __future__ import annotations

from collections.abc import Sequence

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from msgspec import Struct

from lambdas.batch import BatchOutcome
from lambdas.score_requests import Handled

NAMESPACE = "fraudstream"
POLICY_REFUSED = "policy_refused_alarm"  # 1 for every batch decided by an older policy than the published one


class Told(Struct, frozen=True):
    """What a function tells of a batch.

    Attributes:
        event: the line's message.
        counted: which counts are told, also where they are 0.
        alarm: the metric that is 1 for every failure that needs a person.
    """

    event: str
    counted: Sequence[str]
    alarm: str


_DECIDED = ("records", "decided", "duplicates", "quarantined", "redelivered", "late", "degraded", "alerts", "failed")
TRANSACTIONS_TOLD = Told("batch_scored", _DECIDED, "card_failed_alarm")
FEATURES_TOLD = Told(
    "features_scored", (*_DECIDED, "entity_events_quarantined", "labels_completed"), "card_failed_alarm"
)
ENTITIES_TOLD = Told(
    "entities_updated",
    ("records", "applied", "applied_before", "entity_events_quarantined", "labels_completed", "failed"),
    "merchant_failed_alarm",
)
REQUESTS_TOLD = Told("request_scored", ("api_decided", "late", "degraded", "alerts", "failed"), "card_failed_alarm")
EVENTS_TOLD = Told("events_published", ("records", "events", "failed"), "event_failed_alarm")
LABELS_TOLD = Told(
    "labels_recorded", ("records", "labels", "labels_quarantined", "published", "failed"), "label_failed_alarm"
)


def report(outcome: BatchOutcome, logger: Logger, metrics: Metrics, told: Told) -> None:
    """Say what became of a batch: the line to `logger`, the figures to `metrics`."""
    counts = {name: outcome.counts.get(name, 0) for name in told.counted}
    for name, count in counts.items():
        metrics.add_metric(name=f"records_{name}" if name != "records" else name, unit=MetricUnit.Count, value=count)
    for stage, milliseconds in outcome.stage_ms.items():
        metrics.add_metric(name=f"{stage}_ms", unit=MetricUnit.Milliseconds, value=milliseconds)
    for reason, sequence_number in outcome.alarms:
        metrics.add_metric(name=told.alarm, unit=MetricUnit.Count, value=1)
        logger.error(told.alarm.removesuffix("_alarm"), reason=reason, sequence_number=sequence_number)
    if outcome.policy_problem is not None:
        metrics.add_metric(name=POLICY_REFUSED, unit=MetricUnit.Count, value=1)
        logger.error("policy_refused", reason=outcome.policy_problem)
    if outcome.endpoint_problem is not None:
        logger.warning("decided_without_endpoint", reason=outcome.endpoint_problem, records=counts["degraded"])
    for reason, count in outcome.failures.items():
        logger.warning("records_failed", reason=reason, records=count)
    logger.info(told.event, extra={**counts, "stage_ms": outcome.stage_ms})


def report_request(handled: Handled, logger: Logger, metrics: Metrics) -> None:
    """Say how a request to the score API was answered."""
    status = handled.answer["statusCode"]
    metrics.add_metric(name="requests", unit=MetricUnit.Count, value=1)
    metrics.add_metric(name="requests_refused", unit=MetricUnit.Count, value=int(400 <= status < 500))
    metrics.add_metric(name="requests_failed", unit=MetricUnit.Count, value=int(status >= 500))
    if handled.alarm:
        metrics.add_metric(name="request_failed_alarm", unit=MetricUnit.Count, value=1)
    if status >= 500:
        logger.error("request_failed", code=handled.code, reason=handled.reason)
    logger.info("request_answered", status=status, code=handled.code)
