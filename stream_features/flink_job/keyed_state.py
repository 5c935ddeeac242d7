"""One key's packed state as the job keeps it: the codec's bytes behind a header that names version and layout.

    version u8 | flags u8 | length of the layout's name u8 | the name | complete_from i64 | packed

The header holds what `entity_state` keeps in attributes of its own, so that both engines' packed bytes are the same.
"""

from __future__ import annotations

import struct
from typing import Final, Generic, NamedTuple, TypeVar

from stream_features.errors import StateCorrupt

State = TypeVar("State")

STATE_VERSION: Final = 1
UNPACKED_KEYS: Final = 2_048
HAS_COMPLETE_FROM: Final = 1
FROM_TABLE: Final = 2

_HEADER: Final = struct.Struct("<BBB")
_COMPLETE_FROM: Final = struct.Struct("<q")


class KeyedState(NamedTuple):
    """What a key holds.

    Attributes:
        packed: the codec's bytes; empty for a key without history of its own yet.
        complete_from_ms: everything before this instant was loaded whole, epoch ms; None where nothing was.
        from_table: its history began in `entity_state`.
    """

    packed: bytes
    complete_from_ms: int | None
    from_table: bool


def dump(layout_id: str, state: KeyedState) -> bytes:
    """`state` as the bytes `load` reads."""
    name = layout_id.encode()
    flags = (0 if state.complete_from_ms is None else HAS_COMPLETE_FROM) | (FROM_TABLE if state.from_table else 0)
    complete_from = _COMPLETE_FROM.pack(state.complete_from_ms or 0)
    return b"".join((_HEADER.pack(STATE_VERSION, flags, len(name)), name, complete_from, state.packed))


def load(layout_id: str, stored: bytes) -> KeyedState:
    """What `dump` wrote.

    Raises:
        StateCorrupt: another version or another layout, or too short to be either.
    """
    start = _HEADER.size
    if len(stored) < start:
        raise StateCorrupt("keyed state is shorter than its header")
    version, flags, length = _HEADER.unpack_from(stored)
    if version != STATE_VERSION:
        raise StateCorrupt(f"keyed state of version {version}, not {STATE_VERSION}")
    name, body = stored[start : start + length], start + length + _COMPLETE_FROM.size
    if name != layout_id.encode() or len(stored) < body:
        raise StateCorrupt(f"keyed state of layout {name!r}, not {layout_id!r}")
    (complete_from_ms,) = _COMPLETE_FROM.unpack_from(stored, start + length)
    return KeyedState(stored[body:], complete_from_ms if flags & HAS_COMPLETE_FROM else None, bool(flags & FROM_TABLE))


class Unpacked(Generic[State]):
    """States as objects beside the bytes they were packed to: unpacking costs more than the answers.

    An object is found again only under the very bytes that Flink gives back, so whatever happened to the key in the
    meantime (a restore, an expiry), the bytes decide.
    """

    def __init__(self, size: int = UNPACKED_KEYS) -> None:
        self._size = size
        self._kept: dict[str, tuple[bytes, State]] = {}

    def take(self, key: str, stored: bytes) -> State | None:
        """The object of these bytes, which is no longer kept; None when there is none."""
        kept = self._kept.pop(key, None)
        return kept[1] if kept is not None and kept[0] == stored else None

    def keep(self, key: str, stored: bytes, state: State) -> None:
        """Keep `state`, which `stored` packs, until it is taken or `size` others came later."""
        self._kept[key] = (stored, state)
        if len(self._kept) > self._size:
            del self._kept[next(iter(self._kept))]
