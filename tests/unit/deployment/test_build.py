"""When a package has to be made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.deployment.build import sources_hash


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("lambdas/adapters", "stream_features", "requirements", "model"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        *("template.yaml", "samconfig.toml", "requirements/lambdas.lock"),
        *("lambdas/a.py", "lambdas/adapters/b.py", "stream_features/c.py", "model/d.py"),
    ):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "changed", ["template.yaml", "requirements/lambdas.lock", "lambdas/adapters/b.py", "stream_features/new.py"]
)
def test_a_change_to_what_is_packaged_changes_the_hash(checkout: Path, changed: str) -> None:
    before = sources_hash(checkout)
    (checkout / changed).write_text("changed")
    assert sources_hash(checkout) != before


def test_what_is_not_packaged_does_not_count(checkout: Path) -> None:
    before = sources_hash(checkout)
    (checkout / "model" / "d.py").write_text("changed")
    (checkout / "lambdas" / "__pycache__").mkdir()
    (checkout / "lambdas" / "__pycache__" / "a.pyc").write_text("compiled")
    assert sources_hash(checkout) == before


def test_moving_text_between_files_changes_the_hash(checkout: Path) -> None:
    (checkout / "lambdas" / "a.py").write_text("12")
    (checkout / "lambdas" / "b.py").write_text("3")
    before = sources_hash(checkout)
    (checkout / "lambdas" / "a.py").write_text("1")
    (checkout / "lambdas" / "b.py").write_text("23")
    assert sources_hash(checkout) != before
