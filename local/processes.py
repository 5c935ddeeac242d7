"""The processes of one run: told apart by a mark in their environment, ended together.

A process id may be given to a stranger after its owner has ended, a name may belong to anybody; the run's random
identifier in a process's environment can be neither.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

import psutil

MARKER: Final = "FRAUDSTREAM_RUN_ID"
_PR_SET_PDEATHSIG: Final = 1


def carries_marker(pid: int, run_id: str) -> bool:
    """Whether `pid` is a living process of the run. A zombie has no environment left, so it is none."""
    if pid <= 0:
        return False
    try:
        return psutil.Process(pid).environ().get(MARKER) == run_id
    except (psutil.Error, OSError):
        return False


def processes_of_run(run_id: str, session_id: int) -> list[int]:
    """Ids of the run's living processes, this one left out.

    Members carry the mark. A child that cleared its environment is still found by its session, as long as one
    marked process proves that the session is the run's.
    """
    marked: set[int] = set()
    in_session: set[int] = set()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        if carries_marker(process.pid, run_id):
            marked.add(process.pid)
        if _session_of(process.pid) == session_id and _is_running(process):
            in_session.add(process.pid)
    return sorted(marked | in_session if marked & in_session else marked)


def end_processes(run_id: str, session_id: int, *, timeout_s: float = 10.0) -> list[int]:
    """SIGKILL what is left of a run, new children included; return the ids that had to be killed.

    Raises:
        TimeoutError: something survived (a process that cannot be killed hangs in the kernel).
    """
    killed: set[int] = set()
    deadline = time.monotonic() + timeout_s
    while remaining := processes_of_run(run_id, session_id):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {remaining} of the former run cannot be ended")
        for pid in remaining:
            killed.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    return sorted(killed)


def die_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` that has the kernel kill the child when its parent's thread ends (Linux; elsewhere None).

    The thread that starts the child must live as long as the parent: call it from the main thread.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: the forked child must not import

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask_kernel


def start_guard() -> int:
    """Fork a process that kills the whole process group, grandchildren included, once this process is gone.

    It waits on a pipe whose other end only this process holds, so it also acts after SIGKILL.
    The caller must lead a process group of its own and have no threads yet. Returns the guard's process id.
    """
    if os.getpgid(0) != os.getpid():
        raise RuntimeError("the guard would kill processes that are not ours: start in a session of one's own")
    reading, writing = os.pipe()
    guard = os.fork()
    if guard:
        os.close(reading)
        return guard
    os.close(writing)
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        os.read(reading, 1)
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
