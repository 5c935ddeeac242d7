"""Completion, version, suggestions and what `--help` costs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from console.cli import main
from console.lake import query_names
from console.options import MAPPING
from console.versions import git_commit
from producers.mappings import BUILT_IN
from stream_features.feature_sets import FEATURE_SETS

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("boto3", "botocore", "numpy", "pyarrow", "xgboost", "sklearn", "matplotlib", "rich", "starlette", "httpx")


def offered(*words: str, incomplete: str = "") -> list[tuple[str, str]]:
    """(kind, value) of what the shell would be given after `words`."""
    completer = ShellComplete(main, {}, "fraudstream", "_FRAUDSTREAM_COMPLETE")
    return [(item.type, item.value) for item in completer.get_completions(list(words), incomplete)]


def values(*words: str, incomplete: str = "") -> list[str]:
    return [value for _, value in offered(*words, incomplete=incomplete)]


def test_commands_options_and_values_are_completed() -> None:
    assert values(incomplete="expl") == ["explain"]
    assert values("policy", incomplete="back") == ["backtest"]
    assert "--lockstep" in values("publish", incomplete="--lo")
    assert values("query") == query_names()
    assert values("query", incomplete="count_") == ["count_and_amount"]
    assert values("train", "--feature-set") == list(FEATURE_SETS)
    assert values("up", "--feature-set", incomplete="h") == ["handbook"]
    assert values("completion") == ["bash", "zsh", "fish"]


def test_files_are_left_to_the_shell() -> None:
    assert offered("train") == [("file", "")]
    assert offered("evaluate", "x.parquet", "--truth", incomplete="da") == [("file", "da")]
    assert offered("train", "--out") == [("dir", "")]
    assert values("train", "--mapping") == ["handbook", "sparkov"]
    assert offered("train", "--mapping", incomplete="my") == [("file", "my")]


def test_completion_knows_the_shipped_mappings() -> None:
    assert values("publish", "--mapping") == sorted(BUILT_IN)
    assert MAPPING.name == "MAPPING"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_for_this_command(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_FRAUDSTREAM_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_with_the_script() -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    asked = f"{script}\nCOMP_WORDS=(fraudstream query de)\nCOMP_CWORD=2\n_fraudstream_completion fraudstream\n"
    asked += 'printf "%s\\n" "${COMPREPLY[@]}"'
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", asked], capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout.split() == [name for name in query_names() if name.startswith("de")]


def test_the_version_names_package_commit_and_feature_sets() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert re.match(r"fraudstream \d+\.\d+\.\d+", result.stdout)
    for features in FEATURE_SETS.values():
        assert features.feature_set_id in result.stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "--short=12", "HEAD").strip()
    assert git_commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{head}+"


@pytest.mark.parametrize(
    ("typed", "meant"), [("stats", "'status'"), ("publsh", "'publish'"), ("explian", "'explain'"), ("xyzzy", None)]
)
def test_an_unknown_command_names_the_nearest(typed: str, meant: str | None) -> None:
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == 2
    assert f"No such command {typed!r}." in result.stderr
    assert ("Did you mean" in result.stderr) is (meant is not None)
    if meant is not None:
        assert meant in result.stderr
    assert "--help' for help" in result.stderr


def test_help_loads_nothing_heavy() -> None:
    """Of the command itself and of every subcommand: by what is loaded, not by the clock."""
    probe = (
        "import sys, click\n"
        "from console.cli import main\n"
        "def walk(group, words):\n"
        "    context = click.Context(group)\n"
        "    for name in group.list_commands(context):\n"
        "        command = group.get_command(context, name)\n"
        "        if isinstance(command, click.Group): walk(command, [*words, name])\n"
        "        else:\n"
        "            try: main([*words, name, '--help'], standalone_mode=False)\n"
        "            except click.exceptions.Exit: pass\n"
        "main(['--help'], standalone_mode=False)\n"
        "walk(main, [])\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"
    assert "Usage:" in done.stdout
