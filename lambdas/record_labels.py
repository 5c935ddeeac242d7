"""Lambda function: labels from Kinesis into the labels table, and on to the merchants."""

from __future__ import annotations

import os
from functools import cache

from aws_lambda_powertools import Logger, Metrics

from lambdas.handling import batch_handler
from lambdas.labels import LabelService
from lambdas.observability import LABELS_TOLD, NAMESPACE
from lambdas.settings import LabelSettings
from lambdas.wiring import wire_labels

logger = Logger()
metrics = Metrics(namespace=NAMESPACE)


@cache
def service() -> LabelService:
    return wire_labels(LabelSettings.from_env(os.environ))


lambda_handler = batch_handler(lambda: service().record_batch, LABELS_TOLD, logger, metrics)
