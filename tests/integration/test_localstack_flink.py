"""The Flink engine beside hosted LocalStack: its streams and tables, its own mapping for score_features, our job."""

from __future__ import annotations

import time
from typing import Any

import pytest

from console.deployment.build import SAM
from local.flink import install
from local.localstack.host import missing
from producers.publisher import TransactionPublisher
from producers.simulator import simulate
from stream_features.feature_sets import CORE
from stream_features.history import observe_history
from tests.e2e.driver import Installation, stored_decisions
from tests.e2e.judge import assert_sets_hold, features_of_the_card, row_mismatches

if lacks := missing() or install.missing() or (None if SAM.exists() else "no .venv-sam: make setup"):
    pytest.skip(lacks, allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TRANSACTIONS = 200
DECIDED_WITHIN_S = 120.0


def test_transactions_are_decided_once_with_the_kernels_features(tmp_path_factory: pytest.TempPathFactory) -> None:
    installed = Installation(tmp_path_factory.mktemp("localstack-flink") / "state", {})
    valid = [
        row.transaction for row in simulate(TRANSACTIONS, seed=17, end_ms=int(time.time() * 1_000) - 1_000, days=3)
    ]
    try:
        installed.run("up", "--target", "localstack", "--engine", "flink", timeout_s=500)
        kinesis, stream = installed.pipeline().client("kinesis"), installed.pipeline().output("TransactionsStreamName")
        with TransactionPublisher(kinesis, stream) as publisher:
            for transaction in (*valid, *valid[:5]):
                publisher.publish(transaction)
        status = decided(installed, TRANSACTIONS + 5)
        pipeline = installed.pipeline()
        decisions = stored_decisions(pipeline)
        assert_sets_hold(pipeline, status, decisions, valid, duplicates=5)
        assert {decision.engine for decision in decisions.values()} == {"flink"}
        assert status["flink"]["state"] == "RUNNING"
        of_cards = features_of_the_card("core")
        columns = [CORE.names.index(name) for name in of_cards]
        rows = [[seen.values[column] for column in columns] for _, seen in observe_history(valid, CORE)]
        ids = [transaction.transaction_id for transaction in valid]
        assert row_mismatches(ids, rows, decisions, of_cards) == []
    finally:
        installed.run("down")


def decided(installed: Installation, published: int) -> dict[str, Any]:
    ends_at = time.monotonic() + DECIDED_WITHIN_S
    while True:
        status = installed.status()
        if status["published"] >= published and status["in_flight"] == 0:
            return status
        assert time.monotonic() < ends_at, status
        time.sleep(0.5)
