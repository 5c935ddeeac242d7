"""S3 prefixes with Firehose's expressions: `decisions/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from stream_features.errors import UsageError

_EXPRESSION: Final = re.compile(r"!\{([^{}]*)\}")
_JAVA_RUN: Final = re.compile(r"'(?:[^']|'')*'|([A-Za-z])\1*|[^A-Za-z']+")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))

# Java's DateTimeFormatter letters that Firehose prefixes use. Week years (YYYY) are left out on purpose: they are
# a classic slip for yyyy that is wrong for a few days around New Year only.
_JAVA_FIELDS: Final[dict[str, Callable[[datetime], str]]] = {
    "yyyy": lambda at: f"{at.year:04d}",
    "yy": lambda at: f"{at.year % 100:02d}",
    "MM": lambda at: f"{at.month:02d}",
    "M": lambda at: str(at.month),
    "dd": lambda at: f"{at.day:02d}",
    "d": lambda at: str(at.day),
    "HH": lambda at: f"{at.hour:02d}",
    "H": lambda at: str(at.hour),
    "mm": lambda at: f"{at.minute:02d}",
    "m": lambda at: str(at.minute),
    "ss": lambda at: f"{at.second:02d}",
    "s": lambda at: str(at.second),
    "SSS": lambda at: f"{at.microsecond // 1000:03d}",
}
_MILLIS, _SECOND, _MINUTE, _QUARTER_HOUR = 1, 1000, 60_000, 900_000


class PrefixTemplate:
    """An S3 prefix that is a function of the record's arrival time and, for failed records, of the kind of failure."""

    def __init__(self, template: str, *, time_zone: str = "UTC") -> None:
        """Parse `template`.

        As on AWS, a template without any `timestamp` expression gets `yyyy/MM/dd/HH/` added.

        Raises:
            UsageError: an expression is unknown, or needs dynamic partitioning.
        """
        if "!{timestamp:" not in template:
            template += "!{timestamp:yyyy/MM/dd/HH/}"
        self.template = template
        self._zone = ZoneInfo(time_zone)
        self._parts: list[str | Callable[[datetime, str], str]] = []
        self._resolution_ms = _QUARTER_HOUR  # time zones are offset by whole quarters of an hour
        end = 0
        for match in _EXPRESSION.finditer(template):
            self._parts.append(template[end : match.start()])
            self._parts.append(self._expression(match.group(1)))
            end = match.end()
        self._parts.append(template[end:])
        self._expand_tile = lru_cache(maxsize=256)(self._expand)

    def expand(self, arrival_ms: int, error_type: str = "") -> str:
        """The prefix of a record that arrived at `arrival_ms` (UTC epoch ms)."""
        return self._expand_tile(arrival_ms - arrival_ms % self._resolution_ms, error_type)

    def _expand(self, at_ms: int, error_type: str) -> str:
        at = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(self._zone)
        return "".join(part if isinstance(part, str) else part(at, error_type) for part in self._parts)

    def _expression(self, text: str) -> Callable[[datetime, str], str]:
        namespace, _, argument = text.partition(":")
        if namespace == "timestamp":
            fields = self._timestamp_fields(argument)
            return lambda at, _: "".join(field if isinstance(field, str) else field(at) for field in fields)
        if (namespace, argument) == ("firehose", "error-output-type"):
            return lambda _, error_type: error_type
        raise UsageError(
            f"prefix expression !{{{text}}} in {self.template!r} is not supported: use timestamp and error-output-type"
        )

    def _timestamp_fields(self, pattern: str) -> list[str | Callable[[datetime], str]]:
        fields: list[str | Callable[[datetime], str]] = []
        for match in _JAVA_RUN.finditer(pattern):
            run = match.group(0)
            if run.startswith("'"):
                fields.append(run[1:-1].replace("''", "'") or "'")
            elif match.group(1) is None:
                fields.append(run)
            elif run in _JAVA_FIELDS:
                finest = {"S": _MILLIS, "s": _SECOND, "m": _MINUTE}.get(run[0], _QUARTER_HOUR)
                self._resolution_ms = min(self._resolution_ms, finest)
                fields.append(_JAVA_FIELDS[run])
            else:
                raise UsageError(f"time pattern {run!r} in {self.template!r} is not supported")
        return fields
