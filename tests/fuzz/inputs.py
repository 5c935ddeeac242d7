"""Inputs that fuzzing makes: any bytes, and bytes of the corpus with a few places changed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final
from zlib import crc32

from hypothesis import strategies as st

AGGREGATE_MAGIC: Final = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES: Final = 16

# What parsers have tripped over, here and elsewhere.
TOKENS: Final = (
    b"",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b"\xef\xbb\xbf",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-1",
    b"1.5",
    b"9" * 40,
    b"9" * 5_000,
    b"[",
    b"[" * 5_000,
    b"{}",
    b'"',
    b",",
    b"\n",
    b"'",
    b"[/x]",
    b"(" * 200,
    b"\x00\x00\x00\x80",
    b"\xff" * 8,
)

any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -(10**30), 2**63, 2**64, "\ud800", -0.0, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def as_it_is(data: bytes) -> bytes:
    """For inputs that no checksum guards."""
    return data


def with_checksum(data: bytes) -> bytes:
    """A state whose checksum is right, or every change would be refused before anything is read."""
    return struct.pack("<I", crc32(data[4:])) + data[4:]


def with_digest(data: bytes) -> bytes:
    """An aggregate whose digest is right."""
    message = data[len(AGGREGATE_MAGIC) : -_DIGEST_BYTES]
    return AGGREGATE_MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def inputs(seeds: Sequence[bytes], repair: Callable[[bytes], bytes] = as_it_is) -> st.SearchStrategy[bytes]:
    """Anything, and what is near to `seeds`; `repair` makes a changed input pass the first, cheap test again."""
    near = _changed(seeds)
    return st.one_of(st.binary(max_size=300), near, near.map(repair), _with_another_field(seeds))


@st.composite
def _changed(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with up to four places replaced by a few bytes, or by something that is known to hurt."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.sampled_from(TOKENS) | st.binary(max_size=4))
    return bytes(data)


@st.composite
def _with_another_field(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed that is a JSON object, with one field of any value; another seed as it is."""
    seed = draw(st.sampled_from(seeds))
    try:
        document: Any = json.loads(seed)
    except (ValueError, RecursionError):
        return seed
    if not isinstance(document, dict) or not document:
        return seed
    field = draw(st.sampled_from(sorted(document)) | st.text(max_size=8))
    return json.dumps({**document, field: draw(any_json)}).encode()
