"""`up` and `down`: the life of one run, whatever happened to the one before."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from local.attached import checked_url, remove_deployment
from local.capabilities import why_not
from local.flink import install as flink
from local.localstack import host as localstack
from local.processes import end_processes, processes_of_run
from local.run import (
    RunFailed,
    RunRecord,
    RunState,
    is_alive,
    log_path,
    read_record,
    record_path,
    run_state,
    state_folder,
    write_atomically,
)
from local.start import reap, start_supervisor
from stream_features.errors import UsageError
from stream_features.feature_sets import FEATURE_SETS

_READY_DEADLINE_S: Final = 420.0
_STOP_DEADLINE_S: Final = 30.0
_KEEP_DEADLINE_S: Final = 240.0
_POLL_S: Final = 0.05
_TARGETS: Final = ("embedded", "localstack")
_ENGINES: Final = ("lambda", "flink")
_FEATURE_SETS: Final = tuple(FEATURE_SETS)
# What belongs to one run. Logs, trained models and whatever else a user keeps in the folder stay.
_RUN_FOLDERS: Final = ("aws", "sagemaker", "mappings", "firehose", "flink", "meters")
_RUN_FILES: Final = ("run.json", "spec.json", "kept.json", "outputs.json", "progress.log", "failpoint")


def up(
    target: str = "embedded",
    engine: str = "lambda",
    feature_set: str = "core",
    progress: Callable[[str], None] = print,
    *,
    model_artifact: Path | None = None,
    state_dir: Path | None = None,
    endpoint_url: str | None = None,
) -> RunState:
    """Return once a transaction published to the run's stream would be decided.

    A run that is up already is returned as it is. What a killed run left behind is ended and removed first; a run
    stopped by `down(keep=True)` is taken up where it ended.

    Args:
        target: which local AWS: `embedded`, or `localstack` where `make setup-localstack` was possible.
        engine: what computes the windows.
        feature_set: what is computed.
        progress: told each step as it begins, one sentence.
        model_artifact: serve this `model.tar.gz` instead of training a starter model.
        state_dir: the run's folder, if not the checkout's.
        endpoint_url: of a LocalStack that is there already: the run deploys to it and starts none.

    Raises:
        UsageError: unknown or unavailable choices, or another run is up with other ones.
        RunFailed: a part did not start; the message names the log.
    """
    _check_choices(target, engine, feature_set, attached=endpoint_url is not None)
    if endpoint_url is not None:
        endpoint_url = checked_url(endpoint_url)
    folder = state_folder(state_dir)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with _only_one_at_a_time(folder):
        record = read_record(folder)
        if record is not None and is_alive(record) and record.status in ("starting", "ready"):
            _check_same(record, target, engine, feature_set, endpoint_url)
            if record.status == "ready":
                run = run_state(record, folder)
                if model_artifact is not None:
                    from local.activation import activate_model  # loads the AWS SDK, which a new run does elsewhere

                    activate_model(run, model_artifact, progress)
                return run
            supervisor = None
        else:
            kept = _read_kept(folder)
            if kept is not None:
                _check_same(kept, target, engine, feature_set, endpoint_url)
            _end_former_run(folder, record)
            if kept is None:
                remove_deployment(folder, progress)
                _remove_run_data(folder)
            record, supervisor = start_supervisor(
                folder, target, engine, feature_set, kept, model_artifact, attached_to=endpoint_url
            )
        try:
            return _wait_until_ready(folder, record.run_id, supervisor, progress)
        except KeyboardInterrupt:
            _stop(folder, signal.SIGUSR1, _STOP_DEADLINE_S)
            _remove_run_data(folder)
            raise


def down(keep: bool = False, *, state_dir: Path | None = None) -> None:
    """End every process of the run; remove its data, or save them for the next `up`. Harmless if nothing runs.

    Raises:
        RunFailed: a process survived, or the data could not be saved.
        UsageError: the run's AWS cannot save its data.
    """
    folder = state_folder(state_dir)
    if not folder.exists():
        return
    with _only_one_at_a_time(folder, stop_starting_run=not keep):
        record = read_record(folder)
        if keep:
            if record is None or not is_alive(record):
                return  # nothing runs: what an earlier `down --keep` saved stays saved
            if reason := why_not(record.place, "kept data"):
                raise UsageError(f"{reason}; use `down` without --keep")
            if record.status != "ready":
                raise RunFailed("the run is not up, so there is nothing whole to keep; use `down` without --keep")
            stopped = _stop(folder, signal.SIGTERM, _KEEP_DEADLINE_S)
            if stopped is None or stopped.status != "stopped":
                raise RunFailed(f"the run did not stop cleanly; read {log_path(folder, 'supervisor')}")
            write_atomically(folder / "kept.json", msgspec.json.encode(record))
            record_path(folder).unlink(missing_ok=True)
            return
        _stop(folder, signal.SIGUSR1, _STOP_DEADLINE_S)
        remove_deployment(folder)
        _remove_run_data(folder)


def chosen_before(state_dir: Path | None = None) -> tuple[str, str, str] | None:
    """Target, engine and feature set of the run that is up or kept; None if there is none."""
    folder = state_folder(state_dir)
    record = read_record(folder)
    if record is None or not is_alive(record):
        record = _read_kept(folder)
    return None if record is None else (record.target, record.engine, record.feature_set)


def change_kept_engine(folder: Path, engine: str) -> RunRecord:
    """Have the next `up` of a kept run expect `engine`; the record of what is kept.

    Raises:
        RunFailed: nothing is kept in `folder`.
    """
    kept = _read_kept(folder)
    if kept is None:
        raise RunFailed(f"{folder} keeps no run")
    kept = msgspec.structs.replace(kept, engine=engine)
    write_atomically(folder / "kept.json", msgspec.json.encode(kept))
    return kept


def wait_in_foreground(run: RunState) -> None:
    """Return when the run ends; Ctrl-C raises KeyboardInterrupt as ever. The caller stops the run.

    Raises:
        RunFailed: a part failed.
    """
    while True:
        record = read_record(run.state_dir)
        if record is None or record.run_id != run.run_id:
            return
        if not is_alive(record):
            _raise_if_failed(read_record(run.state_dir), run.state_dir)
            return
        time.sleep(0.5)


def _check_choices(target: str, engine: str, feature_set: str, *, attached: bool) -> None:
    for value, available, what in (
        (target, _TARGETS, "target"),
        (engine, _ENGINES, "engine"),
        (feature_set, _FEATURE_SETS, "feature set"),
    ):
        if value not in available:
            raise UsageError(f"the {what} {value} is not available in this version; choose {', '.join(available)}")
    if attached and target != "localstack":
        raise UsageError(f"the target {target} is started by `up`; only --target localstack attaches to an address")
    if target == "localstack" and not attached and (lacks := localstack.missing()):
        raise UsageError(lacks)
    if engine == "flink" and (lacks := flink.missing()):
        raise UsageError(lacks)


def _check_same(record: RunRecord, target: str, engine: str, feature_set: str, endpoint_url: str | None) -> None:
    # Told no address, `up` means the run that is there; told one, a run at another address is another one.
    if endpoint_url is not None and endpoint_url != record.endpoint_url:
        raise UsageError(f"a run at {record.endpoint_url} is up; end it with `fraudstream down` first")
    if (record.target, record.engine, record.feature_set) != (target, engine, feature_set):
        raise UsageError(
            f"a run with target {record.target}, engine {record.engine} and feature set {record.feature_set} "
            "is up or kept; end it with `fraudstream down` first"
            + (", or keep its data with `fraudstream switch-engine`" if record.engine != engine else "")
        )


@contextmanager
def _only_one_at_a_time(folder: Path, *, stop_starting_run: bool = False) -> Iterator[None]:
    """One `up` or `down` of a folder at a time. The second waits, or has the run that is starting stop."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "up.lock", "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                record = read_record(folder)
                if stop_starting_run and record is not None and is_alive(record):
                    os.kill(record.supervisor_pid, signal.SIGUSR1)
                time.sleep(_POLL_S)
        yield


def _read_kept(folder: Path) -> RunRecord | None:
    path = folder / "kept.json"
    return msgspec.json.decode(path.read_bytes(), type=RunRecord) if path.exists() else None


def _end_former_run(folder: Path, record: RunRecord | None) -> None:
    if record is not None:
        try:
            end_processes(record.run_id, record.supervisor_pid)
        except TimeoutError as error:
            raise RunFailed(f"{error}; reboot, or set FRAUDSTREAM_STATE to another folder") from error
        record_path(folder).unlink(missing_ok=True)


def _remove_run_data(folder: Path) -> None:
    for name in _RUN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _RUN_FILES:
        (folder / name).unlink(missing_ok=True)


def _wait_until_ready(
    folder: Path, run_id: str, supervisor: subprocess.Popen[bytes] | None, progress: Callable[[str], None]
) -> RunState:
    told = 0
    deadline_s = time.monotonic() + _READY_DEADLINE_S
    while True:
        told = _tell_progress(folder, told, progress)
        record = read_record(folder)
        if record is None or record.run_id != run_id:
            raise RunFailed("the run was stopped while it started")
        if record.status == "ready":
            return run_state(record, folder)
        starts = record.supervisor_pid == 0 and supervisor is not None and supervisor.poll() is None
        if not starts and not is_alive(record):
            record = read_record(folder) or record  # it may have written its last word in between
            _end_former_run(folder, record)
            _raise_if_failed(record, folder)
            if record.status == "stopped":
                raise RunFailed("the run was stopped while it started")
            raise RunFailed(f"the supervisor ended; read {log_path(folder, 'supervisor')}")
        if time.monotonic() > deadline_s:
            _stop(folder, signal.SIGUSR1, _STOP_DEADLINE_S)
            raise RunFailed(f"the run was not ready after {_READY_DEADLINE_S:.0f} s; read {folder / 'logs'}")
        time.sleep(_POLL_S)


def _tell_progress(folder: Path, told: int, progress: Callable[[str], None]) -> int:
    try:
        lines = (folder / "progress.log").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return told
    whole = [line.rstrip("\n") for line in lines if line.endswith("\n")]
    for line in whole[told:]:
        progress(line)
    return len(whole)


def _raise_if_failed(record: RunRecord | None, folder: Path) -> None:
    if record is not None and record.error:
        raise RunFailed(f"{record.error}; read {record.error_log or folder / 'logs'}")


def _stop(folder: Path, how: signal.Signals, deadline_s: float) -> RunRecord | None:
    """Have the supervisor stop everything, end what is left, and return its last record."""
    record = read_record(folder)
    if record is None:
        return None
    if is_alive(record):
        os.kill(record.supervisor_pid, how)
        ends_at_s = time.monotonic() + deadline_s
        while is_alive(record) and time.monotonic() < ends_at_s:
            reap()
            time.sleep(_POLL_S)
    try:
        end_processes(record.run_id, record.supervisor_pid)
    except TimeoutError as error:
        raise RunFailed(str(error)) from error
    reap()
    if left := processes_of_run(record.run_id, record.supervisor_pid):
        raise RunFailed(f"processes {left} are still there")
    return read_record(folder)
