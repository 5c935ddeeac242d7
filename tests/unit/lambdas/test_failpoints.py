"""Where fault tests kill the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lambdas.failpoints import AFTER_COMMIT, AFTER_PUBLISH, BEFORE_COMMIT, FAILPOINTS, failpoints


def test_without_a_file_name_nothing_happens() -> None:
    reach = failpoints("")
    for name in FAILPOINTS:
        reach(name)


@pytest.mark.parametrize(("content", "kills"), [("after_commit", 1), ("after_commit 1\n", 1), ("after_commit 3", 3)])
def test_the_named_failpoint_strikes_as_often_as_its_count_says(tmp_path: Path, content: str, kills: int) -> None:
    file = tmp_path / "failpoint"
    file.write_text(content)
    deaths: list[str] = []
    for _ in range(5):
        for name in FAILPOINTS:
            failpoints(str(file), lambda name=name: deaths.append(name))(name)  # type: ignore[misc]
    assert deaths == [AFTER_COMMIT] * kills
    assert list(tmp_path.iterdir()) == []


def test_the_count_goes_down_before_the_process_dies(tmp_path: Path) -> None:
    file = tmp_path / "failpoint"
    file.write_text("before_commit 2")
    failpoints(str(file), lambda: None)(BEFORE_COMMIT)
    assert file.read_text().split() == [BEFORE_COMMIT, "1"]


def test_a_file_that_appears_later_counts(tmp_path: Path) -> None:
    file = tmp_path / "failpoint"
    deaths: list[str] = []
    reach = failpoints(str(file), lambda: deaths.append("dead"))
    reach(AFTER_PUBLISH)
    file.write_text(AFTER_PUBLISH)
    reach(AFTER_PUBLISH)
    assert deaths == ["dead"]


def test_the_process_ends_by_sigkill(tmp_path: Path) -> None:
    file = tmp_path / "failpoint"
    file.write_text(BEFORE_COMMIT)
    program = f"from lambdas.failpoints import failpoints\nfailpoints({str(file)!r})('before_commit')\nprint('alive')"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=os.environ, cwd=Path.cwd(), timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")
    assert not file.exists()


def test_a_functions_own_failpoint_strikes_no_other_function(tmp_path: Path) -> None:
    file = tmp_path / "failpoint"
    file.write_text("record_labels:after_commit")
    deaths: list[str] = []
    failpoints(str(file), lambda: deaths.append("scorer"))(AFTER_COMMIT)
    failpoints(str(file), lambda: deaths.append("entities"), function="update_entities")(AFTER_COMMIT)
    failpoints(str(file), lambda: deaths.append("labels"), function="record_labels")(AFTER_COMMIT)
    assert deaths == ["labels"]
