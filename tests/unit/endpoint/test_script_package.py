"""What `model.tar.gz` holds for AWS's container."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from endpoint import script_package
from endpoint.script_package import (
    CHECKOUT,
    ENTRY,
    code_files,
    main,
    modules_reached,
    requirement_lines,
    requirements,
    with_code,
)
from model.artifact import pack_artifact, read_artifact, write_artifact
from stream_features.errors import ContractMismatch
from tests.unit.endpoint.models import an_artifact


def members(packed: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_it_stays_the_artefact_it_was(tmp_path):
    path = write_artifact(an_artifact(), tmp_path)
    assert main([str(path), "--out", str(tmp_path / "scripted")]) == 0
    scripted = tmp_path / "scripted" / "model.tar.gz"
    assert read_artifact(scripted) == read_artifact(path)
    before, after = members(path.read_bytes()), members(scripted.read_bytes())
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"code"}


def test_the_same_artefact_gives_the_same_bytes_and_packing_twice_changes_nothing():
    files = code_files() | requirements()
    once = with_code(pack_artifact(an_artifact()), files)
    assert once == with_code(pack_artifact(an_artifact()), files)
    assert with_code(once, files) == once


def test_the_code_is_what_the_entry_point_reaches_and_no_server_training_or_aws_client():
    names = code_files().keys()
    assert "code/inference.py" in names
    assert "code/endpoint/predictor.py" in names
    assert "code/model/__init__.py" in names
    assert not names & {"code/endpoint/server.py", "code/model/train.py", "code/endpoint/inference.py"}


def test_imports_are_followed_through_packages_functions_and_names(tmp_path):
    written = {
        "endpoint/__init__.py": "",
        "endpoint/first.py": "from endpoint import second\ndef f():\n    import model.third\n",
        "endpoint/second.py": "import json\nfrom stream_features.fourth import NAME\n",
        "endpoint/unused.py": "",
        "model/__init__.py": "",
        "model/third.py": "",
        "stream_features/__init__.py": "",
        "stream_features/fourth.py": "NAME = 1\n",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert set(modules_reached("endpoint/first.py", tmp_path)) == written.keys() - {"endpoint/unused.py"}


def test_requirements_are_the_locked_versions_of_what_the_code_imports_and_the_container_lacks():
    lock = (CHECKOUT / "requirements" / "endpoint.lock").read_text()
    assert requirements()["code/requirements.txt"].decode().split() == [requirement_lines(lock, "msgspec").split()[0]]
    with pytest.raises(ValueError, match="absent"):
        requirement_lines(lock, "absent")
    imported = {
        line.split()[1].split(".")[0]
        for path in modules_reached(ENTRY)
        for line in (CHECKOUT / path).read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    foreign = imported - set(sys.stdlib_module_names) - {"endpoint", "model", "stream_features"}
    assert foreign == {"msgspec", "numpy", "xgboost", "sagemaker_inference"}


def test_vendored_packages_are_held_to_the_hashes_of_the_lock_file(tmp_path, monkeypatch):
    """The download runs for real, against a lock file whose hashes are wrong."""
    (tmp_path / "requirements").mkdir()
    lock = requirement_lines((CHECKOUT / "requirements" / "endpoint.lock").read_text(), "msgspec").split("\n")[0]
    (tmp_path / "requirements" / "endpoint.lock").write_text(f"{lock}\n    --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(script_package, "PACKAGES", ("msgspec",))
    with pytest.raises(subprocess.CalledProcessError):
        script_package.vendored(tmp_path)


def test_what_is_no_artefact_is_refused_and_nothing_written(tmp_path: Path):
    (tmp_path / "model.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(ContractMismatch, match="artefact"):
        main([str(tmp_path / "model.tar.gz"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
