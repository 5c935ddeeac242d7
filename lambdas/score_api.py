"""Lambda function: the score API behind API Gateway, `POST /score` and `GET /decisions/{transaction_id}`."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.batch import BatchOutcome
from lambdas.observability import NAMESPACE, REQUESTS_TOLD, report, report_request
from lambdas.score_requests import Answer, ScoreApi, internal_error
from lambdas.settings import ScoreApiSettings
from lambdas.wiring import wire_api

logger = Logger()
metrics = Metrics(namespace=NAMESPACE)


@cache
def service() -> ScoreApi:
    return wire_api(ScoreApiSettings.from_env(os.environ), tell)


def tell(outcome: BatchOutcome) -> None:
    report(outcome, logger, metrics, REQUESTS_TOLD)


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Answer:
    try:
        handled = service().handle(event, remaining_ms=context.get_remaining_time_in_millis())
    except Exception:  # an error in our own code or settings: the caller gets an answer, the log the stack trace
        logger.exception("request_failed")
        handled = internal_error()
    report_request(handled, logger, metrics)
    return handled.answer
