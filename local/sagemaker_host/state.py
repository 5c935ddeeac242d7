"""What this host knows: models, endpoint configurations and endpoints, in one JSON file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Self

import msgspec

STATE_FILE: Final = "control-plane.json"


class Described(msgspec.Struct):
    """A model or an endpoint configuration: the request that made it, kept as it came."""

    name: str
    arn: str
    created_at_s: float
    request: dict[str, Any]


class VariantSpec(msgspec.Struct):
    """One production variant, with all of its model that running it takes."""

    name: str
    weight: float
    instance_count: int
    image: str
    model_data_url: str
    environment: dict[str, str]
    startup_timeout_s: float
    artifact: str | None = None  # the unpacked folder; set by the first start, so that a restart needs no S3


class CaptureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which invocations of an endpoint are kept, where, and how their bodies are written down."""

    enabled: bool
    sampling_percentage: int  # 0..100
    destination: str  # s3://bucket/prefix, without a slash at the end
    modes: list[str]  # Input, Output or both
    csv_types: list[str]  # media types kept as text
    json_types: list[str]
    kms_key_id: str | None = None


class Deployment(msgspec.Struct):
    """A configuration as it was when an endpoint was created or updated with it.

    A copy, because a model or configuration may be deleted while an endpoint runs it.
    """

    config_name: str
    variants: list[VariantSpec]
    capture: CaptureSpec | None = None


class Endpoint(msgspec.Struct):
    """One endpoint: what it serves (`live`) and what it is on its way to (`target`)."""

    name: str
    arn: str
    created_at_s: float
    modified_at_s: float
    status: str
    live: Deployment | None = None
    target: Deployment | None = None
    failure_reason: str | None = None
    deployment_config: dict[str, Any] | None = None


class _Content(msgspec.Struct):
    models: dict[str, Described] = {}
    configs: dict[str, Described] = {}
    endpoints: dict[str, Endpoint] = {}


class HostState:
    """The three tables by name. Whoever changes a record calls `save`."""

    def __init__(self, path: Path, content: _Content) -> None:
        self._path = path
        self._content = content
        self.models = content.models
        self.configs = content.configs
        self.endpoints = content.endpoints

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the state below `directory`; an empty one where nothing was saved yet.

        Raises:
            msgspec.MsgspecError: the file is damaged.
        """
        path = directory / STATE_FILE
        content = msgspec.json.decode(path.read_bytes(), type=_Content) if path.exists() else _Content()
        return cls(path, content)

    def save(self) -> None:
        """Write everything, whole or not at all, and durably: a host killed now comes back with it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".new")
        with scratch.open("wb") as written:
            written.write(msgspec.json.encode(self._content))
            written.flush()
            os.fsync(written.fileno())
        scratch.replace(self._path)
