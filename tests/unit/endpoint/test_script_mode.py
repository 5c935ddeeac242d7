"""AWS's own XGBoost container answers what our server answers, byte for byte, for every media type and every mistake.

The toolkit that the container serves with is the real one, twice: the newest beside this checkout's libraries, and
(where a Python 3.10 is at hand) the container's own versions of everything, with an older XGBoost.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from endpoint.script_package import code_files, requirements, with_code
from model.artifact import Artifact, pack_artifact
from model.boosting import fit
from model.parameters import complete
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
from tests.unit.endpoint.models import CORE, some_rows, with_manifest

CHECKOUT = Path(__file__).resolve().parents[3]
DRIVER = Path(__file__).with_name("toolkit_driver.py")
UV = CHECKOUT / ".venv" / "bin" / "uv"
# Of version 3.0-5 of the container, whose Python is 3.10, and the code's own requirement.
CONTAINER = ("xgboost==3.0.5", "numpy==2.1.0", "sagemaker-inference==1.5.5")
TOOLKIT_NEEDS = ("scipy", "six", "psutil", "retrying==1.3.4", "werkzeug", "requests")

ROWS = some_rows(6)
FROM = f"feature_set_id={CORE.feature_set_id};explain_from=0.3"
Case = tuple[str, str, str, bytes]

# (content type, accept, custom attributes, body)
ANSWERED: dict[str, Case] = {
    "json": (JSON, "", "", as_json(ROWS, explain_from=0.3)),
    "json, any": (JSON, "*/*", "", as_json(ROWS, explain_from=0.3)),
    "json as lines": (JSON, JSON_LINES, "", as_json(ROWS, explain_from=0.3)),
    "json as csv": (JSON, CSV, "", as_json(ROWS)),
    "json by preference": (JSON, f"image/png, {CSV};q=0.5, {JSON_LINES};q=0.7", "", as_json(ROWS)),
    "lines": (JSON_LINES, JSON_LINES, "", as_json_lines(ROWS)),
    "named lines": (JSON_LINES, "", "", as_json_lines(ROWS, named=True)),
    "lines, explained": (f"{JSON_LINES}; explain_from=0.3", "", "", as_json_lines(ROWS)),
    "csv": (CSV, "", "", as_csv(ROWS)),
    "csv as csv": (CSV, CSV, "", as_csv(ROWS)),
    "csv with charset": (f"{CSV}; charset=utf-8", JSON_LINES, "", as_csv(ROWS)),
    "csv, explained": (f"{CSV}; {FROM}", JSON, "", as_csv(ROWS)),
    "npy": (NPY, "", "", as_npy(ROWS)),
    "npy, explained": (f"{NPY}; {FROM}", "", "", as_npy(ROWS)),
}
REFUSED: dict[str, tuple[int, Case]] = {
    "unknown type": (415, ("application/xml", "", "", b"<a/>")),
    "no type": (415, ("", "", "", as_json(ROWS))),
    "unknown charset": (415, (f"{CSV}; charset=latin-1", "", "", as_csv(ROWS))),
    "unknown accept": (406, (CSV, "image/png", "", as_csv(ROWS))),
    "cut json": (400, (JSON, "", "", b"{")),
    "bad row": (400, (JSON, "", "", as_json(ROWS, rows=[[1.0]]))),
    "other definition": (400, (JSON, "", "", as_json(ROWS, definitions=["0" * 16, *CORE.definitions[1:]]))),
    "csv header": (400, (CSV, "", "", b"a,b\n1,2\n")),
    "narrow csv": (400, (CSV, "", "", b"1,2\n")),
    "other set": (400, (f"{CSV}; feature_set_id=other", "", "", as_csv(ROWS))),
    "no npy": (400, (NPY, "", "", b"PK\x03\x04")),
    "empty": (400, (JSON_LINES, "", "", b"\n")),
}


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """With a base score that XGBoost before 3.1 misreads in silence."""
    rows = some_rows(800).astype(np.float32)
    labels = (np.nan_to_num(rows[:, 0]) > 0).astype(np.uint8)
    parameters = complete({"n_estimators": 20, "nthread": 1, "max_depth": 3, "base_score": 0.1})
    return with_manifest(bytes(fit(rows, labels, CORE.names, parameters).save_raw("ubj")))


@pytest.fixture(scope="module")
def model_directory(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`/opt/ml/model` with the packed code in it."""
    directory = tmp_path_factory.mktemp("opt") / "model"
    packed = with_code(pack_artifact(artifact), code_files() | requirements())
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(directory, filter="data")
    return directory


def candidates() -> Iterator[str]:
    """Where a Python 3.10 may be: on the path, or installed by pyenv or uv without being chosen."""
    if on_path := shutil.which("python3.10"):
        yield on_path
    home = Path.home()
    for folder in (Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions", home / ".local/share/uv/python"):
        yield from map(str, sorted(folder.glob("*3.10.*/bin/python3.10")))


def runs_as_3_10(interpreter: str) -> bool:
    said = subprocess.run([interpreter, "--version"], capture_output=True, text=True, check=False)
    return said.returncode == 0 and said.stdout.startswith("Python 3.10.")


@pytest.fixture(scope="module")
def container_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the container's Python and the container's libraries."""
    interpreter = next(filter(runs_as_3_10, candidates()), None)
    if interpreter is None:
        pytest.skip("no Python 3.10 on this machine")
    venv = tmp_path_factory.mktemp("container") / "venv"
    python = venv / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--python", interpreter, venv], check=True)
    code_needs = requirements()["code/requirements.txt"].decode().split()
    for packages in ((*CONTAINER, *code_needs), TOOLKIT_NEEDS):
        options = ["--no-deps"] if packages is not TOOLKIT_NEEDS else []
        done = subprocess.run(
            [UV, "pip", "install", "--quiet", "--python", python, *options, *packages],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"the container's libraries cannot be had: {done.stderr[-300:]}")
    return python


@pytest.fixture(scope="module", params=["newest toolkit", "the container's versions"])
def python(request: pytest.FixtureRequest) -> Path:
    if request.param == "newest toolkit":
        return Path(sys.executable)
    found: Path = request.getfixturevalue("container_python")
    return found


def by_toolkit(python: Path, model_directory: Path, cases: list[Case]) -> list[tuple[int, dict[str, str], bytes]]:
    sent = [[*headers, base64.b64encode(body).decode()] for *headers, body in cases]
    done = subprocess.run(
        [python, "-W", "ignore", DRIVER, model_directory],
        input=json.dumps(sent),
        capture_output=True,
        text=True,
        check=False,
        cwd=model_directory.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said: list[list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return [(status, headers, base64.b64decode(body)) for status, headers, body in said]


def by_server(artifact: Artifact, cases: list[Case]) -> list[httpx.Response]:
    named = ("content-type", "accept", ATTRIBUTES)
    requests = [({name: value for name, value in zip(named, case, strict=False) if value}, case[3]) for case in cases]
    return Application(artifact).ask(requests)


def test_every_media_type_is_answered_with_the_same_bytes(python, model_directory, artifact):
    cases = list(ANSWERED.values())
    ours = by_server(artifact, cases)
    for name, (status, headers, body), expected in zip(
        ANSWERED, by_toolkit(python, model_directory, cases), ours, strict=True
    ):
        assert (status, expected.status_code) == (200, 200), (name, body)
        assert body == expected.content, name
        assert headers["content-type"] == expected.headers["content-type"].partition(";")[0], name


def test_explained_rows_are_among_them(artifact):
    for name in ("json", "lines, explained", "csv, explained", "npy, explained"):
        [answered] = by_server(artifact, [ANSWERED[name]])
        explained = [bool(prediction["reasons"]) for prediction in answered.json()["predictions"]]
        assert set(explained) == {True, False}, name


def test_every_mistake_is_answered_with_the_same_status_and_words(python, model_directory, artifact):
    cases = [case for _, case in REFUSED.values()]
    ours = by_server(artifact, cases)
    for (name, (due, _)), (status, headers, body), expected in zip(
        REFUSED.items(), by_toolkit(python, model_directory, cases), ours, strict=True
    ):
        assert (status, expected.status_code) == (due, due), (name, body)
        assert body == expected.content, name
        assert headers["content-type"] == JSON, name


def test_bytes_that_the_toolkit_itself_cannot_decode_are_the_callers_mistake_without_a_trace(python, model_directory):
    cases = [(media_type, "", "", b"\xff\xfe") for media_type in (JSON, CSV)]
    for (status, _, body), code in zip(
        by_toolkit(python, model_directory, cases), ("bad_json", "bad_csv"), strict=True
    ):
        assert status == 400
        assert json.loads(body)["error"]["code"] == code
        assert b"Traceback" not in body


def test_custom_attributes_reach_the_script_where_the_toolkit_hands_them_on(model_directory, artifact):
    case = (CSV, JSON, FROM, as_csv(ROWS))
    [(status, headers, body)] = by_toolkit(Path(sys.executable), model_directory, [case])
    [expected] = by_server(artifact, [case])
    assert (status, body) == (200, expected.content)
    assert headers[ATTRIBUTES] == expected.headers[ATTRIBUTES]
    assert any(prediction["reasons"] for prediction in json.loads(body)["predictions"])


def test_the_packed_code_answers_and_not_the_checkout(python, model_directory):
    code = model_directory / "code"
    program = (
        f"import sys; sys.path.insert(0, {str(code)!r}); import inference; "
        "import endpoint.script_mode, model.artifact, stream_features.errors as errors; "
        "print(endpoint.script_mode.__file__, model.artifact.__file__, errors.__file__, sep='\\n')"
    )
    done = subprocess.run([python, "-W", "ignore", "-c", program], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(code)) for line in done.stdout.split())


def test_the_entry_point_finds_its_code_from_the_copy_that_the_container_installs_elsewhere(
    python, model_directory, tmp_path
):
    (tmp_path / "inference.py").write_bytes((model_directory / "code" / "inference.py").read_bytes())
    program = "import inference; print(inference.model_fn.__module__)"
    environment = {"SAGEMAKER_BASE_DIR": str(model_directory.parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "endpoint.script_mode"), done.stderr


def test_self_test_another_model_is_noticed(model_directory, artifact):
    other = with_manifest(bytes(_retrained(artifact)))
    case = ANSWERED["csv as csv"]
    [(_, _, body)] = by_toolkit(Path(sys.executable), model_directory, [case])
    assert body != by_server(other, [case])[0].content


def _retrained(artifact: Artifact) -> bytearray:
    rows = some_rows(800, seed=11).astype(np.float32)
    labels = (np.nan_to_num(rows[:, 1]) > 0).astype(np.uint8)
    parameters = complete({"n_estimators": 5, "nthread": 1, "max_depth": 3})
    return fit(rows, labels, CORE.names, parameters).save_raw("ubj")
