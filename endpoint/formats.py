"""The media types of the container: bytes to rows, predictions to bytes.

JSON names its columns and their definitions. The other formats are the ones SageMaker clients send without a schema:
JSON Lines holds one object (name to value) or one array per line; CSV (no header) and NPY hold rows in the model's
own column order. They state `feature_set_id` and `explain_from` in `X-Amzn-SageMaker-Custom-Attributes`, as
`feature_set_id=...;explain_from=0.5`, or as parameters of the media type, as `text/csv; explain_from=0.5`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from endpoint.media_types import CSV, JSON, JSON_LINES, NPY
from endpoint.messages import ScoringRequest, ScoringResponse
from endpoint.npy import read_npy
from endpoint.refusals import BadRequest
from model.matrix import UnrepresentableValue, model_matrix

_ROW_IN_PATH: Final = re.compile(r"\$\.rows\[(\d+)\]")


class JsonRequest(msgspec.Struct):
    """One invocation as `application/json`.

    Attributes:
        feature_set_id: the set the rows were computed by.
        columns: the name of each column, in any order; more than the model needs is fine.
        definitions: the definition hash of each column.
        rows: one list of values per row; null is missing.
        explain_from: rows that score this (0..1) or more get reasons; without it none do.
    """

    feature_set_id: str
    columns: list[str]
    definitions: list[str]
    rows: list[list[float | None]]
    explain_from: float | None = None


_json_request = msgspec.json.Decoder(JsonRequest)
_json_line = msgspec.json.Decoder(dict[str, float | None] | list[float | None])
_encoder = msgspec.json.Encoder()


def decode(media_type: str, body: bytes, attributes: Mapping[str, str]) -> ScoringRequest:
    """Parse the body of one invocation.

    Args:
        media_type: a key of `DECODERS`.
        body: the request's bytes.
        attributes: what the caller states beside the body; JSON carries its own and ignores them.

    Raises:
        BadRequest: the body is not what the media type says; names the row where there is one.
    """
    if not body:
        raise BadRequest("empty_body", "the request has no body")
    request = DECODERS[media_type](body, attributes)
    if request.explain_from is not None and math.isnan(request.explain_from):
        raise BadRequest("bad_attribute", "explain_from must be a number")
    return request


def _decode_json(body: bytes, attributes: Mapping[str, str]) -> ScoringRequest:
    try:
        parsed = _json_request.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        place = _ROW_IN_PATH.search(str(error))
        raise BadRequest("bad_json", str(error), int(place[1]) if place else None) from error
    return ScoringRequest(
        values=_matrix(parsed.rows, len(parsed.columns)),
        columns=parsed.columns,
        definitions=parsed.definitions,
        feature_set_id=parsed.feature_set_id,
        explain_from=parsed.explain_from,
    )


def _decode_json_lines(body: bytes, attributes: Mapping[str, str]) -> ScoringRequest:
    rows: list[list[float | None]] = []
    columns: list[str] | None = None
    for line in filter(bytes.strip, body.splitlines()):
        try:
            parsed = _json_line.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest("bad_json", str(error), len(rows)) from error
        names = list(parsed) if isinstance(parsed, dict) else None
        if not rows:
            columns = names
        if (names is None) != (columns is None) or (names is not None and set(names) != set(columns or ())):
            raise BadRequest("bad_json", "every line must name the same columns as the first", len(rows))
        rows.append([parsed[name] for name in columns or ()] if isinstance(parsed, dict) else parsed)
    if not rows:
        raise BadRequest("empty_body", "the request has no rows")
    return _without_schema(rows, columns, len(rows[0]), attributes)


def _decode_csv(body: bytes, attributes: Mapping[str, str]) -> ScoringRequest:
    try:
        lines = list(csv.reader(io.StringIO(body.decode()), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest("bad_csv", f"not CSV in UTF-8: {error}") from error
    rows = [[_csv_number(field, row) for field in line] for row, line in enumerate(line for line in lines if line)]
    if not rows:
        raise BadRequest("empty_body", "the request has no rows")
    return _without_schema(rows, None, len(rows[0]), attributes)


def _csv_number(field: str, row: int) -> float:
    """A field as float64; empty is missing."""
    text = field.strip()
    if not text:
        return math.nan
    try:
        if "_" in text or not text.isascii():  # Python's float() reads 1_000 and digits of other scripts, CSV does not
            raise ValueError(text)
        return float(text)
    except ValueError as error:
        raise BadRequest("bad_csv", f"{field[:40]!r} is not a number (CSV has no header line here)", row) from error


def _decode_npy(body: bytes, attributes: Mapping[str, str]) -> ScoringRequest:
    values = read_npy(body)
    return _without_schema(values, None, int(values.shape[-1]), attributes)


def _without_schema(rows: Any, columns: list[str] | None, width: int, attributes: Mapping[str, str]) -> ScoringRequest:
    explain_from = attributes.get("explain_from")
    try:
        threshold = None if explain_from is None else float(explain_from)
    except ValueError as error:
        raise BadRequest("bad_attribute", "explain_from must be a number") from error
    return ScoringRequest(
        values=_matrix(rows, width),
        columns=columns,
        feature_set_id=attributes.get("feature_set_id"),
        explain_from=threshold,
    )


def _matrix(rows: Any, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    if width == 0:
        raise BadRequest("bad_rows", "rows need at least one column")
    if isinstance(rows, list):
        for number, row in enumerate(rows):
            if len(row) != width:
                raise BadRequest("bad_rows", f"a row of {len(row)} values where {width} are due", number)
    try:
        return model_matrix(rows, width)
    except UnrepresentableValue as error:
        raise BadRequest("bad_rows", str(error), error.row) from error


def _encode_json(response: ScoringResponse) -> bytes:
    return _encoder.encode(response)


def _encode_json_lines(response: ScoringResponse) -> bytes:
    return _encoder.encode_lines(
        {
            "model_version": response.model_version,
            "score": prediction.score,
            "margin": prediction.margin,
            "base": prediction.base,
            "reasons": prediction.reasons,
        }
        for prediction in response.predictions
    )


def _encode_csv(response: ScoringResponse) -> bytes:
    """One score per line, as SageMaker's own containers answer; repr keeps every bit."""
    return "".join(f"{prediction.score!r}\n" for prediction in response.predictions).encode()


DECODERS: Final[dict[str, Callable[[bytes, Mapping[str, str]], ScoringRequest]]] = {
    JSON: _decode_json,
    JSON_LINES: _decode_json_lines,
    CSV: _decode_csv,
    NPY: _decode_npy,
}
ENCODERS: Final[dict[str, Callable[[ScoringResponse], bytes]]] = {
    JSON: _encode_json,
    JSON_LINES: _encode_json_lines,
    CSV: _encode_csv,
}
