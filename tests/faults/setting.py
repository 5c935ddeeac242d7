"""Where a fault run happens: target, engine and feature set, how it is started, and what each cannot do and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from console.consumers import can_be_followed, consumers_of
from console.publishing import settle
from console.running import Pipeline
from local.capabilities import CAPABILITIES, Capability, Place, why_not
from tests.e2e.driver import Installation
from tests.faults.injector import FaultInjector, upstream_of_run
from tests.faults.rest import wait_for_outcomes
from tests.faults.truth import TruthReader

# What a fault may need: of the target (local/capabilities.py has the table), or of the engine.
Need = Capability | Literal["entity events"]  # decided events: the Lambda engine's way to merchant state

# What an engine lacks, whatever the target, with the reason that the report shows. Anything not listed is there.
LACKS: Final[Mapping[str, Mapping[Need, str]]] = {
    "lambda": {},
    "flink": {
        "entity events": "with the Flink engine the job keeps merchant state and no decided events are published",
        "resharding": "the polling connector finds new shards at a restart only",
    },
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run the pipeline."""

    target: Place = "embedded"
    engine: str = "lambda"
    feature_set: str = "handbook"

    def why_not(self, needs: frozenset[Need]) -> str | None:
        """Why something with these needs cannot run here; None if it can."""
        # In the table's order, so that the words do not depend on a set's.
        for capability in CAPABILITIES:
            if capability in needs and (reason := why_not(self.target, capability)) is not None:
                return reason
        return next((reason for need, reason in LACKS[self.engine].items() if need in needs), None)

    @property
    def scorer(self) -> str:
        """The function that decides."""
        return "score-features" if self.engine == "flink" else "score-transactions"

    @property
    def scorer_failpoint(self) -> str:
        """What the scorer's failpoints begin with."""
        return "score_features:" if self.engine == "flink" else ""


@dataclass
class Run:
    """A pipeline that is up, and the injector before its AWS (None: nothing is injected)."""

    setting: Setting
    installed: Installation
    pipeline: Pipeline
    injector: FaultInjector | None

    def rest(self, published: int) -> None:
        """Return when `published` user records have an outcome and every consumer stands at the end of its stream.

        Raises:
            NotAtRest, NotSettled: nothing moves any more.
        """
        if not self.is_followed:
            wait_for_outcomes(self.pipeline, self.reader)
            return
        consumers_of(self.pipeline).wait_until_at_rest(stalled_after_s=90)
        settle(self.pipeline, published, lambda line: None)

    @property
    def is_followed(self) -> bool:
        """Whether rest is what the mappings' own positions say; elsewhere it is what has come of the records."""
        return self.setting.target == "embedded" and can_be_followed(self.pipeline)

    @cached_property
    def reader(self) -> TruthReader:
        """Of what the stream holds."""
        return TruthReader(self.pipeline)


@contextmanager
def running(
    setting: Setting, state_dir: Path, *, injected: bool, seed: int = 0, kinesis: str | None = None
) -> Iterator[Run]:
    """A pipeline with fresh streams, tables and lake in `state_dir`; it is stopped at the end, whatever happened.

    Args:
        setting: see `Setting`.
        state_dir: of the run.
        injected: whether an injector stands before its AWS.
        seed: of the injector.
        kinesis: the address of another Kinesis for whoever goes through the injector.
    """
    if not injected:
        with _up(setting, state_dir, {}) as installed:
            yield Run(setting, installed, installed.pipeline(), None)
        return
    with (
        FaultInjector(upstream_of_run(state_dir, kinesis=kinesis), seed=seed) as injector,
        _up(setting, state_dir, {"FRAUDSTREAM_FAULT_PROXY": injector.url}) as installed,
    ):
        yield Run(setting, installed, installed.pipeline(), injector)


@contextmanager
def _up(setting: Setting, state_dir: Path, environment: dict[str, str]) -> Iterator[Installation]:
    installed = Installation(state_dir, environment)
    installed.run("down")
    try:
        installed.run(
            "up", "--target", setting.target, "--engine", setting.engine, "--feature-set", setting.feature_set
        )
        yield installed
    finally:
        installed.run("down")
