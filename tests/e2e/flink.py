"""What the Flink engine's tests share: what it wrote, and how to kill it."""

from __future__ import annotations

import base64
import contextlib
import time
from collections import Counter
from collections.abc import Iterable

import psutil

from console.running import Pipeline
from local.firehose.stream_reader import ShardReader, list_shard_ids
from local.flink.layout import FlinkFolder
from local.flink.status import FlinkStatus, read_status_file
from stream_features.decision import StreamPosition
from stream_features.feature_record import FeaturesRecord, FeatureStreamRecord, decode_feature_record
from stream_features.names import card_key
from stream_features.transaction import parse_transaction
from tests.e2e.driver import Installation

STATE = {"FRAUDSTREAM_FLINK_INCLUDE_STATE": "1"}


def feature_records(pipeline: Pipeline) -> list[FeatureStreamRecord]:
    """Everything the job has written, each shard in its order."""
    kinesis, stream = pipeline.client("kinesis"), pipeline.output("FeaturesStreamName")
    records = []
    for shard_id in list_shard_ids(kinesis, stream):
        reader = ShardReader(kinesis, stream, shard_id, position=None)
        while not reader.drained:
            records += [decode_feature_record(record["Data"]) for record in reader.read_page()]
            if reader.caught_up:
                break
    return records


def redelivered(records: Iterable[FeatureStreamRecord]) -> int:
    """How many records speak of a position that another one spoke of before."""
    positions: Counter[StreamPosition] = Counter(record.position for record in records)
    return sum(positions.values()) - len(positions)


def card_states(records: Iterable[FeatureStreamRecord]) -> dict[str, bytes]:
    """The packed state of every card as its last record carries it, by the key that `entity_state` would have."""
    states: dict[str, tuple[tuple[int, int], bytes]] = {}
    for record in records:
        if isinstance(record, FeaturesRecord) and record.state:
            card_id = parse_transaction(record.payload.encode(), arrival_ms=record.arrival_ms).card_id
            found = (record.position.order, base64.b64decode(record.state))
            states[card_key(card_id)] = max(states.get(card_key(card_id), found), found)
    return {key: state for key, (_, state) in states.items()}


def job_status(installed: Installation) -> FlinkStatus:
    status = read_status_file(FlinkFolder(installed.state_dir / "flink"))
    assert status is not None
    return status


def kill_job(installed: Installation) -> int:
    """SIGKILL the job's Python process and its JVM; returns how many processes died."""
    pid = job_status(installed).job_pid
    assert pid is not None
    job = psutil.Process(pid)
    victims = [job, *job.children(recursive=True)]
    assert any("java" in victim.name() for victim in victims), victims
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(victims, timeout=20)
    return len(victims)


def wait_until_job_runs(installed: Installation, *, not_pid: int | None = None, timeout_s: float = 90) -> FlinkStatus:
    """The status once a job process other than `not_pid` runs every vertex."""
    ends_at = time.monotonic() + timeout_s
    while True:
        status = job_status(installed)
        if status.state == "RUNNING" and status.job_pid not in (None, not_pid):
            return status
        assert time.monotonic() < ends_at, status
        time.sleep(0.2)
