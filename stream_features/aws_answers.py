"""AWS answers held to what AWS always answers.

boto3 reads a body that breaks off, although the connection says it is whole, as an answer without members: a page
without records whose shard is at its end, a request of which nothing was refused. Whoever reads such an answer asks for
the members that it cannot be without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from stream_features.errors import PortFailure


class HalfAnswer(PortFailure):
    """An answer without what it always has. Whether the call took effect is not known; it may be made again."""


def whole(answer: Mapping[str, Any], *members: str) -> dict[str, Any]:
    """`answer`, which has all these members.

    Raises:
        HalfAnswer: one is missing.
    """
    for name in members:
        if name not in answer:
            raise HalfAnswer(f"an answer without {name}")
    return dict(answer)


def whole_json(text: bytes) -> bytes:
    """`text`, which is JSON to its end.

    Raises:
        HalfAnswer: it is not.
    """
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise HalfAnswer(f"an answer that is no JSON: {error}") from error
    return text
