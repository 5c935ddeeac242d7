"""SageMaker's real-time endpoints on this machine.

    python -m local.sagemaker_host --port 4590 --state-dir .fraudstream/sagemaker

Serves the `sagemaker` and `sagemaker-runtime` calls that deploy and invoke endpoints, on loopback unless told. Every
production variant is a process of the real inference server; artefacts come from S3 as the environment's AWS
settings say.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import boto3
import uvicorn
from botocore.config import Config

from local.sagemaker_host.artifacts import ArtifactStore
from local.sagemaker_host.capture import DataCapture
from local.sagemaker_host.control_plane import ControlPlane
from local.sagemaker_host.fleet import Fleet
from local.sagemaker_host.server import create_app
from local.sagemaker_host.state import HostState


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then stop every endpoint process."""
    parser = argparse.ArgumentParser(prog="python -m local.sagemaker_host", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="for both APIs")
    parser.add_argument("--listen", default="127.0.0.1", help="address; another than loopback lets others call it")
    parser.add_argument("--state-dir", type=Path, required=True, help="state, unpacked models and logs; may be empty")
    parser.add_argument("--python", default=sys.executable, help="interpreter for the inference server")
    options = parser.parse_args(arguments)

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    # Path style: an emulator has no host name per bucket. No proxy: it is on this machine. Few retries: a start that
    # cannot succeed must say so soon.
    retries = {"max_attempts": 3, "mode": "standard"}
    s3_config = Config(s3={"addressing_style": "path"}, proxies={}, connect_timeout=5, retries=retries)
    state_directory: Path = options.state_dir.resolve()
    state = HostState.load(state_directory)
    s3 = boto3.client("s3", region_name=region, config=s3_config)
    artifacts = ArtifactStore(state_directory / "artifacts", s3)
    capture = DataCapture(state_directory / "capture", s3)
    fleet = Fleet(state, artifacts, python=options.python, log_directory=state_directory / "logs")
    app = create_app(ControlPlane(state, fleet, region=region), fleet, capture)
    uvicorn.run(
        app,
        host=options.listen,
        port=options.port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
