"""The lock files pin and hash everything; the bill of materials made of one is valid, whole and always the same."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "requirements"
AUDIT_PYTHON = ROOT / ".venv-audit" / "bin" / "python"
DIGEST = "a" * 64
GOOD = f"one==1.0 \\\n    --hash=sha256:{DIGEST}\n"


def load(name: str) -> ModuleType:
    """A script of requirements/, which is no package; its siblings are found as when it runs."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


lock_files = load("lock_files")
bill_of_materials = load("bill_of_materials")
audit = load("audit")


def test_every_lock_file_is_in_order() -> None:
    assert list(lock_files.problems()) == []
    locks = {path.name: lock_files.read_lock(path) for path in FOLDER.glob("*.lock")}
    assert len(locks) >= 12
    assert len(locks["default.lock"]) > 50
    for path in audit.NPM_LOCKS:
        assert list(lock_files.npm_problems(ROOT / path)) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no distribution"),
        ("one==1.0\n", "neither a pinned version"),
        (f"one>=1.0 \\\n    --hash=sha256:{DIGEST}\n", "neither a pinned version"),
        ("one==1.0 \\\n    --hash=md5:abc\n", "nor a SHA-256"),
        (f"one==1.0 \\\n    --hash=sha256:{DIGEST[:-1]}\n", "nor a SHA-256"),
        (f"    --hash=sha256:{DIGEST}\n", "neither a pinned version"),
        ("one==1.0 \\\n", "no hash for one"),
        (GOOD + GOOD, "one stands twice"),
        (GOOD + GOOD.replace("one", "ONE"), "one stands twice"),
        ("--index-url https://example.org/simple\n" + GOOD, "neither a pinned version"),
        (f"one @ https://example.org/one.whl \\\n    --hash=sha256:{DIGEST}\n", "neither a pinned version"),
        ("-e .\n", "neither a pinned version"),
    ],
)
def test_a_lock_file_that_does_not_pin_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "some.lock").write_text(text)
    with pytest.raises(lock_files.InvalidLock, match=why):
        lock_files.read_lock(tmp_path / "some.lock")
    assert list(lock_files.problems(tmp_path)) != []


def test_lock_files_that_disagree_are_found(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "all", ignore=shutil.ignore_patterns("__pycache__"))
    lambdas = tmp_path / "all" / "lambdas.lock"
    (version,) = [pin.version for pin in lock_files.read_lock(lambdas) if pin.name == "boto3"]
    lambdas.write_text(lambdas.read_text().replace(f"boto3=={version}", "boto3==1.0.0"))
    assert list(lock_files.problems(tmp_path / "all")) == [
        f"lambdas.lock: boto3 1.0.0, but {version} in default.lock: make lock"
    ]
    (tmp_path / "all" / "new.in").write_text("something\n")
    assert "new.in has no lock file: make lock" in list(lock_files.problems(tmp_path / "all"))


def test_an_npm_package_without_a_hash_or_with_an_address_is_found(tmp_path: Path) -> None:
    file = tmp_path / "package-lock.json"
    packages = {"": {}, "a": {"version": "1"}, "b": {"integrity": "sha512-x", "resolved": "https://example.org/b.tgz"}}
    file.write_text(json.dumps({"packages": packages}))
    assert [line.removeprefix(f"{file}: ") for line in lock_files.npm_problems(file)] == [
        "a has no integrity",
        "b names an address",
    ]


@pytest.mark.parametrize("name", bill_of_materials.WHAT)
def test_a_bill_names_everything_that_is_locked_and_nothing_else(name: str) -> None:
    lock = FOLDER / f"{name}.lock"
    bill = bill_of_materials.bill_of_materials(lock)
    pins = lock_files.read_lock(lock)
    assert [(one["name"], one["version"]) for one in bill["components"]] == [(pin.name, pin.version) for pin in pins]
    hashes = [h["content"] for one in bill["components"] for h in one["externalReferences"][0]["hashes"]]
    assert sorted(hashes) == sorted({digest for pin in pins for digest in pin.sha256})
    assert len(bill["dependencies"][0]["dependsOn"]) == len(pins)


def test_a_bill_is_the_same_bytes_every_time_and_another_one_for_another_lock(tmp_path: Path) -> None:
    lock = FOLDER / "lambdas.lock"
    command = [sys.executable, str(FOLDER / "bill_of_materials.py")]
    first, second = (subprocess.run([*command, lock], capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    changed = tmp_path / "lambdas.lock"
    changed.write_text(lock.read_text().replace("six==", "six==9."))
    other = subprocess.run([*command, changed, tmp_path / "out" / "bill.json"], check=True, capture_output=True)
    assert other.stdout == b""
    written = json.loads((tmp_path / "out" / "bill.json").read_bytes())
    assert written["serialNumber"] != json.loads(first)["serialNumber"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
    changed.write_text("six\n")
    assert subprocess.run([*command, changed], capture_output=True, check=False).returncode == 1


VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
for text in sys.stdin.read().split("\\0"):
    print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(text))
"""


@pytest.mark.skipif(not AUDIT_PYTHON.exists(), reason="no .venv-audit: make setup-audit")
def test_a_bill_is_valid_by_the_schema_of_cyclonedx() -> None:
    bills: list[dict[str, Any]] = [
        bill_of_materials.bill_of_materials(FOLDER / f"{name}.lock") for name in bill_of_materials.WHAT
    ]
    invalid = {**bills[0], "components": [{"type": "library"}]}
    done = subprocess.run(
        [AUDIT_PYTHON, "-c", VALIDATE],
        input="\0".join(map(json.dumps, [*bills, invalid])),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[: len(bills)] == ["None"] * len(bills)
    assert "required" in done.stdout


def pip_audit_says(stdout: str, stderr: str = "") -> Any:
    return lambda command: SimpleNamespace(stdout=stdout, stderr=stderr, returncode=1)


def test_a_known_vulnerability_is_reported_with_what_repairs_it() -> None:
    vulns = [{"id": "PYSEC-1", "fix_versions": ["2.0"]}, {"id": "PYSEC-2", "fix_versions": []}]
    answer = json.dumps({"dependencies": [{"name": "one", "version": "1.0", "vulns": vulns}]})
    assert audit.vulnerabilities(Path("some.lock"), pip_audit_says(answer)) == [
        "some.lock: one 1.0: PYSEC-1, repaired in 2.0",
        "some.lock: one 1.0: PYSEC-2, repaired in no version yet",
    ]


def test_what_could_not_be_asked_is_not_taken_for_clean(capsys: pytest.CaptureFixture[str]) -> None:
    lock = Path("some.lock")
    assert audit.vulnerabilities(lock, pip_audit_says("", "ERROR: no route to host")) is None
    skipped = json.dumps({"dependencies": [{"name": "one", "skip_reason": "not found"}]})
    assert audit.vulnerabilities(lock, pip_audit_says(skipped)) is None
    assert capsys.readouterr().out.splitlines() == [
        "some.lock: not checked: ERROR: no route to host",
        "some.lock: one not checked: not found",
    ]
    clean = json.dumps({"dependencies": [{"name": "one", "version": "1.0", "vulns": []}]})
    assert audit.vulnerabilities(lock, pip_audit_says(clean)) == []
