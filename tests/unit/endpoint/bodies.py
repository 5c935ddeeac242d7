"""The same rows in every media type, and an application to send them to without a socket."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence

import httpx
import numpy as np
from numpy.typing import NDArray

from endpoint.predictor import Predictor
from endpoint.server import create_app
from model.artifact import Artifact
from tests.unit.endpoint.models import CORE

JSON, JSON_LINES, CSV, NPY = "application/json", "application/jsonlines", "text/csv", "application/x-npy"
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


def as_lists(rows: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in rows]


def as_json(values: NDArray[np.float64], **changed: object) -> bytes:
    named = {"feature_set_id": CORE.feature_set_id, "columns": CORE.names, "definitions": CORE.definitions}
    return json.dumps({**named, "rows": as_lists(values)} | changed).encode()


def as_json_lines(rows: NDArray[np.float64], *, named: bool = False) -> bytes:
    lines = as_lists(rows)
    said = [dict(zip(CORE.names, line, strict=True)) for line in lines] if named else lines
    return "\n".join(json.dumps(line) for line in said).encode()


def as_csv(rows: NDArray[np.float64]) -> bytes:
    return "\n".join(",".join("" if value is None else repr(value) for value in row) for row in as_lists(rows)).encode()


def as_npy(array: NDArray[np.generic]) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


class Application:
    """The server's ASGI application with a loaded model, asked in this process."""

    def __init__(self, artifact: Artifact) -> None:
        self.predictor = Predictor(artifact)

    def ask(self, requests: Sequence[tuple[dict[str, str], bytes]]) -> list[httpx.Response]:
        """One answer per (headers, body), in order."""

        async def scenario() -> list[httpx.Response]:
            app = create_app(lambda: self.predictor, on_refusal=lambda: None)
            transport = httpx.ASGITransport(app=app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://container") as http,
            ):
                while (await http.get("/ping")).status_code != 200:
                    await asyncio.sleep(0)
                return [await http.post("/invocations", headers=headers, content=body) for headers, body in requests]

        return asyncio.run(scenario())

    def post(self, headers: dict[str, str], body: bytes) -> httpx.Response:
        return self.ask([(headers, body)])[0]
