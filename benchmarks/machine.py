"""The machine that is measured on: what it is, how busy it is, and which process of a run uses it."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from local.processes import MARKER
from local.run import RunState

_PART_NAMES = {
    "aws": "emulator",
    "mappings": "mapping runner",
    "firehose": "Firehose worker",
    "sagemaker": "SageMaker host",
}
_FUNCTION = "AWS_LAMBDA_FUNCTION_NAME"


def machine_facts() -> dict[str, str]:
    """Cores, processor, memory, Python and kernel."""
    return {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU seconds used so far.

    Attributes:
        processes: process id and start time to (what it is, user and system seconds).
        machine: seconds by mode over all cores, since boot.
    """

    processes: Mapping[tuple[int, float], tuple[str, float]]
    machine: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CpuUse:
    """What was used between two readings.

    Attributes:
        seconds: by what used it; processes that ended in between are missing here.
        busy_share: of all cores, every process of the machine included.
        stolen_share: of all cores, taken away by the hypervisor.
        unaccounted_s: CPU seconds of the machine that no listed process used.
    """

    seconds: Mapping[str, float]
    busy_share: float
    stolen_share: float
    unaccounted_s: float


def read_cpu(run: RunState) -> CpuReading:
    """Read the counters of every process of `run` and of this one."""
    processes: dict[tuple[int, float], tuple[str, float]] = {}
    part_of = {pid: _PART_NAMES.get(name, name) for name, pid in run.parts.items()}
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                what = _what(process, run, part_of)
                if what is not None:
                    times = process.cpu_times()
                    processes[process.pid, process.create_time()] = (what, times.user + times.system)
        except psutil.Error:
            continue  # it ended while we looked
    return CpuReading(processes, dict(psutil.cpu_times()._asdict()))


def _what(process: psutil.Process, run: RunState, part_of: Mapping[int, str]) -> str | None:
    if process.pid == os.getpid():
        return "publisher (this process)"
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return None
    if environment.get(MARKER) != run.run_id:
        return None
    if process.pid in part_of:
        return part_of[process.pid]
    if _FUNCTION in environment:
        return f"function {environment[_FUNCTION]}"
    if "endpoint.server" in process.cmdline():
        return "endpoint server"
    return "supervisor" if process.pid == run.supervisor_pid else "others of the run"


def cpu_used(before: CpuReading, after: CpuReading) -> CpuUse:
    """The difference of two readings."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for key, (what, used_s) in after.processes.items():
        seconds[what] += used_s - before.processes.get(key, (what, 0.0))[1]
    # guest time is contained in user time already
    spent = {
        mode: after.machine[mode] - before.machine[mode]
        for mode in after.machine
        if mode not in ("guest", "guest_nice")
    }
    whole = sum(spent.values()) or 1.0
    idle = spent.get("idle", 0.0) + spent.get("iowait", 0.0)
    stolen = spent.get("steal", 0.0)
    busy = whole - idle - stolen
    return CpuUse(dict(seconds), busy / whole, stolen / whole, max(0.0, busy - sum(seconds.values())))
