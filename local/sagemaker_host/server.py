"""HTTP in front of the control plane (AWS JSON 1.1) and the runtime (REST): what boto3 sends to SageMaker."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local.sagemaker_host.capture import DataCapture, Exchange
from local.sagemaker_host.control_plane import ControlPlane
from local.sagemaker_host.errors import AwsError
from local.sagemaker_host.fleet import Fleet
from local.sagemaker_host.http_client import HttpResponse

MAX_INVOCATION_BYTES: Final = 6 * 1024 * 1024
_JSON_1_1: Final = "application/x-amz-json-1.1"
_TARGET_PREFIX: Final = "SageMaker."
_CUSTOM_ATTRIBUTES: Final = "x-amzn-sagemaker-custom-attributes"
_INFERENCE_ID: Final = "x-amzn-sagemaker-inference-id"
# What SageMaker hands on to the container, beside the body.
_FORWARDED: Final = ("content-type", "accept", _CUSTOM_ATTRIBUTES, _INFERENCE_ID)


def create_app(control_plane: ControlPlane, fleet: Fleet, capture: DataCapture) -> Starlette:
    """The ASGI application; its lifespan brings saved endpoints up and stops every process at the end."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        capture.start()
        fleet.resume()
        yield
        await fleet.close()
        await capture.close()  # after the last answer

    async def control(request: Request) -> Response:
        try:
            target = request.headers.get("x-amz-target", "")
            if not target.startswith(_TARGET_PREFIX):
                raise AwsError("UnknownOperationException", f"not an operation of SageMaker: {target!r}")
            answer = control_plane.call(target.removeprefix(_TARGET_PREFIX), _json_object(await request.body()))
        except AwsError as error:
            return _answer(error.status, {"__type": error.code, "message": error.message}, _JSON_1_1)
        return _answer(200, answer, _JSON_1_1)

    async def invocations(request: Request) -> Response:
        headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        endpoint_name: str = request.path_params["endpoint_name"]
        try:
            body = await _invocation_body(request)
            asked = fleet.capture_of(endpoint_name)  # before the answer: an update may switch in between
            variant, answer = await fleet.invoke(
                endpoint_name, request.headers.get("x-amzn-sagemaker-target-variant"), headers, body
            )
            if not 200 <= answer.status < 300:
                raise _model_error(answer, variant)
        except AwsError as error:
            named = {"x-amzn-errortype": error.code}
            return _answer(error.status, {"Message": error.message, **error.extra}, "application/json", named)
        capture.observe(asked, _exchange(endpoint_name, variant, headers, body, answer))
        returned = {"x-amzn-invoked-production-variant": variant, "x-amzn-requestid": str(uuid.uuid4())}
        if _CUSTOM_ATTRIBUTES in answer.headers:
            returned[_CUSTOM_ATTRIBUTES] = answer.headers[_CUSTOM_ATTRIBUTES]
        if "content-type" in answer.headers:
            returned["content-type"] = answer.headers["content-type"]
        return Response(answer.body, headers=returned)

    async def health(request: Request) -> Response:
        return _answer(200, {"status": "running"}, "application/json")

    return Starlette(
        routes=[
            Route("/", control, methods=["POST"]),
            Route("/endpoints/{endpoint_name}/invocations", invocations, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
        ],
        lifespan=lifespan,
    )


def _exchange(endpoint_name: str, variant: str, headers: dict[str, str], body: bytes, answer: HttpResponse) -> Exchange:
    return Exchange(
        endpoint_name=endpoint_name,
        variant_name=variant,
        input_type=headers.get("content-type", ""),
        input_body=body,
        output_type=answer.headers.get("content-type", ""),
        output_body=answer.body,
        inference_id=headers.get(_INFERENCE_ID),
        custom_attributes=headers.get(_CUSTOM_ATTRIBUTES),
    )


async def _invocation_body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_INVOCATION_BYTES:
            raise AwsError("ValidationError", f"the body exceeds {MAX_INVOCATION_BYTES} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body or b"{}")
    except ValueError as error:
        raise AwsError("SerializationException", "the body is not JSON") from error
    if not isinstance(parsed, dict):
        raise AwsError("SerializationException", "the body is not a JSON object")
    return parsed


def _model_error(answer: HttpResponse, variant: str) -> AwsError:
    said = answer.body.decode(errors="replace")
    side = "client" if answer.status < 500 else "server"
    return AwsError(
        "ModelError",
        f'Received {side} error ({answer.status}) from variant {variant} with message "{said}".',
        status=424,
        extra={"OriginalStatusCode": answer.status, "OriginalMessage": said},
    )


def _answer(status: int, content: dict[str, Any], media_type: str, headers: dict[str, str] | None = None) -> Response:
    sent = {"x-amzn-requestid": str(uuid.uuid4()), **(headers or {})}
    return Response(json.dumps(content), status_code=status, media_type=media_type, headers=sent)
