"""The table of capabilities is whole, and the parts of a run follow from it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from console.targets import target_lines
from local.capabilities import CAPABILITIES, PLACES, TABLE, Capability, Place, place_of, standing, supplied, why_not
from local.localstack import host
from local.parts import run_spec
from tests.unit.local.test_up import a_record

ROOT = Path(__file__).resolve().parents[3]


def test_every_cell_is_filled_and_its_evidence_exists() -> None:
    assert set(TABLE) == set(CAPABILITIES)
    for capability in CAPABILITIES:
        assert set(TABLE[capability]) == set(PLACES)
        for place in PLACES:
            found = standing(place, capability)
            assert (ROOT / found.evidence).is_file(), (capability, place)
            assert bool(found.reason) or found.how == "native", (capability, place)
            assert not found.reason.endswith("."), (capability, place)
            assert (why_not(place, capability) is None) == (found.how != "lacking")
            assert supplied(place, capability) == (found.how == "ours")


def test_a_target_names_its_column() -> None:
    assert [place_of("embedded"), place_of("localstack"), place_of("localstack", attached=True)] == list(PLACES)
    with pytest.raises(KeyError):
        place_of("aws")


@pytest.mark.parametrize("place", ["embedded", "localstack"])
def test_the_parts_of_a_run_are_what_the_table_has_us_supply(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "environment", lambda *_args, **_settings: {})
    supplies: dict[str, Capability] = {
        "sagemaker": "sagemaker",
        "mappings": "event source mappings",
        "firehose": "firehose",
    }
    parts = {part.name for part in run_spec(a_record(target=place), tmp_path, None, resumes=False).parts}
    assert parts == {"aws"} | {part for part, capability in supplies.items() if supplied(place, capability)}


def test_nothing_else_decides_by_the_name_of_a_target() -> None:
    """Comparisons of a `target` with a name are left to who starts an emulator, and to the option that names one."""
    comparing = set()
    for folder in ("local", "console"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare) and any(
                    isinstance(side, ast.Constant) and side.value in ("embedded", "localstack")
                    for side in [node.left, *node.comparators]
                ):
                    comparing.add(path.relative_to(ROOT).as_posix())
    assert comparing <= {"local/capabilities.py", "local/parts.py", "local/up.py", "console/commands_run.py"}


def test_doctor_shows_every_capability_with_the_reason_of_what_is_lacking() -> None:
    lines = list(target_lines())
    for capability in CAPABILITIES:
        (row,) = [line for line in lines if line.startswith(f"{capability}  ")]
        assert row.removeprefix(capability).split() == [standing(place, capability).how for place in PLACES]
        for place in PLACES:
            if (reason := why_not(place, capability)) is not None:
                assert any(place in line and line.endswith(f": {reason}") for line in lines)
