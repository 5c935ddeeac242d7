"""Lambda function: decided and label events from Kinesis into merchants' states."""

from __future__ import annotations

import os
from functools import cache

from aws_lambda_powertools import Logger, Metrics

from lambdas.entities import EntityUpdateService
from lambdas.handling import batch_handler
from lambdas.observability import ENTITIES_TOLD, NAMESPACE
from lambdas.settings import EntitySettings
from lambdas.wiring import wire_entities

logger = Logger()
metrics = Metrics(namespace=NAMESPACE)


@cache
def service() -> EntityUpdateService:
    return wire_entities(EntitySettings.from_env(os.environ))


lambda_handler = batch_handler(lambda: service().apply_batch, ENTITIES_TOLD, logger, metrics)
