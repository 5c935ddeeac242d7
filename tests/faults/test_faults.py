"""The pipeline meets every fault and ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from local.capabilities import CAPABILITIES, Place
from stream_features.names import card_key
from tests.e2e.judge import decision_differences, state_differences
from tests.faults.campaign import Campaign, expected_of, part_of
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.page import expected_rows, rows_of, table
from tests.faults.reports import campaign_report
from tests.faults.scenarios import AHEAD, BAD_WHILE_FAILING
from tests.faults.setting import LACKS, Setting

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

FINAL = (
    "the sets hold",
    "each decision is of the first record",
    "what is published is what is stored",
    "quarantine holds the bytes",
    "decisions equal the undisturbed run",
    "states equal the undisturbed run",
    "the lake agrees with the table",
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_doubled_or_changed_by(
    campaign: Campaign, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    outcome = next(one for one in campaign.outcomes if one.fault is fault)
    if outcome.skipped is not None:
        pytest.skip(outcome.skipped)
    record_property("injected", outcome.injected)
    record_property("recovery_s", outcome.recovery_s)
    assert outcome.problems == ()
    assert outcome.injected > 0
    assert outcome.records >= len(campaign.load.groups[fault.name]) >= fault.size


@pytest.mark.parametrize("check", FINAL)
def test_at_the_end(campaign: Campaign, check: str) -> None:
    assert campaign.final[check] == []


def test_the_end_is_checked_in_no_other_way(campaign: Campaign) -> None:
    assert tuple(campaign.final) == FINAL


def test_faults_left_their_traces(campaign: Campaign) -> None:
    """Repeats and bad records come from those faults that make them, and from no others."""
    met = {one.fault.name: one for one in campaign.outcomes}
    assert {name for name, one in met.items() if one.quarantined} == {"garbage", "clock_skew", "quarantine_failed"}
    assert met["sent_twice"].duplicates == met["sent_twice"].injected
    assert met["publisher_answer_lost"].duplicates > 0
    assert met["publisher_answer_halved"].duplicates > 0
    assert not any(met[name].duplicates for name in ("invoked_twice", "commit_answer_lost", "runner_killed"))
    assert met["garbage"].quarantined == met["garbage"].injected >= met["garbage"].records / 11
    assert met["clock_skew"].quarantined == AHEAD
    assert met["quarantine_failed"].quarantined == BAD_WHILE_FAILING


def test_the_load_asks_merchants_and_cards(campaign: Campaign) -> None:
    """Otherwise equal features would say little."""
    decisions = campaign.undisturbed.decisions.values()
    assert sum(bool(decision.features["TERMINAL_ID_NB_TX_30DAY_WINDOW"]) for decision in decisions) > 100
    assert sum((decision.features["CUSTOMER_ID_NB_TX_7DAY_WINDOW"] or 0) > 5 for decision in decisions) > 100
    assert sum(decision.late for decision in decisions) > 10
    assert sum(key.startswith("merchant#") for key in campaign.undisturbed.states) > 50
    cards = [decision.card_id for decision in decisions]
    assert max(map(cards.count, set(cards))) > 100


def test_a_corrupted_row_or_state_would_be_caught(campaign: Campaign) -> None:
    stored = campaign.disturbed
    victim, decision = next(iter(stored.decisions.items()))
    spoilt = {**stored.decisions, victim: msgspec.structs.replace(decision, score=decision.score + 2**-30)}
    assert decision_differences(stored.decisions, spoilt) == [victim]
    lost = {name: one for name, one in stored.decisions.items() if name != victim}
    assert decision_differences(stored.decisions, lost) == [victim]
    key, state = next(iter(stored.states.items()))
    assert state_differences(stored.states, {**stored.states, key: state[:-1] + bytes([state[-1] ^ 1])}) == [key]


def test_a_part_of_the_groups_leaves_a_part_of_what_all_leave(campaign: Campaign) -> None:
    """What another target's campaign is judged by; for all groups it is what the undisturbed run stored."""
    all_groups = expected_of(campaign.load, campaign.undisturbed, campaign.setting)
    assert decision_differences(all_groups.decisions, campaign.undisturbed.decisions) == []
    assert state_differences(all_groups.states, campaign.undisturbed.states) == []
    part = part_of(campaign.load, [fault for fault in FAULTS if fault.name == "garbage"])
    stored = expected_of(part, campaign.undisturbed, campaign.setting)
    assert stored.decisions.keys() == {one.transaction_id for one in part.everything}
    of_the_group = {card_key(one.card_id) for one in part.groups["garbage"]}
    differing = set(state_differences(stored.states, all_groups.states))
    assert stored.states.keys() <= all_groups.states.keys()
    assert differing  # cards of the other groups have their history only
    assert not differing & of_the_group


def test_the_run_makes_the_rows_of_the_page(campaign: Campaign) -> None:
    assert rows_of("\n".join(table(campaign_report(campaign)))) == expected_rows(campaign.setting)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_without_a_scenario_can_run_nowhere(fault: Fault) -> None:
    targets: tuple[Place, ...] = ("embedded", "localstack")
    possible = [
        Setting(target, engine)
        for target in targets
        for engine in ("lambda", "flink")
        if Setting(target, engine).why_not(fault.needs) is None
    ]
    assert bool(possible) is (fault.meet is not None)


def test_names_and_needs_are_known() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    injections = [injection.name for fault in FAULTS for injection in fault.injections]
    assert len(set(injections)) == len(injections) > 25
    needs = {need for fault in FAULTS for need in fault.needs}
    assert needs <= {*CAPABILITIES, "entity events"}
    assert {need for lacks in LACKS.values() for need in lacks} <= needs | {"entity events"}
