"""The Lambda Runtime API (2018-06-01) of one execution environment, on a loopback port of its own."""

from __future__ import annotations

import json
import queue
import threading
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

HOST: Final = "127.0.0.1"
_MAX_RESPONSE_BYTES: Final = 6 * 1024 * 1024 + 100


class InitFailed(Exception):
    """The function could not be loaded; `payload` is what its runtime reported (JSON)."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("Runtime init error")
        self.payload = payload


class Work(NamedTuple):
    """An invocation to hand out."""

    headers: list[tuple[str, str]]
    body: bytes


class Answer(NamedTuple):
    """What became of an invocation; an error's payload is Lambda's error object."""

    is_error: bool
    payload: bytes


def error_payload(error_type: str, message: str) -> bytes:
    """Lambda's error object as JSON."""
    return json.dumps({"errorType": error_type, "errorMessage": message}).encode()


class RuntimeApi(ThreadingHTTPServer):
    """Serves from its construction until `end`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Handler)
        self.ready: Future[None] = Future()  # set when the runtime asks for its first invocation
        self.work: queue.Queue[Work | None] = queue.Queue()
        self.pending: dict[str, Future[Answer]] = {}
        self._lock = threading.Lock()
        name = f"lambda-runtime-api-{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True, name=name).start()

    def put(self, request_id: str, work: Work) -> Future[Answer]:
        """Hand `work` to the runtime; the future holds its answer."""
        answer: Future[Answer] = Future()
        self.pending[request_id] = answer
        self.work.put(work)
        return answer

    def end(self) -> None:
        """Close the port and let a waiting runtime go."""
        self.work.put(None)
        self.shutdown()
        self.server_close()

    def runtime_is_ready(self) -> None:
        with self._lock:
            if not self.ready.done():
                self.ready.set_result(None)

    def init_failed(self, payload: bytes) -> None:
        with self._lock:
            if not self.ready.done():
                self.ready.set_exception(InitFailed(payload))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer leaves as one segment
    server: RuntimeApi

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the function's own log is what matters."""

    def do_GET(self) -> None:
        if not self.path.endswith("/invocation/next"):
            self._answer(404)
            return
        self.server.runtime_is_ready()
        work = self.server.work.get()
        if work is None:
            self.close_connection = True
            return
        self._answer(200, work.body, [("Content-Type", "application/json"), *work.headers])

    def do_POST(self) -> None:
        body = self._body()
        match self.path.strip("/").split("/")[2:]:  # without 2018-06-01/runtime
            case ["init", "error"]:
                self.server.init_failed(body)
            case ["invocation", request_id, "response" | "error" as how]:
                waiting = self.server.pending.pop(request_id, None)
                if waiting is None:
                    self._answer(400, b"{}")
                    return
                waiting.set_result(_answer_of(how, body))
            case _:
                self._answer(404)
                return
        self._answer(202, b'{"status":"OK"}')

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while length := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        for name, value in headers or []:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _answer_of(how: str, body: bytes) -> Answer:
    if how == "response" and len(body) > _MAX_RESPONSE_BYTES:
        message = f"Response payload size exceeded maximum allowed payload size ({_MAX_RESPONSE_BYTES} bytes)."
        return Answer(True, error_payload("Function.ResponseSizeTooLarge", message))
    return Answer(how == "error", body)
