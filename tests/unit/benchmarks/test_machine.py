"""What two readings of the CPU counters say."""

from __future__ import annotations

import pytest

from benchmarks.machine import CpuReading, cpu_used, machine_facts


def test_seconds_are_the_difference_per_kind_and_new_processes_count_from_nothing() -> None:
    before = CpuReading({(1, 0.0): ("emulator", 10.0)}, {"user": 100.0, "idle": 50.0, "steal": 0.0})
    after = CpuReading(
        {(1, 0.0): ("emulator", 12.5), (2, 5.0): ("function f", 1.0), (3, 5.0): ("function f", 0.5)},
        {"user": 105.0, "idle": 54.0, "steal": 1.0},
    )
    used = cpu_used(before, after)
    assert used.seconds == {"emulator": 2.5, "function f": 1.5}
    assert used.busy_share == pytest.approx(0.5)
    assert used.stolen_share == pytest.approx(0.1)
    assert used.unaccounted_s == pytest.approx(1.0)


def test_a_process_id_given_to_another_process_starts_anew() -> None:
    before = CpuReading({(1, 0.0): ("emulator", 10.0)}, {"user": 0.0})
    after = CpuReading({(1, 9.0): ("endpoint server", 2.0)}, {"user": 2.0})
    assert cpu_used(before, after).seconds == {"endpoint server": 2.0}


def test_guest_time_is_not_counted_twice() -> None:
    before = CpuReading({}, {"user": 0.0, "guest": 0.0, "idle": 0.0})
    after = CpuReading({}, {"user": 4.0, "guest": 4.0, "idle": 4.0})
    assert cpu_used(before, after).busy_share == pytest.approx(0.5)


def test_the_machine_has_a_name_for_everything() -> None:
    facts = machine_facts()
    assert set(facts) == {"cores", "processor", "memory", "Python", "system"}
    assert all(facts.values())
