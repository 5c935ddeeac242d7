"""What `bootstrap` and `doctor` say about the Flink engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from console import bootstrap as bootstrap_module
from console import doctor
from console.bootstrap import bootstrap, refuse_where_the_job_has_begun
from local.flink import install
from stream_features.errors import UsageError


def a_pipeline(engine: str) -> Any:
    return SimpleNamespace(run=SimpleNamespace(engine=engine), output=lambda name: name)


def published(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    def meter(_run: object, output: str) -> Any:
        return SimpleNamespace(read=lambda: counts.get(output.removesuffix("StreamName"), 0))

    monkeypatch.setattr(bootstrap_module, "published_meter", meter)


@pytest.mark.parametrize("stream", ["Transactions", "Labels"])
def test_history_that_the_job_would_ignore_is_refused_with_the_order_that_works(
    stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, **{stream: 3})
    with pytest.raises(UsageError, match=r"3 records.*down; fraudstream up --engine flink; fraudstream bootstrap; fr"):
        bootstrap(a_pipeline("flink"), tmp_path / "not read.csv", None, until_ms=None, progress=lambda line: None)
    refuse_where_the_job_has_begun(a_pipeline("lambda"))  # the functions read a state whenever they need it


def test_history_is_welcome_before_anything_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch)
    refuse_where_the_job_has_begun(a_pipeline("flink"))


def test_the_doctor_says_what_the_flink_engine_lacks_and_does_not_insist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(install, "READY", tmp_path / ".ready")
    findings = {finding.what: finding for finding in doctor.examine()}
    java, venv = findings["Java 17 or newer for the Flink engine"], findings[".venv-flink for the Flink engine"]
    assert (java.ok, java.optional, "install" in java.remedy) == (False, True, True)
    assert (venv.ok, venv.optional, venv.remedy) == (False, True, "make setup-flink")
    assert findings[".venv-localstack for the localstack target"].remedy == "make setup-localstack"
    (tmp_path / ".ready").touch()
    assert {f.what: f.ok for f in doctor.examine()}[venv.what]
