"""Everything a run has logged, and what must not be in it."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

from tests.e2e.driver import Installation


def logs_of(installed: Installation) -> dict[str, str]:
    """Every log file of the run by its name, and every log group of its AWS by its own."""
    found = {file.name: file.read_text(errors="replace") for file in (installed.state_dir / "logs").iterdir()}
    client = installed.pipeline().client("logs")
    for group in (g["logGroupName"] for page in _pages(client, "describe_log_groups") for g in page["logGroups"]):
        events = (e for page in _pages(client, "filter_log_events", logGroupName=group) for e in page["events"])
        found[group] = "\n".join(event["message"] for event in events)
    return found


def leaks(logs: Mapping[str, str], secrets: Collection[str]) -> list[tuple[str, str]]:
    """(log, secret) for each secret that a log holds, spelled out or in base64."""
    return sorted(
        (name, secret)
        for name, text in logs.items()
        for secret in secrets
        if secret in text or any(spelling in text for spelling in _in_base64(secret))
    )


def _in_base64(secret: str) -> list[str]:
    """What `secret` looks like in base64, at each of the three places it may begin at; the ragged ends are left out."""
    text = secret.encode()
    spellings = [base64.b64encode(b"\0" * skip + text).decode()[4 if skip else 0 : -4] for skip in range(3)]
    return [spelling for spelling in spellings if len(spelling) >= 8]


def _pages(client: Any, operation: str, **arguments: str) -> Any:
    return client.get_paginator(operation).paginate(**arguments)
