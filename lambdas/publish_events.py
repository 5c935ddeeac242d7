"""Lambda function: decisions from their stream to events on an EventBridge bus."""

from __future__ import annotations

import os
from functools import cache

from aws_lambda_powertools import Logger, Metrics

from lambdas.decision_events import DecisionEventService
from lambdas.handling import batch_handler
from lambdas.observability import EVENTS_TOLD, NAMESPACE
from lambdas.settings import EventSettings
from lambdas.wiring import wire_events

logger = Logger()
metrics = Metrics(namespace=NAMESPACE)


@cache
def service() -> DecisionEventService:
    return wire_events(EventSettings.from_env(os.environ))


lambda_handler = batch_handler(lambda: service().publish_batch, EVENTS_TOLD, logger, metrics)
