"""The job's processes: one Python, and the JVM that it starts and that runs Python inside."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Final

import psutil

from local.flink.install import PYTHON, python_path
from local.flink.layout import FlinkFolder
from local.processes import die_with_parent
from local.run import CHECKOUT

PROPERTIES_VARIABLE: Final = "FRAUDSTREAM_FLINK_PROPERTIES"
JOB_COMMAND: Final = (str(PYTHON), "-m", "stream_features.flink_job.main")
_JVM_ARGS: Final = "-Xmx1g -Djava.net.preferIPv4Stack=true"
_END_DEADLINE_S: Final = 20.0
# The caller's own Flink or interpreter must not decide what ours loads.
_NOT_PASSED_ON: Final = ("FLINK_HOME", "FLINK_CONF_DIR", "FLINK_LIB_DIR", "FLINK_OPT_DIR", "PYTHONHOME", "VIRTUAL_ENV")


def job_environment(folder: FlinkFolder, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the job runs with; `inherited` already leads its AWS clients to the local AWS."""
    environment = {name: value for name, value in inherited.items() if name not in _NOT_PASSED_ON}
    return environment | {
        "IS_LOCAL": "true",
        PROPERTIES_VARIABLE: str(folder.properties),
        "FLINK_LOG_DIR": str(folder.logs),
        # A JVM that crashes would leave its report in the working directory, which is the checkout.
        "JVM_ARGS": f"{_JVM_ARGS} -XX:ErrorFile={folder.logs}/hs_err_%p.log",
        "PYTHONPATH": python_path(),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder.temporary),
        # Otherwise PyFlink starts a server for workers, on every interface; in thread mode nobody uses it.
        "_python_worker_execution_mode": "process",
    }


def start_job(
    folder: FlinkFolder, inherited: Mapping[str, str], command: tuple[str, ...] = JOB_COMMAND
) -> subprocess.Popen[bytes]:
    """Start it in our process group, so that the run's guard finds it; it writes to our own output.

    Call it from the main thread: the job dies with the thread that started it.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        cwd=CHECKOUT,
        env=job_environment(folder, inherited),
        preexec_fn=die_with_parent(),
    )


def end_job(folder: FlinkFolder) -> None:
    """Kill what is left of the job, a JVM that outlived its Python included, and wait until it is gone.

    A second job beside it would not get the port, and both would write.

    Raises:
        TimeoutError: a process could not be ended.
    """
    deadline_s = time.monotonic() + _END_DEADLINE_S
    while remaining := _processes(folder):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"processes {remaining} of the Flink job cannot be ended")
        for pid in remaining:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def _processes(folder: FlinkFolder) -> list[int]:
    """Living processes whose environment names this job's properties; zombies have no environment left."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(PROPERTIES_VARIABLE) == str(folder.properties):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
