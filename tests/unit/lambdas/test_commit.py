"""Packing, splitting and retrying transactions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.budget import Budget
from lambdas.commit import MAX_BYTES, MAX_WRITES, TRIES, Chain, Committer, Conflict, Link, packs
from lambdas.ports import ConditionFailed
from lambdas.writes import PutEffect, PutState, Write
from stream_features.errors import PortFailure
from tests.unit.lambdas.fakes import FakeClock, FakeLedger, Fault, World


def a_link(*names: str, **counts: int) -> Link:
    return Link(tuple(PutEffect(name, 0) for name in names), counts or {"decided": len(names)})


def a_state(entity: str, size: int, version: int | None = None) -> PutState:
    return PutState(entity, version, "layout", bytes(size), None, 0)


def committer(world: World, ledger: FakeLedger | None = None) -> Committer:
    clock = FakeClock(world)
    return Committer(ledger or FakeLedger(world), Budget(clock, longest_call_ms=0), clock, lambda seconds: seconds)


@given(st.lists(st.tuples(st.integers(1, MAX_WRITES), st.integers(1, 64_000)), max_size=60))
def test_packs_keep_the_order_and_the_limits_and_none_could_take_the_next_chain(sizes: list[tuple[int, int]]) -> None:
    chains = [
        Chain([Link((a_state(f"{i}", size), *(PutEffect(f"{i}-{n}", 0) for n in range(count - 1))), {})])
        for i, (count, size) in enumerate(sizes)
    ]
    packed = list(packs(chains))
    assert [id(chain) for pack in packed for chain in pack] == [id(chain) for chain in chains]

    def items(pack: Sequence[Chain]) -> int:
        return sum(len(chain.links[0].writes) for chain in pack)

    def size_bytes(pack: Sequence[Chain]) -> int:
        return sum(chain.links[0].size_bytes for chain in pack)

    assert all(items(pack) <= 99 and size_bytes(pack) <= MAX_BYTES for pack in packed)
    for pack, following in itertools.pairwise(packed):
        more = [*pack, following[0]]
        assert items(more) > 99 or size_bytes(more) > MAX_BYTES


def test_one_transaction_holds_many_chains_and_one_sum_of_counts() -> None:
    world = World()
    chains = [Chain([a_link(f"e{i}", decided=2, late=i % 2)]) for i in range(50)]
    committer(world).commit(chains)
    assert world.calls == ["ledger.transact"]
    assert world.counters == Counter(decided=100, late=25)
    assert all(chain.committed == 1 and chain.error is None for chain in chains)


def test_the_links_of_a_chain_go_out_in_order_each_once() -> None:
    world = World()
    chain = Chain([Link((a_state("card", 10, version),), {"decided": 1}) for version in (None, 1, 2)])
    other = Chain([a_link("e1")])
    committer(world).commit([chain, other])
    assert world.states["card"].version == 3
    assert (chain.committed, other.committed) == (3, 1)
    assert world.counters == Counter(decided=4)


def test_a_failed_condition_splits_the_pack_and_stops_only_its_own_chain() -> None:
    world = World(effects={"e3"})
    chains = [Chain([a_link(f"e{i}"), a_link(f"second-{i}")]) for i in range(6)]
    committer(world).commit(chains)
    assert [chain.committed for chain in chains] == [2, 2, 2, 0, 2, 2]
    assert isinstance(chains[3].error, Conflict)
    assert [chain.error for chain in chains if chain is not chains[3]] == [None] * 5
    assert world.counters == Counter(decided=10)
    assert "second-3" not in world.effects


@pytest.mark.parametrize("effect", [False, True])
def test_a_lost_answer_is_asked_for_again_with_the_same_token(effect: bool) -> None:
    world = World(fault=Fault(at=0, kind="failure", effect=effect))
    chain = Chain([a_link("e1")])
    committer(world).commit([chain])
    assert chain.committed == 1
    assert world.counters == Counter(decided=1)
    assert len(world.tokens) == 1


def test_a_ledger_that_stays_down_fails_every_chain_of_the_pack_after_a_bounded_number_of_tries() -> None:
    world = World(down={"ledger.transact"})
    chains = [Chain([a_link(f"e{i}")]) for i in range(3)]
    committer(world).commit(chains)
    assert len(world.calls) == TRIES
    assert all(isinstance(chain.error, PortFailure) and chain.committed == 0 for chain in chains)


def test_the_budget_is_asked_before_every_pack() -> None:
    world = World(seconds_per_call=1.0)
    clock = FakeClock(world)
    budget = Budget(clock, longest_call_ms=1_000)
    budget.renew(remaining_ms=5_000)  # 2 s stay reserved and 1 s for the longest call: two calls fit
    chains = [Chain([a_link(*(f"{i}-{n}" for n in range(99)))]) for i in range(4)]
    Committer(FakeLedger(world), budget, clock, lambda seconds: seconds).commit(chains)
    assert [chain.committed for chain in chains] == [1, 1, 0, 0]
    assert [type(chain.error).__name__ for chain in chains] == ["NoneType", "NoneType", "OutOfTime", "OutOfTime"]


class OneConflictAtATime(FakeLedger):
    """Cancels packs, as another writer's running transaction would, and lets lone chains through."""

    def transact(self, writes: Sequence[Write], counts: Mapping[str, int], *, token: str) -> None:
        if len(writes) > 1:
            raise ConditionFailed("a pack")
        super().transact(writes, counts, token=token)


def test_chains_of_a_split_pack_are_committed_alone_each_with_its_own_counts() -> None:
    world = World()
    chains = [Chain([a_link(f"e{i}")]) for i in range(5)]
    committer(world, OneConflictAtATime(world)).commit(chains)
    assert [chain.committed for chain in chains] == [1] * 5
    assert world.counters == Counter(decided=5)
