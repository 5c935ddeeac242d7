"""What a run consists of: each part's command, environment, folders and manners, in starting order."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from local.attached import listen_address
from local.capabilities import Capability, supplied
from local.flink.layout import FlinkFolder
from local.localstack import host as localstack
from local.run import CHECKOUT, RunRecord, addresses, log_path
from local.supervisor import Part, Preparation, RunSpec

_EMBEDDED_PYTHON: Final = CHECKOUT / ".venv-embedded" / "bin" / "python"
_LONGEST_CALL_S: Final = 70.0  # of a function
# A function's environment is its template's and the emulator's: nothing of the caller's may leak into either.
_PASSED_ON: Final = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


def run_spec(record: RunRecord, folder: Path, model_artifact: Path | None, resumes: bool) -> RunSpec:
    """The specification the supervisor is started with; makes the folders it names.

    Args:
        record: the new run.
        folder: its state folder.
        model_artifact: what it shall serve, if not what it served or a starter model.
        resumes: whether the folder holds what a former run kept.
    """
    reach_aws = addresses(record.endpoint_url, record.sagemaker_url, record.region)
    ours = {**os.environ, **reach_aws, "PYTHONUNBUFFERED": "1"}
    # Fault tests put a proxy between AWS and whatever delivers, computes and decides. Commands go straight.
    proxy = os.environ.get("FRAUDSTREAM_FAULT_PROXY")
    through = addresses(proxy, proxy, record.region) if proxy else {}
    for name in ("aws/tmp", "sagemaker", "mappings", "firehose"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    preparation = [sys.executable, "-m", "local.bring_up", "--state-dir", str(folder)]
    if model_artifact is not None:
        preparation += ["--model-artifact", str(model_artifact.resolve())]
    if resumes:
        preparation.append("--resumes")
    return RunSpec(
        record=record,
        state_dir=str(folder),
        parts=[
            *([] if record.attached else [_aws(record, folder, reach_aws | through)]),
            _sagemaker(record, folder, ours),
            *_workers(record, folder, ours, ours | through),
            *_flink(record, folder, ours | through),
        ],
        preparation=Preparation(
            command=preparation,
            environment=ours,
            log=str(log_path(folder, "deploy")),
            folder=str(CHECKOUT),
            outputs_file=str(folder / "outputs.json"),
        ),
    )


def _sagemaker(record: RunRecord, folder: Path, ours: dict[str, str]) -> Part:
    return Part(
        name="sagemaker",
        command=[
            *(sys.executable, "-m", "local.sagemaker_host"),
            *("--port", str(record.ports["sagemaker"]), "--state-dir", str(folder / "sagemaker")),
            *(("--listen", listen_address()) if record.attached else ()),
        ],
        environment=ours,
        log=str(log_path(folder, "sagemaker")),
        folder=str(CHECKOUT),
        starts="first",
        restarts=True,
        stop_grace_s=40.0,
    )


def _workers(record: RunRecord, folder: Path, ours: dict[str, str], delivering: dict[str, str]) -> list[Part]:
    """What the table of capabilities has us supply. The mapping runner works in the environment `delivering`."""
    workers: list[tuple[Capability, Part]] = [
        ("event source mappings", _worker("mappings", "event_source_mappings", folder, delivering, _LONGEST_CALL_S)),
        ("firehose", _worker("firehose", "firehose", folder, ours, 60.0)),
    ]
    return [part for capability, part in workers if supplied(record.place, capability)]


def _worker(name: str, module: str, folder: Path, environment: dict[str, str], stop_grace_s: float) -> Part:
    """A part that reads the deployed stack and keeps its own state in the folder of its name."""
    return Part(
        name=name,
        command=[sys.executable, "-m", f"local.{module}", "--state-dir", str(folder / name)],
        environment=environment,
        log=str(log_path(folder, name)),
        folder=str(CHECKOUT),
        starts="after_preparation",
        restarts=True,
        ready_file=str(folder / name / "status.json"),
        stop_grace_s=stop_grace_s,
    )


def _flink(record: RunRecord, folder: Path, ours: dict[str, str]) -> list[Part]:
    """The Flink job. It comes last, so that it is stopped while the functions behind it still run."""
    if record.engine != "flink":
        return []
    job = FlinkFolder(folder / "flink")
    job.path.mkdir(parents=True, exist_ok=True)
    return [
        Part(
            name="flink",
            command=[sys.executable, "-m", "local.flink", "--state-dir", str(job.path)],
            environment=ours,
            log=str(log_path(folder, "flink")),
            folder=str(CHECKOUT),
            starts="after_preparation",
            restarts=True,  # from its newest checkpoint
            ready_file=str(job.status),
            stop_grace_s=90.0,  # a savepoint
            killed_on_discard=True,
        )
    ]


def _aws(record: RunRecord, folder: Path, reach_aws: dict[str, str]) -> Part:
    """The emulator. Functions of the embedded AWS inherit its environment, so it gets a small one."""
    data = folder / "aws"
    # Absent file, no effect. Crash tests write the point at which a function kills itself into it.
    failpoint = {"FAILPOINT_FILE": os.environ.get("FAILPOINT_FILE", str(folder / "failpoint"))}
    if record.target == "localstack":
        sagemaker_url = reach_aws["AWS_ENDPOINT_URL_SAGEMAKER"]
        return Part(
            name="aws",
            command=localstack.command(),
            environment=failpoint
            | localstack.environment(
                data, record.ports["aws"], sagemaker_url, record.region, positions=folder / "mappings"
            )
            | {"FUNCTIONS_ENDPOINT_URL": reach_aws["AWS_ENDPOINT_URL"]},
            log=str(log_path(folder, "aws")),
            folder=str(data),
            starts="first",
            restarts=False,  # its state lives in memory
            stop_grace_s=30.0,
            killed_on_discard=True,
        )
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | reach_aws | failpoint
    environment |= {
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(record.ports["aws"]),
        "MINISTACK_REGION": record.region,
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "TMPDIR": str(data / "tmp"),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(data / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(data / "s3"),
        "PYTHONUNBUFFERED": "1",
    }
    return Part(
        name="aws",
        command=[str(_EMBEDDED_PYTHON), str(CHECKOUT / "local" / "embedded" / "launcher.py")],
        environment=environment,
        log=str(log_path(folder, "aws")),
        folder=str(data),
        starts="first",
        restarts=False,  # its state lives in memory
        stop_grace_s=150.0,
        killed_on_discard=True,
    )
