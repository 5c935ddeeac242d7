"""Two pipelines get the same transactions; one is left alone, in the other every group meets its fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from console.demo import lake_answer
from console.status import read_status
from local.capabilities import why_not
from producers.publisher import TransactionPublisher
from stream_features.codec import pack
from stream_features.decision import Decision
from stream_features.errors import PipelineError
from stream_features.feature_sets import feature_set
from stream_features.history import HistoryStates, observe_history
from stream_features.merchant_codec import pack_merchant
from stream_features.names import card_key, merchant_key
from stream_features.transaction import Transaction
from tests.e2e.driver import publish_in_lockstep, stored_decisions, stored_states
from tests.e2e.judge import assert_sets_hold, decision_differences, state_differences
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.setting import Run, Setting, running
from tests.faults.stage import Stage
from tests.faults.truth import (
    Truth,
    count_problems,
    decisions_of,
    position_problems,
    publication_problems,
    quarantine_problems,
    quarantined_bytes_problems,
    states_of,
)
from tests.faults.workload import Workload, workload

T = TypeVar("T")

LAKE_AGREES: Final = "the lake agrees with the table"


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything stored after a run."""

    decisions: dict[str, Decision]
    states: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one fault.

    Attributes:
        fault: which.
        skipped: why it was not tried; None if it was.
        injected: how often it really happened.
        records: user records that its group put into the stream.
        duplicates: of them, so many were repeats.
        quarantined: of them, so many were bad.
        recovery_s: from the end of the fault, or of publishing if later, to rest.
        problems: what did not hold; empty is the only good outcome.
    """

    fault: Fault
    skipped: str | None = None
    injected: int = 0
    records: int = 0
    duplicates: int = 0
    quarantined: int = 0
    recovery_s: float = 0.0
    problems: tuple[str, ...] = ()


@dataclass
class Campaign:
    """All outcomes, and what both runs stored in the end."""

    setting: Setting
    load: Workload
    undisturbed: Stored
    disturbed: Stored = field(default_factory=lambda: Stored({}, {}))
    outcomes: list[Outcome] = field(default_factory=list)
    final: dict[str, list[str]] = field(default_factory=dict)  # what was checked at the end → what did not hold
    unchecked: dict[str, str] = field(default_factory=dict)  # what could not be checked at the end → why

    @property
    def problems(self) -> list[str]:
        """Everything that did not hold."""
        met = [f"{one.fault.name}: {problem}" for one in self.outcomes for problem in one.problems]
        return met + [f"{check}: {problem}" for check, found in self.final.items() for problem in found]


def made_workload(setting: Setting, faults: Sequence[Fault] = FAULTS) -> Workload:
    """History and groups for those of `faults` that can happen in `setting`."""
    possible = [fault for fault in faults if setting.why_not(fault.needs) is None]
    load = workload({fault.name: fault.size for fault in possible})
    return Workload(load.history, {fault.name: fault.change(load.groups[fault.name]) for fault in possible})


def part_of(load: Workload, faults: Sequence[Fault]) -> Workload:
    """The whole history, and the groups of `faults` alone."""
    return Workload(
        load.history, {fault.name: load.groups[fault.name] for fault in faults if fault.name in load.groups}
    )


def expected_of(part: Workload, whole: Stored, setting: Setting) -> Stored:
    """What a run with a part of the groups stores, from what one with all of them stored.

    A card belongs to one group, and no group is in a window of another's transactions. Merchants have purchases of many
    groups, and cards of the other groups have only their history here, so theirs are the states that the scalar path
    leaves.
    """
    left = HistoryStates()
    rows = [one for _, one in sorted(enumerate(part.everything), key=lambda numbered: numbered[1].event_time_ms)]
    for _ in observe_history(rows, feature_set(setting.feature_set), states=left):
        pass
    states = {card_key(card): pack(state) for card, state in left.cards.items() if state.times}
    of_groups = {card_key(one.card_id) for group in part.groups.values() for one in group}
    states |= _chosen(whole.states, sorted(of_groups))
    states |= {merchant_key(merchant): pack_merchant(state) for merchant, state in left.merchants.items()}
    return Stored(_chosen(whole.decisions, [one.transaction_id for one in part.everything]), states)


def undisturbed(setting: Setting, load: Workload, state_dir: Path) -> Stored:
    """What a run without faults stores."""
    with running(setting, state_dir, injected=False) as run:
        _publish_history(run, load.history)
        for group in load.groups.values():
            _publish(run, group)
        run.rest(len(load.everything))
        return Stored(stored_decisions(run.pipeline), stored_states(run.pipeline))


def conduct(
    run: Run, load: Workload, expected: Stored, say: Callable[[str], None], faults: Sequence[Fault] = FAULTS
) -> Campaign:
    """Let every group meet its fault in `run`; a fault that goes wrong does not keep the others from being tried."""
    campaign = Campaign(run.setting, load, expected)
    _publish_history(run, load.history)
    run.reader.advance()
    for fault in faults:
        outcome = _one(run, fault, load, expected)
        campaign.outcomes.append(outcome)
        say(described(outcome))
    campaign.disturbed = Stored(stored_decisions(run.pipeline), stored_states(run.pipeline))
    campaign.final = _final(run, run.reader.advance(), campaign)
    if (reason := why_not(run.setting.target, "lake queries")) is None:
        campaign.final[LAKE_AGREES] = _raised(lambda: lake_answer(run.pipeline))
    else:
        campaign.unchecked[LAKE_AGREES] = reason
    return campaign


def _final(run: Run, truth: Truth, campaign: Campaign) -> dict[str, list[str]]:
    mine, theirs = campaign.disturbed, campaign.undisturbed
    pipeline = run.pipeline
    return {
        "the sets hold": _raised(
            lambda: assert_sets_hold(
                pipeline,
                asdict(read_status(pipeline.run)),
                mine.decisions,
                campaign.load.everything,
                quarantined=len(truth.bad),
                duplicates=truth.duplicates,
            )
        ),
        "each decision is of the first record": position_problems(truth, mine.decisions),
        "what is published is what is stored": publication_problems(pipeline, mine.decisions),
        "quarantine holds the bytes": quarantined_bytes_problems(pipeline, truth),
        "decisions equal the undisturbed run": decision_differences(mine.decisions, theirs.decisions),
        "states equal the undisturbed run": state_differences(mine.states, theirs.states),
    }


def _raised(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except (AssertionError, PipelineError) as error:
        return [str(error).splitlines()[0] if str(error) else "the check failed"]
    return []


def described(outcome: Outcome) -> str:
    """One line about an outcome."""
    if outcome.skipped is not None:
        return f"{outcome.fault.name}: skipped, {outcome.skipped}"
    held = "held" if not outcome.problems else "; ".join(outcome.problems[:3])
    return f"{outcome.fault.name}: {outcome.injected} injected, at rest after {outcome.recovery_s:.1f} s, {held}"


def _one(run: Run, fault: Fault, load: Workload, expected: Stored) -> Outcome:
    reason = run.setting.why_not(fault.needs)
    if reason is not None or fault.meet is None:
        return Outcome(fault, skipped=reason or "no setting can do it")
    reader, truth = run.reader, run.reader.truth
    before = (truth.records, truth.duplicates, len(truth.bad))
    stage, group, problems = Stage(run), load.groups[fault.name], list[str]()
    injected = 0
    try:
        injected = fault.meet(stage, group)
    except AssertionError as error:  # a scenario's own check: the fault did not happen as it should, or no rest came
        problems.append(str(error))
        run.rest(0)
    reader.advance()
    problems += count_problems(truth, asdict(read_status(run.pipeline.run))) + quarantine_problems(run.pipeline, truth)
    problems += group_problems(run, group, expected)
    return Outcome(
        fault,
        injected=injected,
        records=truth.records - before[0],
        duplicates=truth.duplicates - before[1],
        quarantined=len(truth.bad) - before[2],
        recovery_s=stage.recovery_s or 0.0,
        problems=tuple(problems),
    )


def group_problems(run: Run, group: Sequence[Transaction], expected: Stored) -> list[str]:
    """Transactions and cards of a group that are not stored as in the undisturbed run."""
    ids = [one.transaction_id for one in group]
    keys = sorted({card_key(one.card_id) for one in group}) if run.setting.engine == "lambda" else []
    decisions = decision_differences(decisions_of(run.pipeline, ids), _chosen(expected.decisions, ids))
    states = state_differences(states_of(run.pipeline, keys), _chosen(expected.states, keys))
    return [f"decision of {name} differs" for name in decisions] + [f"state of {key} differs" for key in states]


def _chosen(everything: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    return {name: everything[name] for name in names if name in everything}


def _publish_history(run: Run, history: Sequence[Transaction]) -> None:
    """In lockstep where that can be; else without: nothing of the history's days is in a window of its merchants."""
    if run.is_followed:
        publish_in_lockstep(run.pipeline, history)
        return
    _publish(run, history)
    run.rest(len(history))


def _publish(run: Run, rows: Sequence[Transaction]) -> None:
    kinesis, stream = run.pipeline.client("kinesis"), run.pipeline.output("TransactionsStreamName")
    with TransactionPublisher(kinesis, stream, max_records=100) as publisher:
        for one in rows:
            publisher.publish(one)
