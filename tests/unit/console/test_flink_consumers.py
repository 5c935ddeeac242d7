"""Waiting until a pipeline with the Flink job in it is at rest: a model of it moves while we look."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.consumers import Consumers, NotAtRest
from console.flink import JobConsumer, job_report, job_state
from console.lag import JobLag
from local.flink.layout import FlinkFolder
from local.flink.status import Checkpoints, FlinkStatus, write_status
from local.processes import MARKER
from local.run import RunState
from tests.unit.console.test_status import a_status
from tests.unit.local_firehose.fakes import FakeKinesis

SHARDS = ("shardId-000000000000", "shardId-000000000001")
STREAMS = ("transactions", "labels", "entity-events", "features")
READ_BY_JOB = ("transactions", "entity-events")
READ_BY_FUNCTIONS = ("labels", "features")


class ModelPipeline:
    """Four streams, a job on two of them and a function on each of the others; `step` lets one of them move a bit.

    The job takes a record in and finishes it later, each in the step that says so in its files; a finished
    transaction puts a record of features first. The function on labels tells entity events, as late as it may.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job_folder = FlinkFolder(folder / "flink")
        self.job_folder.progress.mkdir(parents=True)
        self.streams = {stream: FakeKinesis(SHARDS) for stream in STREAMS}
        self.done = {(stream, shard): 0 for stream in STREAMS for shard in SHARDS}
        self.under_way = dict.fromkeys(READ_BY_JOB, 0)
        self.finished = dict.fromkeys(READ_BY_JOB, 0)
        self.state = "RUNNING"

    def get_shard_iterator(self, StreamName: str, **request: Any) -> dict[str, Any]:
        iterator = self.streams[StreamName].get_shard_iterator(StreamName, **request)["ShardIterator"]
        return {"ShardIterator": f"{StreamName}!{iterator}"}

    def get_records(self, ShardIterator: str, Limit: int) -> dict[str, Any]:
        stream, iterator = ShardIterator.split("!")
        answer = self.streams[stream].get_records(iterator, Limit)
        return answer | {"NextShardIterator": f"{stream}!{answer['NextShardIterator']}"}

    def list_shards(self, StreamName: str) -> dict[str, Any]:
        return self.streams[StreamName].list_shards()

    def step(self, choice: int) -> None:
        moves: list[Callable[[], None]] = []
        for stream, shard in sorted(self.done):
            if self.done[stream, shard] < len(self.streams[stream].records[shard]):
                moves.append(lambda stream=stream, shard=shard: self.take(stream, shard, choice))  # type: ignore[misc]
        moves += [
            lambda stream=stream: self.finish(stream, choice)  # type: ignore[misc]
            for stream in READ_BY_JOB
            if self.under_way[stream]
        ]
        if moves:
            moves[choice % len(moves)]()

    def take(self, stream: str, shard: str, choice: int = 0) -> None:
        sequence_number = self.streams[stream].records[shard][self.done[stream, shard]]["SequenceNumber"]
        if stream == "labels":
            self.streams["entity-events"].put(b"{}", shard=SHARDS[choice % 2])
        self.done[stream, shard] += 1
        if stream in READ_BY_JOB:
            self.under_way[stream] += 1
            positions = {
                name: {"sequence_number": self.streams[stream].records[name][count - 1]["SequenceNumber"]}
                for (of, name), count in self.done.items()
                if of == stream and count
            }
            taken = sum(count for (of, _), count in self.done.items() if of == stream)
            self.say(f"read-{stream}", {"stream": stream, "taken": taken, "positions": positions})
            return
        path = self.folder / f"{stream}.json"
        committed = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(committed | {shard: {"sequence_number": sequence_number}}))

    def finish(self, stream: str, choice: int = 0) -> None:
        if stream == "transactions":
            self.streams["features"].put(b"{}", shard=SHARDS[choice % 2])
        self.under_way[stream] -= 1
        self.finished[stream] += 1
        self.say("written" if stream == "transactions" else "labelled", {"finished": self.finished[stream]})

    def say(self, name: str, content: dict[str, Any]) -> None:
        (self.job_folder.progress / f"{name}.json").write_text(json.dumps(content))

    @property
    def is_at_rest(self) -> bool:
        taken = all(self.done[stream, shard] == len(self.streams[stream].records[shard]) for stream, shard in self.done)
        return taken and not any(self.under_way.values())

    def consumers(self, **options: Any) -> Consumers:
        job = JobConsumer(self.job_folder, READ_BY_JOB, lambda: self.state)
        mappings = [(stream, f"{stream}-function", stream) for stream in READ_BY_FUNCTIONS]
        return Consumers(self, mappings, self.folder, job=job, **options)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.tuples(st.sampled_from(STREAMS[:2]), st.sampled_from(SHARDS)), max_size=8),
    moves=st.lists(st.integers(0, 7), min_size=1, max_size=30),
)
def test_it_returns_only_when_nothing_can_follow_any_more(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]], moves: list[int]
) -> None:
    """Whatever job and functions do between any two reads of ours, of a stream or of a file."""
    pipeline = ModelPipeline(tmp_path_factory.mktemp("run"))
    for stream, shard in records:
        pipeline.streams[stream].put(b"{}", shard=shard)
    calls = 0

    def move() -> None:
        nonlocal calls
        pipeline.step(moves[calls % len(moves)])
        calls += 1

    def get_records(**request: Any) -> dict[str, Any]:
        move()
        return ModelPipeline.get_records(pipeline, **request)

    def read_bytes(path: Path) -> bytes:
        move()
        with path.open("rb") as opened:
            return opened.read()

    pipeline.get_records = get_records  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_bytes)
        pipeline.consumers(sleep=lambda seconds: pipeline.step(0)).wait_until_at_rest()
    assert pipeline.is_at_rest


def at_rest(folder: Path) -> ModelPipeline:
    pipeline = ModelPipeline(folder)
    for stream in ("transactions", "labels"):
        pipeline.streams[stream].put(b"{}", shard=SHARDS[0])
    while not pipeline.is_at_rest:
        pipeline.step(0)
    return pipeline


def nobody_moves(pipeline: ModelPipeline) -> Consumers:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += 10

    return pipeline.consumers(clock=lambda: now, sleep=sleep)


def a_transaction_not_read(pipeline: ModelPipeline) -> None:
    pipeline.streams["transactions"].put(b"{}", shard=SHARDS[1])


def a_label_event_not_read(pipeline: ModelPipeline) -> None:
    pipeline.streams["entity-events"].put(b"{}", shard=SHARDS[0])


def a_transaction_under_way(pipeline: ModelPipeline) -> None:
    a_transaction_not_read(pipeline)
    pipeline.take("transactions", SHARDS[1])


def a_label_event_under_way(pipeline: ModelPipeline) -> None:
    a_label_event_not_read(pipeline)
    pipeline.take("entity-events", SHARDS[0])


def features_not_scored(pipeline: ModelPipeline) -> None:
    a_transaction_under_way(pipeline)
    pipeline.finish("transactions")


def a_label_not_recorded(pipeline: ModelPipeline) -> None:
    pipeline.streams["labels"].put(b"{}", shard=SHARDS[1])


def a_job_that_restarts(pipeline: ModelPipeline) -> None:
    pipeline.state = "RESTARTING"


def a_job_that_has_said_nothing_yet(pipeline: ModelPipeline) -> None:
    for path in pipeline.job_folder.progress.iterdir():
        path.unlink()


def test_the_model_can_be_at_rest(tmp_path: Path) -> None:
    nobody_moves(at_rest(tmp_path)).wait_until_at_rest()


@pytest.mark.parametrize(
    ("disturb", "names"),
    [
        (a_transaction_not_read, f"flink/transactions/{SHARDS[1]} at the start of"),
        (a_label_event_not_read, f"flink/entity-events/{SHARDS[0]} at"),
        (a_transaction_under_way, "the Flink job has 1 records under way"),
        (a_label_event_under_way, "the Flink job has 1 records under way"),
        (features_not_scored, "features-function/"),
        (a_label_not_recorded, f"labels-function/{SHARDS[1]} at the start of"),
        (a_job_that_restarts, "the Flink job is RESTARTING"),
        (a_job_that_has_said_nothing_yet, "at the start of"),
    ],
)
def test_one_thing_left_over_keeps_it_waiting_and_is_named(
    disturb: Callable[[ModelPipeline], None], names: str, tmp_path: Path
) -> None:
    pipeline = at_rest(tmp_path)
    disturb(pipeline)
    with pytest.raises(NotAtRest, match=names):
        nobody_moves(pipeline).wait_until_at_rest()


def test_a_record_that_comes_between_the_two_looks_is_waited_for(tmp_path: Path) -> None:
    pipeline = at_rest(tmp_path)
    states = 0

    def state() -> str:
        """The last thing that is asked of a look: whatever comes now comes between two looks."""
        nonlocal states
        states += 1
        if states == 1:
            a_transaction_not_read(pipeline)
        return "RUNNING"

    job = JobConsumer(pipeline.job_folder, READ_BY_JOB, state)
    mappings = [(stream, f"{stream}-function", stream) for stream in READ_BY_FUNCTIONS]
    Consumers(pipeline, mappings, tmp_path, job=job, sleep=lambda _: pipeline.step(0)).wait_until_at_rest()
    assert pipeline.is_at_rest


def test_lag_of_the_job_counts_from_its_own_positions_and_never_read_is_not_caught_up(tmp_path: Path) -> None:
    pipeline = ModelPipeline(tmp_path)
    now_ms = 1_795_000_000_000
    first = pipeline.streams["transactions"].put(b"{}", arrival_ms=now_ms - 5000)
    pipeline.streams["transactions"].put(b"{}", arrival_ms=now_ms - 3000)
    lag = JobLag(pipeline, pipeline.job_folder, READ_BY_JOB, wall_ms=lambda: now_ms)
    empty = {f"flink/{stream}/{shard}": 0 for stream in READ_BY_JOB for shard in SHARDS}
    where = f"flink/transactions/{SHARDS[0]}"
    assert lag.read({}) == empty | {where: 5000}
    pipeline.take("transactions", SHARDS[0])
    assert lag.read({})[where] == 3000
    assert lag.read({"transactions": {SHARDS[0]: first}})[where] == 0  # known to be the end a moment ago
    pipeline.take("transactions", SHARDS[0])
    assert lag.read({}) == empty


def a_run(folder: Path, run_id: str) -> RunState:
    given: dict[str, Any] = dict.fromkeys(RunState.__slots__, "")
    return RunState(**(given | {"engine": "flink", "run_id": run_id, "state_dir": folder}))


def test_a_job_whose_process_is_gone_is_down_whatever_was_said_last(tmp_path: Path) -> None:
    run = a_run(tmp_path, os.environ.get(MARKER, "not ours"))
    folder = FlinkFolder(tmp_path / "flink")
    folder.progress.mkdir(parents=True)
    assert job_report(run)["state"] == "DOWN"
    status = FlinkStatus(
        pid=os.getpid(),
        job_pid=1,
        rest_port=1,
        job_id="j",
        state="RUNNING",
        checkpoints=Checkpoints(completed=3, latest_path="file:/chk-3"),
        restarts=2,
        restored_from="/chk-1",
        updated_at_ms=1,
    )
    write_status(folder, status)
    assert job_state(run) == "DOWN"  # neither carries the run's mark
    report = job_report(run)
    assert (report["restarts"], report["restored_from"], report["records_under_way"]) == (2, "/chk-1", 0)
    assert report["checkpoints"] == msgspec.to_builtins(status.checkpoints)
    text = a_status(flink=report).as_text()
    assert "flink DOWN, restarts 2" in text
    assert "restored from /chk-1" in text
    assert json.loads(a_status(flink=report).as_json())["flink"] == report
    assert "flink" not in a_status().as_text()
