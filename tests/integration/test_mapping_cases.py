"""Every documented case of a Kinesis event source mapping, on our runner and on LocalStack's own mappings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from local.localstack.host import missing
from tests.integration.embedded_aws import INTERPRETER, embedded_aws
from tests.integration.hosted_localstack import hosted_localstack
from tests.integration.mapped_function import Deployed, LocalAws, start_runner, unmapped
from tests.integration.mapping_cases import CASES, IMPLEMENTATIONS, Case, Discarded, Implementation, Seen
from tests.integration.mapping_page import PAGE, rendered

AT_ONCE = 6
DEADLINE_S = 30.0
QUIET_S = 1.5  # after what was expected, so that a call too many shows itself


@dataclass
class Bench:
    """An AWS whose mappings are delivered by one of the implementations."""

    implementation: Implementation
    aws: LocalAws
    folder: Path
    status: Path | None = None  # of our runner

    def runs(self, it: Deployed) -> bool:
        """Whether the mapping is delivered, or refused, by now."""
        if self.status is None:
            return bool(self.aws.client("lambda").get_event_source_mapping(UUID=it.uuid)["State"] == "Enabled")
        known = json.loads(self.status.read_text()) if self.status.exists() else {"mappings": {}, "refused": {}}
        return it.uuid in known["mappings"] or it.uuid in known["refused"]

    def pauses(self, it: Deployed) -> bool:
        """Whether the disabled mapping's last call has ended."""
        if self.status is None:
            return bool(self.aws.client("lambda").get_event_source_mapping(UUID=it.uuid)["State"] == "Disabled")
        return not self.runs(it)


@dataclass
class Trial:
    """A case being carried out."""

    case: Case
    it: Deployed
    told: list[dict[str, Any]] = field(default_factory=list)

    def seen(self) -> Seen:
        """What it shows by now."""
        self.told += self.it.messages()
        calls = [tuple(batch) for batch in self.it.batches()]
        if self.case.view != "all":
            calls = [call for number, call in enumerate(calls) if number == 0 or call != calls[number - 1]]
        if self.case.view == "set":
            calls = sorted(set(calls))
        return Seen(
            tuple(calls),
            tuple(self._discarded(message) for message in self.told),
            overlapped=self.it.overlapped(),
            window=any(call["window"] for call in self.it.calls()),
        )

    def _discarded(self, message: dict[str, Any]) -> Discarded:
        info, payloads = message["KinesisBatchInfo"], self.it.payload_of
        first, last = payloads[info["startSequenceNumber"]], payloads[info["endSequenceNumber"]]
        condition = message.get("requestContext", {}).get("condition", "not said why")
        return Discarded(condition, first, last, info["batchSize"])


def until(holds: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.05)
    return True


def carry_out(bench: Bench, case: Case) -> Trial:
    """What is to be seen was seen, or time ran out; then a moment more."""
    folder = bench.folder / f"case-{CASES.index(case)}"
    folder.mkdir()
    with unmapped(bench.aws, folder, folder.name, shards=case.shards) as it:
        trial, expected = Trial(case, it), case.expected(bench.implementation)
        it.put(*case.records)
        it.map(**case.settings)
        until(lambda: bench.runs(it))
        if case.later:
            put_later(bench, trial)
        until(lambda: len(it.calls()) >= case.repeats and trial.seen() == expected)
        time.sleep(QUIET_S)
        return replace(trial, told=trial.told + it.messages())


def put_later(bench: Bench, trial: Trial) -> None:
    case, it = trial.case, trial.it
    if case.settings.get("StartingPosition") == "LATEST":
        until(lambda: bool(it.put(*case.later) and it.calls()))
        return
    until(lambda: bool(it.calls()))
    if "MaximumRecordAgeInSeconds" in case.settings:
        until(lambda: bool(trial.seen().discarded))  # what comes before that may grow too old behind it
    if not case.paused:
        it.put(*case.later)
        return
    functions = bench.aws.client("lambda")
    functions.update_event_source_mapping(UUID=it.uuid, Enabled=False)
    until(lambda: bench.pauses(it))
    it.put(*case.later)
    functions.update_event_source_mapping(UUID=it.uuid, Enabled=True)


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def trials(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Trial]]:
    """Every case carried out once, several at a time."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "ours":
        if not INTERPRETER.exists():
            pytest.skip("no .venv-embedded (make setup)")
        with embedded_aws(folder / "aws") as embedded:
            runner = start_runner(embedded, folder)
            try:
                yield all_of(Bench("ours", embedded, folder, folder / "state" / "status.json"))
            finally:
                runner.kill()
                runner.wait()
        return
    if lacks := missing():
        pytest.skip(lacks)
    with hosted_localstack(folder / "localstack") as localstack:
        yield all_of(Bench("localstack", localstack, folder))


def all_of(bench: Bench) -> dict[str, Trial]:
    with ThreadPoolExecutor(AT_ONCE) as at_once:
        done = at_once.map(lambda case: carry_out(bench, case), CASES)
        return {case.name: trial for case, trial in zip(CASES, done, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_documented_case(trials: dict[str, Trial], case: Case, request: pytest.FixtureRequest) -> None:
    implementation: Implementation = request.node.callspec.params["trials"]
    assert trials[case.name].seen() == case.expected(implementation)


# The fields of the document in AWS's example (kinesis-on-failure-destination.html).
DOCUMENT = {
    "requestContext": {"requestId", "functionArn", "condition", "approximateInvokeCount"},
    "responseContext": {"statusCode", "executedVersion", "functionError"},
    "KinesisBatchInfo": {
        *("shardId", "startSequenceNumber", "endSequenceNumber", "batchSize", "streamArn"),
        *("approximateArrivalOfFirstRecord", "approximateArrivalOfLastRecord"),
    },
}


def test_what_the_on_failure_destination_is_told(trials: dict[str, Trial]) -> None:
    (told,) = trials["retries"].told
    assert set(told) == {*DOCUMENT, "version", "timestamp"}
    assert {part: set(told[part]) for part in DOCUMENT} == DOCUMENT
    assert told["requestContext"]["approximateInvokeCount"] == 3
    assert told["KinesisBatchInfo"]["streamArn"].endswith(f"stream/{trials['retries'].it.name}")


def test_a_wrong_call_would_be_noticed(trials: dict[str, Trial]) -> None:
    trial = trials["partial failure"]
    seen = trial.seen()
    assert replace(seen, calls=(*seen.calls, ("f",))) != trial.case.aws
    assert replace(seen, calls=seen.calls[:1]) != trial.case.aws


def test_the_page_is_made_of_this_table() -> None:
    assert PAGE.read_text() == rendered(), "write it again: python -m tests.integration.mapping_page"


def test_every_difference_says_who_is_right() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        differs = any(case.expected(one) != case.aws for one in IMPLEMENTATIONS)
        assert bool(case.right) is differs, case.name
