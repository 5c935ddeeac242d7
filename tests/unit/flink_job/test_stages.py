"""The keyed stages against the kernel's one pass over whole histories, and the edges their docstrings name."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_features.card_state import CardState
from stream_features.codec import pack, unpack
from stream_features.entity_event import EntityEvent, FraudEntry
from stream_features.errors import ContractMismatch, StateCorrupt
from stream_features.feature_record import (
    DuplicateRecord,
    FeaturesRecord,
    RejectedMark,
    decode_feature_record,
    encode_feature_record,
    values_of,
)
from stream_features.feature_sets import CORE, HANDBOOK, FeatureSet
from stream_features.flink_job.history_source import StoredHistory
from stream_features.flink_job.keyed_state import KeyedState, Unpacked, dump, load
from stream_features.history import HistoryStates, history_states, observe_history
from stream_features.kernel import card_event, features_json, observe
from stream_features.label_history import fraud_entry, replace_frauds
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.merchant_state import MerchantState
from stream_features.transaction import Transaction, encode_transaction
from tests.oracle import assert_same_features
from tests.unit.flink_job.keyed import KeyedJob, KnownHistory
from tests.unit.stream_features.cards import a_transaction
from tests.unit.stream_features.test_kernel import histories

MERCHANT_LAYOUT = CORE.merchant_layout
assert MERCHANT_LAYOUT is not None


def served(job: KeyedJob, transaction: Transaction) -> FeaturesRecord:
    record = job.transaction(encode_transaction(transaction))
    assert isinstance(record, FeaturesRecord)
    decoded = decode_feature_record(encode_feature_record(record))  # as it goes over the stream
    assert decoded == record
    return record


@pytest.mark.parametrize("features", [CORE, HANDBOOK], ids=lambda features: features.name)
@given(history=histories(), seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_stages_give_the_bits_of_the_kernels_one_pass(
    features: FeatureSet, history: list[Transaction], seed: int
) -> None:
    chance = random.Random(seed)
    layout = features.merchant_layout
    assert layout is not None
    states = HistoryStates()
    job = KeyedJob(features)
    for transaction in history:
        if chance.random() < 0.3:  # a label about any merchant, in effect or not
            event_time_ms = transaction.event_time_ms - chance.randrange(40 * 86_400_000)
            entry = fraud_entry(event_time_ms, event_time_ms + chance.randrange(20 * 86_400_000), True)
            merchant = states.merchants.setdefault(transaction.merchant_id, MerchantState.empty())
            replace_frauds(layout, merchant, [], [entry])
            label = EntityEvent(
                kind="label",
                merchant_id=transaction.merchant_id,
                transaction_id=f"l{chance.random()}",
                event_time_ms=event_time_ms,
                revision=1,
                frauds=[entry],
            )
            assert job.label(label) == "applied"
        (_, observation) = next(iter(observe_history([transaction], features, states=states)))
        record = served(job, transaction)
        assert_same_features([record.features], [features_json(features, observation.values)])
        assert record.late == observation.late
    assert _packed(features.card_layout_id, job.cards) == {
        key: pack(card) for key, card in states.cards.items() if card.times
    }
    assert _packed(layout.layout_id, job.merchants) == {
        key: pack_merchant(merchant) for key, merchant in states.merchants.items() if not merchant.is_empty
    }


def _packed(layout_id: str, keyed: dict[str, bytes]) -> dict[str, bytes]:
    """The codec's bytes by key, without the keys that hold nothing yet."""
    loaded = {key: load(layout_id, state).packed for key, state in keyed.items()}
    return {key: packed for key, packed in loaded.items() if packed}


@given(history=histories(), cut=st.integers(0, 30))
@settings(max_examples=60)
def test_a_key_seen_first_goes_on_from_its_stored_history(history: list[Transaction], cut: int) -> None:
    """Half a stream in the tables, as the Lambda engine leaves them, the other half through the stages."""
    states = HistoryStates()
    for _ in observe_history(history[:cut], CORE, states=states):
        pass
    history_source = KnownHistory(
        {
            key: StoredHistory(CORE.card_layout_id, KeyedState(pack(card), None, True))
            for key, card in states.cards.items()
        },
        {
            key: StoredHistory(CORE.merchant_layout_id or "", KeyedState(pack_merchant(merchant), None, True))
            for key, merchant in states.merchants.items()
        },
    )
    job = KeyedJob(CORE, history_source)
    for transaction, observation in observe_history(history[cut:], CORE, states=states):
        assert_same_features([served(job, transaction).features], [features_json(CORE, observation.values)])


def test_a_bootstrapped_transaction_that_arrives_again_has_no_second_effect() -> None:
    first, again = a_transaction(transaction_id="a"), a_transaction(transaction_id="b")
    states = history_states([first], CORE)
    card, merchant = states.cards[first.card_id], states.merchants[first.merchant_id]
    job = KeyedJob(
        CORE,
        KnownHistory(
            {first.card_id: StoredHistory(CORE.card_layout_id, KeyedState(pack(card), None, True))},
            {
                first.merchant_id: StoredHistory(
                    CORE.merchant_layout_id or "", KeyedState(pack_merchant(merchant), None, True)
                )
            },
        ),
    )
    assert served(job, first).features["card_count_1h"] == 1.0
    assert load(CORE.card_layout_id, job.cards[first.card_id]).packed == pack(card)
    assert load(CORE.merchant_layout_id or "", job.merchants[first.merchant_id]).packed == pack_merchant(merchant)
    assert served(job, again).features["card_count_1h"] == 2.0


def test_the_same_id_again_is_a_duplicate_whatever_it_says() -> None:
    job = KeyedJob(CORE)
    transaction = a_transaction()
    served(job, transaction)
    cards, merchants = dict(job.cards), dict(job.merchants)
    other = msgspec.structs.replace(transaction, amount_minor=transaction.amount_minor + 1, merchant_id="elsewhere")
    for repeated in (transaction, other):
        record = job.transaction(encode_transaction(repeated))
        assert isinstance(record, DuplicateRecord)
        assert record.payload.encode() == encode_transaction(repeated)
    assert (job.cards, job.merchants) == (cards, merchants)


def test_a_refund_is_asked_and_remembered_as_an_id_only() -> None:
    job = KeyedJob(CORE)
    refund = a_transaction(type="refund")
    assert served(job, refund).features["card_count_1h"] == 0.0
    assert isinstance(job.transaction(encode_transaction(refund)), DuplicateRecord)
    assert load(CORE.card_layout_id, job.cards[refund.card_id]).packed == b""
    assert served(job, a_transaction(transaction_id="bought")).features["card_count_1h"] == 1.0


def test_a_broken_record_is_marked_with_its_place_in_quarantine() -> None:
    mark = KeyedJob(CORE).transaction(b"\xff\xfe")
    assert isinstance(mark, RejectedMark)
    assert (mark.field, mark.rule, mark.key) == ("$", "not_utf8", "quarantine/transactions/shard-0/1-0.json")
    assert decode_feature_record(encode_feature_record(mark)) == mark


def label(revision: int, *entries: FraudEntry) -> EntityEvent:
    return EntityEvent(
        kind="label",
        merchant_id="m",
        transaction_id="t",
        event_time_ms=1_600_000_000_000,
        revision=revision,
        frauds=list(entries),
    )


FRAUD = fraud_entry(1_600_000_000_000, 1_600_100_000_000, True)
WITHDRAWN = fraud_entry(1_600_000_000_000, 1_600_200_000_000, False)


@given(
    order=st.permutations([label(1, FRAUD), label(2, FRAUD, WITHDRAWN), label(3, FRAUD), label(2, FRAUD, WITHDRAWN)])
)
def test_the_highest_revision_of_a_label_stands_whatever_the_order(order: list[EntityEvent]) -> None:
    job = KeyedJob(CORE)
    outcomes = [job.label(event) for event in order]
    newest = [max((one.revision for one in order[:index]), default=0) for index in range(len(order))]
    assert outcomes == [
        "applied" if event.revision > before else "superseded" for event, before in zip(order, newest, strict=True)
    ]
    expected = MerchantState.empty()
    replace_frauds(MERCHANT_LAYOUT, expected, [], [FRAUD])
    state = unpack_merchant(load(MERCHANT_LAYOUT.layout_id, job.merchants["m"]).packed, None)
    assert (state.frauds.keys, state.frauds.nets) == (expected.frauds.keys, expected.frauds.nets)


def test_a_label_that_the_history_holds_is_replaced_and_not_added() -> None:
    merchant = MerchantState.empty()
    replace_frauds(MERCHANT_LAYOUT, merchant, [], [FRAUD])
    stored = StoredHistory(MERCHANT_LAYOUT.layout_id, KeyedState(pack_merchant(merchant), None, True))
    history = KnownHistory({}, {"m": stored}, {("m", "t"): (2, msgspec.json.encode([FRAUD]))})
    job = KeyedJob(CORE, history)
    assert job.label(label(2, FRAUD)) == "superseded"
    assert job.label(label(3, FRAUD, WITHDRAWN)) == "applied"
    replace_frauds(MERCHANT_LAYOUT, merchant, [FRAUD], [FRAUD, WITHDRAWN])
    assert load(MERCHANT_LAYOUT.layout_id, job.merchants["m"]).packed == pack_merchant(merchant)
    reads = history.reads
    assert job.label(label(4, FRAUD)) == "applied"
    assert history.reads == reads  # what the job has applied itself it need not look up


def test_decided_events_are_the_other_engines() -> None:
    job = KeyedJob(CORE)
    decided = EntityEvent(kind="decided", merchant_id="m", transaction_id="t", event_time_ms=1, amount_base=100)
    assert job.label(decided) == "not_a_label"
    assert job.merchants == {}


def test_a_history_of_another_layout_is_refused() -> None:
    transaction = a_transaction()
    stored = StoredHistory("card-0-another", KeyedState(pack(CardState.empty()), None, True))
    with pytest.raises(StateCorrupt, match="card-0-another"):
        KeyedJob(CORE, KnownHistory({transaction.card_id: stored})).transaction(encode_transaction(transaction))


def test_features_of_another_set_are_refused() -> None:
    record = served(KeyedJob(HANDBOOK), a_transaction())
    with pytest.raises(ContractMismatch, match=HANDBOOK.feature_set_id):
        values_of(record, CORE)
    with pytest.raises(ContractMismatch, match="not those"):
        values_of(msgspec.structs.replace(record, features={"amount": 1.0}), HANDBOOK)
    with pytest.raises(ContractMismatch, match="not a record"):
        decode_feature_record(b'{"kind": "something"}')


@given(packed=st.binary(max_size=50), complete_from=st.none() | st.integers(-(2**62), 2**62), from_table=st.booleans())
def test_keyed_state_is_read_as_it_was_written(packed: bytes, complete_from: int | None, from_table: bool) -> None:
    state = KeyedState(packed, complete_from, from_table)
    assert load("layout-1", dump("layout-1", state)) == state
    with pytest.raises(StateCorrupt, match="layout-1"):
        load("layout-2", dump("layout-1", state))


@pytest.mark.parametrize("stored", [b"", b"\x01", b"\x02\x00\x00" + bytes(8), b"\x01\x00\xff" + bytes(8)])
def test_bytes_that_are_no_keyed_state_are_never_guessed_at(stored: bytes) -> None:
    with pytest.raises(StateCorrupt):
        load("", stored)


def test_the_included_state_is_the_cards_packed_state() -> None:
    import base64

    job, card = KeyedJob(CORE), CardState.empty()
    for number in range(3):
        transaction = a_transaction(transaction_id=f"t{number}")
        observe(CORE, card, card_event(transaction))
        assert base64.b64decode(served(job, transaction).state) == pack(card)
    assert pack(unpack(pack(card), None)) == pack(card)


def test_after_a_restore_the_bytes_decide_and_not_what_was_unpacked_before() -> None:
    job = KeyedJob(CORE)
    served(job, a_transaction(transaction_id="a"))
    cards, merchants = dict(job.cards), dict(job.merchants)
    served(job, a_transaction(transaction_id="b"))
    job.cards, job.merchants = cards, merchants  # as of the checkpoint, with the objects of later
    assert served(job, a_transaction(transaction_id="c")).features["card_count_1h"] == 2.0


def test_only_so_many_states_stay_unpacked() -> None:
    kept: Unpacked[str] = Unpacked(size=2)
    for key in ("a", "b", "c"):
        kept.keep(key, b"1", f"state of {key}")
    assert [kept.take(key, b"1") for key in ("a", "b", "c", "c")] == [None, "state of b", "state of c", None]
    kept.keep("a", b"1", "state of a")
    assert kept.take("a", b"2") is None
