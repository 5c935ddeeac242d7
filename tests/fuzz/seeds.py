"""`python -m tests.fuzz.seeds`: write the seeds of the corpus again, after a format has changed.

Inputs that were found (`found-...`) are not touched.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from producers.injection import GARBAGE
from stream_features.card_event import CardEvent
from stream_features.card_state import CardLayout, CardState
from stream_features.codec import pack
from stream_features.decision import Decision, Reason, StreamPosition, encode_decision
from stream_features.entity_event import EntityEvent, encode_entity_event
from stream_features.errors import MalformedRecord
from stream_features.feature_record import DuplicateRecord, FeaturesRecord, RejectedMark, encode_feature_record
from stream_features.label import Label, encode_label
from stream_features.label_history import FraudEntry
from stream_features.merchant_codec import pack_merchant
from stream_features.merchant_state import MerchantLayout, MerchantState
from stream_features.rejected import encode_rejected, rejected
from stream_features.transaction import Transaction, encode_transaction
from tests.fuzz.inputs import with_digest
from tests.fuzz.rounds import CORPUS
from tests.unit.endpoint.bodies import as_csv, as_json, as_json_lines, as_npy
from tests.unit.endpoint.models import some_rows

NOW_MS = 1_799_999_999_000
POSITION = StreamPosition("shardId-000000000000", "49600000000000000000000000000000000000000000000000000001", 2)
PAYMENT = Transaction(
    transaction_id="t-1",
    event_time_ms=NOW_MS,
    card_id="card-1",
    merchant_id="Café 7",
    amount_minor=1_999,
    currency="EUR",
    type="refund",
    auth_result="approved",
    merchant_category="grocery",
    channel="pos",
    country="FR",
    latitude=48.85,
    longitude=2.35,
    device_id="d-1",
    ip="2001:db8::1",
)
RULES = {
    "numbers": "x > 0.5 && n * 2 <= 14 || !(a == true)",
    "strings": "s in ['grocery', 'travel', \"it's\"] && !s.startsWith('x') && size(s) < 9",
    "missing": "x == null ? a : double(n) / 2.0 >= -1e3",
    "lists": "block.card || n in [1, 2, -3]",
    "refused": "s + 1 > x",
}
POLICY = {
    "policy_version": "p-1",
    "review_from": 0.4,
    "decline_from": 0.9,
    "rules": [{"id": "r1", "expression": "amount_minor > 100000", "action": "review"}],
    "kill_switch": "off",
    "degrade_after_ms": 60_000,
}
STATEMENTS = {
    "name": "decisions_by_outcome",
    "sql": "select card_id, count(*) as n from decisions where merchant_id = '[/b]' group by 1",
    "unknown-name": "no_such_query",
    "failing": "select fail from decisions",
}


def seeds() -> dict[str, Mapping[str, bytes]]:
    """By target and name; at least one that is accepted and one that is not."""
    return {
        "transaction": {
            "full": encode_transaction(PAYMENT),
            "least": _least_payment(),
            **{kind: make(1) for kind, make in GARBAGE.items() if kind != "large_record"},
        },
        "label": _labels(),
        "entity_event": _entity_events(),
        "feature_record": _feature_records(),
        "decision": {"decision": encode_decision(_decision()), "least": b'{"transaction_id":"t"}'},
        "rejected": _rejected(),
        "card_state": _card_states(),
        "merchant_state": _merchant_states(),
        "aggregate": _aggregates(),
        "rule": {name: text.encode() for name, text in RULES.items()},
        "policy": {
            "policy": msgspec.json.encode(POLICY),
            "pointer": msgspec.json.encode({"bucket": "b", "key": "k", "sha256": "0" * 64}),
            "deep": b"[" * 5_000 + b"]" * 5_000,
            "no-threshold": msgspec.json.encode({"policy_version": "p"}),
        },
        "endpoint_body": _bodies(),
        "score_request": {
            "payment": encode_transaction(msgspec.structs.replace(PAYMENT, event_time_ms=1_700_000_000_000)),
            "ahead": _least_payment(),
            **{kind: GARBAGE[kind](1) for kind in ("deep_json", "invalid_utf8", "nan_amount", "empty")},
        },
        "query": {name: text.encode() for name, text in STATEMENTS.items()},
    }


def _least_payment() -> bytes:
    fields = ("transaction_id", "event_time_ms", "card_id", "merchant_id", "amount_minor", "currency")
    return msgspec.json.encode({name: getattr(PAYMENT, name) for name in fields})


def _labels() -> dict[str, bytes]:
    known = Label(
        transaction_id="t-1",
        is_fraud=True,
        reported_at_ms=NOW_MS,
        source="chargeback",
        card_id="card-1",
        merchant_id="Café 7",
        event_time_ms=NOW_MS - 5,
    )
    return {"full": encode_label(known), "no-source": b'{"transaction_id":"t-1","is_fraud":true,"reported_at_ms":5}'}


def _entity_events() -> dict[str, bytes]:
    common: dict[str, Any] = {"merchant_id": "m", "transaction_id": "t", "event_time_ms": NOW_MS}
    frauds = [FraudEntry(NOW_MS, NOW_MS + 120_000, 1), FraudEntry(NOW_MS, NOW_MS + 240_000, -1)]
    return {
        "decided": encode_entity_event(EntityEvent(kind="decided", amount_base=100, **common)),
        "label": encode_entity_event(EntityEvent(kind="label", revision=3, frauds=frauds, **common)),
        "neither": b'{"kind":"other"}',
    }


def _feature_records() -> dict[str, bytes]:
    payload = encode_transaction(PAYMENT).decode()
    features = {"amount": 19.99, "mean": None}
    records = {
        "features": FeaturesRecord(
            payload=payload,
            position=POSITION,
            arrival_ms=NOW_MS,
            feature_set_id="core",
            features=features,
            late=False,
            state="AAA=",
        ),
        "duplicate": DuplicateRecord(payload=payload, position=POSITION, arrival_ms=NOW_MS),
        "mark": RejectedMark(
            stream="transactions",
            position=POSITION,
            arrival_ms=NOW_MS,
            field="amount_minor",
            rule="out_of_range",
            key="quarantine/transactions/0/1-0.json",
        ),
    }
    return {**{name: encode_feature_record(record) for name, record in records.items()}, "neither": b'{"kind":"x"}'}


def _decision() -> Decision:
    return Decision(
        **msgspec.structs.asdict(PAYMENT),
        score=0.25,
        decision="approve",
        reasons=[Reason("amount", 0.5), Reason("mean", -0.125)],
        rules=["r1"],
        features={"amount": 19.99, "mean": None},
        feature_set_id="core",
        model_version="m",
        variant="AllTraffic",
        policy_version="p",
        engine="lambda",
        stream_position=POSITION,
        arrival_ms=NOW_MS,
        scored_at_ms=NOW_MS + 40,
        late=False,
        degraded=False,
        payload_sha256="0" * 64,
    )


def _rejected() -> dict[str, bytes]:
    record = rejected(
        b"\xff{",
        MalformedRecord("$", "not_utf8", "byte 0 is not UTF-8"),
        stream="transactions",
        stream_position=POSITION,
        arrival_ms=NOW_MS,
        rejected_at_ms=NOW_MS + 5,
    )
    return {"rejected": encode_rejected(record), "no-object": b"[]"}


def _card_states() -> dict[str, bytes]:
    def state(exact_entries: int, amount: int) -> bytes:
        card, layout = CardState.empty(), CardLayout(retention_ms=10**9, exact_entries=exact_entries)
        for number in range(1, 7):
            card.add(layout, CardEvent(10**12 + number * 10_000_000, amount, number, number, number, 5, 6, True))
        return pack(card)

    merged = state(3, 100)
    return {
        "empty": pack(CardState.empty()),
        "exact": state(6, 100),
        "merged": merged,
        "wide-amounts": state(3, 10**12),
        "cut": merged[:-3],
    }


def _merchant_states() -> dict[str, bytes]:
    layout, state = MerchantLayout(10**9, 60_000, 3_600_000, 3_600_000, 3_600_000), MerchantState.empty()
    for number in range(20):
        state.add(layout, 10**12 + number**3 * 100_000, 10 ** (number % 11))
    state.add_fraud(layout, 10**12 + 5_000_000, 10**12 + 10**8, 1)
    packed = pack_merchant(state)
    return {"empty": pack_merchant(MerchantState.empty()), "purchases-and-frauds": packed, "cut": packed[:-3]}


def _aggregates() -> dict[str, bytes]:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    records = b"".join(field(3, b"\x08\x00" + field(3, payload)) for payload in (b"{}", b"", _least_payment()[:100]))
    whole = with_digest(b"\0" * 4 + field(1, b"card-1") + records + b"\0" * 16)
    return {"three": whole, "digest-broken": whole[:-1] + b"\0", "plain": b"{}"}


def _bodies() -> dict[str, bytes]:
    rows = some_rows(2)
    return {
        "json": b"\0" + as_json(rows, explain_from=0.2),
        "json-lines": b"\1" + as_json_lines(rows, named=True),
        "csv": b"\2" + as_csv(rows),
        "npy": b"\3" + as_npy(rows),
        "no-rows": b"\2\n\n",
    }


def main(folder: Path = CORPUS) -> int:
    for target, named in seeds().items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in named.items():
            (folder / target / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
