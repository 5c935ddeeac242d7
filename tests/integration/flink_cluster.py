"""The real job in a mini cluster, against any AWS endpoint: started, asked how far it is, killed, started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-flink" / "bin" / "python"
CONNECTOR_JAR = ROOT / ".venv-flink" / "connector" / "pyflink-dependencies.jar"
STARTED_WITHIN_S = 180.0
STREAMS = ("transactions", "entity-events", "features")


def missing() -> str:
    """Why the job cannot run here; empty when it can."""
    if not shutil.which("java"):
        return "no java on the PATH"
    return "" if PYTHON.exists() else "no .venv-flink: make setup-flink"


class FlinkJob:
    """One job and its files in `folder`. Killed jobs go on from their newest checkpoint when started again."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        arns: Mapping[str, str],
        *,
        aws_url: str = "",
        **job_properties: str,
    ) -> None:
        self.folder = folder
        self._aws_url = aws_url  # for the connector's jar, which the environment does not tell
        self.progress_dir = folder / "progress"
        self._environment = environment
        self._arns = arns
        self._job_properties = job_properties
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._savepoint: str | None = None
        self.restored_from: str | None = None

    def start(self) -> None:
        """Start it and wait until every vertex runs."""
        for name in ("tmp", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.restored_from = self._savepoint or self.newest_checkpoint()
        self._savepoint = None
        properties = self.folder / "properties.json"
        properties.write_text(json.dumps(self._properties()))
        site_packages = next((ROOT / ".venv-flink" / "lib").glob("python3.*/site-packages"))
        environment = {
            **self._environment,
            "IS_LOCAL": "true",
            "FRAUDSTREAM_FLINK_PROPERTIES": str(properties),
            "FLINK_LOG_DIR": str(self.folder / "log"),
            "JVM_ARGS": "-Xmx768m",
            "PYTHONPATH": f"{site_packages}{os.pathsep}{ROOT}",  # the embedded interpreter knows no virtual environment
        }
        with (self.folder / "job.out").open("ab") as out:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "stream_features.flink_job.main"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ends_at = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < ends_at:
            if self._process.poll() is not None:
                break
            if self._is_running():
                return
            time.sleep(0.2)
        raise RuntimeError(f"the job did not start: {(self.folder / 'job.out').read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL to the JVM and the Python that started it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop with a savepoint, from which the next start goes on."""
        folder = self.folder / "savepoints"
        assert self._process is not None
        self._rest(f"/jobs/{self._job_id()}/stop", {"drain": False, "targetDirectory": folder.as_uri()})
        self._process.wait(timeout=60)  # the mini cluster ends with its job, before it can say where the savepoint is
        self._process = None
        self._savepoint = max(folder.glob("*/_metadata"), key=lambda path: path.stat().st_mtime).parent.as_uri()

    def java_processes(self) -> int:
        """How many JVMs the job has started."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        return sum(process.name() == "java" for process in family)

    def newest_checkpoint(self) -> str | None:
        """The newest complete one, as Flink wants it named."""
        found = list((self.folder / "checkpoints").glob("*/chk-*/_metadata"))
        return max(found, key=lambda path: path.stat().st_mtime).parent.as_uri() if found else None

    def checkpoints(self) -> dict[str, int]:
        """Their counts since this start."""
        counts: dict[str, int] = self._rest(f"/jobs/{self._job_id()}/checkpoints")["counts"]
        return counts

    def metric(self, name: str) -> int:
        """The sum of a counter or gauge over all operators that have it, once the cluster shows it."""
        job_id = self._job_id()
        ends_at = time.monotonic() + 60
        while time.monotonic() < ends_at:
            values = []
            for vertex in self._rest(f"/jobs/{job_id}")["vertices"]:
                metrics = f"/jobs/{job_id}/vertices/{vertex['id']}/metrics"
                names = [metric["id"] for metric in self._rest(metrics) if metric["id"].endswith(f".{name}")]
                values += [int(metric["value"]) for each in names for metric in self._rest(f"{metrics}?get={each}")]
            if values:
                return sum(values)
            time.sleep(0.5)  # the first request only starts what fetches them
        raise RuntimeError(f"no metric {name}")

    def wait_for_metric(self, name: str, value: int) -> None:
        """The cluster shows metrics a little later than they change."""
        ends_at = time.monotonic() + 60
        while (shown := self.metric(name)) != value:
            if time.monotonic() > ends_at:
                raise RuntimeError(f"metric {name} is {shown}, not {value}")
            time.sleep(0.5)

    def progress(self, name: str) -> dict[str, Any]:
        """What an operator said last; empty before it said anything."""
        try:
            said: dict[str, Any] = json.loads((self.progress_dir / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return {}
        return said

    def finished(self) -> int:
        """How many records of both inputs have finished."""
        return sum(int(self.progress(name).get("finished", 0)) for name in ("written", "labelled"))

    def wait_until(self, records: int, within_s: float = 180.0) -> None:
        """Wait until so many records of both inputs have finished."""
        ends_at = time.monotonic() + within_s
        while self.finished() < records:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the job ended: {(self.folder / 'job.out').read_text()[-3000:]}")
            if time.monotonic() > ends_at:
                raise RuntimeError(
                    f"{self.finished()} of {records} records finished in {within_s} s; see {self.folder}"
                )
            time.sleep(0.05)

    def _properties(self) -> list[dict[str, Any]]:
        job = {
            "connector": "polling",
            "feature.set": "core",
            "execution.mode": "thread",
            "state.ttl.days": "150",
            "label.ttl.days": "400",
            "lake.bucket": "lake",
            "include.state": "true",
            "progress.dir": str(self.progress_dir),
            "seed.dir": str(self.folder / "seed"),
            **self._job_properties,
        }
        flink = {
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(self._port),
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "metrics.fetcher.update-interval": "500",
            "parallelism.default": "1",
            "state.backend.type": "rocksdb",
            "execution.checkpointing.interval": "1s",
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "execution.checkpointing.num-retained": "3",
            "execution.checkpointing.dir": (self.folder / "checkpoints").as_uri(),
            "execution.buffer-timeout.interval": "5ms",
            "restart-strategy.type": "none",
            "io.tmp.dirs": str(self.folder / "tmp"),
        }
        if job["connector"] == "official":
            flink["pipeline.jars"] = CONNECTOR_JAR.as_uri()
        if self.restored_from is not None:
            flink["execution.state-recovery.path"] = self.restored_from

        def group(name: str, values: dict[str, str]) -> dict[str, Any]:
            return {"PropertyGroupId": name, "PropertyMap": values}

        def stream(name: str, **values: str) -> dict[str, str]:
            endpoint = {"aws.endpoint": self._aws_url} if self._aws_url else {}
            return {"stream.arn": self._arns[name], "aws.region": "us-east-1", **endpoint, **values}

        return [
            group("Job", job),
            group("Transactions", stream("transactions", **{"poll.ms": "20"})),
            group("EntityEvents", stream("entity-events", **{"poll.ms": "20"})),
            group("Features", stream("features", **{"sink.max-buffer-ms": "5"})),
            group("LocalFlinkConfig", flink),
        ]

    def _is_running(self) -> bool:
        try:
            job = self._rest(f"/jobs/{self._job_id()}")
        except (urllib.error.URLError, OSError, LookupError):
            return False
        return job["state"] == "RUNNING" and all(vertex["status"] == "RUNNING" for vertex in job["vertices"])

    def _job_id(self) -> str:
        return str(self._rest("/jobs/overview")["jobs"][0]["jid"])

    def _rest(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def flink_job(
    folder: Path, environment: Mapping[str, str], arns: Mapping[str, str], *, aws_url: str = "", **job_properties: str
) -> Iterator[FlinkJob]:
    """A running job, killed at the end."""
    job = FlinkJob(folder, environment, arns, aws_url=aws_url, **job_properties)
    try:
        job.start()
        yield job
    finally:
        job.kill()
