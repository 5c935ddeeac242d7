"""FRAUDSTREAM_FAULT_PROXY: whatever delivers, computes and decides goes through the proxy; everybody else does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.localstack.host import missing
from local.parts import run_spec
from local.run import RunRecord

AWS, SAGEMAKER, PROXY = "http://127.0.0.1:1001", "http://127.0.0.1:1002", "http://127.0.0.1:1003"


def record(engine: str, target: str = "embedded") -> RunRecord:
    return RunRecord(
        run_id="0" * 32,
        status="starting",
        target=target,
        engine=engine,
        feature_set="core",
        endpoint_url=AWS,
        sagemaker_url=SAGEMAKER,
        region="us-east-1",
        ports={"aws": 1001, "sagemaker": 1002, "flink": 1004},
        started_at_ms=0,
    )


@pytest.mark.parametrize("proxy", [PROXY, None])
def test_who_goes_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str | None) -> None:
    monkeypatch.delenv("FRAUDSTREAM_FAULT_PROXY", raising=False)
    if proxy:
        monkeypatch.setenv("FRAUDSTREAM_FAULT_PROXY", proxy)
    spec = run_spec(record("flink"), tmp_path, None, False)
    addresses = {
        part.name: (part.environment["AWS_ENDPOINT_URL"], part.environment["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"])
        for part in spec.parts
    }
    straight, through = (AWS, SAGEMAKER), (proxy or AWS, proxy or SAGEMAKER)
    assert {name: addresses[name] for name in ("aws", "mappings", "flink", "sagemaker", "firehose")} == {
        "aws": through,  # the functions inherit its environment
        "mappings": through,
        "flink": through,
        "sagemaker": straight,
        "firehose": straight,
    }
    assert spec.preparation.environment["AWS_ENDPOINT_URL"] == AWS


@pytest.mark.parametrize("proxy", [PROXY, None])
def test_functions_of_localstack_go_through_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str | None
) -> None:
    if lacks := missing():
        pytest.skip(lacks)
    monkeypatch.delenv("FRAUDSTREAM_FAULT_PROXY", raising=False)
    if proxy:
        monkeypatch.setenv("FRAUDSTREAM_FAULT_PROXY", proxy)
    spec = run_spec(record("lambda", "localstack"), tmp_path, None, False)
    aws = next(part for part in spec.parts if part.name == "aws")
    assert aws.environment["FUNCTIONS_ENDPOINT_URL"] == (proxy or AWS)
