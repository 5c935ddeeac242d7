"""Small parts of the job's shell: progress files, failpoints, pauses, lines of the official connector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_features.errors import PortFailure
from stream_features.flink_job.aws_calls import LONGEST_PAUSE_MS, TRIES, call, is_transient, pause_ms
from stream_features.flink_job.connector_jar import make_jar
from stream_features.flink_job.failpoints import AFTER_PUT, AFTER_READ, failpoints
from stream_features.flink_job.polling_reader import ShardPosition
from stream_features.flink_job.progress import WRITTEN, ProgressFiles
from tests.unit.flink_job.fake_kinesis import BROKEN, EXPIRED, FORBIDDEN, NO_ANSWER, THROTTLED


def test_progress_files_say_what_consumers_wait_for(tmp_path: Path) -> None:
    progress = ProgressFiles(tmp_path / "progress")
    progress.read("transactions", 7, {"s-0": ShardPosition("42"), "s-1": ShardPosition(drained=True)}, {"s-0": 3})
    progress.finished(WRITTEN, 5)
    assert json.loads((tmp_path / "progress" / "read-transactions.json").read_bytes()) == {
        "stream": "transactions",
        "taken": 7,
        "positions": {
            "s-0": {"sequence_number": "42", "drained": False, "millis_behind": 3},
            "s-1": {"sequence_number": None, "drained": True, "millis_behind": None},
        },
    }
    assert json.loads((tmp_path / "progress" / "written.json").read_bytes()) == {"finished": 5}
    assert len(list((tmp_path / "progress").iterdir())) == 2


def test_an_unchanged_progress_file_is_not_written_again(tmp_path: Path) -> None:
    progress = ProgressFiles(tmp_path)
    progress.finished(WRITTEN, 5)
    (tmp_path / "written.json").unlink()
    progress.finished(WRITTEN, 5)
    assert not (tmp_path / "written.json").exists()
    progress.finished(WRITTEN, 6)
    assert (tmp_path / "written.json").exists()


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    progress = ProgressFiles(None)
    progress.finished(WRITTEN, 5)
    progress.read("transactions", 0, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_failpoint_kills_as_often_as_it_is_told(tmp_path: Path) -> None:
    deaths: list[str] = []
    reach = failpoints(tmp_path / "failpoint", lambda: deaths.append("died"))
    reach(AFTER_READ)
    (tmp_path / "failpoint").write_text(f"{AFTER_READ} 2\n")
    reach(AFTER_PUT)
    assert deaths == []
    for _ in range(3):
        reach(AFTER_READ)
    assert deaths == ["died"] * 2
    assert not (tmp_path / "failpoint").exists()


def test_no_file_no_failpoint(tmp_path: Path) -> None:
    failpoints(None, lambda: pytest.fail("died"))(AFTER_READ)


def test_pauses_double_up_to_a_bound_and_half_of_them_is_chance() -> None:
    assert [pause_ms(failures, lambda: 1.0) for failures in (1, 2, 3)] == [50, 100, 200]
    assert pause_ms(3, lambda: 0.0) == 100
    assert pause_ms(10_000, lambda: 1.0) == LONGEST_PAUSE_MS


@pytest.mark.parametrize(
    ("error", "transient"), [(THROTTLED, True), (BROKEN, True), (NO_ANSWER, True), (EXPIRED, False), (FORBIDDEN, False)]
)
def test_which_errors_pass_by_themselves(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_a_call_is_tried_so_often_and_no_more() -> None:
    tries: list[float] = []

    def fails() -> None:
        raise THROTTLED

    with pytest.raises(PortFailure, match="Call: ProvisionedThroughputExceeded"):
        call(fails, what="Call", sleep=tries.append)
    assert len(tries) == TRIES - 1


def test_without_its_tools_the_connectors_jar_is_not_made_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyflink-dependencies.jar").write_bytes(b"of an older version")
    monkeypatch.setenv("PATH", "")
    assert make_jar(tmp_path, tmp_path) == "no mvn and no javac on the PATH"
    assert list(tmp_path.iterdir()) == []
