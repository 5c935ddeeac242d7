"""How long a score takes: the predictor alone, the server over HTTP, and `invoke_endpoint` through the local SageMaker.

The model is as large as training's defaults make it (100 trees over the `core` columns). Explaining a row takes much
longer than scoring it, so every batch is measured without and with explained rows.

    python -m benchmarks.endpoint [--calls 400] [--json]
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from endpoint import formats
from endpoint.predictor import Predictor
from model.artifact import Artifact, pack_artifact
from model.boosting import fit
from model.parameters import complete
from tests.integration.embedded_aws import embedded_aws
from tests.integration.sagemaker_fixtures import Host
from tests.unit.endpoint.models import CORE, some_rows, with_manifest
from tests.unit.endpoint.serving import running_server, unpack

BATCHES = ((1, 0.0), (1, 1.0), (500, 0.0), (500, 0.01))  # (rows, share explained)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per call, one caller, on this machine."""

    way: str
    rows: int
    explained: int
    p50_ms: float
    p99_ms: float


def measure(calls: int = 400) -> list[Latency]:
    """Every way with every batch, `calls` times after a warm-up."""
    artifact = _an_artifact()
    predictor = Predictor(artifact)
    batches = [(rows, round(rows * share), _request(predictor, rows, share)) for rows, share in BATCHES]
    with tempfile.TemporaryDirectory(prefix="fraudstream-bench-") as folder:
        ways: list[tuple[str, Callable[[bytes], object]]] = [
            ("predictor, JSON to JSON", lambda body: _in_process(predictor, body))
        ]
        with _over_http(artifact, Path(folder)) as direct, _through_host(artifact, Path(folder)) as invoke:
            ways += [("server over HTTP", direct), ("invoke_endpoint through the local SageMaker", invoke)]
            return [
                _latency(way, rows, explained, partial(call, body), calls)
                for way, call in ways
                for rows, explained, body in batches
            ]


def _an_artifact() -> Artifact:
    rows = some_rows(20_000).astype(np.float32)
    known = np.nan_to_num(rows / np.nanstd(rows, axis=0))
    chance = 1 / (1 + np.exp(4 - 2 * known[:, 0] - known[:, 3] * known[:, 4]))
    labels = (np.random.default_rng(1).random(len(rows)) < chance).astype(np.uint8)
    return with_manifest(bytes(fit(rows, labels, CORE.names, complete({})).save_raw("ubj")))


def _request(predictor: Predictor, rows: int, share: float) -> bytes:
    """A request whose `explain_from` is met by `share` of its rows."""
    values = some_rows(rows, seed=5)
    body: dict[str, Any] = {
        "feature_set_id": CORE.feature_set_id,
        "columns": CORE.names,
        "definitions": CORE.definitions,
        "rows": [[None if np.isnan(value) else float(value) for value in row] for row in values],
    }
    request = formats.decode(formats.JSON, json.dumps(body).encode(), {})
    scores = sorted((prediction.score for prediction in predictor.predict(request).predictions), reverse=True)
    explained = round(rows * share)
    body["explain_from"] = scores[explained - 1] if explained else 1.1
    return json.dumps(body, separators=(",", ":")).encode()


def _in_process(predictor: Predictor, body: bytes) -> bytes:
    return formats.ENCODERS[formats.JSON](predictor.predict(formats.decode(formats.JSON, body, {})))


@contextmanager
def _over_http(artifact: Artifact, folder: Path) -> Iterator[Callable[[bytes], object]]:
    (folder / "model").mkdir()
    with running_server(unpack(artifact, folder / "model")) as server:
        server.wait_until_ready()
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)

        def call(body: bytes) -> bytes:
            connection.request("POST", "/invocations", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content
            return content

        yield call
        connection.close()


@contextmanager
def _through_host(artifact: Artifact, folder: Path) -> Iterator[Callable[[bytes], object]]:
    with embedded_aws(folder / "aws") as aws:
        s3 = aws.client("s3")
        s3.create_bucket(Bucket="artifacts")
        s3.put_object(Bucket="artifacts", Key="model.tar.gz", Body=pack_artifact(artifact))
        host = Host(folder, aws)
        with host.started():
            host.sagemaker.create_model(
                ModelName="bench", PrimaryContainer={"Image": "local", "ModelDataUrl": "s3://artifacts/model.tar.gz"}
            )
            variants = [{"VariantName": "primary", "ModelName": "bench"}]
            host.sagemaker.create_endpoint_config(EndpointConfigName="bench", ProductionVariants=variants)
            host.sagemaker.create_endpoint(EndpointName="bench", EndpointConfigName="bench")
            host.until_in_service("bench")

            def call(body: bytes) -> bytes:
                answer = host.runtime.invoke_endpoint(
                    EndpointName="bench", ContentType="application/json", Accept="application/json", Body=body
                )
                content: bytes = answer["Body"].read()
                return content

            yield call


def _latency(way: str, rows: int, explained: int, call: Callable[[], object], calls: int) -> Latency:
    for _ in range(max(5, calls // 10)):
        call()
    taken_ms = []
    for _ in range(calls):
        started_s = time.perf_counter()
        call()
        taken_ms.append((time.perf_counter() - started_s) * 1e3)
    quantiles = statistics.quantiles(taken_ms, n=100)
    return Latency(way, rows, explained, round(statistics.median(taken_ms), 2), round(quantiles[98], 2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoint", description=__doc__)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured = measure(options.calls)
    if options.json:
        print(json.dumps([asdict(one) for one in measured]))
        return
    for one in measured:
        print(
            f"{one.way:45} {one.rows:4} rows, {one.explained:2} explained: "
            f"p50 {one.p50_ms:6.2f} ms  p99 {one.p99_ms:6.2f} ms"
        )


if __name__ == "__main__":
    main()
