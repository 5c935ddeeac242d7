"""The life of the job beside its run: start, watch, stop with a savepoint, start again from what was kept."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from local.flink.job_process import JOB_COMMAND, end_job, start_job
from local.flink.layout import FlinkFolder
from local.flink.properties import JobSettings, job_properties, read_start
from local.flink.rest import RUNNING, FlinkRest, JobState, RestFailure, SavepointFailed
from local.flink.snapshots import newest_snapshot, remove_others, savepoint_of
from local.flink.status import DOWN, STOPPED, Checkpoints, FlinkStatus, write_status
from local.run import write_atomically

START_DEADLINE_S: Final = 150.0
STOP_DEADLINE_S: Final = 60.0
_REPORT_EVERY_S: Final = 0.5
_STARTING_POLL_S: Final = 0.1
_SHORTEST_WAIT_S: Final = 0.05
_RESTARTS_BEFORE_RUNNING: Final = 5


class _Life(msgspec.Struct):
    run_id: str
    restarts: int


class JobFailed(Exception):
    """The job ended or did not start; the message says what is known."""


class Launcher:
    """Keeps one job running until told to stop.

    Args:
        folder: the job's files.
        settings: what the run decides about the job.
        run_id: of the run; restarts are counted within one.
        inherited: environment that leads the job's AWS clients to the local AWS.
        command: what to start.
        say: takes a line for the log.
    """

    def __init__(
        self,
        folder: FlinkFolder,
        settings: JobSettings,
        *,
        run_id: str,
        inherited: Mapping[str, str],
        pid: int,
        command: tuple[str, ...] = JOB_COMMAND,
        say: Callable[[str], None] = print,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._run_id = run_id
        self._inherited = inherited
        self._pid = pid
        self._command = command
        self._say = say
        self._rest = FlinkRest(settings.rest_port)
        self._stopping = False  # no Event: it is set by a signal handler, which may interrupt the Event itself
        self._process: subprocess.Popen[bytes] | None = None
        self._restored_from: Path | None = None
        self._restarts_before = 0
        self._restarts_in_flink = 0
        self._tidied = False

    def stop(self) -> None:
        """Have `run` stop the job with a savepoint and return."""
        self._stopping = True

    def run(self) -> int:
        """Return the exit code: 0 stopped as asked, 1 the job ended by itself or did not start."""
        self._folder.make()
        end_job(self._folder)
        self._restarts_before = self._count_start()
        try:
            while not self._stopping:
                if self._folder.stop_request.exists():
                    self._report(STOPPED)
                    self._pause(_REPORT_EVERY_S)
                else:
                    self._run_job()
        except JobFailed as failure:
            self._say(str(failure))
            self._correct(DOWN)
            return 1
        finally:
            end_job(self._folder)
        return 0

    def _pause(self, seconds: float) -> None:
        ends_at_s = time.monotonic() + seconds
        while not self._stopping and (left_s := ends_at_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _SHORTEST_WAIT_S))

    def _run_job(self) -> None:
        """Start the job and watch it until somebody wants it stopped. Raises JobFailed."""
        self._restored_from = newest_snapshot(self._folder)
        self._tidied = False
        self._restarts_before, self._restarts_in_flink = self._restarts_before + self._restarts_in_flink, 0
        write_atomically(
            self._folder.properties,
            job_properties(self._settings, self._folder, read_start(self._folder), self._restored_from),
        )
        for said in self._folder.progress.glob("*.json"):
            said.unlink()  # by a job that may have come further than the snapshot
        self._say(f"starting the job from {self._restored_from or 'the start positions'}")
        process = self._process = start_job(self._folder, self._inherited, self._command)
        try:
            job = self._wait_until_running(process)
            while job is not None and not self._wants_rest():
                job = self._watch(job)
                self._pause(_REPORT_EVERY_S)
                if process.poll() is not None:
                    raise JobFailed(f"the job ended with exit code {process.returncode}")
            if job is not None:
                self._stop_with_savepoint(process, job.job_id)
        finally:
            end_job(self._folder)
            process.wait()
            self._process = None

    def _wants_rest(self) -> bool:
        return self._stopping or self._folder.stop_request.exists()

    def _wait_until_running(self, process: subprocess.Popen[bytes]) -> JobState | None:
        """The job once every vertex runs; None if it is to stop before that."""
        deadline_s = time.monotonic() + START_DEADLINE_S
        while not self._wants_rest():
            if process.poll() is not None:
                raise JobFailed(f"the job did not start: exit code {process.returncode}")
            try:
                job = self._rest.job()
                if job is not None and job.state == RUNNING:
                    return job
                if job is not None and (self._rest.restarts(job.job_id) or 0) >= _RESTARTS_BEFORE_RUNNING:
                    raise JobFailed(f"the job fails again and again: {self._rest.root_cause(job.job_id)}")
            except RestFailure:
                pass  # it is not there yet
            if time.monotonic() > deadline_s:
                raise JobFailed(f"the job was not running after {START_DEADLINE_S:.0f} s; read {self._folder.logs}")
            self._correct(DOWN)
            self._pause(_STARTING_POLL_S)
        return None

    def _watch(self, job: JobState) -> JobState:
        """Look at the job and tell; the job as it is now, as far as it answers."""
        try:
            found = self._rest.job() or job
            checkpoints = self._rest.checkpoints(found.job_id)
            self._restarts_in_flink = self._rest.restarts(found.job_id) or self._restarts_in_flink
        except RestFailure as error:
            self._say(str(error))
            self._report(DOWN, job.job_id)
            return job
        if checkpoints.completed and not self._tidied:
            remove_others(self._folder, found.job_id)
            self._tidied = True
        self._report(found.state, found.job_id, checkpoints)
        return found

    def _stop_with_savepoint(self, process: subprocess.Popen[bytes], job_id: str) -> None:
        """Return when the job has ended. Without a savepoint the next start takes the newest checkpoint."""
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        where: str | None = None
        try:
            request_id = self._rest.stop_with_savepoint(job_id)
            while where is None and process.poll() is None and time.monotonic() < deadline_s:
                where = self._rest.savepoint(job_id, request_id)
                time.sleep(0.02)
        except SavepointFailed as error:
            self._say(str(error))
            return
        except RestFailure as error:
            self._say(f"no answer about the savepoint: {error}")
        try:
            process.wait(max(1.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._say("the job did not end after its savepoint; it is killed")
        found = savepoint_of(self._folder, job_id)
        self._say(f"stopped with savepoint {found}" if found else "stopped without a savepoint")
        self._report(STOPPED)

    def _correct(self, state: str) -> None:
        """Report `state` if anything was ever reported; the first report says that the job works."""
        if self._folder.status.exists():
            self._report(state)

    def _report(self, state: str, job_id: str | None = None, checkpoints: Checkpoints | None = None) -> None:
        restarts = self._restarts_before + self._restarts_in_flink
        write_atomically(self._folder.life, msgspec.json.encode(_Life(self._run_id, restarts)))
        write_status(
            self._folder,
            FlinkStatus(
                pid=self._pid,
                job_pid=None if self._process is None else self._process.pid,
                rest_port=self._settings.rest_port,
                job_id=job_id,
                state=state,
                checkpoints=checkpoints or Checkpoints(),
                restarts=restarts,
                restored_from=None if self._restored_from is None else str(self._restored_from),
                updated_at_ms=time.time_ns() // 1_000_000,
            ),
        )

    def _count_start(self) -> int:
        """Restarts of this run so far, this start included unless it is the first."""
        try:
            life = msgspec.json.decode(self._folder.life.read_bytes(), type=_Life)
        except FileNotFoundError:
            return 0
        return life.restarts + 1 if life.run_id == self._run_id else 0
