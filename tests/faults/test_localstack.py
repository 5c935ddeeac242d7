"""The faults that matter most, on another implementation of AWS, whose own mappings deliver.

The judge is the run without faults on the embedded AWS: decisions and states are the same bits on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from local.localstack.host import missing
from tests.e2e.judge import decision_differences
from tests.faults.campaign import Campaign, Stored, conduct, expected_of, part_of
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.setting import Setting, running
from tests.faults.workload import Workload

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAMES: Final = (
    *("publisher_refused_in_part", "sent_twice", "tables_throttled", "endpoint_failed"),
    *("killed_after_publish", "workers_killed", "garbage"),
)
CHOSEN: Final = [fault for fault in FAULTS if fault.name in NAMES]
SETTING: Final = Setting("localstack")


@pytest.fixture(scope="module")
def localstack(load: Workload, expected: Stored, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The chosen faults met once on LocalStack."""
    if lacks := missing():
        pytest.skip(lacks)
    part = part_of(load, CHOSEN)
    with running(SETTING, tmp_path_factory.mktemp("localstack"), injected=True, seed=1) as run:
        return conduct(run, part, expected_of(part, expected, SETTING), print, CHOSEN)


@pytest.mark.parametrize("fault", CHOSEN, ids=lambda fault: fault.name)
def test_nothing_is_lost_doubled_or_changed_by(
    localstack: Campaign, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    outcome = next(one for one in localstack.outcomes if one.fault is fault)
    record_property("injected", outcome.injected)
    record_property("recovery_s", outcome.recovery_s)
    assert outcome.skipped is None
    assert outcome.problems == ()
    assert outcome.injected > 0
    assert outcome.records >= fault.size


def test_at_the_end_everything_agrees_with_the_embedded_run(localstack: Campaign) -> None:
    assert {check: problems for check, problems in localstack.final.items() if problems} == {}
    assert len(localstack.final) >= 6
    assert set(localstack.unchecked) == {"the lake agrees with the table"}


def test_self_test_another_decision_would_be_noticed(localstack: Campaign) -> None:
    stored = localstack.disturbed.decisions
    victim = next(iter(stored))
    lost = {name: one for name, one in stored.items() if name != victim}
    assert decision_differences(lost, localstack.undisturbed.decisions) == [victim]


def test_what_cannot_be_injected_there_has_its_reason() -> None:
    skipped = {fault.name: SETTING.why_not(fault.needs) for fault in FAULTS}
    assert skipped["runner_killed"] == "LocalStack's own event source mapping delivers, inside its process"
    assert {fault.name for fault in CHOSEN} == set(NAMES)
    assert not [name for name in NAMES if skipped[name]]
    assert sum(reason is None for reason in skipped.values()) > 20
