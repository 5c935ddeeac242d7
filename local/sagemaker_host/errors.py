"""Errors of this host in AWS's words: a code boto3 raises by, an HTTP status and a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AwsError(Exception):
    """An answer other than success; `extra` holds further members of the modelled error."""

    def __init__(self, code: str, message: str, status: int = 400, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.extra = dict(extra or {})


def invalid(message: str) -> AwsError:
    """What the control plane answers to a request that cannot be carried out."""
    return AwsError("ValidationException", message)


def unavailable(message: str) -> AwsError:
    """What the runtime answers while no process can take the request; the caller may try again."""
    return AwsError("ServiceUnavailable", message, status=503)


class StartFailed(Exception):
    """An endpoint's process did not become healthy; the message is its FailureReason."""


class ServerKilled(StartFailed):
    """It was ended from outside before it became healthy, which says nothing about its model: another may do."""
