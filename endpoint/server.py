"""The inference container: `GET /ping`, `POST /invocations` (the SageMaker serving contract), `GET /openapi.json`.

    python -m endpoint.server --model-dir /opt/ml/model --port 8080

`/ping` answers 503 until the model is loaded and checked, then 200. A model that does not fit its manifest or this
code's feature definitions ends the process with exit code 1 and the reason as the last line on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from endpoint import answering, openapi
from endpoint.answering import CUSTOM_ATTRIBUTES, log
from endpoint.media_types import JSON
from endpoint.refusals import Refusal
from stream_features.errors import ContractMismatch

if TYPE_CHECKING:
    from endpoint.predictor import Predictor

MAX_BODY_BYTES: Final = 6 * 1024 * 1024  # SageMaker's limit for a real-time invocation
# Above this a request may take milliseconds, and `/ping` and small requests must not wait for it.
INLINE_BODY_BYTES: Final = 16 * 1024
# Callers that pool connections give them up before this, so that none is closed under a request.
KEEP_ALIVE_S: Final = 75
SHUTDOWN_GRACE_S: Final = 20


@dataclass(slots=True)
class Serving:
    """What the routes share: the predictor once it is loaded, or why it could not be."""

    predictor: Predictor | None = None
    refusal: str | None = None


def create_app(load: Callable[[], Predictor], on_refusal: Callable[[], None]) -> Starlette:
    """The ASGI application.

    Args:
        load: builds the predictor; runs in a thread while `/ping` already answers 503.
        on_refusal: called when `load` raised, after the reason was logged; must end the server.
    """
    serving = Serving()

    def load_model() -> None:
        try:
            serving.predictor = load()
        except Exception as error:  # whatever it was: a server that cannot load must end, not answer 503 for ever
            serving.refusal = str(error)
            if not isinstance(error, ContractMismatch):
                log("loading_failed", trace=traceback.format_exc())
            log("model_refused", reason=serving.refusal)
            on_refusal()
        else:
            log("model_loaded", model_version=serving.predictor.manifest.model_version)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(load_model))
        yield
        await loading

    async def ping(request: Request) -> Response:
        return Response(status_code=200 if serving.predictor is not None else 503)

    async def invocations(request: Request) -> Response:
        predictor = serving.predictor
        try:
            if predictor is None:
                raise Refusal(503, "loading", "the model is not loaded yet")
            return await _invoke(predictor, request)
        except Refusal as refusal:
            return _refused(refusal)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception:
            return _refused(answering.internal_failure())

    async def description(request: Request) -> Response:
        return Response(openapi.document(), media_type=JSON)

    async def elsewhere(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        refusal = Refusal(error.status_code, "no_such_route", "only GET /ping and POST /invocations are served")
        return _refused(refusal, error.headers)

    routes = [
        Route("/ping", ping, methods=["GET"]),
        Route("/invocations", invocations, methods=["POST"]),
        Route("/openapi.json", description, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: elsewhere})
    app.state.serving = serving
    return app


async def _invoke(predictor: Predictor, request: Request) -> Response:
    headers = request.headers
    content_type = headers.get("content-type", "")
    media_type = answering.type_sent(content_type)
    answer_type = answering.type_wanted(headers.get("accept", ""))
    body = await _read_body(request)
    attributes = answering.attributes_sent(content_type, headers.get(CUSTOM_ATTRIBUTES, ""))

    def answer() -> bytes:
        rows = answering.request_in(media_type, body, attributes)
        return answering.content_of(answer_type, answering.predict(predictor, rows))

    content = answer() if len(body) <= INLINE_BODY_BYTES else await asyncio.to_thread(answer)
    said = {CUSTOM_ATTRIBUTES: answering.attributes_out(predictor.manifest.model_version)}
    return Response(content, media_type=answer_type, headers=said)


async def _read_body(request: Request) -> bytes:
    """The whole body. Raises Refusal (413) where it exceeds the limit (what was announced is not even read)."""
    too_large = Refusal(413, "too_large", f"a request may have at most {MAX_BODY_BYTES} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _refused(refusal: Refusal, headers: Mapping[str, str] | None = None) -> Response:
    said = dict(headers or {}) | ({"retry-after": "1"} if refusal.status == 503 else {})
    return Response(refusal.body(), status_code=refusal.status, media_type=JSON, headers=said)


def _stop_when_stdin_closes(server: uvicorn.Server) -> None:
    """Tie this process to its parent: the kernel closes the pipe however the parent ends."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        server.should_exit = True
        # A request that outlives the grace must not keep an orphan alive.
        timer = threading.Timer(SHUTDOWN_GRACE_S + 5, os._exit, args=(1,))
        timer.daemon = True
        timer.start()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def load_predictor(model_directory: Path) -> Predictor:
    """Import XGBoost and load the model: the slow part of a start, which `/ping` already answers.

    XGBoost imports scikit-learn wherever it finds it, two thirds of the whole start, for an interface that serving
    does not use. The image has none; where training shares the environment, this process does as if it had none.
    """
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]  # how Python spells "not importable"
    from endpoint.predictor import Predictor

    return Predictor.load(model_directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; requests under way are finished first."""
    options = _parser().parse_args(arguments)
    model_directory = Path(options.model_dir)

    def refuse() -> None:
        server.should_exit = True

    app = create_app(lambda: load_predictor(model_directory), refuse)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        )
    )
    if options.until_stdin_closes:
        _stop_when_stdin_closes(server)
    server.run(sockets=None if options.fd is None else [socket.socket(fileno=options.fd)])
    return 0 if server.started and app.state.serving.refusal is None else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m endpoint.server", description="Serve one model over HTTP.")
    parser.add_argument(
        "--model-dir", default=os.environ.get("SM_MODEL_DIR", "/opt/ml/model"), help="where the artefact is unpacked"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (a container says 0.0.0.0)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--fd", type=int, help="serve on this inherited listening socket instead of --host and --port")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="also stop when standard input ends, so that a parent takes it along",
    )
    # `serve` is what SageMaker passes to every container; there is nothing else this one does.
    parser.add_argument("command", nargs="?", choices=["serve"], help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
