"""`python -m local.supervisor SPEC`: one detached process that starts the parts of a run, watches and stops them.

Order: parts that need nothing, then one preparing command (build, deploy, train), then parts that need the deployed
stack; the run is ready when these have reported. SIGTERM and SIGINT stop the parts in reverse order and let each
finish what it is doing; SIGUSR1 stops them as fast as is clean, for a run whose data are thrown away.
Whatever ends this process, the parts end with it: the kernel kills them (Linux), and a guard kills the group.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Literal

import msgspec

from local.processes import MARKER, die_with_parent, start_guard
from local.run import RunRecord, record_path, write_atomically

_CHECK_INTERVAL_S: Final = 0.1
_FIRST_BACKOFF_S: Final = 0.2
_LONGEST_BACKOFF_S: Final = 10.0
_LIVED_WELL_S: Final = 30.0
_ATTEMPTS_BEFORE_READY: Final = 4
_DISCARD_GRACE_S: Final = 3.0


class Part(msgspec.Struct, kw_only=True, frozen=True):
    """One process of the run."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: str
    folder: str  # working directory
    starts: Literal["first", "after_preparation"]
    restarts: bool  # whether a new process can take over where the old one ended
    ready_file: str | None = None  # written by the part when it works
    stop_grace_s: float = 10.0
    killed_on_discard: bool = False  # its way of stopping is to save what will be thrown away


class Preparation(msgspec.Struct, kw_only=True, frozen=True):
    """The command between the two groups of parts. It writes the stack's outputs (a JSON object) to `outputs_file`."""

    command: list[str]
    environment: dict[str, str]
    log: str
    folder: str
    outputs_file: str


class RunSpec(msgspec.Struct, kw_only=True, frozen=True):
    """What the supervisor is started with. `record` is the first content of run.json."""

    record: RunRecord
    parts: list[Part]
    preparation: Preparation
    state_dir: str


class _Watched:
    """A part, its process if it runs, and when to try again if it does not."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at_s = 0.0
        self.backoff_s = _FIRST_BACKOFF_S
        self.start_due_s = 0.0
        self.restarts = 0


class _Failed(Exception):
    """The run cannot go on. Carries the sentence for the user and the log that says more."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


class Supervisor:
    """Runs one `RunSpec` until told to stop or until a part fails that cannot be started again."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._record = spec.record
        self._record.supervisor_pid = os.getpid()
        self._watched = [_Watched(part) for part in spec.parts]
        self._preparation: subprocess.Popen[bytes] | None = None
        self._prepared = False
        self._stop_signal: int | None = None
        self._dies_with_us = die_with_parent()
        self._woken, self._waking = os.pipe()

    def run(self) -> int:
        """Return the exit code: 0 stopped as asked, 1 failed."""
        self._listen_for_signals()
        self._save()
        try:
            for watched in self._watched:
                if watched.part.starts == "first":
                    self._start(watched)
            self._start_preparation()
            while self._stop_signal is None:
                self._check()
                self._sleep()
        except _Failed as failure:
            self._record.error, self._record.error_log = str(failure), failure.log
            _say(f"failed: {failure} (see {failure.log})")
        self._stop_everything()
        self._record.status = "failed" if self._record.error else "stopped"
        self._save()
        return 1 if self._record.error else 0

    def _listen_for_signals(self) -> None:
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waking, False)
        signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)

        def note(number: int, _frame: object) -> None:
            # Throwing the data away outranks saving them: the caller deletes them anyway.
            self._stop_signal = number if self._stop_signal != signal.SIGUSR1 else self._stop_signal

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, note)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only to wake up
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _sleep(self) -> None:
        readable, _, _ = select.select([self._woken], [], [], _CHECK_INTERVAL_S)
        if readable:
            os.read(self._woken, 4096)

    def _check(self) -> None:
        if not self._prepared and self._preparation is not None and self._preparation.poll() is not None:
            self._finish_preparation(self._preparation.returncode)
        for watched in self._watched:
            self._check_part(watched)
        if self._record.status == "starting" and self._prepared and all(map(_has_reported, self._watched)):
            self._record.status = "ready"
            _say("ready")
            self._save()

    def _check_part(self, watched: _Watched) -> None:
        part, process, now_s = watched.part, watched.process, time.monotonic()
        if process is None:
            if watched.start_due_s and now_s >= watched.start_due_s:
                self._start(watched)
            return
        if process.poll() is None:
            return
        _say(f"{part.name} (process {process.pid}) ended with {process.returncode}")
        if not part.restarts:
            raise _Failed(f"{part.name} ended ({_ending(process.returncode)}) and its state with it", part.log)
        watched.restarts += 1
        if self._record.status == "starting" and watched.restarts >= _ATTEMPTS_BEFORE_READY:
            raise _Failed(f"{part.name} does not start ({_ending(process.returncode)})", part.log)
        if now_s - watched.started_at_s > _LIVED_WELL_S:
            watched.backoff_s = _FIRST_BACKOFF_S
        watched.process = None
        watched.start_due_s = now_s + watched.backoff_s
        watched.backoff_s = min(watched.backoff_s * 2, _LONGEST_BACKOFF_S)
        self._record.restarts[part.name] = watched.restarts
        self._record.parts.pop(part.name, None)
        self._save()

    def _start(self, watched: _Watched) -> None:
        part = watched.part
        if part.ready_file is not None and not watched.restarts:
            Path(part.ready_file).unlink(missing_ok=True)
        watched.process = self._spawn(part.command, part.environment, part.log, part.folder)
        watched.started_at_s, watched.start_due_s = time.monotonic(), 0.0
        self._record.parts[part.name] = watched.process.pid
        _say(f"started {part.name} (process {watched.process.pid})")
        self._save()

    def _start_preparation(self) -> None:
        preparation = self._spec.preparation
        self._preparation = self._spawn(
            preparation.command, preparation.environment, preparation.log, preparation.folder
        )

    def _finish_preparation(self, returncode: int) -> None:
        preparation = self._spec.preparation
        if returncode != 0:
            raise _Failed(_last_line(preparation.log) or f"preparation {_ending(returncode)}", preparation.log)
        self._record.outputs = msgspec.json.decode(Path(preparation.outputs_file).read_bytes(), type=dict[str, str])
        self._prepared = True
        for watched in self._watched:
            if watched.part.starts == "after_preparation":
                self._start(watched)

    def _spawn(self, command: list[str], environment: dict[str, str], log: str, folder: str) -> subprocess.Popen[bytes]:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=folder,
                    env=environment | {MARKER: self._record.run_id},
                    preexec_fn=self._dies_with_us,
                )
            except OSError as error:
                raise _Failed(f"cannot start {command[0]}: {error}", log) from error

    def _stop_everything(self) -> None:
        discard = self._stop_signal == signal.SIGUSR1
        if self._preparation is not None:
            _stop(self._preparation, _DISCARD_GRACE_S)
        for watched in reversed(self._watched):
            if watched.process is None or watched.process.poll() is not None:
                continue
            part = watched.part
            if discard and part.killed_on_discard:
                watched.process.kill()
            returncode = _stop(watched.process, _DISCARD_GRACE_S if discard else part.stop_grace_s)
            _say(f"stopped {part.name} ({_ending(returncode)})")
        self._record.parts = {}

    def _save(self) -> None:
        write_atomically(record_path(Path(self._spec.state_dir)), msgspec.json.encode(self._record))


def _has_reported(watched: _Watched) -> bool:
    return watched.process is not None and (watched.part.ready_file is None or Path(watched.part.ready_file).exists())


def _stop(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """SIGTERM, wait, SIGKILL. Returns the exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _ending(returncode: int) -> str:
    return f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"


def _last_line(log: str) -> str:
    lines = Path(log).read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _say(message: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), message, flush=True)


def main() -> int:
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=RunSpec)
    start_guard()
    return Supervisor(spec).run()


if __name__ == "__main__":
    sys.exit(main())
