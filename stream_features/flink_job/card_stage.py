"""The card's part of the job: duplicates are told apart, the kernel asks the card and the card remembers."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from stream_features.card_state import CardState
from stream_features.codec import pack, unpack
from stream_features.errors import StateCorrupt
from stream_features.feature_sets import FeatureSet
from stream_features.flink_job.history_source import HistorySource
from stream_features.flink_job.intake import Arrived, CardInput
from stream_features.flink_job.keyed_state import KeyedState, Unpacked, dump, load
from stream_features.kernel import observe


class SeenIds(Protocol):
    """The transactions of one card that the job has seen, for as long as state is kept."""

    def get(self, id_hash: int) -> bytes | None:
        """The payload hash under which the id came first; None for a new one."""
        ...

    def put(self, id_hash: int, payload_hash: bytes) -> None:
        """Remember an id."""
        ...


class MerchantInput(NamedTuple):
    """A transaction whose card has answered, on its way to its merchant.

    Attributes:
        merchant_id: the key.
        card_id: the key before.
        event_time_ms: when it happened, epoch ms.
        amount_base: US cents.
        counts: it is a purchase that its merchant has not counted yet.
        stateless: its card could not be asked, so neither is its merchant.
        values: float64 in feature-set order, as if the merchant were unknown.
        late: it is older than its card's newest purchase.
        state: the card's packed state afterwards, where it was asked for; else empty.
        arrived: the record.
    """

    merchant_id: str
    card_id: str
    event_time_ms: int
    amount_base: int
    counts: bool
    stateless: bool
    values: tuple[float, ...]
    late: bool
    state: bytes
    arrived: Arrived


class DuplicateOut(NamedTuple):
    """A transaction whose id its card knows; it takes the same way so as not to overtake the first one.

    Attributes:
        merchant_id: the key of the way.
        card_id: whose.
        same_payload: it says the same as the first one.
        arrived: the record.
    """

    merchant_id: str
    card_id: str
    same_payload: bool
    arrived: Arrived


class CardOutcome(NamedTuple):
    """What goes on, and the card's new keyed state; None where nothing has to be written."""

    out: MerchantInput | DuplicateOut
    state: bytes | None


class CardStage:
    """Takes one card's transactions in the order in which they arrive.

    Args:
        features: the active feature set.
        history: where cards seen for the first time may have a past; None for nowhere.
        include_state: whether the outcome carries the packed state, for comparisons.
    """

    def __init__(self, features: FeatureSet, history: HistorySource | None, include_state: bool = False) -> None:
        self._features = features
        self._history = history
        self._include_state = include_state
        self._unpacked: Unpacked[CardState] = Unpacked()

    def process(self, item: CardInput, state: bytes | None, seen: SeenIds) -> CardOutcome:
        """One transaction.

        Args:
            item: the transaction.
            state: its card's keyed state; None for a card seen for the first time.
            seen: its card's ids.

        Raises:
            StateCorrupt: the card's state cannot be read.
            PortFailure: its history cannot be read.
        """
        event = item.event
        known = seen.get(event.id_hash)
        if known is not None:
            same = known == item.payload_hash
            return CardOutcome(DuplicateOut(item.merchant_id, item.card_id, same, item.arrived), None)
        seen.put(event.id_hash, item.payload_hash)
        before = self._load(item.card_id, state)
        card = None if state is None else self._unpacked.take(item.card_id, state)
        if card is None:
            card = unpack(before.packed, before.complete_from_ms) if before.packed else CardState.empty()
            card.complete_from_ms = before.complete_from_ms
        observation = observe(self._features, card, event)
        packed = pack(card) if observation.stored else before.packed
        # Held already although the job has not seen it: loaded with the history, and its merchant's history has it too.
        held = event.is_purchase and not observation.stored and not observation.stateless
        out = MerchantInput(
            item.merchant_id,
            item.card_id,
            event.event_time_ms,
            event.amount_base,
            event.is_purchase and not held,
            observation.stateless,
            observation.values,
            observation.late,
            packed if self._include_state else b"",
            item.arrived,
        )
        after = state
        if observation.stored or after is None:
            after = dump(self._features.card_layout_id, before._replace(packed=packed))
        self._unpacked.keep(item.card_id, after, card)
        return CardOutcome(out, after if after is not state else None)

    def _load(self, card_id: str, state: bytes | None) -> KeyedState:
        if state is not None:
            return load(self._features.card_layout_id, state)
        found = None if self._history is None else self._history.card(card_id)
        if found is None:
            return KeyedState(b"", None, False)
        if found.layout_id != self._features.card_layout_id:
            raise StateCorrupt(f"state layout {found.layout_id!r} is not {self._features.card_layout_id!r}")
        return found.state
