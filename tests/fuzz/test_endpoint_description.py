"""Schemathesis makes requests from the container's OpenAPI description; the real process must keep what it describes.

Bodies of the media types without a schema come from strategies of ours. One test gives JSON bodies the model's own
columns, because a body made from the description alone is never scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from endpoint import openapi
from tests.unit.endpoint.bodies import CSV, JSON_LINES, NPY, as_csv, as_json_lines, as_lists, as_npy
from tests.unit.endpoint.models import CORE, an_artifact, some_rows
from tests.unit.endpoint.serving import RunningServer, running_server, unpack

ROWS = [some_rows(count, seed=count) for count in (1, 2, 5)]
BOUNDED = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))

made = schemathesis.openapi.from_dict(openapi.description())
likely = schemathesis.openapi.from_dict(openapi.description())
for media_type, written in ((CSV, as_csv), (JSON_LINES, as_json_lines), (NPY, as_npy)):
    schemathesis.openapi.media_type(
        media_type, st.sampled_from([written(rows) for rows in ROWS]) | st.binary(max_size=200)
    )


@likely.hook
def map_body(context: Any, body: Any) -> Any:
    """A JSON body keeps its `explain_from` and gets columns of the model, and rows that fit them."""
    if not isinstance(body, dict):
        return body
    rows = as_lists(ROWS[len(str(body)) % len(ROWS)])
    model = {"feature_set_id": CORE.feature_set_id, "columns": CORE.names, "definitions": CORE.definitions}
    return {**body, **model, "rows": rows}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(unpack(an_artifact(), tmp_path_factory.mktemp("model"))) as running:
        running.wait_until_ready()
        yield running


@made.parametrize()
@BOUNDED
def test_what_is_made_from_the_description_is_answered_as_described(case: Any, server: RunningServer) -> None:
    # A description cannot say that a request is right only if it brings the columns of the model that is loaded.
    case.call_and_validate(base_url=server.url, excluded_checks=[positive_data_acceptance])


@pytest.fixture(scope="module")
def answered() -> Iterator[Counter[int]]:
    statuses: Counter[int] = Counter()
    yield statuses
    assert statuses[200] > 10, statuses  # or nothing was scored


@likely.include(path="/invocations").parametrize()
@BOUNDED
def test_rows_of_the_model_are_answered_as_described(case: Any, server: RunningServer, answered: Counter[int]) -> None:
    # The rows replace whatever was wrong in a body that was to be refused.
    excluded = [positive_data_acceptance, negative_data_rejection]
    answered[case.call_and_validate(base_url=server.url, excluded_checks=excluded).status_code] += 1


def test_self_test_an_answer_that_is_not_described_is_noticed(server: RunningServer) -> None:
    other = openapi.description()
    other["components"]["schemas"]["Error"]["required"].append("trace")
    case = schemathesis.openapi.from_dict(other)["/invocations"]["POST"].Case(body=b"x", media_type=CSV)
    with pytest.raises(FailureGroup, match='"trace" is a required property'):
        case.call_and_validate(base_url=server.url)
