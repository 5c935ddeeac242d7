"""What holds for the repository as a whole."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ADDRESS = re.compile(r"https?://|--index-url|--extra-index-url|--find-links")


def test_lock_files_hold_hashes_and_no_addresses() -> None:
    locks = sorted((ROOT / "requirements").glob("*.lock"))
    assert {"default.lock", "embedded.lock", "endpoint.lock", "sam.lock", "lambdas.lock", "uv.lock"} <= {
        lock.name for lock in locks
    }
    for lock in locks:
        text = lock.read_text()
        assert not ADDRESS.search(text), lock
        assert len(re.findall(r"^[a-z0-9][a-z0-9._\[\]-]*==", text, re.MULTILINE)) <= text.count("--hash=sha256:"), lock


@pytest.mark.parametrize("lock", ["lambdas.lock", "endpoint.lock"])
def test_functions_and_container_run_the_versions_that_the_tests_run(lock: str) -> None:
    assert pins(lock)
    assert {name: pins("default.lock").get(name) for name in pins(lock)} == pins(lock)


def pins(lock: str) -> dict[str, str]:
    """Name to version of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))


def test_every_package_is_listed_for_the_wheel() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*__init__.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    packages = {str(Path(path).parent).replace("/", ".") for path in tracked}
    assert {name for name in packages if not name.startswith(("tests", "benchmarks"))} == listed
