"""How many cards a second commit to the local AWS: in packs, one transaction each, and as lone conditional puts.

A card here is a 3 KB state and one decision, what an ordinary transaction writes. Lone puts write the state only: no
decision, no counter, nothing that is atomic; they are the floor that the protocol is measured against.

    python -m benchmarks.commit [--seconds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lambdas.adapters.calls import Caller, client_config
from lambdas.adapters.dynamodb import DynamoLedger
from lambdas.adapters.items import state_item
from lambdas.budget import Budget
from lambdas.commit import Chain, Committer, Link
from lambdas.wiring import SystemClock, jitter
from lambdas.writes import PutDecision, PutState, StoredDecision
from stream_features.decision import Decision, StreamPosition
from stream_features.feature_sets import feature_set
from tests.contract.harness import create_table
from tests.contract.local_aws import client
from tests.integration.embedded_aws import embedded_aws

STATE_BYTES = 3_000
PACK_CARDS = 49  # 98 items and the counter: what one transaction holds of cards with one decision each
ROUND_CARDS = 490


@dataclass(frozen=True, slots=True)
class Rate:
    """Cards a second on this machine; `cpu_us` is our own process's time per card, the server's not included."""

    way: str
    cards_per_s: float
    cpu_us: float


def measure(seconds: float = 5.0) -> list[Rate]:
    """Each way for `seconds`, after a round to warm up, all on one fresh local AWS as `up` starts it."""
    with tempfile.TemporaryDirectory(prefix="fraudstream-bench-") as folder, embedded_aws(Path(folder)) as aws:
        dynamodb = client("dynamodb", aws.url, client_config(connect_timeout_s=2, read_timeout_s=30))
        for table, key in (("decisions", "transaction_id"), ("entity_state", "entity"), ("effects", "effect")):
            create_table(dynamodb, table, key)
        clock = SystemClock()
        budget = Budget(clock, longest_call_ms=0)
        ledger = DynamoLedger(
            dynamodb,
            decisions_table="decisions",
            entity_state_table="entity_state",
            effects_table="effects",
            counter_shard=0,
            caller=Caller(budget, clock, jitter),
        )
        committer = Committer(ledger, budget, clock, jitter)

        def in_packs(chains: Sequence[Chain]) -> None:
            committer.commit(chains)

        def one_by_one(chains: Sequence[Chain]) -> None:
            for chain in chains:
                committer.commit([chain])

        def lone_puts(chains: Sequence[Chain]) -> None:
            for chain in chains:
                put_state_alone(dynamodb, chain)

        return [
            rate(f"packs of {PACK_CARDS} cards", in_packs, seconds),
            rate("one transaction a card", one_by_one, seconds),
            rate("lone conditional puts", lone_puts, seconds),
        ]


def rate(way: str, commit: Callable[[Sequence[Chain]], None], seconds: float) -> Rate:
    numbers = iter(range(10**9))
    commit([a_card(f"{way}-{next(numbers)}") for _ in range(ROUND_CARDS)])
    wall_s = cpu_s = 0.0
    cards = 0
    while wall_s < seconds:
        chains = [a_card(f"{way}-{next(numbers)}") for _ in range(ROUND_CARDS)]
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        commit(chains)
        wall_s += time.perf_counter() - begun_s
        cpu_s += time.process_time() - begun_cpu_s
        if any(chain.error for chain in chains):
            raise RuntimeError(f"{way}: {next(chain.error for chain in chains if chain.error)}")
        cards += len(chains)
    return Rate(way, cards / wall_s, cpu_s / cards * 1e6)


def put_state_alone(dynamodb: Any, chain: Chain) -> None:
    [state] = [write for write in chain.links[0].writes if isinstance(write, PutState)]
    dynamodb.put_item(
        TableName="entity_state", Item=state_item(state), ConditionExpression="attribute_not_exists(entity)"
    )


def a_card(name: str) -> Chain:
    features = feature_set("core")
    rng = random.Random(name)
    decision = Decision(
        transaction_id=name.replace(" ", "_"),
        event_time_ms=1_760_000_000_000,
        card_id=f"card-{name}",
        merchant_id="merchant-000123",
        amount_minor=rng.randrange(100_000),
        currency="USD",
        score=rng.random(),
        decision="approve",
        reasons=[],
        rules=[],
        features={feature: rng.random() * 1_000 for feature in features.names},
        feature_set_id=features.feature_set_id,
        model_version="core-0123456789ab",
        variant="AllTraffic",
        policy_version="1",
        engine="lambda",
        stream_position=StreamPosition("shardId-000000000000", str(rng.randrange(10**55)), 0),
        arrival_ms=1_760_000_000_500,
        scored_at_ms=1_760_000_000_600,
        late=False,
        degraded=False,
        payload_sha256="0123456789abcdef" * 4,
    )
    state = PutState(f"card#{name}", None, features.card_layout_id, rng.randbytes(STATE_BYTES), None, 1_800_000_000)
    return Chain([Link((state, PutDecision(StoredDecision.of(decision), 1_800_000_000)), {"decided": 1})])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure each way")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    rates = measure(arguments.seconds)
    if arguments.json:
        print(json.dumps([asdict(one) for one in rates]))
        return
    slowest = min(one.cards_per_s for one in rates)
    for one in rates:
        print(
            f"{one.way:24} {one.cards_per_s:7.0f} cards/s   {one.cards_per_s / slowest:4.2f} x"
            f"   {one.cpu_us:6.0f} us of our own CPU a card"
        )


if __name__ == "__main__":
    main()
