"""What the job is told, and what it then tells Flink."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_features.errors import UsageError
from stream_features.flink_job.main import ON_THE_SERVICE, flink_configuration, properties_path
from stream_features.flink_job.properties import read_properties

Groups = dict[str, dict[str, str]]


def groups(**changes: dict[str, str | None]) -> Groups:
    """Complete properties; a None takes a key away."""

    def stream(name: str) -> dict[str, str]:
        return {"stream.arn": f"arn:aws:kinesis:eu-central-1:000000000000:stream/{name}", "aws.region": "eu-central-1"}

    complete: Groups = {
        "Job": {
            "connector": "polling",
            "feature.set": "core",
            "execution.mode": "thread",
            "state.ttl.days": "150",
            "label.ttl.days": "400",
            "entity.state.table": "entity_state",
            "effects.table": "effects",
            "lake.bucket": "lake",
            "seed.dir": "/var/seed",
        },
        "Transactions": stream("transactions"),
        "EntityEvents": stream("entity-events"),
        "Features": stream("features"),
    }
    for group, values in changes.items():
        merged: dict[str, Any] = {**complete.get(group, {}), **values}
        complete[group] = {key: value for key, value in merged.items() if value is not None}
    return complete


def document(told: Groups) -> bytes:
    return json.dumps([{"PropertyGroupId": name, "PropertyMap": values} for name, values in told.items()]).encode()


def test_everything_is_read_and_what_may_be_absent_has_its_default() -> None:
    job = read_properties(document(groups()))
    assert (job.connector, job.feature_set, job.execution_mode) == ("polling", "core", "thread")
    assert (job.state_ttl_ms, job.label_ttl_ms) == (150 * 86_400_000, 400 * 86_400_000)
    assert (job.entity_state_table, job.effects_table, job.lake_bucket) == ("entity_state", "effects", "lake")
    assert (job.include_state, job.progress_dir, job.failpoint_file) == (False, None, None)
    assert job.seed_dir == Path("/var/seed")
    assert job.transactions.name == "transactions"
    assert (job.transactions.region, job.transactions.endpoint) == ("eu-central-1", None)
    assert (job.transactions.poll_ms, job.transactions.start_positions) == (250, {})
    assert job.features.max_buffer_ms == 100
    assert job.flink == {}


def test_local_settings() -> None:
    told = groups(
        Job={"include.state": "true", "progress.dir": "/p", "failpoint.file": "/f"},
        Transactions={"poll.ms": "20", "start.positions": '{"shardId-0":"123"}', "aws.endpoint": "http://127.0.0.1:1"},
        Features={"sink.max-buffer-ms": "5", "sink.max-batch": "9"},
        LocalFlinkConfig={"rest.port": "8081"},
    )
    job = read_properties(document(told))
    assert (job.include_state, job.progress_dir, job.failpoint_file) == (True, Path("/p"), Path("/f"))
    assert (job.transactions.poll_ms, job.transactions.start_positions) == (20, {"shardId-0": "123"})
    assert job.transactions.endpoint == "http://127.0.0.1:1"
    assert job.features.max_buffer_ms == 5
    assert job.features.connector["sink.max-batch"] == "9"
    assert job.flink == {"rest.port": "8081"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"Job": {"connector": "kafka"}}, "Job/connector: not one of polling, official"),
        ({"Job": {"connector": None}}, "Job/connector: missing, must be one of polling, official"),
        ({"Job": {"feature.set": "corr"}}, "Job/feature.set: not one of"),
        ({"Job": {"execution.mode": "fast"}}, "Job/execution.mode: not one of thread, process"),
        ({"Job": {"state.ttl.days": None}}, "Job/state.ttl.days: missing"),
        ({"Job": {"label.ttl.days": "0"}}, "Job/label.ttl.days: not a whole number above 0"),
        ({"Job": {"label.ttl.days": "1.5"}}, "Job/label.ttl.days: not a whole number above 0"),
        ({"Job": {"lake.bucket": None}}, "Job/lake.bucket: missing"),
        ({"Job": {"effects.table": ""}}, "Job/entity.state.table and Job/effects.table: name both or none"),
        ({"Job": {"seed.dir": None}}, "Job/seed.dir: missing, connector polling needs it"),
        ({"Job": {"include.state": "yes"}}, "Job/include.state: not one of false, true"),
        ({"Job": {"featureset": "core"}}, "Job/featureset: unknown"),
        ({"Transactions": {"stream.arn": None}}, "Transactions/stream.arn: missing"),
        ({"EntityEvents": {"stream.arn": "entity-events"}}, "EntityEvents/stream.arn: not the ARN of a stream"),
        ({"Features": {"aws.region": None}}, "Features/aws.region: missing"),
        ({"Features": {"sink.max-buffer-ms": "-5"}}, "Features/sink.max-buffer-ms: not a whole number above 0"),
        ({"Features": {"poll.ms": "5"}}, "Features/poll.ms: unknown"),
        ({"Transactions": {"poll.ms": "often"}}, "Transactions/poll.ms: not a whole number above 0"),
        ({"Transactions": {"start.positions": "[]"}}, "Transactions/start.positions: "),
        (
            {"EntityEvents": {"start.positions": '{"s-0":"LATEST"}'}},
            "EntityEvents/start.positions: the position of s-0",
        ),
    ],
)
def test_what_is_wrong_is_named_by_group_and_key(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error:
        read_properties(document(groups(**changes)))
    assert says in str(error.value)
    assert ";" not in str(error.value)  # nothing else is wrong


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as error:
        read_properties(b"[]")
    assert str(error.value).count(";") > 8


@pytest.mark.parametrize("broken", [b"", b"{}", b'[{"PropertyGroupId":"Job"}]', b"\xff"])
def test_what_is_no_list_of_groups_is_refused(broken: bytes) -> None:
    with pytest.raises(UsageError, match="properties of the job"):
        read_properties(broken)


def test_groups_of_the_service_itself_are_none_of_our_business() -> None:
    told = groups() | {"kinesis.analytics.flink.run.options": {"python": "main.py"}}
    assert read_properties(document(told)).connector == "polling"


def test_official_needs_no_seed_folder() -> None:
    job = read_properties(document(groups(Job={"connector": "official", "seed.dir": None})))
    assert (job.connector, job.seed_dir) == ("official", None)


def test_on_the_service_only_keys_of_its_allow_list_are_set_in_code() -> None:
    """It refuses to start a job that sets any other."""
    job = read_properties(document(groups(LocalFlinkConfig={"rest.port": "1", "state.backend.type": "rocksdb"})))
    configuration = flink_configuration(job, is_local=False)
    assert configuration["python.execution-mode"] == "thread"
    assert {key for key in configuration if key != "python.execution-mode" and not key.startswith("pipeline.")} == set()


def test_the_job_sets_no_configuration_beside_that_one() -> None:
    """Nothing of the shell reaches for the environment's own setters, which the test above could not see."""
    folder = Path(__file__).parents[3] / "stream_features" / "flink_job"
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    setters = ("set_parallelism", "enable_checkpointing", "set_state_backend", "set_buffer_timeout", "configure(")
    assert not [name for name in setters if name in sources]
    assert sources.count("get_execution_environment(") == 1


def test_local_runs_take_their_configuration_from_the_properties() -> None:
    job = read_properties(document(groups(LocalFlinkConfig={"rest.port": "1"})))
    configuration = flink_configuration(job, is_local=True)
    assert configuration["rest.port"] == "1"
    assert configuration["python.executable"] == sys.executable


def test_where_the_properties_are() -> None:
    named = {"FRAUDSTREAM_FLINK_PROPERTIES": "/run/p.json"}
    assert properties_path(named, is_local=True) == Path("/run/p.json")
    assert properties_path(named, is_local=False) == ON_THE_SERVICE
    with pytest.raises(UsageError, match="FRAUDSTREAM_FLINK_PROPERTIES"):
        properties_path({}, is_local=True)
