"""What our plugin writes of LocalStack's pollers is what the commands read of our own runner."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from console.lag import MappingCheckpoint, read_checkpoints
from local.localstack import host


def positions_module() -> Any:
    """The plugin is no package of ours: it lives in LocalStack's virtual environment."""
    path = Path(host.__file__).parent / "plugin" / "fraudstream_localstack" / "positions.py"
    spec = importlib.util.spec_from_file_location("positions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_positions_are_read_as_those_of_our_runner(tmp_path: Path) -> None:
    positions = positions_module().Positions(tmp_path)
    positions.note("a", "shard-0", "7")
    positions.note("a", "shard-1", "3")
    positions.note("b", "shard-0", "1")
    positions.note("a", "shard-0", "9")
    assert read_checkpoints(tmp_path, "a") == {
        "shard-0": MappingCheckpoint(sequence_number="9"),
        "shard-1": MappingCheckpoint(sequence_number="3"),
    }
    assert read_checkpoints(tmp_path, "b") == {"shard-0": MappingCheckpoint(sequence_number="1")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
