"""The real worker, killed by SIGKILL right after an object reached S3 and before its checkpoint.

`python -m tests.integration.firehose_killed_after_put --state-dir D` takes the options of `local.firehose`;
KILL_AT_PUT says which put of this process is its last act.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import boto3

from local.firehose.__main__ import main

KILL_AT_PUT = int(os.environ.get("KILL_AT_PUT", "1"))


def kill_after_put(client: Any) -> Any:
    puts = 0
    put = client.put_object

    def put_then_die(**request: Any) -> Any:
        nonlocal puts
        answer = put(**request)
        puts += 1
        if puts == KILL_AT_PUT:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    client.put_object = put_then_die
    return client


if __name__ == "__main__":
    make = boto3.session.Session.client
    boto3.session.Session.client = lambda self, name, **kw: (
        kill_after_put(make(self, name, **kw)) if name == "s3" else make(self, name, **kw)
    )
    main()
