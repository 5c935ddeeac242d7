"""Bringing loaded history and what has streamed meanwhile together, for cards and for merchants."""

from __future__ import annotations

from stream_features.card_state import CardLayout, CardState
from stream_features.errors import UsageError
from stream_features.merchant_state import LABEL_EFFECT_MS, MerchantLayout, MerchantState

_LOADED_ALREADY = "its history is loaded already, up to this time or a later one"


def with_history(
    layout: CardLayout, history: CardState, streamed: CardState | None, complete_from_ms: int
) -> CardState:
    """`history` holding also what `streamed` holds, each purchase once by id hash; complete from `complete_from_ms` on.

    Args:
        layout: the bounds of both states.
        history: everything of this card before `complete_from_ms`; changed in place and returned.
        streamed: what the stream has stored so far, None for nothing.
        complete_from_ms: T of the bootstrap, epoch ms.

    Raises:
        UsageError: `streamed` carries a mark at or after T already, or holds merged tiles, whose ids are gone.
    """
    history.complete_from_ms = complete_from_ms
    if streamed is None:
        return history
    if streamed.complete_from_ms is not None and streamed.complete_from_ms >= complete_from_ms:
        raise UsageError(_LOADED_ALREADY)
    if streamed.merged is not None:
        raise UsageError("it has merged tiles, in which purchases cannot be told apart any more")
    for event in streamed.exact_events():
        # what lies before T and was merged with the history stays: the mark is set, so it is not counted twice
        history.take_in(layout, event)
    return history


def with_merchant_history(
    layout: MerchantLayout, history: MerchantState, streamed: MerchantState | None, complete_from_ms: int
) -> MerchantState:
    """`history` holding also what `streamed` holds; complete from `complete_from_ms` on.

    Tiles carry no ids. So they can be added up only where nothing can be in both: the stream must have brought this
    merchant no purchase before T and no label reported before T.

    Args:
        layout: the grid and bounds of both states.
        history: all purchases of this merchant before T and all labels reported before T; changed in place and
            returned.
        streamed: what the stream has stored so far, None for nothing; stays as it is.
        complete_from_ms: T of the bootstrap, epoch ms.

    Raises:
        UsageError: `streamed` carries a mark at or after T already, or holds what the history holds too.
    """
    history.complete_from_ms = complete_from_ms
    if streamed is None:
        return history
    if streamed.complete_from_ms is not None and streamed.complete_from_ms >= complete_from_ms:
        raise UsageError(_LOADED_ALREADY)
    if streamed.first_ms is not None and streamed.first_ms < complete_from_ms:
        raise UsageError("it holds streamed purchases from before this time, which cannot be told apart in tiles")
    if streamed.first_effective_ms is not None and streamed.first_effective_ms < complete_from_ms + LABEL_EFFECT_MS:
        raise UsageError("it holds labels reported before this time, which cannot be told apart in tiles")
    history.absorb(layout, streamed)
    return history
