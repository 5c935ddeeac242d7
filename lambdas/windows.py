"""What the windows say about new transactions: asked of the states in the table, or brought along by their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Protocol

from lambdas.batch import Arrival, Batch
from lambdas.budget import Budget
from lambdas.cards import CardWork, observe_card
from lambdas.commit import MAX_CARD_DECISIONS
from lambdas.merchants import stored_merchant
from lambdas.ports import EntityStore
from lambdas.writes import StoredState
from stream_features.errors import ContractMismatch, StateCorrupt
from stream_features.feature_record import values_of
from stream_features.feature_sets import FeatureSet
from stream_features.kernel import Observation
from stream_features.merchant_state import MerchantState
from stream_features.names import card_key, merchant_key


class Windows(Protocol):
    """Steps 2 and 3 of the scoring service, up to the model."""

    def observe(self, batch: Batch, arrivals: Sequence[Arrival]) -> list[CardWork]:
        """Ask for every arrival, card by card. A card that cannot be asked is returned as failed through the batch.

        Args:
            batch: takes failures and times.
            arrivals: new transactions in arrival order, each of another id.

        Raises:
            PortFailure: nothing could be read.
        """
        ...


class TableWindows:
    """Asks the states of cards and merchants, and says what to write back for the cards."""

    def __init__(self, entities: EntityStore, features: FeatureSet, budget: Budget, *, ttl_days: int) -> None:
        self._entities = entities
        self._features = features
        self._budget = budget
        self._ttl_days = ttl_days

    def observe(self, batch: Batch, arrivals: Sequence[Arrival]) -> list[CardWork]:
        with batch.stage("read"):
            states = self._read_states(arrivals)
        with batch.stage("window"):
            return self._works(batch, arrivals, states)

    def _read_states(self, arrivals: Sequence[Arrival]) -> dict[str, StoredState]:
        """The states of the arrivals' cards and merchants, asked for together."""
        entities = dict.fromkeys(card_key(a.transaction.card_id) for a in arrivals)
        if not entities:
            return {}
        if self._features.merchant_layout is not None:
            entities |= dict.fromkeys(merchant_key(a.transaction.merchant_id) for a in arrivals)
        self._budget.check()
        return self._entities.get(list(entities))

    def _works(self, batch: Batch, arrivals: Sequence[Arrival], states: Mapping[str, StoredState]) -> list[CardWork]:
        merchants, unreadable = self._merchants(arrivals, states)
        works: list[CardWork] = []
        for card_id, card_arrivals in by_card(arrivals).items():
            try:
                for arrival in card_arrivals:
                    if arrival.transaction.merchant_id in unreadable:
                        raise unreadable[arrival.transaction.merchant_id]
                entity = card_key(card_id)
                stored = states.get(entity)
                works.append(
                    observe_card(self._features, entity, stored, card_arrivals, merchants, ttl_days=self._ttl_days)
                )
            except StateCorrupt as error:
                batch.fail([a.record for a in card_arrivals], error)
        return works

    def _merchants(
        self, arrivals: Sequence[Arrival], states: Mapping[str, StoredState]
    ) -> tuple[dict[str, MerchantState], dict[str, StateCorrupt]]:
        """The arrivals' merchants by id, each unpacked once for the batch, and those that cannot be."""
        merchants: dict[str, MerchantState] = {}
        unreadable: dict[str, StateCorrupt] = {}
        if self._features.merchant_layout is None:
            return merchants, unreadable
        for merchant_id in {a.transaction.merchant_id for a in arrivals}:
            stored = states.get(merchant_key(merchant_id))
            if stored is not None:
                try:
                    merchants[merchant_id] = stored_merchant(self._features, stored)
                except StateCorrupt as error:
                    unreadable[merchant_id] = error
        return merchants, unreadable


class RecordWindows:
    """Takes what the records of the features stream say. There is no state to write."""

    def __init__(self, features: FeatureSet) -> None:
        self._features = features

    def observe(self, batch: Batch, arrivals: Sequence[Arrival]) -> list[CardWork]:
        works: list[CardWork] = []
        with batch.stage("window"):
            for card_arrivals in by_card(arrivals).values():
                try:
                    observations = [self._observation(arrival) for arrival in card_arrivals]
                except ContractMismatch as error:
                    batch.fail([a.record for a in card_arrivals], error)
                else:
                    runs = ceil(len(card_arrivals) / MAX_CARD_DECISIONS)
                    works.append(CardWork(card_arrivals, observations, [None] * runs))
        return works

    def _observation(self, arrival: Arrival) -> Observation:
        if arrival.features is None:
            raise ContractMismatch("a transaction came without its features")
        values = values_of(arrival.features, self._features)
        return Observation(values, arrival.features.late, stateless=False, stored=False)


def by_card(arrivals: Sequence[Arrival]) -> dict[str, list[Arrival]]:
    """The arrivals of each card, in their order."""
    cards: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        cards.setdefault(arrival.transaction.card_id, []).append(arrival)
    return cards
