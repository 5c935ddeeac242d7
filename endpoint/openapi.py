"""The OpenAPI description of the container, made from the types it decodes and encodes.

    python -m endpoint.openapi endpoint/openapi.json

The server answers it at `/openapi.json`; `endpoint/openapi.json` is the same document, checked in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from endpoint.answering import CUSTOM_ATTRIBUTES, MAX_CUSTOM_ATTRIBUTES
from endpoint.formats import JsonRequest
from endpoint.media_types import CSV, JSON, JSON_LINES, NPY
from endpoint.messages import ScoringResponse

VERSION: Final = "1.0.0"

_ERROR_CODES: Final = {
    400: (
        "The request is wrong; `message` says how, `row` (from 0) where. Sending it again does not help.",
        ("bad_attribute", "bad_csv", "bad_json", "bad_npy", "bad_rows", "contract_mismatch", "empty_body"),
    ),
    406: ("None of the accepted media types is answered here.", ("not_acceptable",)),
    413: ("The body exceeds 6 MiB.", ("too_large",)),
    415: ("The body's media type (or its charset) cannot be read here.", ("unsupported_media_type",)),
    500: ("The prediction failed; the container's log says why.", ("internal",)),
    503: ("The model is still loading. Try again.", ("loading",)),
}
_RESPONSE_NAMES: Final = {
    400: "BadRequest",
    406: "NotAcceptable",
    413: "TooLarge",
    415: "UnsupportedMediaType",
    500: "Internal",
    503: "Loading",
}


def description() -> dict[str, Any]:
    """The document, as OpenAPI 3.1."""
    _, schemas = msgspec.json.schema_components(
        [JsonRequest, ScoringResponse], ref_template="#/components/schemas/{name}"
    )
    attributes = "`feature_set_id=...;explain_from=0.5`, for the media types without a place for them."
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fraudstream inference container",
            "version": VERSION,
            "description": "Scores rows of features: the contract SageMaker holds every real-time container to.",
            "license": {"name": "See the repository"},
        },
        "servers": [{"url": "http://127.0.0.1:8080", "description": "the port SageMaker asks"}],
        "security": [],
        "paths": {
            "/ping": {
                "get": {
                    "operationId": "ping",
                    "summary": "Whether the model is loaded",
                    "responses": {
                        "200": {"description": "Invocations are answered."},
                        "503": {"description": "The model is still loading."},
                    },
                }
            },
            "/invocations": {
                "post": {
                    "operationId": "invoke",
                    "summary": "Score one or many rows",
                    "parameters": [
                        {
                            "name": CUSTOM_ATTRIBUTES,
                            "in": "header",
                            "description": attributes,
                            "schema": {"type": "string", "maxLength": MAX_CUSTOM_ATTRIBUTES},
                        }
                    ],
                    "requestBody": {"required": True, "content": _bodies()},
                    "responses": {"200": _answered(), **_refused()},
                }
            },
            "/openapi.json": {
                "get": {
                    "operationId": "describe",
                    "summary": "This document",
                    "responses": {"200": {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {}}}}},
                }
            },
        },
        "components": {
            "schemas": {**schemas, "Error": _error_schema(), "Line": _line_schema()},
            "responses": {_RESPONSE_NAMES[status]: _refusal(status) for status in _ERROR_CODES},
        },
    }


def _bodies() -> dict[str, Any]:
    unnamed = "Columns are the model's own, in its order; at most 6 MiB."
    return {
        JSON: {"schema": {"$ref": "#/components/schemas/JsonRequest"}},
        JSON_LINES: {"schema": {"type": "string", "description": f"An object or an array a line. {unnamed}"}},
        CSV: {"schema": {"type": "string", "description": f"No header; an empty field is missing. {unnamed}"}},
        NPY: {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": f"Numeric, one or two dimensions, NPY 1.0 or 2.0. {unnamed}",
            }
        },
    }


def _answered() -> dict[str, Any]:
    line = {"type": "string", "description": "One `Line` per row.", "contentSchema": _reference("Line")}
    return {
        "description": "One prediction per row, in the request's order; the media type is the caller's choice.",
        "headers": {
            CUSTOM_ATTRIBUTES: {"description": "`model_version=...`", "schema": {"type": "string"}},
        },
        "content": {
            JSON: {"schema": _reference("ScoringResponse")},
            JSON_LINES: {"schema": line},
            CSV: {"schema": {"type": "string", "description": "One score a line."}},
        },
    }


def _refused() -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{_RESPONSE_NAMES[status]}"} for status in _ERROR_CODES}


def _refusal(status: int) -> dict[str, Any]:
    said, codes = _ERROR_CODES[status]
    narrowed = {"properties": {"error": {"properties": {"code": {"enum": list(codes)}}}}}
    schema = {"allOf": [_reference("Error"), narrowed]}
    return {"description": said, "content": {JSON: {"schema": schema}}}


def _error_schema() -> dict[str, Any]:
    error = {
        "type": "object",
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "row": {"type": "integer", "minimum": 0, "description": "Counted from 0; blank lines do not count."},
        },
        "required": ["code", "message"],
    }
    return {"type": "object", "properties": {"error": error}, "required": ["error"]}


def _line_schema() -> dict[str, Any]:
    described: dict[str, Any] = {"model_version": {"type": "string"}}
    described |= {name: {"type": "number"} for name in ("score", "margin", "base")}
    described |= {"reasons": {"type": "array", "items": _reference("Reason")}}
    return {"type": "object", "properties": described, "required": list(described)}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def document() -> bytes:
    """The description as indented JSON with a line end."""
    return msgspec.json.format(msgspec.json.encode(description()), indent=2) + b"\n"


def main(arguments: Sequence[str]) -> int:
    """Write the document to the file named first."""
    Path(arguments[0]).write_bytes(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
