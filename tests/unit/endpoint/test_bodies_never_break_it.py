"""Whatever the bytes: the container answers them or says what is wrong with them. Never a failure, never a trace."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from endpoint import openapi
from tests.unit.endpoint.bodies import (
    ATTRIBUTES,
    CSV,
    JSON,
    JSON_LINES,
    NPY,
    Application,
    as_csv,
    as_json,
    as_json_lines,
    as_npy,
)
from tests.unit.endpoint.models import CORE, an_artifact, some_rows

ROWS = some_rows(3)
VALID = {
    JSON: as_json(ROWS, explain_from=0.2),
    JSON_LINES: as_json_lines(ROWS, named=True),
    CSV: as_csv(ROWS),
    NPY: as_npy(ROWS),
}
FUZZED = settings(deadline=None, max_examples=150)
DESCRIPTION = openapi.description()

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([1e39, 10**400, "1", "\ud800", "nan", -0.0]),
)
any_json = st.recursive(
    values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "accept": st.sampled_from(["", "*/*", JSON, JSON_LINES, CSV, "text/*", "image/png", "text/csv;q=x", ";;,"]),
        ATTRIBUTES: st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    },
)


@pytest.fixture(scope="module")
def application() -> Application:
    return Application(an_artifact())


def check(answered: httpx.Response) -> None:
    """An answer that keeps the published description."""
    assert answered.status_code in (200, 400, 406, 415), answered.text
    assert "Traceback" not in answered.text
    if answered.status_code == 200:
        if answered.headers["content-type"] == JSON:
            validate(answered.json(), "ScoringResponse")
        return
    assert answered.headers["content-type"] == JSON
    validate(answered.json(), "Error")
    name = DESCRIPTION["paths"]["/invocations"]["post"]["responses"][str(answered.status_code)]["$ref"].split("/")[-1]
    schema = DESCRIPTION["components"]["responses"][name]["content"][JSON]["schema"]
    _validate(answered.json(), schema)


def validate(body: Any, name: str) -> None:
    _validate(body, {"$ref": f"#/components/schemas/{name}"})


def _validate(body: Any, schema: dict[str, Any]) -> None:
    whole = {**schema, "components": DESCRIPTION["components"]}
    jsonschema.Draft202012Validator(whole).validate(body)


@FUZZED
@given(st.sampled_from([*VALID, "", "text/html", "text/csv; charset=utf-16"]), headers, st.binary(max_size=300))
@example(NPY, {}, b"PK\x03\x04garbage")
@example(CSV, {ATTRIBUTES: "explain_from=often"}, b"1")
def test_any_bytes(application, media_type, more, body):
    check(application.post({"content-type": media_type, **more}, body))


@FUZZED
@given(st.sampled_from(sorted(VALID)), st.data())
def test_a_valid_body_with_a_few_bytes_changed(application, media_type, data):
    body = bytearray(VALID[media_type])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check(application.post({"content-type": media_type}, bytes(body)))


@FUZZED
@given(any_json)
def test_any_json_as_the_body(application, body):
    check(application.post({"content-type": JSON}, json.dumps(body).encode()))


@FUZZED
@given(st.sampled_from(["feature_set_id", "columns", "definitions", "rows", "explain_from"]), any_json)
def test_any_json_in_one_field_of_a_valid_body(application, field, value):
    check(application.post({"content-type": JSON}, as_json(ROWS, **{field: value})))


@FUZZED
@given(st.lists(any_json, max_size=4))
def test_any_json_lines(application, lines):
    check(application.post({"content-type": JSON_LINES}, b"\n".join(json.dumps(line).encode() for line in lines)))


@FUZZED
@given(st.lists(st.lists(st.text(max_size=8), max_size=4), max_size=4))
def test_any_text_as_csv(application, lines):
    body = "\n".join(",".join(line) for line in lines).encode("utf-8", "surrogatepass")
    check(application.post({"content-type": CSV}, body))


@FUZZED
@given(
    st.sampled_from(["<f8", ">f4", "<i2", "|b1", "<c8", "<M8[s]", "|S3", "<U2", "<f16"]),
    st.lists(st.integers(0, 5), max_size=3),
    st.binary(max_size=4),
)
def test_arrays_of_any_kind_and_shape(application, kind, shape, more):
    check(application.post({"content-type": NPY}, as_npy(np.zeros(shape, dtype=kind)) + more))


@pytest.mark.parametrize("media_type", VALID)
def test_self_test_the_bodies_that_are_changed_are_valid(application, media_type):
    answered = application.post({"content-type": media_type}, VALID[media_type])
    assert len(answered.json()["predictions"]) == len(ROWS)


def test_self_test_an_answer_outside_the_description_is_noticed():
    said = httpx.Response(400, json={"error": {"code": "invented", "message": "x"}})
    with pytest.raises(jsonschema.ValidationError):
        check(said)
    with pytest.raises(AssertionError):
        check(httpx.Response(500, json={"error": {"code": "internal", "message": "x"}}))


def test_numbers_that_only_overflow_as_float32_are_named_by_row(application):
    body = json.loads(VALID[JSON])
    body["rows"][2][0] = 1e39
    answered = application.post({"content-type": JSON}, json.dumps(body).encode())
    assert (answered.status_code, answered.json()["error"]["row"]) == (400, 2)


def test_a_column_given_twice_is_refused(application):
    answered = application.post({"content-type": JSON}, as_json(ROWS, columns=[CORE.names[1], *CORE.names[1:]]))
    assert answered.status_code == 400
    assert CORE.names[1] in answered.json()["error"]["message"]


def test_more_custom_attributes_than_the_description_allows_are_refused(application):
    """Found by Schemathesis: the container took what its description, and SageMaker, do not."""
    sent = {"content-type": CSV, ATTRIBUTES: "x" * 1024}
    assert application.post(sent, VALID[CSV]).status_code == 200
    answered = application.post({**sent, ATTRIBUTES: "x" * 1025}, VALID[CSV])
    assert (answered.status_code, answered.json()["error"]["code"]) == (400, "bad_attribute")
