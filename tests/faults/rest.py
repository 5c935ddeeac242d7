"""Waiting for rest by what has come of the records, without asking anybody how far the functions are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from console.running import Pipeline
from console.status import read_status
from tests.faults.truth import TruthReader, count_problems

STALLED_AFTER_S: Final = 90.0


def wait_until_true(lacks: Callable[[], object], *, stalled_after_s: float = STALLED_AFTER_S) -> None:
    """Return once `lacks` answers something empty; fails when its answer stays the same for too long."""
    last, moved_s = None, time.monotonic()
    while now := lacks():
        if now != last:
            last, moved_s = now, time.monotonic()
        assert time.monotonic() - moved_s < stalled_after_s, f"nothing moves any more: {now}"
        time.sleep(0.1)


def wait_for_outcomes(pipeline: Pipeline, reader: TruthReader) -> None:
    """Every record of the stream has its outcome, and every purchase has reached its merchant."""

    def lacks() -> list[str]:
        truth = reader.advance()
        problems = count_problems(truth, asdict(read_status(pipeline.run)))
        purchases = sum(one.type == "purchase" for one in truth.valid)
        if (told := purchases_told(pipeline)) != purchases:
            problems.append(f"{told} of {purchases} purchases have reached their merchants")
        return problems

    wait_until_true(lacks)


def purchases_told(pipeline: Pipeline) -> int:
    """How many purchases are in their merchants' states."""
    pages = (
        pipeline.client("dynamodb")
        .get_paginator("scan")
        .paginate(
            TableName=pipeline.output("EffectsTableName"),
            ConsistentRead=True,
            FilterExpression="begins_with(effect, :merchant)",
            ExpressionAttributeValues={":merchant": {"S": "merchant#"}},
            ProjectionExpression="effect",
        )
    )
    return sum(item["effect"]["S"].endswith("#decided") for page in pages for item in page["Items"])
