"""Lambda function: transactions with their features, from the Flink job to stored and published decisions."""

from __future__ import annotations

import os
from functools import cache

from aws_lambda_powertools import Logger, Metrics

from lambdas.handling import batch_handler
from lambdas.observability import FEATURES_TOLD, NAMESPACE
from lambdas.scoring import ScoringService
from lambdas.settings import FeaturesSettings
from lambdas.wiring import wire_features

logger = Logger()
metrics = Metrics(namespace=NAMESPACE)


@cache
def service() -> ScoringService:
    return wire_features(FeaturesSettings.from_env(os.environ))


lambda_handler = batch_handler(lambda: service().score_batch, FEATURES_TOLD, logger, metrics)
