"""What checkov is told to overlook has its reason and is all it would find; `make check` runs it as it is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.run import CHECKOUT
from tests.cloudformation import ENDPOINT, EVERYTHING, MAIN, NETWORK, decided, load

CHECKOV = CHECKOUT / ".venv-audit" / "bin" / "checkov"
ALL = (MAIN, ENDPOINT, NETWORK, CHECKOUT / "endpoint" / "build.yaml", CHECKOUT / ".github" / "deploy-role.yaml")

pytestmark = pytest.mark.skipif(not CHECKOV.exists(), reason="no .venv-audit: make setup-audit")


def found(*files: Path) -> set[tuple[str, str]]:
    """(check, logical id) of everything that checkov finds wrong."""
    done = subprocess.run(
        [
            CHECKOV,
            "--framework",
            "cloudformation",
            "--skip-download",
            "--compact",
            "--quiet",
            "-o",
            "json",
            "--file",
            *files,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 10 * len(files)
    wrong = {(each["check_id"], each["resource"].rpartition(".")[2]) for each in report["results"]["failed_checks"]}
    assert done.returncode == (1 if wrong else 0)
    return wrong


def suppressions(path: Path) -> dict[tuple[str, str], str]:
    """(check, logical id) to its reason."""
    return {
        (skip["id"], name): skip["comment"]
        for name, resource in load(path)["Resources"].items()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", ())
    }


def test_every_suppression_has_a_reason_and_is_documented() -> None:
    page = (CHECKOUT / "docs" / "security.md").read_text()
    for path in ALL:
        for (check, name), reason in suppressions(path).items():
            assert len(reason.split()) >= 5, (check, name)
            assert check in page, (check, name)


def test_with_every_switch_on_each_suppression_is_needed_and_what_is_taken_away_is_found(tmp_path: Path) -> None:
    """Checkov passes over what conditions leave out, so it is given the templates with nothing left out."""
    broken = {path: with_everything(path) for path in (MAIN, ENDPOINT)}
    del broken[MAIN]["Resources"]["LabelsTable"]["Properties"]["SSESpecification"]
    del broken[MAIN]["Resources"]["AlertsTopic"]["Properties"]["KmsMasterKeyId"]
    del broken[ENDPOINT]["Resources"]["Model"]["Properties"]["EnableNetworkIsolation"]
    files = [tmp_path / "template.yaml", tmp_path / "endpoint.yaml"]
    for file, template in zip(files, broken.values(), strict=True):
        file.write_text(yaml.safe_dump(template))
    assert found(*files) == {
        *suppressions(MAIN),
        *suppressions(ENDPOINT),
        ("CKV_AWS_119", "LabelsTable"),
        ("CKV_AWS_26", "AlertsTopic"),
        ("CKV_AWS_370", "Model"),
    }


def with_everything(path: Path) -> dict[str, Any]:
    """A template without conditions and without what checkov is told to overlook."""
    without_tracing = {"XRay": "false"} if path == MAIN else {}  # one suppression is about its absence
    template = decided(path, EVERYTHING[path] | without_tracing)
    del template["Conditions"]
    for resource in template["Resources"].values():
        resource.pop("Condition", None)
        resource.get("Metadata", {}).pop("checkov", None)
    return template
