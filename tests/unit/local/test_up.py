"""What `up` and `down` refuse or leave alone before any process is started."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from local import parts
from local.processes import MARKER
from local.run import RunFailed, RunRecord, addresses, load_run, record_path, state_folder
from local.supervisor import RunSpec
from local.up import change_kept_engine, chosen_before, down, up
from stream_features.errors import UsageError


def a_record(**changes: object) -> RunRecord:
    record = RunRecord(
        run_id=secrets.token_hex(16),
        status="ready",
        target="embedded",
        engine="lambda",
        feature_set="core",
        endpoint_url="http://127.0.0.1:4577",
        sagemaker_url="http://127.0.0.1:4590",
        region="us-east-1",
        ports={"aws": 4577, "sagemaker": 4590},
        started_at_ms=1,
        supervisor_pid=os.getpid(),
    )
    return msgspec.structs.replace(record, **changes)


def write(folder: Path, record: RunRecord) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record_path(folder).write_bytes(msgspec.json.encode(record))


def silent(_message: str) -> None:
    pass


@pytest.mark.parametrize("choice", [{"engine": "steam"}, {"feature_set": "abacus"}, {"target": "moon"}])
def test_what_is_not_available_is_named(choice: dict[str, str], tmp_path: Path) -> None:
    (value,) = choice.values()
    with pytest.raises(UsageError, match=value):
        up(**choice, progress=silent, state_dir=tmp_path)  # type: ignore[arg-type]


def test_a_port_that_is_taken_or_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("FRAUDSTREAM_PORT", str(taken.getsockname()[1]))
        with pytest.raises(UsageError, match="FRAUDSTREAM_PORT"):
            up(progress=silent, state_dir=tmp_path)
    monkeypatch.setenv("FRAUDSTREAM_PORT", "http")
    with pytest.raises(UsageError, match="http"):
        up(progress=silent, state_dir=tmp_path)


def test_down_where_nothing_ever_ran_makes_nothing(tmp_path: Path) -> None:
    down(state_dir=tmp_path / "never")
    down(keep=True, state_dir=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_down_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, a_record(supervisor_pid=0))
    for name in ("aws/state", "mappings", "models/starter", "my-files"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "kept.json").touch()
    down(state_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "my-files", "up.lock"]


def test_a_run_is_loaded_only_while_its_supervisor_lives(tmp_path: Path) -> None:
    assert load_run(tmp_path) is None
    record = a_record()  # this process is no supervisor: it lacks the run's mark
    write(tmp_path, record)
    assert load_run(tmp_path) is None
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, MARKER: record.run_id}
    ) as supervisor:
        write(tmp_path, msgspec.structs.replace(record, supervisor_pid=supervisor.pid))
        run = load_run(tmp_path)
        assert run is not None
        assert run.endpoint_url == record.endpoint_url
        write(tmp_path, msgspec.structs.replace(record, supervisor_pid=supervisor.pid, status="starting"))
        assert load_run(tmp_path) is None
        write(tmp_path, msgspec.structs.replace(record, supervisor_pid=supervisor.pid, engine="flink"))
        with pytest.raises(UsageError, match="flink"):
            up(progress=silent, state_dir=tmp_path)
        supervisor.communicate(b"\n")


def test_what_was_chosen_before_is_that_of_a_kept_or_living_run(tmp_path: Path) -> None:
    assert chosen_before(tmp_path) is None
    write(tmp_path, a_record(engine="flink"))  # its supervisor is gone, and nothing was kept
    assert chosen_before(tmp_path) is None
    kept = a_record(engine="flink", feature_set="handbook")
    (tmp_path / "kept.json").write_bytes(msgspec.json.encode(kept))
    assert chosen_before(tmp_path) == ("embedded", "flink", "handbook")
    assert change_kept_engine(tmp_path, "lambda").engine == "lambda"
    assert chosen_before(tmp_path) == ("embedded", "lambda", "handbook")
    (tmp_path / "kept.json").unlink()
    with pytest.raises(RunFailed, match="keeps no run"):
        change_kept_engine(tmp_path, "lambda")


def test_the_state_folder_is_the_one_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(tmp_path / "by-name"))
    assert state_folder() == tmp_path / "by-name"
    assert state_folder(tmp_path / "argument") == tmp_path / "argument"
    monkeypatch.delenv("FRAUDSTREAM_STATE")
    assert state_folder().name == ".fraudstream"


def test_functions_inherit_addresses_and_none_of_the_callers_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("MY_SECRET", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    spec = parts.run_spec(a_record(), tmp_path, None, resumes=False)
    aws = next(part for part in spec.parts if part.name == "aws")
    assert not {"AWS_PROFILE", "MY_SECRET", "PYTHONPATH"} & set(aws.environment)
    assert aws.environment["BIND_HOST"] == "127.0.0.1"
    assert aws.environment["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] == "http://127.0.0.1:4590"
    for part in spec.parts:
        assert part.environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4577"
        assert part.environment["AWS_ACCESS_KEY_ID"] == "test"
        assert part.environment["AWS_CONFIG_FILE"] == os.devnull
    assert msgspec.json.decode(msgspec.json.encode(spec), type=RunSpec) == spec


def test_no_address_leads_to_the_real_aws() -> None:
    reached = addresses("http://127.0.0.1:1", "http://127.0.0.1:2", "us-east-1")
    assert {name for name in reached if name.startswith("AWS_ENDPOINT_URL")} == {
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_SAGEMAKER",
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME",
    }
    assert reached["AWS_EC2_METADATA_DISABLED"] == "true"
