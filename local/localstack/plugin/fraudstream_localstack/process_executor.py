"""Lambda functions as processes: one of AWS's runtime interface client per execution environment, no Docker.

A function sees the standard library, its package, its layers and that client, and nothing else of this machine's
Python: what its package lacks is missing here too. AWS would add a boto3 of its own choice.
"""

# mypy: disable-error-code="import-not-found, misc"
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

from localstack import config
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

from .runtime_api import HOST, Answer, InitFailed, RuntimeApi, Work, error_payload

# What a function's process inherits. The run's mark is among it, so that the process can be told to be the run's.
_PASSED_ON: Final = (
    *("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    *("AWS_EC2_METADATA_DISABLED", "FRAUDSTREAM_RUN_ID", "FAILPOINT_FILE"),
)
_TERMINATION_GRACE_S: Final = 2.0
_POLL_S: Final = 0.05


class ProcessExecutor(RuntimeExecutor):
    """One execution environment: a process, its Runtime API and its log."""

    def __init__(self, id: str, function_version: FunctionVersion) -> None:
        super().__init__(id, function_version)
        self._api: RuntimeApi | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._log: Any = None
        self._stopped = False

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    def start(self, env_vars: dict[str, Any]) -> None:
        settings = self.function_version.config
        code = str(settings.code.get_unzipped_code_location())
        layers = [f"{layer.code.get_unzipped_code_location()}/python" for layer in settings.layers]
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        given = {name: str(value) for name, value in env_vars.items()}
        if address := os.environ.get("FUNCTIONS_ENDPOINT_URL"):
            given["AWS_ENDPOINT_URL"] = address  # LocalStack's own, or a proxy's before it
        search_path = [code, *layers, os.environ["LAMBDA_PROCESS_RUNTIME"]]
        if given.get("PYTHONPATH"):
            search_path.append(given["PYTHONPATH"])
        self._environment = {
            **inherited,
            **given,
            "LAMBDA_TASK_ROOT": code,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{settings.runtime}",
            "PYTHONPATH": os.pathsep.join(search_path),
            "PYTHONUNBUFFERED": "1",
            "TZ": "UTC",
        }
        self._log = tempfile.TemporaryFile(prefix="lambda-log-", buffering=0)  # noqa: SIM115 - closed by stop()
        self._spawn()

    def stop(self) -> None:
        self._stopped = True
        self._end()
        if self._log is not None:
            self._log.close()

    def _spawn(self) -> None:
        self._end()
        api = self._api = RuntimeApi()
        process = self._process = subprocess.Popen(
            # -S: without the site-packages of this interpreter, which hold LocalStack's libraries
            [sys.executable, "-S", "-m", "awslambdaric", self.function_version.config.handler],
            cwd=self._environment["LAMBDA_TASK_ROOT"],
            env={**self._environment, "AWS_LAMBDA_RUNTIME_API": f"{HOST}:{api.server_port}"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline_s = time.monotonic() + float(config.LAMBDA_RUNTIME_ENVIRONMENT_TIMEOUT)
        while not api.ready.done():
            if process.poll() is not None and not api.ready.done():
                raise StatusErrorException("exit during init", payload=self._exited(self.id, process.returncode))
            if time.monotonic() > deadline_s or self._stopped:
                raise TimeoutError("the runtime did not become ready")
            time.sleep(0.005)
        try:
            api.ready.result()
        except InitFailed as failure:
            raise StatusErrorException(str(failure), payload=failure.payload) from failure

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_TERMINATION_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._api is not None:
            self._api.end()
            self._api = None

    # -- invocation --------------------------------------------------------------------------------------------------

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        settings, request_id = self.function_version.config, payload["invoke-id"]
        started_s = time.perf_counter()
        if self._process is None or self._process.poll() is not None:  # it died, or was ended at its timeout
            self._spawn()
        answer = self._answer(request_id, payload, float(settings.timeout))
        taken_ms = (time.perf_counter() - started_s) * 1000
        log = (
            f"START RequestId: {request_id} Version: {self.function_version.id.qualifier}\n{self._taken_log()}"
            f"END RequestId: {request_id}\nREPORT RequestId: {request_id}\tDuration: {taken_ms:.2f} ms\t"
            f"Billed Duration: {int(taken_ms) + 1} ms\tMemory Size: {settings.memory_size} MB\t\n"
        )
        return InvocationResult(request_id, answer.payload, is_error=answer.is_error, logs=log)

    def _answer(self, request_id: str, payload: dict[str, str], timeout_s: float) -> Answer:
        api, process = self._api, self._process
        if api is None or process is None:
            raise RuntimeError("the execution environment is not started")
        headers = [
            ("Lambda-Runtime-Aws-Request-Id", request_id),
            ("Lambda-Runtime-Deadline-Ms", str(int((time.time() + timeout_s) * 1000))),
            ("Lambda-Runtime-Invoked-Function-Arn", payload["invoked-function-arn"]),
            ("Lambda-Runtime-Trace-Id", payload.get("trace-id") or ""),
        ]
        deadline_s = time.monotonic() + timeout_s
        waiting = api.put(request_id, Work(headers, payload["payload"].encode()))
        while True:
            try:
                return waiting.result(timeout=min(_POLL_S, max(deadline_s - time.monotonic(), 0.001)))
            except TimeoutError:
                if waiting.done():
                    continue
                if process.poll() is not None:
                    return Answer(True, self._exited(request_id, process.returncode))
                if time.monotonic() >= deadline_s:
                    self._end()
                    message = f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
                    return Answer(True, error_payload("Sandbox.Timedout", message))

    @staticmethod
    def _exited(request_id: str, returncode: int) -> bytes:
        message = f"RequestId: {request_id} Error: Runtime exited with error: exit status {returncode}"
        return error_payload("Runtime.ExitError", message)

    def _taken_log(self) -> str:
        """What the process wrote since the last time; it shares the file's position, so nothing is overwritten."""
        descriptor = self._log.fileno()
        written = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return written

    # -- the rest of LocalStack's interface --------------------------------------------------------------------------

    def get_address(self) -> str:
        return HOST

    def get_endpoint_from_executor(self) -> str:
        return HOST

    def get_runtime_endpoint(self) -> str:
        return f"http://{HOST}:{config.GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

    def get_logs(self) -> str:
        return self._taken_log() if self._log is not None and not self._log.closed else ""

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        settings = function_version.config
        if not (settings.runtime or "").startswith("python"):
            raise NotImplementedError(f"the process executor runs Python functions only, not {settings.runtime}")
        settings.code.prepare_for_execution()
        for layer in settings.layers:
            layer.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Nothing was prepared that LocalStack does not remove itself."""
