"""One invocation without its transport: what came in, what goes out. The server and the script mode both use it."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from endpoint import formats
from endpoint.media_types import ANSWERED, READ, accepted, attributes_of, media_type_of
from endpoint.messages import ScoringRequest, ScoringResponse
from endpoint.refusals import Refusal
from stream_features.errors import ContractMismatch

if TYPE_CHECKING:
    from endpoint.predictor import Predictor

CUSTOM_ATTRIBUTES: Final = "x-amzn-sagemaker-custom-attributes"
MAX_CUSTOM_ATTRIBUTES: Final = 1024  # characters; SageMaker hands on no more


def log(event: str, **facts: object) -> None:
    """One JSON line on standard error; never a feature value, never a card."""
    print(json.dumps({"event": event, **facts}), file=sys.stderr, flush=True)


def type_sent(content_type: str) -> str:
    """The media type to read. Raises Refusal (415)."""
    media_type = media_type_of(content_type)
    if media_type is None:
        raise Refusal(415, "unsupported_media_type", f"send one of {', '.join(READ)}, in UTF-8")
    return media_type


def type_wanted(accept: str) -> str:
    """The media type to answer in. Raises Refusal (406)."""
    media_type = accepted(accept)
    if media_type is None:
        raise Refusal(406, "not_acceptable", f"this container answers {', '.join(ANSWERED)}")
    return media_type


def attributes_sent(content_type: str, custom_attributes: str) -> dict[str, str]:
    """What the caller states beside the body. Raises Refusal (400)."""
    if len(custom_attributes) > MAX_CUSTOM_ATTRIBUTES:
        said = f"{CUSTOM_ATTRIBUTES} may have at most {MAX_CUSTOM_ATTRIBUTES} characters"
        raise Refusal(400, "bad_attribute", said)
    return attributes_of(content_type, custom_attributes)


def request_in(media_type: str, body: bytes, attributes: Mapping[str, str]) -> ScoringRequest:
    """The rows of a body. Raises Refusal (400)."""
    return formats.decode(media_type, body, attributes)


def predict(predictor: Predictor, request: ScoringRequest) -> ScoringResponse:
    """Score the rows.

    Raises:
        Refusal: 400 when the rows are not what the model was trained on; 500, with the trace in the log only, when the
            prediction itself failed.
    """
    try:
        return predictor.predict(request)
    except ContractMismatch as error:
        raise Refusal(400, "contract_mismatch", str(error)) from error
    except Exception as error:  # the last line of defence: a caller never sees a stack trace, the log always does
        raise internal_failure() from error


def internal_failure() -> Refusal:
    """What the caller is told of the exception being handled, whose trace goes to the log."""
    log("invocation_failed", trace=traceback.format_exc())
    return Refusal(500, "internal", "the prediction failed; the container's log says why")


def content_of(media_type: str, response: ScoringResponse) -> bytes:
    """The answer's bytes; `media_type` as `type_wanted` gives it."""
    return formats.ENCODERS[media_type](response)


def attributes_out(model_version: str) -> str:
    """The custom attributes of every answer: CSV has no room for the version, SageMaker hands this on to the caller."""
    return f"model_version={model_version}"
