"""What the Flink job knew and the tables do not: into the tables, so that the functions can go on.

While the job is the engine, `entity_state` stays as it was when the job began, and merchants are not told of purchases.
Both follow from the decisions, which name their engine and their record:

* a card's state is a function of the set of its purchases, so what the job decided is added to what is stored, with a
  mark in the same transaction: a second attempt adds nothing;
* merchants are told of these purchases, and of all labels that stand, through `entity-events`: update_entities applies
  each once, whatever it has applied before.

So loaded history, its marks and earlier effects all stay, and nothing has to be emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec

from console.running import Pipeline
from console.tables import Tables, scan
from lambdas.adapters.items import stored_label
from lambdas.cards import expiry_s
from lambdas.commit import Chain, Conflict, Link
from lambdas.label_records import Derived, label_events
from lambdas.merchants import decided_event
from lambdas.writes import PutEffect, PutState, StoredState
from local.flink.properties import STATE_DAYS
from stream_features.card_event import CardEvent, card_event
from stream_features.card_state import CardLayout, CardState
from stream_features.codec import pack, unpack
from stream_features.decision import Decision, decode_decision
from stream_features.entity_event import EntityEvent
from stream_features.errors import PipelineError
from stream_features.feature_sets import FeatureSet
from stream_features.label_history import LabelReport, fraud_entries
from stream_features.names import card_key
from stream_features.transaction import Transaction

_CARDS_A_ROUND: Final = 500
_EVENTS_A_ROUND: Final = 5_000
_reports: Final = msgspec.json.Decoder(list[LabelReport]).decode
_TRANSACTION_FIELDS: Final = Transaction.__struct_fields__


def decided_by_the_job(pipeline: Pipeline, begun_after: Mapping[str, str]) -> Iterator[Decision]:
    """Decisions on purchases that the Flink job made of records after these positions. Raises PortFailure.

    Args:
        pipeline: the running pipeline.
        begun_after: shard to the position after which this job began; a shard that is not in there it read whole.
    """
    for item in scan(pipeline, "DecisionsTableName", ProjectionExpression="document"):
        decision = decode_decision(item["document"]["S"])
        if decision.engine != "flink" or decision.type != "purchase":
            continue
        position = decision.stream_position
        if int(position.sequence_number) > int(begun_after.get(position.shard_id, -1)):
            yield decision


def add_to_cards(
    pipeline: Pipeline,
    tables: Tables,
    decisions: Iterable[Decision],
    token: str,
    progress: Callable[[str], None],
) -> int:
    """Add purchases to their cards' stored states, each card once for one `token`; answers how many cards.

    Raises:
        PipelineError: a state has another layout, or somebody else writes it.
        StateCorrupt: a stored state cannot be unpacked.
        PortFailure: DynamoDB did not answer; the same call again goes on where this one ended.
    """
    events: dict[str, list[CardEvent]] = {}
    newest_arrival_ms: dict[str, int] = {}
    for decision in decisions:
        key = card_key(decision.card_id)
        events.setdefault(key, []).append(card_event(_transaction(decision)))
        newest_arrival_ms[key] = max(decision.arrival_ms, newest_arrival_ms.get(key, 0))
    done = 0
    keys = iter(events)
    while some := list(islice(keys, _CARDS_A_ROUND)):
        marked = tables.ledger.recorded([_mark(key, token) for key in some])
        some = [key for key in some if _mark(key, token) not in marked]
        stored = tables.entities.get(some) if some else {}
        chains: dict[str, Chain] = {}
        for key in some:
            put = _put(pipeline.features, key, stored.get(key), events[key], newest_arrival_ms[key])
            chains[key] = Chain([Link((put, PutEffect(_mark(key, token), put.expires_at_s)), {})])
        tables.committer.commit(list(chains.values()))
        for key, chain in chains.items():
            if isinstance(chain.error, Conflict):
                raise PipelineError(f"somebody else writes the state of {key}; is score_transactions still delivered?")
            if chain.error is not None:
                raise chain.error
        done += len(some)
        progress(f"{done} of {len(events)} cards brought up to date")
    return len(events)


def with_purchases(
    layout: CardLayout, packed: bytes | None, complete_from_ms: int | None, purchases: Iterable[CardEvent]
) -> bytes:
    """A card's packed state that also holds `purchases`, which it does not hold yet."""
    state = CardState.empty(complete_from_ms) if packed is None else unpack(packed, complete_from_ms)
    for purchase in purchases:
        state.take_in(layout, purchase)
    return pack(state)


def tell_merchants(tables: Tables, events: Iterable[EntityEvent], progress: Callable[[str], None]) -> int:
    """Publish `events` on the stream of entity events; answers how many. Raises PortFailure."""
    told = 0
    upcoming = iter(events)
    while some := list(islice(upcoming, _EVENTS_A_ROUND)):
        tables.entity_events.publish(some)
        told += len(some)
        progress(f"{told} entity events published")
    return told


def purchase_events(decisions: Iterable[Decision]) -> Iterator[EntityEvent]:
    """What these purchases tell their merchants."""
    return (decided_event(decision) for decision in decisions if decision.type == "purchase")


def standing_label_events(pipeline: Pipeline, tables: Tables) -> Iterator[EntityEvent]:
    """What the labels that merchants were told of say now, with their revisions. Raises PortFailure."""
    told = {"FilterExpression": "told <> :nobody", "ExpressionAttributeValues": {":nobody": {"S": "[]"}}}
    items = scan(pipeline, "LabelsTableName", **told)
    while some := list(islice(items, _CARDS_A_ROUND)):
        labels = {item["transaction_id"]["S"]: stored_label(item) for item in some}
        decisions = tables.decisions.get(list(labels))
        for transaction_id, label in labels.items():
            known = decisions.get(transaction_id)
            is_purchase = not label.no_purchase and (known is None or decode_decision(known).is_purchase)
            frauds = (
                fraud_entries(_reports(label.history), label.event_time_ms)
                if label.event_time_ms is not None and is_purchase
                else []
            )
            yield from label_events(transaction_id, Derived(label, frauds, known is not None, added=0, refused=[]))


def _put(
    features: FeatureSet, key: str, stored: StoredState | None, purchases: list[CardEvent], arrival_ms: int
) -> PutState:
    if stored is not None and stored.layout != features.card_layout_id:
        raise PipelineError(f"{key}: its state has layout {stored.layout}, not {features.card_layout_id}")
    packed, complete_from_ms = (None, None) if stored is None else (stored.packed, stored.complete_from_ms)
    return PutState(
        entity=key,
        expected_version=None if stored is None else stored.version,
        layout=features.card_layout_id,
        packed=with_purchases(features.card_layout, packed, complete_from_ms, purchases),
        complete_from_ms=complete_from_ms,
        expires_at_s=expiry_s(arrival_ms, STATE_DAYS),
    )


def _mark(key: str, token: str) -> str:
    return f"{key}#handed-over#{token}"


def _transaction(decision: Decision) -> Transaction:
    return Transaction(**{name: getattr(decision, name) for name in _TRANSACTION_FIELDS})
