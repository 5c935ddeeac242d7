"""`make soak DURATION=600 SEED=1`: live traffic under random faults, then rest, then every check.

    python -m tests.faults.soak --duration 600 --seed 1

The seed decides the traffic's content and which faults come when; what they hit depends on the moment. The last line
of the output sums up; the exit code is 0 only if every check held.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import pytest

from console.status import read_status
from local.run import CHECKOUT
from stream_features.errors import PipelineError
from tests.faults.chaos import Chaos
from tests.faults.live_traffic import LiveTraffic
from tests.faults.setting import Run, Setting, running
from tests.faults.soak_checks import problems_of
from tests.faults.truth import TruthReader

FEATURE_SET: Final = "core"
RATE: Final = 40.0  # transactions a second: two cores also run the emulator, the injector and what is killed
_FOLDER: Final = CHECKOUT / ".fraudstream" / "soak"


@dataclass
class SoakReport:
    """What a soak did and found."""

    seconds: float
    seed: int
    records: int = 0
    transactions: int = 0
    duplicates: int = 0
    quarantined: int = 0
    labels: int = 0
    injected: dict[str, int] = field(default_factory=dict)
    recovery_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        if self.problems:
            return f"FAILED, {len(self.problems)} checks did not hold; the first: {self.problems[0]}"
        return (
            f"every check held: {self.records:,} records, {self.transactions:,} decided once, {self.duplicates:,} "
            f"duplicates, {self.quarantined:,} quarantined, {self.labels:,} labels; {sum(self.injected.values()):,} "
            f"faults of {len(self.injected)} kinds injected; at rest {self.recovery_s:.1f} s after the last"
        )


def soak(run: Run, seconds: float, seed: int, say: Callable[[str], None]) -> SoakReport:
    """Publish and inject for `seconds`, wait for rest, check everything."""
    assert run.injector is not None
    report = SoakReport(seconds, seed)
    traffic = LiveTraffic(run, random.Random(f"traffic/{seed}"), RATE, seconds)
    chaos = Chaos(run, random.Random(f"chaos/{seed}"), say)
    troubled = threading.Thread(target=chaos.cause, args=(seconds,), name="chaos", daemon=True)
    troubled.start()
    traffic.publish()
    troubled.join()
    if chaos.error is not None:
        report.problems.append(f"the chaos itself failed: {chaos.error!r}")
    ended_s = time.monotonic()
    say("no more faults; waiting for rest")
    run.rest(traffic.sent)
    report.recovery_s = time.monotonic() - ended_s
    truth = TruthReader(run.pipeline).advance()
    status = asdict(read_status(run.pipeline.run))
    report.records, report.transactions = truth.records, len(truth.first)
    report.duplicates, report.quarantined = truth.duplicates, len(truth.bad)
    report.labels, report.injected = len(traffic.labels), chaos.counts()
    report.problems += problems_of(run, truth, status, traffic) + chaos.missing()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--duration", type=float, default=600.0, help="seconds of faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["lambda", "flink"], default="lambda")
    parser.add_argument("--state-dir", type=Path, default=_FOLDER, help="folder of the run; its logs stay on failure")
    options = parser.parse_args()
    report = SoakReport(options.duration, options.seed)
    try:
        setting = Setting("embedded", options.engine, FEATURE_SET)
        with running(setting, options.state_dir, injected=True, seed=options.seed) as run:
            report = soak(run, options.duration, options.seed, _say)
    except (PipelineError, AssertionError, pytest.fail.Exception) as error:
        report.problems.append(f"{type(error).__name__}: {error}".splitlines()[0])
    for problem in report.problems[:50]:
        _say(problem)
    if not report.problems:
        shutil.rmtree(options.state_dir, ignore_errors=True)
    print(f"soak of {options.duration:.0f} s, seed {options.seed}: {report.summary()}", flush=True)
    return 1 if report.problems else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
