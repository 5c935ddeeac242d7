"""Which format a caller sends and wants: `Content-Type`, `Accept` and SageMaker's custom attributes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

JSON: Final = "application/json"
JSON_LINES: Final = "application/jsonlines"
CSV: Final = "text/csv"
NPY: Final = "application/x-npy"

READ: Final = (JSON, JSON_LINES, CSV, NPY)
ANSWERED: Final = (JSON, JSON_LINES, CSV)

_UTF8: Final = ("utf-8", "utf8", "us-ascii")


def parse_attributes(header: str) -> dict[str, str]:
    """`a=1;b=2` (semicolons or commas) as a dictionary; parts without `=` are other parties' and are left out."""
    pairs = (part.partition("=") for part in re.split(r"[;,]", header))
    return {name.strip(): value.strip() for name, separator, value in pairs if separator}


def media_type_of(content_type: str) -> str | None:
    """The media type to decode by, or None where this container cannot read it (also: a charset other than UTF-8)."""
    media_type, _, parameters = content_type.partition(";")
    charset = parse_attributes(parameters).get("charset", "utf-8").strip('"').lower()
    media_type = media_type.strip().lower()
    return media_type if media_type in READ and charset in _UTF8 else None


def attributes_of(content_type: str, custom_attributes: str) -> dict[str, str]:
    """What the caller states beside the body: parameters of the media type, and the custom attributes over them.

    Both, because AWS's XGBoost container hands a script the content type but not the custom attributes.
    """
    return {**parse_attributes(content_type.partition(";")[2]), **parse_attributes(custom_attributes)}


def accepted(accept: str) -> str | None:
    """The media type to answer in: the caller's best of ours, JSON when they do not mind, None when none fits."""
    if not accept.strip():
        return JSON
    choices = [_media_range(part) for part in accept.split(",")]
    for _, wanted in sorted(((-quality, name) for name, quality in choices if quality > 0), key=lambda pair: pair[0]):
        if (match := _first_match(wanted, ANSWERED)) is not None:
            return match
    return None


def _media_range(part: str) -> tuple[str, float]:
    name, _, parameters = part.partition(";")
    try:
        return name.strip().lower(), float(parse_attributes(parameters).get("q", "1"))
    except ValueError:
        return name.strip().lower(), 0.0  # a broken quality says nothing we could honour


def _first_match(wanted: str, offered: Sequence[str]) -> str | None:
    if wanted == "*/*":
        return offered[0]
    if wanted.endswith("/*"):
        return next((name for name in offered if name.startswith(wanted[:-1])), None)
    return wanted if wanted in offered else None
