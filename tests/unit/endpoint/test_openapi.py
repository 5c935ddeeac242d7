"""The published description: valid, current, and the one that is served."""

from __future__ import annotations

import json
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

from endpoint import openapi
from endpoint.media_types import ANSWERED, READ

CHECKED_IN = Path(openapi.__file__).with_name("openapi.json")


def test_it_is_openapi_3_1():
    OpenAPIV31SpecValidator(openapi.description()).validate()


def test_the_checked_in_file_is_current():
    assert CHECKED_IN.read_bytes() == openapi.document(), "python -m endpoint.openapi endpoint/openapi.json"


def test_it_names_every_media_type_and_status(tmp_path):
    invoke = json.loads(openapi.document())["paths"]["/invocations"]["post"]
    assert set(invoke["requestBody"]["content"]) == set(READ)
    assert set(invoke["responses"]["200"]["content"]) == set(ANSWERED)
    assert set(invoke["responses"]) == {"200", "400", "406", "413", "415", "500", "503"}


def test_the_command_writes_it(tmp_path):
    assert openapi.main([str(tmp_path / "o.json")]) == 0
    assert (tmp_path / "o.json").read_bytes() == openapi.document()
