"""Cards in groups, whole: a card's rows resemble one another, so they must not stand on both sides of a split.

Groups depend on the card's id alone (its hash), never on the order or the number of rows.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_features.errors import UsageError

_SCALE: Final = 2**64


def card_shares(card_ids: NDArray[np.str_], purpose: str) -> NDArray[np.float64]:
    """A number in 0..1 for each row, even over cards and the same for all rows of a card; another one per purpose."""
    cards, card = np.unique(card_ids, return_inverse=True)
    return np.array([_hash(str(name), purpose) / _SCALE for name in cards], dtype=np.float64)[card]


def held_out(card_ids: NDArray[np.str_], share: float) -> NDArray[np.bool_]:
    """The rows of those cards that are kept for validation: `share` (between 0 and 1) of all cards there could be.

    Raises:
        UsageError: `share` is not between 0 and 1, both exclusive.
    """
    check_share(share)
    chosen: NDArray[np.bool_] = card_shares(card_ids, "validation") < share
    return chosen


def check_share(share: float) -> None:
    """Raises UsageError unless `share` is between 0 and 1, both exclusive."""
    if not 0.0 < share < 1.0:
        raise UsageError(f"--valid-cards takes a share of the cards between 0 and 1, not {share:g}")


def card_folds(card_ids: NDArray[np.str_], labels: NDArray[Any], folds: int) -> NDArray[np.int64]:
    """A fold (0 to `folds` - 1) for each row; cards with fraud are dealt out evenly, and so are those without.

    Outside every fold there are rows of both classes.

    Raises:
        UsageError: fewer defrauded cards than folds, or all legitimate rows in one of them.
    """
    cards, card = np.unique(card_ids, return_inverse=True)
    is_fraud = np.zeros(len(cards), dtype=bool)
    is_fraud[card[labels == 1]] = True
    if (defrauded := int(is_fraud.sum())) < folds:
        raise UsageError(f"--calibrate needs fraud on at least {folds} cards among the training rows, not {defrauded}")
    fold = np.empty(len(cards), dtype=np.int64)
    for places in (np.flatnonzero(is_fraud), np.flatnonzero(~is_fraud)):
        dealt = sorted(places.tolist(), key=lambda place: _hash(str(cards[place]), "fold"))
        fold[dealt] = np.arange(len(dealt)) % folds
    by_row: NDArray[np.int64] = fold[card]
    if len(np.unique(by_row[labels == 0])) < 2:
        raise UsageError("--calibrate needs legitimate training rows of several cards")
    return by_row


def _hash(card_id: str, purpose: str) -> int:
    return int.from_bytes(blake2b(f"{purpose}:{card_id}".encode(), digest_size=8).digest(), "little")
