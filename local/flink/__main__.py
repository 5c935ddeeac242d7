"""`python -m local.flink --state-dir .fraudstream/flink`: the Flink job of a run, in a mini cluster of its own.

Starts the job from the newest snapshot there is, waits until every vertex runs, then keeps `status.json` fresh; it is
the part's ready file. SIGTERM and SIGINT stop the job with a savepoint. If the job ends by itself, this ends with 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from local.flink.launcher import Launcher
from local.flink.layout import FlinkFolder
from local.flink.properties import STREAM_OUTPUTS, JobSettings
from local.run import RunState, client, read_record, run_state
from stream_features.errors import PipelineError


def job_settings(run: RunState) -> JobSettings:
    """What `run` decides about its job; asks Kinesis for the streams' ARNs."""
    kinesis = client(run, "kinesis")
    arns = {
        group: kinesis.describe_stream_summary(StreamName=run.outputs[output])["StreamDescriptionSummary"]["StreamARN"]
        for group, output in STREAM_OUTPUTS.items()
    }
    return JobSettings(
        feature_set=run.feature_set,
        region=run.region,
        endpoint_url=run.endpoint_url,
        outputs=run.outputs,
        stream_arns=arns,
        rest_port=run.ports["flink"],
        include_state=os.environ.get("FRAUDSTREAM_FLINK_INCLUDE_STATE") == "1",
        failpoint_file=Path(os.environ.get("FAILPOINT_FILE", run.state_dir / "failpoint")),
    )


def say(message: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), message, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.flink", description="Run the Flink job of a run.")
    parser.add_argument("--state-dir", type=Path, required=True, help="the folder `flink` of the run's folder")
    folder = FlinkFolder(parser.parse_args().state_dir.resolve())
    record = read_record(folder.path.parent)
    if record is None:
        say(f"{folder.path.parent} holds no run")
        return 1
    # The supervisor notes the outputs in the record only once it has started us.
    outputs = msgspec.json.decode((folder.path.parent / "outputs.json").read_bytes(), type=dict[str, str])
    run = replace(run_state(record, folder.path.parent), outputs=outputs)
    try:
        launcher = Launcher(
            folder, job_settings(run), run_id=record.run_id, inherited=os.environ, pid=os.getpid(), say=say
        )
        for stopping in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stopping, lambda _number, _frame: launcher.stop())
        return launcher.run()
    except PipelineError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
