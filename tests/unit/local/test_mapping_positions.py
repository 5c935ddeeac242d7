"""How far a shard is done, with lanes finishing out of order and runners that are killed."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from local.mappings.positions import Checkpoints, Progress, ShardPosition


@given(st.permutations([str(number) for number in range(12)]), st.integers(1, 4))
def test_the_position_is_the_last_record_before_the_first_open_one(order: list[str], chunk: int) -> None:
    read = [str(number) for number in range(12)]
    progress = Progress()
    progress.read(read)
    position = None
    for start in range(0, len(order), chunk):
        moved_to = progress.finish(order[start : start + chunk])
        position = moved_to if moved_to is not None else position
        done = set(order[: start + chunk])
        contiguous = next((place for place, record in enumerate(read) if record not in done), len(read))
        assert position == (read[contiguous - 1] if contiguous else None)
        assert progress.open_records == len(read) - contiguous


def test_checkpoints_outlive_their_process(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "some-uuid")
    assert checkpoints.is_new
    checkpoints.save("shard-0", ShardPosition(sequence_number="17"))
    checkpoints.save("shard-1", ShardPosition(drained=True))

    again = Checkpoints(tmp_path, "some-uuid")
    assert not again.is_new
    assert again.get("shard-0") == ShardPosition(sequence_number="17")
    assert again.get("shard-2") is None
    assert again.is_drained("shard-1")
    assert not again.is_drained("shard-0")
    assert not again.is_drained("shard-2")


def test_the_file_can_be_read_by_others(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "u").save("shard-0", ShardPosition(sequence_number="17"))
    assert json.loads((tmp_path / "u.json").read_text()) == {"shard-0": {"sequence_number": "17"}}
    assert [path.name for path in tmp_path.iterdir()] == ["u.json"]
