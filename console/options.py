"""What several commands share: the types of their arguments, and errors turned into exit codes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem

from producers.pacing import parse_speed
from stream_features.errors import UsageError
from stream_features.feature_sets import FEATURE_SETS

P = ParamSpec("P")
R = TypeVar("R")

_MAPPINGS = ("handbook", "sparkov")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Instant(click.ParamType[int]):
    """An ISO 8601 date or instant, UTC when no offset is given; converts to epoch milliseconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is not an ISO 8601 date or instant, such as 2018-08-08 or 2018-08-08T12:00:00Z", param, ctx
            )
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        whole = moment.replace(microsecond=0)
        return int(whole.timestamp()) * 1_000 + moment.microsecond // 1_000


class Duration(click.ParamType[int]):
    """A number with a unit (`5d`, `12h`, `30m`, `10s`, `250ms`); converts to milliseconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration, such as 5d, 12h, 30m or 10s", param, ctx)
        return int(match[1]) * _UNIT_MS[match[2]]


class Speed(click.ParamType[float | None]):
    """`max`, `realtime` or `Nx`; converts to event milliseconds per wall millisecond, None for max."""

    name = "SPEED"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value is None or isinstance(value, float):
            return value
        try:
            return parse_speed(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class MappingName(click.ParamType[str]):
    """A shipped mapping or a TOML file; which of them it is, and whether it can be read, its reader says."""

    name = "MAPPING"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in _MAPPINGS if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


class QueryName(click.ParamType[str]):
    """A shipped query or SQL."""

    name = "SQL|NAME"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = sorted(path.stem for path in (Path(__file__).parent / "queries").glob("*.sql"))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


INSTANT = Instant()
MAPPING = MappingName()
QUERY = QueryName()
FEATURE_SET = click.Choice(tuple(FEATURE_SETS))
DURATION = Duration()
SPEED = Speed()


def iso_utc(epoch_ms: int) -> str:
    """`2018-08-08T12:00:00.250Z` for an epoch in milliseconds."""
    moment = datetime.fromtimestamp(epoch_ms // 1_000, tz=UTC).replace(microsecond=epoch_ms % 1_000 * 1_000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_parameters(pairs: tuple[str, ...]) -> dict[str, str]:
    """`k=v` options as a dictionary; the last one of a name holds.

    Raises:
        UsageError: an option without `=` or without a name.
    """
    parameters: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {pair!r}: expected NAME=VALUE, such as --param max_depth=4")
        parameters[name] = value
    return parameters


def exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """0 done, 1 failed, 2 usage: every error becomes a message that says what to do next (`console.failures`)."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            from console.failures import as_click_error

            told = as_click_error(error)
            if told is error:
                raise
            raise told from error

    return wrapped


def progress(message: str) -> None:
    """Long work says what it is doing, on stderr, so that stdout holds answers only."""
    click.echo(message, err=True)


def require_folder_of(out: Path) -> None:
    """Say that a result could not be written before work is done for it; raises UsageError."""
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}: mkdir -p {out.parent}")


def require_range(from_ms: int | None, until_ms: int | None) -> None:
    """Say that nothing can lie in `[from_ms, until_ms)` before work is done for it; raises UsageError."""
    if from_ms is not None and until_ms is not None and from_ms >= until_ms:
        raise UsageError(
            f"--from {iso_utc(from_ms)} is not before --until {iso_utc(until_ms)}, so nothing lies between them: "
            "--from is the first time taken, --until the first one left out"
        )
