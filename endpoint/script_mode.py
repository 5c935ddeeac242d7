"""The container's answers inside AWS's own XGBoost container (script mode): no image has to be built to start.

AWS's serving toolkit calls `model_fn` once per worker, then `input_fn`, `predict_fn` and `output_fn` for every request.
They are the server's own steps, so both give the same bytes. Needs version 3.0-5 of the container (Python 3.10, XGBoost
3.0); `endpoint.script_package` packs this module and what it imports into `model.tar.gz`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from sagemaker_inference.errors import BaseInferenceToolkitError
from sagemaker_inference.transformer import Transformer
from sagemaker_inference.utils import retrieve_content_type_header

from endpoint import answering
from endpoint.answering import CUSTOM_ATTRIBUTES
from endpoint.media_types import JSON, attributes_of
from endpoint.messages import ScoringRequest, ScoringResponse
from endpoint.predictor import Predictor
from endpoint.refusals import BadRequest, Refusal

# The header as the toolkit's front end hands it on.
_HEADER_NAMES: Final = (CUSTOM_ATTRIBUTES, "X-Amzn-SageMaker-Custom-Attributes")


class ToolkitRefusal(BaseInferenceToolkitError):  # type: ignore[misc]  # the toolkit publishes no types
    """A refusal in the one form that the toolkit turns into an HTTP status."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.body().decode(), refusal.code)


def model_fn(model_dir: str) -> Predictor:
    """Load the artefact unpacked in `model_dir`.

    Raises:
        ContractMismatch: as `Predictor.load`; the worker ends, and the endpoint fails with the reason in its log.
    """
    _answer_errors_without_their_trace()
    return Predictor.load(Path(model_dir))


def input_fn(body: bytes | bytearray | str, content_type: str | None, context: Any = None) -> ScoringRequest:
    """The rows of a request. `context` comes from toolkits that have one (1.6 and newer). Raises ToolkitRefusal."""
    content_type = content_type or ""
    raw = body.encode() if isinstance(body, str) else bytes(body)  # the toolkit decodes JSON and CSV itself
    try:
        return answering.request_in(
            answering.type_sent(content_type), raw, attributes_of(content_type, _custom_attributes(context))
        )
    except Refusal as refusal:
        raise ToolkitRefusal(refusal) from refusal


def predict_fn(request: ScoringRequest, predictor: Predictor) -> tuple[str, ScoringResponse]:
    """The model's version and the predictions. Raises ToolkitRefusal."""
    try:
        return predictor.manifest.model_version, answering.predict(predictor, request)
    except Refusal as refusal:
        raise ToolkitRefusal(refusal) from refusal


def output_fn(prediction: tuple[str, ScoringResponse], accept: str | None, context: Any = None) -> tuple[bytes, str]:
    """The answer's bytes and their media type. Raises ToolkitRefusal."""
    model_version, response = prediction
    try:
        media_type = answering.type_wanted(accept or "")
    except Refusal as refusal:
        raise ToolkitRefusal(refusal) from refusal
    if context is not None:
        context.set_response_header(0, _HEADER_NAMES[1], answering.attributes_out(model_version))
    return answering.content_of(media_type, response), media_type


def _custom_attributes(context: Any) -> str:
    if context is None:
        return ""
    return next((value for name in _HEADER_NAMES if (value := context.get_request_header(0, name))), "")


def _answer_errors_without_their_trace() -> None:
    """The toolkit ends every error's body with its stack trace; callers of ours get the refusal alone."""
    Transformer.handle_error = staticmethod(_handle_error)


def _handle_error(context: Any, error: Any, trace: str) -> list[str]:
    """What the toolkit does with a failed request, in the server's words. Called while the failure is being handled."""
    cause = sys.exc_info()[1]
    if not isinstance(cause, ToolkitRefusal):
        # The toolkit itself failed. It decodes JSON and CSV before `input_fn` sees them: that failure is the caller's.
        undecodable = isinstance(cause, UnicodeDecodeError)
        error = ToolkitRefusal(_not_utf8(context, cause) if undecodable else answering.internal_failure())
    context.set_response_status(code=error.status_code, phrase=error.phrase)
    context.set_response_content_type(0, JSON)
    return [error.message]


def _not_utf8(context: Any, cause: Any) -> Refusal:
    sent = retrieve_content_type_header(context.get_all_request_header(0))
    return BadRequest("bad_json" if sent == JSON else "bad_csv", f"not UTF-8: {cause}")
