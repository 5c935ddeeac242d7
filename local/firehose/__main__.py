"""`python -m local.firehose --state-dir D`: Firehose for an AWS that has none worth the name.

Delivers every deployed delivery stream that has a Kinesis source into S3, as its settings say: buffering hints,
prefixes in arrival time (UTC), GZIP JSON Lines, or Parquet by the columns of a Glue table. boto3 only; the endpoints
come from the environment (AWS_ENDPOINT_URL). SIGTERM and SIGINT deliver what was read and end the process.
"""

from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path

import boto3
from botocore.config import Config

from local.firehose.delivery import AwsClients
from local.firehose.worker import DEFAULT_POLL_SECONDS, Worker


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m local.firehose",
        description="Deliver Kinesis streams into S3 as the deployed Firehose delivery streams say.",
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="positions, status and flush requests")
    parser.add_argument("--poll-seconds", type=float, default=DEFAULT_POLL_SECONDS, help="pause between reads")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": 2})
    session = boto3.session.Session()
    worker = Worker(
        AwsClients(
            kinesis=session.client("kinesis", config=config),
            s3=session.client("s3", config=config),
            glue=session.client("glue", config=config),
            firehose=session.client("firehose", config=config),
        ),
        options.state_dir,
        poll_seconds=options.poll_seconds,
    )
    for stopping in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stopping, lambda _number, _frame: worker.stop())
    worker.run()


if __name__ == "__main__":
    main()
