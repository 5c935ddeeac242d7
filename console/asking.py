"""The score API as a command asks it: of the running pipeline, or any deployed one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from local.run import RunState
from producers.score_client import ScoreClient
from stream_features.errors import UsageError


def local_url(run: RunState) -> str:
    """Where the running pipeline's API answers: its real name resolves nowhere here."""
    return f"{run.endpoint_url}/restapis/{run.outputs['ScoreApiId']}/{stage(run)}/_user_request_"


def stage(run: RunState) -> str:
    """The stage is the path of the real address."""
    return run.outputs["ScoreApiUrl"].rpartition("/")[2]


def client_of(run: RunState) -> ScoreClient:
    """A client for the running pipeline."""
    from botocore.credentials import Credentials

    return ScoreClient(local_url(run), credentials=Credentials("test", "test"), region=run.region)


def client_at(url: str) -> ScoreClient:
    """A client for a deployed API, with the credentials and the region that AWS tools would take.

    Raises:
        UsageError: there are none.
    """
    import boto3

    session = boto3.Session()
    credentials = session.get_credentials()
    if credentials is None or session.region_name is None:
        raise UsageError("no AWS credentials or no region: set AWS_PROFILE and AWS_REGION, or whatever you use")
    return ScoreClient(url, credentials=credentials, region=session.region_name)


def payloads(file: BinaryIO) -> Iterator[bytes]:
    """The lines that hold something."""
    return (line.strip() for line in file if line.strip())
