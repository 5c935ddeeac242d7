"""The endpoint: one request for a batch's rows, JSON both ways."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

from lambdas.adapters.calls import Caller, error_code
from lambdas.ports import Prediction, RowRefused, ScorerDown
from stream_features.aws_answers import whole_json
from stream_features.decision import Reason
from stream_features.errors import ContractMismatch, PortFailure
from stream_features.feature_sets import FeatureSet

_DOWN: Final = frozenset(
    {"ServiceUnavailable", "InternalFailure", "InternalDependencyException", "ModelNotReadyException"}
    | {"ThrottlingException", "Throttling", "TooManyRequestsException"}
)
ROWS_PER_REQUEST: Final = 2_000  # about 1.5 MB of JSON at 50 features; the service takes 6 MB


class _Request(msgspec.Struct):
    feature_set_id: str
    columns: Sequence[str]
    definitions: Sequence[str]
    rows: Sequence[tuple[float, ...]]
    explain_from: float


class _Row(msgspec.Struct):
    score: float
    reasons: list[Reason]


class _Answer(msgspec.Struct):
    model_version: str
    predictions: list[_Row]


class _Refusal(msgspec.Struct):
    code: str = ""
    message: str = ""
    row: int | None = None


class _RefusalBody(msgspec.Struct):
    error: _Refusal


class SageMakerScorer:
    """Scores with a SageMaker real-time endpoint that serves `endpoint/`'s container."""

    def __init__(self, client: Any, endpoint_name: str, features: FeatureSet, caller: Caller) -> None:
        self._client = client
        self._endpoint_name = endpoint_name
        self._features = features
        self._caller = caller
        self._encode = msgspec.json.Encoder().encode  # NaN and infinity become null
        self._decode = msgspec.json.Decoder(_Answer).decode

    def score(self, rows: Sequence[tuple[float, ...]], *, explain_from: float, once: bool = False) -> list[Prediction]:
        predictions: list[Prediction] = []
        for start in range(0, len(rows), ROWS_PER_REQUEST):
            predictions += self._score(rows[start : start + ROWS_PER_REQUEST], explain_from, start, once)
        return predictions

    def _score(
        self, rows: Sequence[tuple[float, ...]], explain_from: float, start: int, once: bool
    ) -> list[Prediction]:
        body = self._encode(
            _Request(
                self._features.feature_set_id, self._features.names, self._features.definitions, rows, explain_from
            )
        )

        def invoke() -> tuple[bytes, str]:
            answer = self._client.invoke_endpoint(
                EndpointName=self._endpoint_name, ContentType="application/json", Accept="application/json", Body=body
            )
            return whole_json(answer["Body"].read()), answer.get("InvokedProductionVariant", "")

        def translate(error: ClientError) -> None:
            status = error.response.get("OriginalStatusCode")
            if error_code(error) == "ModelError" and isinstance(status, int) and 400 <= status < 500:
                raise refusal(str(error.response.get("OriginalMessage", "")), start) from error

        try:
            text, variant = self._caller.call(invoke, what="InvokeEndpoint", translate=translate, once=once)
        except PortFailure as error:
            if is_down(error.__cause__):
                raise ScorerDown(str(error)) from error.__cause__
            raise
        try:
            answer = self._decode(text)
        except msgspec.MsgspecError as error:
            raise ContractMismatch(f"the endpoint's answer: {error}") from error
        if len(answer.predictions) != len(rows):
            raise ContractMismatch(f"the endpoint answered {len(answer.predictions)} of {len(rows)} rows")
        for row in answer.predictions:
            if not (math.isfinite(row.score) and 0.0 <= row.score <= 1.0):
                raise ContractMismatch(f"the endpoint answered a score of {row.score}")
        return [Prediction(row.score, row.reasons, answer.model_version, variant) for row in answer.predictions]


def is_down(error: BaseException | None) -> bool:
    """Whether the endpoint cannot be asked: no connection, no answer in time, 5xx, throttled, being replaced, gone.

    What a 4xx says about a request, a permission or a model is not that.
    """
    if isinstance(error, HTTPClientError | ConnectionError):
        return True
    if not isinstance(error, ClientError):
        return False
    code, status = error_code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "ModelError":  # 424; the container's own 4xx have been taken out before
        return True
    if code == "ValidationError":  # the service's word for an endpoint that is not there (any more)
        return "not found" in str(error.response.get("Error", {}).get("Message", ""))
    return status >= 500 or code in _DOWN


def refusal(message: str, start: int) -> ContractMismatch:
    """The container's 4xx body as an error; `start` is where the request's rows begin in the whole."""
    try:
        error = msgspec.json.decode(message, type=_RefusalBody).error
    except msgspec.MsgspecError:  # not our container's shape: the text itself is the reason
        return ContractMismatch(f"the endpoint refused the request: {message[:200]}")
    text = f"the endpoint refused the request: {error.code}: {error.message}"
    return ContractMismatch(text) if error.row is None else RowRefused(text, start + error.row)
