"""A standalone Flink out of the pip package: one JobManager, one-slot TaskManagers, everything on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_SECONDS = 240  # twenty on an idle machine


@dataclass(frozen=True)
class FlinkPython:
    """An interpreter with PyFlink in it."""

    executable: Path
    version: str  # "3.11"
    packages: Path

    @property
    def flink_home(self) -> Path:
        return self.packages / "pyflink"


def flink_python(executable: Path) -> FlinkPython:
    """What `executable` says of itself."""
    asks = "import sysconfig; print(sysconfig.get_python_version(), sysconfig.get_path('purelib'))"
    said = subprocess.run([executable, "-c", asks], capture_output=True, text=True, check=True, timeout=60).stdout
    version, packages = said.strip().split(" ", 1)
    return FlinkPython(executable, version, Path(packages))


@dataclass
class FlinkCluster:
    """A cluster that runs, and how to reach it."""

    python: FlinkPython
    folder: Path
    rest_port: int
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def rest(self, path: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.rest_port}{path}", timeout=5) as answer:
            return json.load(answer)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        """`flink run` with `arguments`, detached; it must be accepted."""
        with (self.folder / "submit.out").open("wb") as log:
            process = subprocess.Popen(
                [self.python.flink_home / "bin" / "flink", "run", "-d", *arguments],
                env={**self.environment, **environment},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=START_SECONDS)
            finally:
                end_group(process)
        assert code == 0, self.log_tail("submit")

    def wait_for(self, what: str, happened: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Until `happened`, unless a process of the cluster ends before."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended: {self.log_tail(name)}"
            with suppress(OSError):
                if happened():
                    return
            time.sleep(0.1)
        raise AssertionError(f"{what}: not within {seconds} s; {self.log_tail('taskmanager-0')}")

    def log_tail(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text(errors="replace")[-4000:]


@contextmanager
def flink_cluster(
    python: FlinkPython, folder: Path, environment: Mapping[str, str], task_managers: int = 2
) -> Iterator[FlinkCluster]:
    """Start it, wait until its slots are free, and end it with everything it started.

    Args:
        python: its pip package is the cluster's, its interpreter runs the job's Python.
        folder: its own; configuration, logs and state go there.
        environment: what the job's processes find in theirs.
        task_managers: of one slot each: the Pythons of one JVM would share one lock.
    """
    rest_port, rpc_port = free_port(), free_port()
    _configure(python, folder, rest_port, rpc_port)
    cluster = FlinkCluster(
        python,
        folder,
        rest_port,
        {
            **environment,
            "FLINK_CONF_DIR": str(folder / "conf"),
            "FLINK_LOG_DIR": str(folder / "log"),
            # The interpreter inside the JVM knows nothing of the virtual environment. Ours comes out of the zip.
            "PYTHONPATH": str(python.packages),
            "PATH": os.pathsep.join([str(python.executable.parent), os.environ.get("PATH", os.defpath)]),
        },
    )
    try:
        _start(cluster, "jobmanager", "jobmanager.sh")
        for number in range(task_managers):
            _start(cluster, f"taskmanager-{number}", "taskmanager.sh")
        cluster.wait_for("free slots", lambda: cluster.rest("/overview")["slots-available"] == task_managers)
        yield cluster
    finally:
        for process in cluster.processes.values():  # all at once: each takes its time
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in cluster.processes.values():
            end_group(process)


def _start(cluster: FlinkCluster, name: str, script: str) -> None:
    with (cluster.folder / f"{name}.out").open("wb") as log:
        cluster.processes[name] = subprocess.Popen(
            [cluster.python.flink_home / "bin" / script, "start-foreground"],
            env=cluster.environment,
            cwd=cluster.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _configure(python: FlinkPython, folder: Path, rest_port: int, rpc_port: int) -> None:
    for name in ("conf", "log", "pids", "tmp", "checkpoints"):
        (folder / name).mkdir(parents=True)
    shipped = python.flink_home / "conf"
    for path in shipped.glob("log4j*.properties"):
        shutil.copy(path, folder / "conf")
    # A configuration of one's own must repeat these, or Java 17 refuses what Flink does to it.
    opened = re.search(r"^ +all: (--add-.*)$", (shipped / "config.yaml").read_text(), re.MULTILINE)
    assert opened is not None
    settings = {
        "env.java.opts.all": opened[1],
        "env.log.dir": folder / "log",
        "env.pid.dir": folder / "pids",
        "io.tmp.dirs": folder / "tmp",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": rest_port,
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc_port,
        "jobmanager.bind-host": "127.0.0.1",
        "jobmanager.memory.process.size": "1024m",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": 1,
        "taskmanager.memory.process.size": "1400m",
        # The service's settings, but for the interval.
        "state.backend.type": "rocksdb",
        "execution.checkpointing.interval": "2s",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": (folder / "checkpoints").as_uri(),
    }
    lines = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (folder / "conf" / "config.yaml").write_text(lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the group that `process` leads, and wait for its leader."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        pass  # the next signal ends it
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
