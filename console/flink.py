"""The Flink job as the console sees it: how it is, and whether it has finished with what is in its streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from local.flink.layout import FlinkFolder
from local.flink.progress import read_progress
from local.flink.rest import RUNNING
from local.flink.status import DOWN, FlinkStatus, read_status_file
from local.processes import carries_marker
from local.run import RunState

READ_BY_THE_JOB: Final = ("TransactionsStreamName", "EntityEventsStreamName")

Ends = Mapping[tuple[str, str], str]  # (stream, shard) -> the sequence number it ends with


class JobConsumer:
    """The job among the consumers of a pipeline.

    Args:
        folder: the job's files.
        streams: those it reads.
        state: the job's state now; anything but RUNNING may mean that it will take in records a second time.
    """

    def __init__(self, folder: FlinkFolder, streams: tuple[str, ...], state: Callable[[], str]) -> None:
        self._folder = folder
        self.streams = streams
        self._state = state

    def position(self, stream: str, shard_id: str) -> str | None:
        """The last record of a shard that the job has read; None for none."""
        return read_progress(self._folder).at(stream, shard_id).sequence_number

    def open(self, ends: Ends) -> list[str]:
        """What the job has not finished of everything up to `ends`, as sentences; empty if nothing is left.

        A record is finished when what became of it is on the stream of features, or in its merchant's state.
        """
        state = self._state()
        progress = read_progress(self._folder)
        still_open = [] if state == RUNNING else [f"the Flink job is {state}"]
        for (stream, shard_id), last in ends.items():
            if stream not in self.streams:
                continue
            read = progress.at(stream, shard_id)
            if not read.drained and int(read.sequence_number or -1) < int(last):
                still_open.append(f"flink/{stream}/{shard_id} at {read.sequence_number or 'the start'} of {last}")
        if progress.under_way:
            still_open.append(f"the Flink job has {progress.under_way} records under way")
        return still_open


def job_consumer(run: RunState) -> JobConsumer:
    """The job of a run whose engine is flink."""
    return JobConsumer(flink_folder(run), read_streams(run), lambda: job_state(run))


def flink_folder(run: RunState) -> FlinkFolder:
    return FlinkFolder(run.state_dir / "flink")


def read_streams(run: RunState) -> tuple[str, ...]:
    """The streams that the job reads."""
    return tuple(run.outputs[name] for name in READ_BY_THE_JOB)


def job_state(run: RunState) -> str:
    """What the launcher said last, unless launcher or job has died since."""
    return _state_of(run, read_status_file(flink_folder(run)))


def job_report(run: RunState) -> dict[str, Any]:
    """For `status`: state, checkpoints, restarts, restored_from, and the records inside the job."""
    folder = flink_folder(run)
    status = read_status_file(folder)
    return {
        "state": _state_of(run, status),
        "checkpoints": None if status is None else msgspec.to_builtins(status.checkpoints),
        "restarts": 0 if status is None else status.restarts,
        "restored_from": None if status is None else status.restored_from,
        "records_under_way": read_progress(folder).under_way,
    }


def _state_of(run: RunState, status: FlinkStatus | None) -> str:
    if status is None or not carries_marker(status.pid, run.run_id):
        return DOWN
    if status.state == RUNNING and not carries_marker(status.job_pid or 0, run.run_id):
        return DOWN
    return status.state
