"""What every function does around its service: event in, records to redeliver out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.batch import BatchOutcome
from lambdas.observability import Told, report
from lambdas.records import UserRecord, batch_item_failures, user_records

Answer = dict[str, list[dict[str, str]]]
Handler = Callable[[dict[str, Any], LambdaContext], Answer]


class WorkOn(Protocol):
    """A service's one method: works on the user records of one batch until `remaining_ms` are over."""

    def __call__(self, records: Sequence[UserRecord], *, remaining_ms: int) -> BatchOutcome: ...


def batch_handler(work: Callable[[], WorkOn], told: Told, logger: Logger, metrics: Metrics) -> Handler:
    """The handler of a Kinesis event source mapping with `ReportBatchItemFailures`.

    It returns the sequence numbers to redeliver; only an error in our own code raises, and then the whole batch comes
    again.

    Args:
        work: answers the service's method; called with every batch, so the service is built with the first one.
        told: what is reported.
        logger: writes the lines.
        metrics: takes the figures.
    """

    @logger.inject_lambda_context
    @metrics.log_metrics(capture_cold_start_metric=True)
    def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Answer:
        records = [user_record for record in event["Records"] for user_record in user_records(record)]
        outcome = work()(records, remaining_ms=context.get_remaining_time_in_millis())
        report(outcome, logger, metrics, told)
        return batch_item_failures(outcome.failed)

    decorated: Handler = lambda_handler  # Powertools' decorators forget the type
    return decorated
