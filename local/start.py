"""Starting the supervisor of a new run, detached from whoever asked for it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from local.attached import functions_sagemaker_url, sagemaker_url
from local.parts import run_spec
from local.processes import MARKER
from local.run import CHECKOUT, REGION, RunRecord, addresses, log_path, record_path, write_atomically
from stream_features.errors import UsageError

_STARTED: Final[list[subprocess.Popen[bytes]]] = []


def start_supervisor(
    folder: Path,
    target: str,
    engine: str,
    feature_set: str,
    kept: RunRecord | None,
    model_artifact: Path | None,
    *,
    attached_to: str | None = None,
) -> tuple[RunRecord, subprocess.Popen[bytes]]:
    """Start it in a session of its own, without any inherited stream.

    `kept` is the run whose data it takes up; `attached_to` is the address of a LocalStack that is there already.

    Raises:
        UsageError: a port that was asked for cannot be had.
    """
    kept_ports = kept.ports if kept is not None else {}
    ports = {"sagemaker": _port("FRAUDSTREAM_PORT_SAGEMAKER", kept_ports.get("sagemaker"))}
    if attached_to is None:
        ports["aws"] = _port("FRAUDSTREAM_PORT", kept_ports.get("aws"))
    if engine == "flink":
        ports["flink"] = _port("FRAUDSTREAM_PORT_FLINK", kept_ports.get("flink"))
    record = RunRecord(
        run_id=secrets.token_hex(16),
        status="starting",
        target=target,
        engine=engine,
        feature_set=feature_set,
        endpoint_url=attached_to or f"http://127.0.0.1:{ports['aws']}",
        sagemaker_url=sagemaker_url(ports["sagemaker"]) if attached_to else f"http://127.0.0.1:{ports['sagemaker']}",
        region=REGION,
        ports=ports,
        started_at_ms=kept.started_at_ms if kept is not None else time.time_ns() // 1_000_000,
        attached=attached_to is not None,
        functions_sagemaker_url=functions_sagemaker_url(ports["sagemaker"]) if attached_to else "",
    )
    for log in (folder / "logs").glob("*.log"):
        log.unlink()
    for name in ("progress.log", "outputs.json"):
        (folder / name).unlink(missing_ok=True)
    # From here on the data are in use: if this run is killed, they are not what was kept.
    (folder / "kept.json").unlink(missing_ok=True)
    spec = run_spec(record, folder, model_artifact, resumes=kept is not None)
    write_atomically(folder / "spec.json", msgspec.json.encode(spec))
    # Written first, so that whatever happens now, the next `up` knows by which mark to find the processes.
    write_atomically(record_path(folder), msgspec.json.encode(record))
    environment = {**os.environ, **addresses(record.endpoint_url, record.sagemaker_url, record.region)}
    environment[MARKER] = record.run_id
    with open(log_path(folder, "supervisor"), "ab") as log_file:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "local.supervisor", str(folder / "spec.json")],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            cwd=CHECKOUT,
            env=environment,
            start_new_session=True,
        )
    # Not ours to wait for: it outlives this process, or `down` ends it. Reap it if it ends while we live.
    _STARTED.append(supervisor)
    return record, supervisor


def _port(variable: str, preferred: int | None) -> int:
    """The port a setting asks for, else the kept run's if it is free, else any free one."""
    asked = os.environ.get(variable)
    if asked is not None:
        if not asked.isdigit() or not 0 < int(asked) < 65_536:
            raise UsageError(f"{variable}={asked} is not a port number")
        if not _is_free(int(asked)):
            raise UsageError(f"port {asked} ({variable}) is taken by another program")
        return int(asked)
    if preferred is not None and _is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def reap() -> None:
    """Take note of supervisors that ended, so that none stays as a zombie of a program that lives on."""
    for process in list(_STARTED):
        if process.poll() is not None:
            _STARTED.remove(process)
