"""Lambda function: transactions from Kinesis to stored and published decisions."""

from __future__ import annotations

import os
from functools import cache

from aws_lambda_powertools import Logger, Metrics

from lambdas.handling import batch_handler
from lambdas.observability import NAMESPACE, TRANSACTIONS_TOLD
from lambdas.scoring import ScoringService
from lambdas.settings import ScoringSettings
from lambdas.wiring import wire

logger = Logger()
metrics = Metrics(namespace=NAMESPACE)


@cache
def service() -> ScoringService:
    return wire(ScoringSettings.from_env(os.environ))


lambda_handler = batch_handler(lambda: service().score_batch, TRANSACTIONS_TOLD, logger, metrics)
