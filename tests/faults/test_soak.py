"""The soak, shortened; and that its checks can fail."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from console.running import Pipeline
from stream_features.decision import StreamPosition
from stream_features.transaction import Transaction, encode_transaction
from tests.e2e.driver import Installation
from tests.faults.catalogue import FAULTS
from tests.faults.chaos import Chaos
from tests.faults.injector import FaultInjector, Upstream
from tests.faults.live_traffic import LiveTraffic
from tests.faults.setting import Run, Setting, running
from tests.faults.soak import FEATURE_SET, SoakReport, soak
from tests.faults.soak_checks import set_problems
from tests.faults.truth import Truth, count_problems

SECONDS = 40.0
STREAM = "transactions"


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_short_soak_holds(setting: Setting, tmp_path: Path) -> None:
    with running(
        Setting(setting.target, setting.engine, FEATURE_SET), tmp_path / "state", injected=True, seed=7
    ) as run:
        report = soak(run, SECONDS, 7, print)
    assert report.problems == []
    assert report.transactions > SECONDS * 20
    assert report.quarantined > 0
    assert report.labels > 0
    assert len(report.injected) > 10
    assert report.summary().startswith("every check held")


def test_a_failed_check_is_the_summary() -> None:
    assert (
        SoakReport(1, 1, problems=["one", "two"]).summary().startswith("FAILED, 2 checks did not hold; the first: one")
    )


def chaos(seed: int) -> Chaos:
    run = Run(
        Setting(),
        cast(Installation, None),
        cast(Pipeline, None),
        FaultInjector(lambda: Upstream(aws="", sagemaker="")),
    )
    return Chaos(run, random.Random(seed), lambda line: None)


def names(seed: int, slots: int) -> list[list[str]]:
    return [slot.names for slot in islice(chaos(seed).schedule(), slots)]


def test_the_seed_decides_the_schedule() -> None:
    assert names(1, 40) == names(1, 40)
    assert names(1, 40) != names(2, 40)


def test_every_injection_has_its_turn_in_the_short_soak() -> None:
    wire = {injection.name for fault in FAULTS for injection in fault.injections}
    assert wire <= {name for slot in names(3, 20) for name in slot}


def test_what_never_happened_is_a_problem() -> None:
    made = chaos(1)
    assert made.missing() == ["nothing was injected"]
    made._turns.update({"aws_slow/tables": 3, "endpoint_slow": 2})
    made._blown["runner_killed"] = 1
    assert made.missing() == ["aws_slow/tables never happened in 3 turns"]
    assert made.counts() == {"runner_killed": 1}


@dataclass
class Sent:
    """Traffic without a pipeline."""

    ids: set[str] = field(default_factory=set)
    bad: Sequence[bytes] = ()


def purchase(name: str, amount_minor: int = 100) -> Transaction:
    return Transaction(
        transaction_id=name,
        event_time_ms=1_800_000_000_000,
        card_id="card",
        merchant_id="shop",
        amount_minor=amount_minor,
        currency="USD",
    )


def truth_of(*payloads: bytes) -> Truth:
    truth = Truth()
    for number, payload in enumerate(payloads):
        truth.add(STREAM, StreamPosition("shard", str(number)), 1_800_000_000_000, payload)
    return truth


def test_the_truth_tells_repeats_from_conflicts_and_garbage() -> None:
    one, other = encode_transaction(purchase("a")), encode_transaction(purchase("a", 200))
    truth = truth_of(one, b"garbage", one, other, b"", encode_transaction(purchase("b")))
    assert truth.records == 6
    assert truth.duplicates == 1
    assert truth.first["a"][0] == StreamPosition("shard", "0")
    assert list(truth.bad.values()) == [b"garbage", other, b""]
    assert [key.rsplit("/", 1)[1] for key in truth.bad] == ["1-0.json", "3-0.json", "4-0.json"]


def test_a_count_that_is_one_off_is_a_problem() -> None:
    truth = truth_of(encode_transaction(purchase("a")), b"garbage")
    right = {"published": 2, "decided": 1, "duplicates": 0, "quarantined": 1, "in_flight": 0}
    assert count_problems(truth, right) == []
    for name in right:
        assert count_problems(truth, {**right, name: right[name] + 1}) == [
            f"{name} is {right[name] + 1}, not {right[name]}"
        ]


def test_lost_doubled_and_foreign_records_are_problems() -> None:
    truth = truth_of(encode_transaction(purchase("a")), b"garbage")
    decision: Any = msgspec.defstruct("Judged", [("payload_sha256", str)])
    from stream_features.transaction import payload_sha256

    right = {"a": decision(payload_sha256(purchase("a")))}

    def problems(sent: Sent, decisions: dict[str, Any]) -> list[str]:
        return set_problems(truth, cast(LiveTraffic, sent), decisions)

    sent = Sent({"a"}, [b"garbage"])
    assert problems(sent, right) == []
    assert problems(sent, {}) == ["a has no decision"]
    assert problems(sent, {**right, "b": right["a"]}) == ["b is decided and was never sent"]
    assert problems(sent, {"a": decision("other")}) == ["a was decided from another payload"]
    assert problems(Sent({"a", "lost"}, [b"garbage"]), right) == ["lost was sent and is not in the stream"]
    assert len(problems(Sent({"a"}, [b"garbage", b"garbage"]), right)) == 1
    assert len(problems(Sent({"a"}, []), right)) == 1
