"""The container's HTTP contract, on the real process."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import msgspec
import numpy as np
import pytest

from endpoint.messages import ScoringResponse
from endpoint.predictor import Predictor
from endpoint.server import MAX_BODY_BYTES, create_app
from tests.unit.endpoint.bodies import as_json
from tests.unit.endpoint.models import CORE, a_booster, an_artifact, some_rows, with_manifest
from tests.unit.endpoint.serving import RunningServer, running_server, unpack

JSON = {"content-type": "application/json"}
ROWS = some_rows(5)
SCORES = a_booster().inplace_predict(ROWS.astype(np.float32), validate_features=False).tolist()


def a_request(rows: np.ndarray = ROWS, **changed: object) -> bytes:
    return as_json(rows, **({"explain_from": 0.0} | changed))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(unpack(an_artifact(), tmp_path_factory.mktemp("model"))) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


def test_json_rows_get_the_models_own_scores_and_reasons(client):
    answered = client.post("/invocations", content=a_request(), headers=JSON)
    assert answered.status_code == 200
    response = msgspec.json.decode(answered.content, type=ScoringResponse)
    assert response.model_version == an_artifact().manifest.model_version
    assert [prediction.score for prediction in response.predictions] == SCORES
    assert all(len(prediction.reasons) == len(CORE.names) for prediction in response.predictions)


def test_a_batch_too_large_to_be_served_inline_gets_the_same_answer(client):
    many = np.tile(ROWS, (100, 1))
    answered = client.post("/invocations", content=a_request(many, explain_from=None), headers=JSON)
    response = msgspec.json.decode(answered.content, type=ScoringResponse)
    assert [prediction.score for prediction in response.predictions] == SCORES * 100


@pytest.mark.parametrize("media_type", ["text/csv", "application/jsonlines", "application/x-npy"])
def test_the_formats_without_a_schema_get_the_same_scores(client, media_type):
    npy = io.BytesIO()
    np.save(npy, ROWS)
    body = {
        "text/csv": "\n".join(",".join("" if np.isnan(value) else repr(float(value)) for value in row) for row in ROWS),
        "application/jsonlines": "\n".join(json.dumps(row) for row in json.loads(a_request())["rows"]),
        "application/x-npy": npy.getvalue(),
    }[media_type]
    attributes = {"x-amzn-sagemaker-custom-attributes": f"feature_set_id={CORE.feature_set_id}"}
    answered = client.post("/invocations", content=body, headers={"content-type": media_type, **attributes})
    assert [prediction["score"] for prediction in answered.json()["predictions"]] == SCORES


def test_csv_is_answered_with_one_score_a_line_and_the_version_in_the_attributes(client):
    answered = client.post("/invocations", content=a_request(), headers={**JSON, "accept": "text/csv"})
    assert [float(line) for line in answered.text.splitlines()] == SCORES
    version = an_artifact().manifest.model_version
    assert answered.headers["x-amzn-sagemaker-custom-attributes"] == f"model_version={version}"


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"content-type": "application/xml"}, b"<a/>", 415, "unsupported_media_type"),
        ({}, b"{}", 415, "unsupported_media_type"),
        ({**JSON, "accept": "image/png"}, b"{}", 406, "not_acceptable"),
        (JSON, b"", 400, "empty_body"),
        (JSON, b"{", 400, "bad_json"),
        (JSON, a_request(definitions=["0" * 16, *CORE.definitions[1:]]), 400, "contract_mismatch"),
        (JSON, a_request(columns=["x", *CORE.names[1:]]), 400, "contract_mismatch"),
    ],
)
def test_mistakes_of_the_caller_are_answered_with_a_code_and_a_sentence(client, headers, body, status, code):
    answered = client.post("/invocations", content=body, headers=headers)
    assert answered.status_code == status
    error = answered.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert "Traceback" not in answered.text


def test_a_bad_row_is_named(client):
    body = json.loads(a_request())
    body["rows"][3].pop()
    answered = client.post("/invocations", json=body)
    assert (answered.status_code, answered.json()["error"]["row"]) == (400, 3)


def test_a_missing_column_is_named(client):
    answered = client.post("/invocations", content=a_request(columns=["x", *CORE.names[1:]]), headers=JSON)
    assert CORE.names[0] in answered.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_answered_413_and_the_server_goes_on(client, chunked):
    body = b" " * (MAX_BODY_BYTES + 1)
    content = iter([body[:1000], body[1000:]]) if chunked else body
    answered = client.post("/invocations", content=content, headers=JSON)
    assert answered.status_code == 413
    assert client.post("/invocations", content=a_request(), headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/invocations", 405), ("POST", "/ping", 405), ("GET", "/elsewhere", 404), ("GET", "/", 404)],
)
def test_other_paths_and_methods_are_refused_in_json(client, method, path, status):
    answered = client.request(method, path)
    assert (answered.status_code, answered.json()["error"]["code"]) == (status, "no_such_route")
    assert status != 405 or answered.headers["allow"]


def test_the_description_is_served(client):
    answered = client.get("/openapi.json")
    assert answered.headers["content-type"] == "application/json"
    assert "/invocations" in answered.json()["paths"]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_400_and_the_server_goes_on(server, client, head):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"Traceback" not in answer
    assert client.get("/ping").status_code == 200


def test_a_caller_that_goes_away_in_the_middle_harms_nobody(server, client):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: text/csv\r\ncontent-length: 99\r\n\r\n1,"
        )
    assert client.post("/invocations", content=a_request(), headers=JSON).status_code == 200


def test_ping_answers_503_until_the_model_is_loaded():
    may_load = threading.Event()

    def load() -> Predictor:
        may_load.wait()
        return Predictor(an_artifact())

    async def scenario() -> list[int]:
        app = create_app(load, on_refusal=lambda: None)
        statuses = []
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            try:
                statuses.append((await http.get("/ping")).status_code)
                early = await http.post("/invocations", content=a_request(), headers=JSON)
                assert early.json()["error"]["code"] == "loading"
                assert early.headers["retry-after"] == "1"
                statuses.append(early.status_code)
            finally:
                may_load.set()
            while (await http.get("/ping")).status_code != 200:
                await asyncio.sleep(0.01)
            statuses.append((await http.post("/invocations", content=a_request(), headers=JSON)).status_code)
        return statuses

    assert asyncio.run(scenario()) == [503, 503, 200]


def test_an_unexpected_failure_is_a_500_without_a_stack_trace_which_the_log_has(capfd):
    class Broken(Predictor):
        def predict(self, request: object) -> ScoringResponse:
            raise ZeroDivisionError("a secret of the implementation")

    async def scenario() -> httpx.Response:
        app = create_app(lambda: Broken(an_artifact()), on_refusal=lambda: None)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            while (await http.get("/ping")).status_code != 200:
                await asyncio.sleep(0.01)
            return await http.post("/invocations", content=a_request(), headers=JSON)

    answered = asyncio.run(scenario())
    assert answered.status_code == 500
    assert "secret" not in answered.text
    assert "a secret of the implementation" in capfd.readouterr().err


def ends_by_itself(running: RunningServer, cause: Callable[[], None]) -> int:
    cause()
    return running.process.wait(timeout=30)


def test_a_model_that_does_not_fit_this_code_ends_the_server_with_the_reason_last(tmp_path):
    changed = with_manifest(an_artifact().booster_ubj, definitions=("0" * 16, *CORE.definitions[1:]))
    with running_server(unpack(changed, tmp_path)) as running:
        assert ends_by_itself(running, lambda: None) == 1
        assert running.process.stderr is not None
        last = json.loads(running.process.stderr.read().decode().splitlines()[-1])
    assert last["event"] == "model_refused"
    assert CORE.names[0] in last["reason"]


def test_an_empty_model_folder_ends_the_server(tmp_path):
    with running_server(tmp_path) as running:
        assert ends_by_itself(running, lambda: None) == 1


def test_sigterm_lets_the_request_under_way_finish(tmp_path):
    body = a_request(np.tile(ROWS, (40, 1)))  # explained rows: long enough to be under way when the signal comes
    fields = ["host: x", "content-type: application/json", f"content-length: {len(body)}"]
    head = "\r\n".join(["POST /invocations HTTP/1.1", *fields, "", ""])
    with running_server(unpack(an_artifact(), tmp_path)) as running:
        running.wait_until_ready()
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            # The last byte is held back until the signal was sent: the request has surely begun and surely not ended.
            connection.sendall(head.encode() + body[:-1])
            while not _has_received_a_request(running):
                pass
            running.process.send_signal(signal.SIGTERM)
            _until_refused(host, int(port))  # new callers are turned away while this one is still being served
            connection.sendall(body[-1:])
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert running.process.wait(timeout=30) in (0, -signal.SIGTERM)


def _until_refused(host: str, port: int) -> None:
    deadline = time.monotonic() + 15  # below the grace that requests under way get
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except ConnectionError:  # refused; reset, where the socket was closed during the handshake
            return
    pytest.fail("the server still takes new connections")


def _has_received_a_request(running: RunningServer) -> bool:
    """A second connection that is answered shows that the server's loop has taken in the first one's bytes."""
    return httpx.get(f"{running.url}/ping", timeout=30).status_code == 200


def test_a_server_tied_to_its_parent_ends_when_standard_input_closes(tmp_path):
    with running_server(unpack(an_artifact(), tmp_path), "--until-stdin-closes") as running:
        running.wait_until_ready()
        assert running.process.stdin is not None
        assert ends_by_itself(running, running.process.stdin.close) == 0
