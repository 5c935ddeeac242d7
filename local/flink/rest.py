"""The job's REST interface, as far as the launcher needs it.

Two of its answers mislead: it may go away with the job before it has said where the savepoint lies, and a job that
has not read anything yet is RUNNING too.
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

from local.flink.status import Checkpoints
from stream_features.errors import PortFailure

RUNNING: Final = "RUNNING"
STARTING: Final = "STARTING"  # ours: the job is RUNNING, but not every vertex


class RestFailure(PortFailure):
    """The REST interface did not answer, or refused."""


class SavepointFailed(RestFailure):
    """The job goes on, or ends, without the savepoint that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """The job as it is now.

    Attributes:
        job_id: Flink's.
        state: RUNNING only if every vertex runs, else STARTING; otherwise Flink's own word.
    """

    job_id: str
    state: str


class FlinkRest:
    """Talks to 127.0.0.1:`port`."""

    def __init__(self, port: int, timeout_s: float = 5.0) -> None:
        self._address = f"http://127.0.0.1:{port}"
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def job(self) -> JobState | None:
        """The newest job; None while there is none. Raises RestFailure."""
        jobs = self._ask("/jobs/overview")["jobs"]
        if not jobs:
            return None
        found = self._ask(f"/jobs/{max(jobs, key=lambda job: int(job['start-time']))['jid']}")
        vertices = found["vertices"]
        state = found["state"]
        if state == RUNNING and not all(vertex["status"] == RUNNING for vertex in vertices):
            state = STARTING
        return JobState(job_id=found["jid"], state=state)

    def checkpoints(self, job_id: str) -> Checkpoints:
        """Raises RestFailure."""
        found = self._ask(f"/jobs/{job_id}/checkpoints")
        latest = (found.get("latest") or {}).get("completed") or {}
        return Checkpoints(
            completed=int(found["counts"]["completed"]),
            failed=int(found["counts"]["failed"]),
            consecutive_failed=_consecutive_failed(found.get("history") or []),
            latest_path=latest.get("external_path"),
            latest_size_bytes=latest.get("state_size"),
            latest_duration_ms=latest.get("end_to_end_duration"),
        )

    def restarts(self, job_id: str) -> int | None:
        """How often Flink itself has started the job again; None while it does not say. Raises RestFailure."""
        for metric in self._ask(f"/jobs/{job_id}/metrics?get=numRestarts"):
            if metric["id"] == "numRestarts" and str(metric.get("value", "")).isdigit():
                return int(metric["value"])
        return None

    def root_cause(self, job_id: str) -> str | None:
        """The first lines of what the job failed of last; None if it did not. Raises RestFailure."""
        history = self._ask(f"/jobs/{job_id}/exceptions").get("exceptionHistory") or {}
        entries = history.get("entries") or []
        return "\n".join(str(entries[0]["stacktrace"]).splitlines()[:12]) if entries else None

    def stop_with_savepoint(self, job_id: str) -> str:
        """Ask for it; the id under which to ask how it went. Raises RestFailure."""
        answer = self._ask(f"/jobs/{job_id}/stop", {"drain": False, "formatType": "CANONICAL"})
        return str(answer["request-id"])

    def savepoint(self, job_id: str, request_id: str) -> str | None:
        """Where the savepoint lies; None while it is under way.

        Raises:
            SavepointFailed: there will be none.
            RestFailure: nobody answers any more.
        """
        found = self._ask(f"/jobs/{job_id}/savepoints/{request_id}")
        if found["status"]["id"] != "COMPLETED":
            return None
        operation = found.get("operation") or {}
        if "location" not in operation:
            cause = (operation.get("failure-cause") or {}).get("class", "no cause")
            raise SavepointFailed(f"the savepoint failed: {cause}")
        return str(operation["location"])

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the address is ours
            self._address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise RestFailure(f"Flink's REST interface, {path}: {error}") from error


def _consecutive_failed(history: list[dict[str, Any]]) -> int:
    """Failed checkpoints since the last completed one; the history comes newest first."""
    failed = 0
    for checkpoint in history:
        if checkpoint["status"] == "COMPLETED":
            break
        failed += checkpoint["status"] == "FAILED"
    return failed
