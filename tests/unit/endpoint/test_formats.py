"""Bodies in and out, without HTTP."""

from __future__ import annotations

import io
import json
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoint.formats import ENCODERS, decode
from endpoint.media_types import (
    CSV,
    JSON,
    JSON_LINES,
    NPY,
    accepted,
    attributes_of,
    media_type_of,
    parse_attributes,
)
from endpoint.messages import Prediction, Reason, ScoringResponse
from endpoint.refusals import LONGEST_MESSAGE, BadRequest, Refusal
from tests.unit.endpoint.bodies import as_npy

RESPONSE = ScoringResponse(
    "core-abc", [Prediction(0.75, 1.0, -2.0, [Reason("amount", 3.0)]), Prediction(0.1, -2, -2, [])]
)

values = st.one_of(st.none(), st.floats(min_value=-1e30, max_value=1e30))
matrices = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(values, min_size=width, max_size=width), min_size=1, max_size=6)
)


def as_json(rows: list[list[float | None]], **changed: object) -> bytes:
    width = len(rows[0]) if rows else 2
    body = {
        "feature_set_id": "s",
        "columns": [f"c{number}" for number in range(width)],
        "definitions": ["d"] * width,
        "rows": rows,
        **changed,
    }
    return json.dumps(body).encode()


@given(matrices)
def test_every_format_reads_the_same_matrix(rows):
    bodies = {
        JSON: as_json(rows),
        JSON_LINES: b"\n".join(json.dumps(row).encode() for row in rows),
        CSV: "\n".join(",".join("nan" if value is None else repr(value) for value in row) for row in rows).encode(),
        NPY: as_npy(np.array(rows, dtype=np.float64)),
    }
    expected = np.array(rows, dtype=np.float64).astype(np.float32)
    for media_type, body in bodies.items():
        read = decode(media_type, body, {}).values
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected, err_msg=media_type)


def test_an_empty_csv_field_is_missing():
    assert np.isnan(decode(CSV, b"1,,3\n4, ,6\n", {}).values[:, 1]).all()


def test_json_lines_of_objects_name_their_columns_in_any_order():
    request = decode(JSON_LINES, b'{"a":1,"b":2}\n\n{"b":4,"a":null}\n', {"explain_from": "0.25"})
    assert list(request.columns or ()) == ["a", "b"]
    assert request.values[:, 1].tolist() == [2.0, 4.0]
    assert np.isnan(request.values[1, 0])
    assert request.explain_from == 0.25


def test_formats_without_a_schema_take_their_facts_from_the_attributes():
    request = decode(NPY, as_npy(np.ones((1, 2))), {"feature_set_id": "core-1", "explain_from": "0"})
    assert (request.columns, request.feature_set_id, request.explain_from) == (None, "core-1", 0.0)


def test_one_npy_vector_is_one_row():
    assert decode(NPY, as_npy(np.arange(3)), {}).values.shape == (1, 3)


@pytest.mark.parametrize(
    ("media_type", "body", "row"),
    [
        (JSON, b"", None),
        (JSON, b"{", None),
        (JSON, b"\xff\xfe", None),
        (JSON, b"[" * 100_000, None),
        (JSON, b'{"rows": [[1.0]]}', None),
        (JSON, as_json([[1.0, 2.0], [1.0]]), 1),
        (JSON, as_json([[1.0], ["x"]]), 1),
        (JSON, b'{"feature_set_id":"s","columns":["c"],"definitions":["d"],"rows":[[1],[NaN]]}', None),
        (JSON, as_json([[1.0], [2.0], [1e39]]), 2),
        (JSON, as_json([[1.0]], columns=[]), None),
        (JSON_LINES, b"[1,2]\n[1]\n", 1),
        (JSON_LINES, b'{"a":1}\n[1]\n', 1),
        (JSON_LINES, b'{"a":1}\n{"b":1}\n', 1),
        (JSON_LINES, b"[1]\nnonsense\n", 1),
        (JSON_LINES, b"[1]\n\n\n[1,2]\n", 1),
        (JSON_LINES, b'"text"\n', 0),
        (JSON_LINES, b"[" * 100_000, 0),
        (JSON_LINES, b"[[1]]\n", 0),
        (JSON_LINES, b"[]\n", None),
        (JSON_LINES, b"{}\n", None),
        (JSON_LINES, b"\n\n", None),
        (CSV, b"a,b\n1,2\n", 0),
        (CSV, b"1,2\n3\n", 1),
        (CSV, b"1,2\n3,inf\n", 1),
        (CSV, b"1_0,2\n", 0),
        (CSV, b"\xff,1\n", None),
        (CSV, b'"1\n', None),
        (CSV, b"1\n\n\nx\n", 1),
        (CSV, b"1,\x00\n", None),
        (CSV, "1,\u0663\n".encode(), 0),
        (CSV, b"0x10\n", 0),
        (CSV, b"1e400\n", 0),
        (CSV, b"9" * 400, 0),
        (CSV, b"1" * 200_000, None),
        (CSV, b"\n\r\n\n", None),
        (NPY, b"nonsense", None),
        (NPY, as_npy(np.ones((2, 2, 2))), None),
        (NPY, as_npy(np.array(["a"])), None),
        (NPY, as_npy(np.array([[1.0], [np.inf]])), 1),
        (NPY, as_npy(np.empty((0, 3))), None),
    ],
)
def test_a_body_that_cannot_be_read_is_the_callers_mistake_and_names_the_row(media_type, body, row):
    with pytest.raises(BadRequest) as refused:
        decode(media_type, body, {})
    assert refused.value.message
    if row is not None:
        assert refused.value.row == row


def npy_with_header(header: bytes, payload: bytes = b"") -> bytes:
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload


def a_zip() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("a.npy", as_npy(np.ones(2)))
    return written.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            npy_with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"), id="huge"
        ),
        pytest.param(
            npy_with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2)}", b"12345678"), id="short"
        ),
        pytest.param(as_npy(np.ones(2)) + b"more", id="long"),
        pytest.param(as_npy(np.ones(2))[:20], id="cut header"),
        pytest.param(npy_with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"), id="negative"),
        pytest.param(npy_with_header(b"(" * 2000), id="nested header"),
        pytest.param(
            npy_with_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"x" * 8), id="objects"
        ),
        pytest.param(
            npy_with_header(b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", b"x" * 8), id="records"
        ),
        pytest.param(npy_with_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': ()}", b"x" * 8), id="scalar"),
        pytest.param(
            npy_with_header(b"{'descr': '<c16', 'fortran_order': False, 'shape': (1,)}", b"x" * 16), id="complex"
        ),
        pytest.param(b"\x93NUMPY\x09\x00" + as_npy(np.ones(2))[8:], id="version"),
        pytest.param(b"PK\x03\x04garbage", id="broken zip"),
        pytest.param(a_zip(), id="zip"),
    ],
)
def test_an_npy_that_is_not_what_it_announces_is_refused_before_anything_is_allocated(body):
    with pytest.raises(BadRequest) as refused:
        decode(NPY, body, {})
    assert refused.value.code == "bad_npy"


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i8", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_numbers_of_any_size_and_order_are_read(kind, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=kind, order=order)
    np.testing.assert_array_equal(decode(NPY, as_npy(array), {}).values, [[0, 1, 2], [3, 4, 5]])


def test_an_npy_of_pickled_objects_is_never_unpickled():
    written = io.BytesIO()
    np.save(written, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadRequest):
        decode(NPY, written.getvalue(), {})


@pytest.mark.parametrize("explain_from", ["often", "nan"])
def test_an_explain_from_that_is_no_number_is_the_callers_mistake(explain_from):
    with pytest.raises(BadRequest):
        decode(CSV, b"1\n", {"explain_from": explain_from})


def test_answers_hold_the_same_scores_in_every_format():
    as_read = json.loads(ENCODERS[JSON](RESPONSE))
    assert as_read["model_version"] == "core-abc"
    assert as_read["predictions"][0] == {
        "score": 0.75,
        "margin": 1.0,
        "base": -2.0,
        "reasons": [{"feature": "amount", "contribution": 3.0}],
    }
    lines = [json.loads(line) for line in ENCODERS[JSON_LINES](RESPONSE).splitlines()]
    assert [line["score"] for line in lines] == [0.75, 0.1]
    assert {line["model_version"] for line in lines} == {"core-abc"}
    assert ENCODERS[CSV](RESPONSE) == b"0.75\n0.1\n"


@given(st.floats(min_value=0, max_value=1, width=32))
def test_a_score_survives_every_format_bit_for_bit(score):
    response = ScoringResponse("v", [Prediction(score, 0.0, 0.0, [])])
    assert msgspec.json.decode(ENCODERS[JSON](response))["predictions"][0]["score"] == score
    assert float(ENCODERS[CSV](response)) == score


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/*", CSV),
        ("text/csv", CSV),
        ("Application/JSONLines", JSON_LINES),
        ("image/png, text/csv;q=0.5, application/jsonlines", JSON_LINES),
        ("application/json;q=0, text/csv", CSV),
        ("image/png", None),
        ("text/csv;q=many", None),
    ],
)
def test_the_callers_choice_of_answer_is_honoured(accept, answer):
    assert accepted(accept) == answer


@pytest.mark.parametrize(
    ("content_type", "read_as"),
    [
        ("application/json", JSON),
        ("text/csv; charset=UTF-8", CSV),
        ("text/csv; charset=latin-1", None),
        ("application/octet-stream", None),
        ("", None),
    ],
)
def test_content_types_that_cannot_be_read_are_told_apart(content_type, read_as):
    assert media_type_of(content_type) == read_as


def test_attributes_of_other_parties_do_no_harm():
    assert parse_attributes("trace-7; explain_from = 0.5,feature_set_id=a=b") == {
        "explain_from": "0.5",
        "feature_set_id": "a=b",
    }


def test_parameters_of_the_media_type_are_attributes_and_the_header_holds_over_them():
    sent = attributes_of("text/csv; charset=utf-8; explain_from=0.5; feature_set_id=a", "explain_from=0.25")
    assert sent == {"charset": "utf-8", "explain_from": "0.25", "feature_set_id": "a"}
    assert attributes_of("text/csv", "") == {}


def test_a_message_that_quotes_the_caller_is_cut():
    said = Refusal(400, "code", "x" * 10_000, row=2)
    assert len(said.message) == LONGEST_MESSAGE
    assert json.loads(said.body()) == {"error": {"code": "code", "message": said.message, "row": 2}}
    assert "row" not in json.loads(Refusal(400, "code", "short").body())["error"]
