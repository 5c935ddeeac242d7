"""Changing the engine of a running pipeline: the sequence that loses and doubles nothing. docs/engines.md tells it.

Records of `transactions` may wait meanwhile; they are never read by both engines, but where that changes nothing.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from console.answered import answered_up_to, decided_beyond
from console.consumers import Consumers
from console.flink import flink_folder, job_state
from console.handover import (
    add_to_cards,
    decided_by_the_job,
    purchase_events,
    standing_label_events,
    tell_merchants,
)
from console.lag import KinesisMapping, kinesis_mappings, read_checkpoints
from console.running import Pipeline
from console.tables import tables_of
from local.capabilities import why_not
from local.engine import restart_with
from local.flink import install as flink
from local.flink.properties import read_start
from local.flink.status import STOPPED
from local.run import RunState, write_atomically
from stream_features.errors import PipelineError, PortFailure, UsageError

_IDLE_DEADLINE_S: Final = 120.0
_STOPPED_DEADLINE_S: Final = 120.0
_POLL_S: Final = 0.1

Progress = Callable[[str], None]


def switch_engine(pipeline: Pipeline, engine: str, progress: Progress) -> RunState:
    """Have `engine` decide from where the present one stops; the same command again goes on where it failed.

    Args:
        pipeline: the running pipeline, on the embedded target.
        engine: `lambda` or `flink`.
        progress: told each step as it begins.

    Returns:
        The run with its new engine; another run than before, on the same data.

    Raises:
        UsageError: it cannot be done here, or that engine decides already.
        PipelineError: a step did not end; the message says which.
    """
    if reason := why_not(pipeline.run.place, "kept data"):
        raise UsageError(
            f"switch-engine works on the embedded target, not here: {reason}; docs/engines.md has the steps for AWS"
        )
    if engine == pipeline.run.engine:
        return _stay(pipeline, engine, progress)
    if engine == "flink":
        return _to_flink(pipeline, progress)
    return _to_lambda(pipeline, progress)


def _stay(pipeline: Pipeline, engine: str, progress: Progress) -> RunState:
    """Take back a switch that failed half-way, if that can be done."""
    if engine == "flink" and flink_folder(pipeline.run).stop_request.exists():
        raise UsageError("this run is on its way to the other engine; finish with: fraudstream switch-engine lambda")
    mappings = _Mappings(pipeline)
    idle = [m for m in mappings.named("ScoreTransactions", "UpdateEntities") if not m.enabled]
    if engine == "lambda" and idle:
        for mapping in idle:
            progress(f"delivering to {mapping.function} again")
            mappings.enable(mapping, True)
        return pipeline.run
    raise UsageError(f"the engine of this run is {engine} already")


def _to_flink(pipeline: Pipeline, progress: Progress) -> RunState:
    if lacks := flink.missing():
        raise UsageError(lacks)
    mappings, tables = _Mappings(pipeline), tables_of(pipeline)
    (scorer,) = mappings.named("ScoreTransactions")
    (updater,) = mappings.named("UpdateEntities")
    progress("stopping score_transactions")
    mappings.stop(scorer)
    transactions = mappings.positions(scorer)
    # A call that died between commit and publication would have been delivered again. The job will find its cards
    # as committed and count nothing, so their merchants are told now.
    told = tell_merchants(tables, purchase_events(decided_beyond(pipeline, tables, transactions)), lambda line: None)
    progress(f"waiting for labels and merchants ({told} purchases told of again)")
    mappings.wait_for_what_is_there("RecordLabels", "UpdateEntities", progress=progress)
    mappings.stop(updater)
    folder = flink_folder(pipeline.run)
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    start = {"Transactions": transactions, "EntityEvents": mappings.positions(updater)}
    write_atomically(folder.start, json.dumps(start).encode())
    return restart_with("flink", progress, state_dir=pipeline.state_dir)


def _to_lambda(pipeline: Pipeline, progress: Progress) -> RunState:
    mappings, tables = _Mappings(pipeline), tables_of(pipeline)
    (scorer,) = mappings.named("ScoreTransactions")
    (updater,) = mappings.named("UpdateEntities")
    token = _token_of_this_switch(pipeline)
    progress("stopping the Flink job with a savepoint")
    _stop_job(pipeline)
    progress("waiting for score_features")
    mappings.wait_for_what_is_there("ScoreFeatures", progress=progress)

    begun_after = read_start(flink_folder(pipeline.run)).get("Transactions", {})
    progress("adding what the job decided to the cards' states")
    cards = add_to_cards(pipeline, tables, decided_by_the_job(pipeline, begun_after), token, progress)
    progress(f"{cards} cards hold everything that was decided; telling merchants")
    tell_merchants(tables, purchase_events(decided_by_the_job(pipeline, begun_after)), progress)
    tell_merchants(tables, standing_label_events(pipeline, tables), progress)
    mappings.enable(updater, True)
    mappings.wait_for_what_is_there("UpdateEntities", progress=progress)

    positions = answered_up_to(pipeline, tables, begun_after)
    write_atomically(pipeline.state_dir / "mappings" / f"{scorer.uuid}.json", msgspec.json.encode(positions))
    return restart_with("lambda", progress, state_dir=pipeline.state_dir)


def _token_of_this_switch(pipeline: Pipeline) -> str:
    """One for every stop of the job, kept so that a second attempt is recognised as one."""
    path: Path = flink_folder(pipeline.run).path / "handover"
    if not path.exists():
        write_atomically(path, secrets.token_hex(8).encode())
    return path.read_text()


def _stop_job(pipeline: Pipeline) -> None:
    """Return when the job is stopped; it stays so until the engine changes.

    Raises:
        PipelineError: it did not stop in time.
    """
    flink_folder(pipeline.run).stop_request.touch()
    deadline_s = time.monotonic() + _STOPPED_DEADLINE_S
    while (state := job_state(pipeline.run)) != STOPPED:
        if time.monotonic() > deadline_s:
            raise PipelineError(f"the Flink job is {state} after {_STOPPED_DEADLINE_S:.0f} s, not stopped")
        time.sleep(_POLL_S)


class _Mappings:
    """The pipeline's event source mappings, by the functions they deliver to."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._functions = pipeline.client("lambda")
        self._folder = pipeline.state_dir / "mappings"

    def named(self, *functions: str) -> list[KinesisMapping]:
        """The mappings of functions, named as in the template without `Function`. Raises PortFailure."""
        names = [self._pipeline.output(f"{function}FunctionName") for function in functions]
        try:
            found = kinesis_mappings(self._functions)
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"listing the event source mappings: {error}") from error
        return [next(mapping for mapping in found if mapping.function == name) for name in names]

    def enable(self, mapping: KinesisMapping, enabled: bool) -> None:
        try:
            self._functions.update_event_source_mapping(UUID=mapping.uuid, Enabled=enabled)
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"mapping of {mapping.function}: {error}") from error

    def stop(self, mapping: KinesisMapping) -> None:
        """Disable a mapping; return when the calls under way have ended and their outcome is noted.

        Raises:
            PipelineError: they did not end in time.
        """
        self.enable(mapping, False)
        deadline_s = time.monotonic() + _IDLE_DEADLINE_S
        # The runner says what it delivers after it has looked which mappings are enabled.
        while mapping.uuid in self._delivered():
            if time.monotonic() > deadline_s:
                raise PipelineError(
                    f"{mapping.function} is still called {_IDLE_DEADLINE_S:.0f} s after its mapping ended"
                )
            time.sleep(_POLL_S)

    def positions(self, mapping: KinesisMapping) -> dict[str, str]:
        """Shard to the last record that a stopped mapping has finished with."""
        committed = read_checkpoints(self._folder, mapping.uuid)
        return {shard: at.sequence_number for shard, at in committed.items() if at.sequence_number is not None}

    def wait_for_what_is_there(self, *functions: str, progress: Progress) -> None:
        """Return once these functions have finished with what is in their streams now.

        Raises:
            NotAtRest: one of them stands still.
            PortFailure: an AWS service did not answer.
        """
        mappings = [mapping[:3] for mapping in self.named(*functions)]
        Consumers(self._pipeline.client("kinesis"), mappings, self._folder).wait_for_what_is_there(progress=progress)

    def _delivered(self) -> dict[str, Any]:
        status: dict[str, Any] = msgspec.json.decode((self._folder / "status.json").read_bytes())
        delivered: dict[str, Any] = status["mappings"]
        return delivered
