"""What a deployment is asked for, whom it speaks with, and what it says came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from console.deployment.environments import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the caller asks for.

    Attributes:
        environment: with the command line's parameters in it.
        model: an artefact of `train`; None keeps the one in service.
        image: the URI of an image to run.
        build_image: build one first.
        script_mode: run AWS's container, also where an image runs now.
        without_endpoint: leave the endpoint alone.
        endpoint_only: leave the main stack alone.
        dry_run: make change sets, execute none.
        change_set: execute this one of the main stack instead of making one.
        allow_engine_change: the other steps of the engine's change are being taken.
        allow_replacement: what holds data may be removed or replaced.
        import_existing: take tables and buckets that a former stack left into the new one.
    """

    environment: Environment
    model: Path | None = None
    image: str | None = None
    build_image: bool = False
    script_mode: bool = False
    without_endpoint: bool = False
    endpoint_only: bool = False
    dry_run: bool = False
    change_set: str | None = None
    allow_engine_change: bool = False
    allow_replacement: bool = False
    import_existing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """How to speak with whoever runs it: `progress` tells a line, `confirm` asks a question and returns the answer."""

    progress: Callable[[str], None]
    confirm: Callable[[str], bool]


@dataclass(slots=True, kw_only=True)
class Deployed:
    """What came of it. `change_set` is one that waits (a dry run), None where nothing would change."""

    stack: str
    changes: int = 0
    change_set: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    endpoint_changes: int = 0
    image: str | None = None
    model_version: str | None = None
    thresholds_put: bool = False
