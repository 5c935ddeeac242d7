"""The run of this checkout: where its state lies, what it consists of, how to reach its AWS."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from local.capabilities import Place, place_of
from local.processes import carries_marker
from stream_features.errors import PipelineError

CHECKOUT: Final = Path(__file__).resolve().parents[1]
REGION: Final = "us-east-1"
RunStatus = Literal["starting", "ready", "failed", "stopped"]


class RunFailed(PipelineError):
    """A part of the local AWS could not start or ended; the message names the log to read."""


class RunRecord(msgspec.Struct, kw_only=True):
    """`run.json`: written by the supervisor only, read by everybody else."""

    run_id: str  # every process of the run carries it in its environment
    status: RunStatus
    target: str
    engine: str
    feature_set: str
    endpoint_url: str
    sagemaker_url: str
    region: str
    ports: dict[str, int]
    started_at_ms: int
    supervisor_pid: int = 0  # also the session and process group of the run
    outputs: dict[str, str] = {}
    parts: dict[str, int] = {}
    restarts: dict[str, int] = {}
    error: str | None = None
    error_log: str | None = None
    attached: bool = False  # to a LocalStack that is not the run's
    functions_sagemaker_url: str = ""  # where functions find `sagemaker_url`, if they must be told

    @property
    def place(self) -> Place:
        """The column of the table in local/capabilities.py."""
        return place_of(self.target, attached=self.attached)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run that is up. Times are epoch ms; `outputs` are the outputs of template.yaml by name."""

    target: str
    engine: str
    feature_set: str
    endpoint_url: str
    sagemaker_url: str
    region: str
    ports: dict[str, int]
    outputs: dict[str, str]
    started_at_ms: int
    supervisor_pid: int
    parts: dict[str, int]
    run_id: str
    state_dir: Path
    attached: bool = False
    functions_sagemaker_url: str = ""

    @property
    def place(self) -> Place:
        """The column of the table in local/capabilities.py."""
        return place_of(self.target, attached=self.attached)


def state_folder(state_dir: Path | None = None) -> Path:
    """`state_dir`, else the folder FRAUDSTREAM_STATE names, else `.fraudstream` of the checkout."""
    return Path(state_dir or os.environ.get("FRAUDSTREAM_STATE") or CHECKOUT / ".fraudstream").resolve()


def record_path(folder: Path) -> Path:
    return folder / "run.json"


def log_path(folder: Path, part: str) -> Path:
    return folder / "logs" / f"{part}.log"


def read_record(folder: Path) -> RunRecord | None:
    """What the supervisor wrote last; None if there was never a run here, or its file cannot be read."""
    try:
        return msgspec.json.decode(record_path(folder).read_bytes(), type=RunRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old content or the new, never a part."""
    written = path.with_name(f".{path.name}.{os.getpid()}")
    written.write_bytes(content)
    written.replace(path)


def run_state(record: RunRecord, folder: Path) -> RunState:
    return RunState(
        target=record.target,
        engine=record.engine,
        feature_set=record.feature_set,
        endpoint_url=record.endpoint_url,
        sagemaker_url=record.sagemaker_url,
        region=record.region,
        ports=record.ports,
        outputs=record.outputs,
        started_at_ms=record.started_at_ms,
        supervisor_pid=record.supervisor_pid,
        parts=record.parts,
        run_id=record.run_id,
        state_dir=folder,
        attached=record.attached,
        functions_sagemaker_url=record.functions_sagemaker_url,
    )


def is_alive(record: RunRecord) -> bool:
    """Whether the recorded supervisor runs; a stranger that got its number does not carry the run's mark."""
    return carries_marker(record.supervisor_pid, record.run_id)


def load_run(state_dir: Path | None = None) -> RunState | None:
    """The run of this checkout if it is up (every part started, the stack deployed), else None."""
    folder = state_folder(state_dir)
    record = read_record(folder)
    if record is None or record.status != "ready" or not is_alive(record):
        return None
    return run_state(record, folder)


def addresses(endpoint_url: str, sagemaker_url: str, region: str) -> dict[str, str]:
    """Environment in which AWS SDKs reach the local AWS, and cannot reach the real one."""
    hosts = {"127.0.0.1", "localhost", *(urlsplit(url).hostname or "" for url in (endpoint_url, sagemaker_url))}
    direct = ",".join(sorted(hosts - {""}))
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ENDPOINT_URL_SAGEMAKER": sagemaker_url,
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": sagemaker_url,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,  # a profile must not redirect anything
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def aws_environment(run: RunState) -> dict[str, str]:
    """What a process needs in its environment so that its AWS clients talk to `run`."""
    return addresses(run.endpoint_url, run.sagemaker_url, run.region)


def client(run: RunState, service: str, *, read_timeout_s: float = 70, tries: int = 4) -> Any:
    """A boto3 client of `run`, whatever the caller's own AWS configuration says."""
    url = run.sagemaker_url if service in ("sagemaker", "sagemaker-runtime") else run.endpoint_url
    return client_at(url, service, run.region, read_timeout_s=read_timeout_s, tries=tries)


def client_at(url: str, service: str, region: str, *, read_timeout_s: float = 70, tries: int = 4) -> Any:
    """A boto3 client of the local AWS at `url`."""
    import boto3  # takes 0.2 s; commands that never talk to AWS do without
    import botocore.session
    from botocore.config import Config

    variables = {
        "profile": (None, None, None, None),
        "config_file": (None, None, os.devnull, None),
        "credentials_file": (None, None, os.devnull, None),
    }
    session = boto3.session.Session(
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - the local AWS checks none
        region_name=region,
        botocore_session=botocore.session.Session(session_vars=variables),
    )
    config = Config(
        connect_timeout=5,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": tries},
        max_pool_connections=32,
        proxies={},
    )
    return session.client(service, endpoint_url=url, config=config)
