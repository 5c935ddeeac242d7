"""Stands in for the Flink job: `python fake_flink_job.py` with the job's environment.

Serves the part of the REST interface that the launcher asks, makes a checkpoint every 50 ms as Flink lays them out,
and stops with a savepoint. `behaviour.json` beside the properties changes its manners:

    vertices_start_late   how many looks find a vertex that is not running yet
    dies_after            seconds
    fails                 it restarts without ever running
    goes_away_silently    it ends before it has said where the savepoint lies
    savepoint_fails       there is none, and it goes on
    leaves_a_child        a process that outlives it, as a JVM may

It notes in `lives` what it was started with. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

PROPERTIES = Path(os.environ["FRAUDSTREAM_FLINK_PROPERTIES"])
GROUPS = {group["PropertyGroupId"]: group["PropertyMap"] for group in json.loads(PROPERTIES.read_text())}
FLINK = GROUPS["LocalFlinkConfig"]
BEHAVIOUR = PROPERTIES.with_name("behaviour.json")


def behaves(name: str) -> Any:
    return json.loads(BEHAVIOUR.read_text()).get(name) if BEHAVIOUR.exists() else None


def local_path(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path))


class Job:
    def __init__(self) -> None:
        self.job_id = os.urandom(16).hex()
        self.completed = 0
        self.latest: str | None = None
        self.looks = 0
        self.savepoint: str | None = None
        self.is_stopping = False
        self.has_savepoint = threading.Event()
        self.started_ms = time.time_ns() // 1_000_000

    def snapshot(self, folder: Path) -> str:
        folder.mkdir(parents=True)
        (folder / "_metadata").write_text(self.job_id)
        return folder.as_uri()

    def checkpoint(self) -> None:
        self.completed += 1
        folder = local_path(FLINK["execution.checkpointing.dir"]) / self.job_id
        self.latest = self.snapshot(folder / f"chk-{self.completed}")

    def answer(self, path: str, body: dict[str, Any] | None) -> Any:
        if path == "/jobs/overview":
            return {"jobs": [{"jid": self.job_id, "start-time": self.started_ms, "state": "RUNNING"}]}
        what = path.removeprefix(f"/jobs/{self.job_id}")
        if what == "":
            self.looks += 1
            late = self.looks <= (behaves("vertices_start_late") or 0)
            states = ["RUNNING", "INITIALIZING" if late else "RUNNING"]
            state = "RESTARTING" if behaves("fails") else "RUNNING"
            return {"jid": self.job_id, "state": state, "vertices": [{"status": status} for status in states]}
        if what == "/checkpoints":
            latest = {"external_path": self.latest, "state_size": 1000, "end_to_end_duration": 10}
            return {
                "counts": {"completed": self.completed, "failed": 1},
                "latest": {"completed": latest if self.latest else None},
                "history": [{"status": "COMPLETED"}, {"status": "FAILED"}],
            }
        if what.startswith("/metrics"):
            return [{"id": "numRestarts", "value": "7"}] if behaves("fails") else []
        if what == "/exceptions":
            return {"exceptionHistory": {"entries": [{"stacktrace": "Exception: the table is gone\n  at ..."}]}}
        if what == "/stop" and body is not None:
            threading.Thread(target=self.stop).start()
            return {"request-id": "r"}
        if what == "/savepoints/r":
            if behaves("savepoint_fails"):
                operation: dict[str, Any] = {"failure-cause": {"class": "CheckpointException"}}
            elif self.savepoint is None:
                return {"status": {"id": "IN_PROGRESS"}}
            else:
                operation = {"location": self.savepoint}
            return {"status": {"id": "COMPLETED"}, "operation": operation}
        raise KeyError(path)

    def stop(self) -> None:
        if behaves("savepoint_fails"):
            return
        self.is_stopping = True
        time.sleep(0.1)  # a checkpoint under way
        folder = local_path(FLINK["execution.checkpointing.savepoint-dir"])
        where = self.snapshot(folder / f"savepoint-{self.job_id[:6]}-abc")
        if not behaves("goes_away_silently"):
            self.savepoint = where
            time.sleep(0.2)
        self.has_savepoint.set()


class Handler(BaseHTTPRequestHandler):
    job: Job

    def do_GET(self) -> None:
        self.respond(None)

    def do_POST(self) -> None:
        self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def respond(self, body: dict[str, Any] | None) -> None:
        content = json.dumps(self.job.answer(self.path, body)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a JVM that is busy
    with PROPERTIES.with_name("lives").open("a") as lives:
        restored = FLINK.get("execution.state-recovery.path")
        starts = {name: json.loads(GROUPS[name]["start.positions"]) for name in ("Transactions", "EntityEvents")}
        lives.write(json.dumps({"pid": os.getpid(), "restored": restored, "starts": starts}) + "\n")
    if behaves("leaves_a_child"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    job = Handler.job = Job()
    server = ThreadingHTTPServer(("127.0.0.1", int(FLINK["rest.port"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    dies_at_s = time.monotonic() + (behaves("dies_after") or 600.0)
    while not job.has_savepoint.wait(0.05):
        if time.monotonic() > dies_at_s:
            os._exit(3)
        if not job.is_stopping:
            job.checkpoint()
    os._exit(0)


if __name__ == "__main__":
    main()
