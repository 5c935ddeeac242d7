"""LocalStack's DynamoDB, run from the jar that npm brought instead of one that LocalStack would download."""

# mypy: disable-error-code="import-not-found, misc"
from __future__ import annotations

import os
import shutil

from localstack import config
from localstack.services.dynamodb.provider import DynamoDBProvider
from localstack.services.dynamodb.server import DynamodbServer
from localstack.utils.common import TMP_THREADS
from localstack.utils.run import ShellCommandThread


class JarDynamodbServer(DynamodbServer):
    """DYNAMODB_LOCAL_HOME names the folder with DynamoDBLocal.jar and DynamoDBLocal_lib."""

    @property
    def jar_path(self) -> str:
        return f"{os.environ['DYNAMODB_LOCAL_HOME']}/DynamoDBLocal.jar"

    @property
    def library_path(self) -> str:
        return f"{os.environ['DYNAMODB_LOCAL_HOME']}/DynamoDBLocal_lib"

    def do_start_thread(self) -> ShellCommandThread:
        command = [shutil.which("java") or "java", f"-Xmx{self.heap_size}"]
        command += [f"-Djava.library.path={self.library_path}", "-jar", self.jar_path, "-port", str(self.port)]
        command += ["-dbPath", self.db_path] if self.db_path else ["-inMemory"]
        if self.delay_transient_statuses:
            command.append("-delayTransientStatuses")
        if self.share_db:
            command.append("-sharedDb")
        thread = ShellCommandThread(
            command,
            strip_color=True,
            auto_restart=True,
            name="dynamodb-local",
            env_vars={"DDB_LOCAL_TELEMETRY": "0"},
            cwd=os.environ["DYNAMODB_LOCAL_HOME"],
        )
        TMP_THREADS.append(thread)
        thread.start()
        return thread


class JarDynamoDBProvider(DynamoDBProvider):
    """The provider as it is, on the server above."""

    @staticmethod
    def _new_dynamodb_server() -> JarDynamodbServer:
        return JarDynamodbServer(config.DYNAMODB_LOCAL_PORT)
