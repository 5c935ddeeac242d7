"""The function that the pipeline is compared with, and what the mapping runner counts for it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import no_op_function
from benchmarks.no_op import mapping_counts
from console.running import Pipeline


def test_the_no_op_puts_one_marker_per_record_and_reports_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(no_op_function, "kinesis", lambda: SimpleNamespace(put_records=lambda **r: calls.append(r)))
    monkeypatch.setenv("RESULT_STREAM", "results")
    records = [{"eventID": f"shard-0:{n}", "kinesis": {"partitionKey": f"card-{n}"}} for n in range(3)]
    assert no_op_function.lambda_handler({"Records": records}, None) == {"batchItemFailures": []}
    [call] = calls
    assert call["StreamName"] == "results"
    assert [(r["Data"], r["PartitionKey"]) for r in call["Records"]] == [
        (f"shard-0:{n}".encode(), f"card-{n}") for n in range(3)
    ]


def test_counts_add_up_the_shards_of_the_stream_and_of_no_other(tmp_path: Path) -> None:
    def mapping(stream: str, *shards: tuple[int, int, int, int]) -> dict[str, Any]:
        names = ("delivered", "calls", "failed_calls", "undelivered_calls")
        return {
            "stream": stream,
            "shards": {str(place): dict(zip(names, s, strict=True)) for place, s in enumerate(shards)},
        }

    status = {"mappings": {"u1": mapping("mine", (5, 2, 1, 0), (7, 3, 0, 1)), "u2": mapping("other", (9, 9, 9, 9))}}
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "status.json").write_text(json.dumps(status))
    counts = mapping_counts(cast(Pipeline, SimpleNamespace(state_dir=tmp_path)), "mine")
    assert (counts.shards, counts.delivered, counts.calls, counts.failed_calls) == (2, 12, 5, 2)
