"""`python -m benchmarks [PART ...]`: measure, print one report, keep it.

python -m benchmarks                             # every part: what `make bench` runs, about nine minutes
python -m benchmarks end_to_end --seconds 10
python -m benchmarks kernel commit --write       # also updates the figures of benchmarks/README.md
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import parts, publisher
from benchmarks.figures import Findings, Part
from benchmarks.machine import machine_facts
from benchmarks.report import Report, read_report, rendered, with_figures, write_report
from local.run import CHECKOUT
from stream_features.errors import PipelineError

_FOLDER = CHECKOUT / ".fraudstream" / "bench"
_README = Path(__file__).with_name("README.md")


def main() -> int:
    options = _parser().parse_args()
    measurements: dict[str, Callable[[], Findings]] = {
        "kernel": parts.kernel_figures,
        "state": parts.state_figures,
        "backfill": parts.backfill_figures,
        "endpoint": parts.endpoint_figures,
        "commit": parts.commit_figures,
        "publisher": publisher.publisher_figures,
        "end_to_end": lambda: parts.end_to_end_figures(
            options.seconds, options.rate, options.state_dir.resolve(), _say
        ),
        "flink": lambda: parts.flink_figures(options.seconds / 3, options.state_dir.resolve(), _say),
    }
    wanted = [name for name in measurements if name in options.parts] if options.parts else list(measurements)
    kept = read_report(options.folder / "report.json")
    report = Report(machine=machine_facts(), parts=kept.parts if kept is not None else {})
    failed = False
    for name in wanted:
        _say(f"measuring {name}")
        load_average, began = os.getloadavg()[0], datetime.now(UTC)
        began_s = time.monotonic()
        try:
            found = measurements[name]()
        except PipelineError as error:
            _say(f"{name}: {error}")
            report.parts.pop(name, None)  # what was measured before must not stand for what failed now
            failed = True
            continue
        report.parts[name] = Part(
            name=name,
            measured_at=began.strftime("%Y-%m-%d %H:%M UTC"),
            load_average=load_average,
            seconds=time.monotonic() - began_s,
            figures=found.figures,
            tables=found.tables,
            remarks=found.remarks,
        )
    report.parts = {name: report.parts[name] for name in measurements if name in report.parts}
    write_report(options.folder / "report.json", report)
    print(rendered(report.machine, [part for name, part in report.parts.items() if name in wanted]))
    if options.write:
        figures = rendered(report.machine, report.parts.values())
        _README.write_text(with_figures(_README.read_text(), figures))
    return 1 if failed else 0


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[[], "kernel", "state", "backfill", "endpoint", "commit", "publisher", "end_to_end", "flink"],
        metavar="PART",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long end_to_end publishes to the pipeline")
    parser.add_argument("--rate", type=float, default=500.0, help="transactions a second of end_to_end")
    parser.add_argument("--state-dir", type=Path, default=_FOLDER / "state", help="folder of end_to_end's pipeline")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where report.json is kept")
    parser.add_argument("--write", action="store_true", help="update the figures of benchmarks/README.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
