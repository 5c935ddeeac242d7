"""The mapping runner as a process, delivering from the embedded AWS's streams to real function processes."""

from __future__ import annotations

import io
import json
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.embedded_aws import INTERPRETER, EmbeddedAws, embedded_aws
from tests.integration.mapped_function import deployed, eventually

pytestmark = pytest.mark.skipif(not INTERPRETER.exists(), reason="no .venv-embedded (make setup)")


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAws]:
    with embedded_aws(tmp_path_factory.mktemp("aws")) as running:
        yield running


def test_order_per_key_holds_over_two_shards_and_four_lanes(aws: EmbeddedAws, tmp_path: Path) -> None:
    sent = [(f"key-{number % 17}", f"{number % 17}:{number}") for number in range(400)]
    with deployed(aws, tmp_path, "ordered", shards=2, ParallelizationFactor=4, BatchSize=7) as it:
        it.start_runner()
        for start in range(0, 400, 100):
            it.put(*sent[start : start + 100])
        eventually(lambda: len(it.payloads()) == 400, it)
        assert sorted(it.payloads()) == sorted(payload for _, payload in sent)
        for key in range(17):
            mine = [int(payload.split(":")[1]) for payload in it.payloads() if payload.startswith(f"{key}:")]
            assert mine == sorted(mine)
        assert len({call["shard"] for call in it.calls()}) == 2
        assert max(map(len, it.batches())) <= 7


def test_a_reported_failure_comes_again_from_there(aws: EmbeddedAws, tmp_path: Path) -> None:
    with deployed(aws, tmp_path, "reporting") as it:
        it.put(("k", "a"), ("k", "b"), ("k", "fails once"), ("k", "d"))
        it.start_runner()
        eventually(lambda: len(it.batches()) == 2, it)
        assert it.batches() == [["a", "b", "fails once", "d"], ["fails once", "d"]]
        assert it.calls()[0]["arn"] == "arn:aws:kinesis:us-east-1:000000000000:stream/reporting"
        assert it.messages() == []


def test_poison_is_isolated_and_its_position_goes_to_the_on_failure_queue(aws: EmbeddedAws, tmp_path: Path) -> None:
    with deployed(aws, tmp_path, "poisoned", BisectBatchOnFunctionError=True, MaximumRetryAttempts=1) as it:
        payloads = ["a", "b", "c", "raises", "e", "kills", "g", "h"]
        numbers = dict(zip(payloads, it.put(*(("k", payload) for payload in payloads)), strict=True))
        it.start_runner()
        all_done = {"shardId-000000000000": {"sequence_number": numbers["h"]}}
        eventually(lambda: it.checkpoint() == all_done, it)
        healthy = [payload for batch in it.batches() if not {"raises", "kills"} & set(batch) for payload in batch]
        assert healthy == ["a", "b", "c", "e", "g", "h"]
        assert it.batches().count(["raises"]) == it.batches().count(["kills"]) == 2
        messages = sorted(it.messages(), key=lambda message: message["KinesisBatchInfo"]["startSequenceNumber"])
        assert [message["KinesisBatchInfo"]["startSequenceNumber"] for message in messages] == [
            numbers["raises"],
            numbers["kills"],
        ]
        for message in messages:
            assert message["requestContext"]["condition"] == "RetryAttemptsExhausted"
            assert message["KinesisBatchInfo"]["batchSize"] == 1
            assert message["KinesisBatchInfo"]["streamArn"].endswith("stream/poisoned")


def test_without_limits_a_poison_record_blocks_its_shard_and_nothing_is_lost(aws: EmbeddedAws, tmp_path: Path) -> None:
    with deployed(aws, tmp_path, "blocked", BisectBatchOnFunctionError=True, MaximumRetryAttempts=-1) as it:
        it.put(("k", "a"), ("k", "raises"), ("k", "c"))
        it.start_runner()
        eventually(lambda: it.batches().count(["raises"]) >= 3, it)
        assert "c" not in [payload for batch in it.batches() if "raises" not in batch for payload in batch]
        assert it.messages() == []


def test_a_killed_runner_goes_on_from_its_checkpoint(aws: EmbeddedAws, tmp_path: Path) -> None:
    sent = [str(number) for number in range(3000)]
    with deployed(aws, tmp_path, "killed", BatchSize=20) as it:
        for start in range(0, 3000, 500):
            it.put(*(("k", payload) for payload in sent[start : start + 500]))
        for until in (200, 900, 1700):
            runner = it.start_runner()
            eventually(lambda until=until: len(it.payloads()) >= until, it)  # type: ignore[misc]
            runner.send_signal(signal.SIGKILL)
            runner.wait()
        it.start_runner()
        eventually(lambda: it.payloads()[-1:] == ["2999"], it)
        delivered = it.payloads()
        first_seen = list(dict.fromkeys(delivered))
        assert first_seen == sent  # nothing lost, nothing overtakes
        assert len(delivered) - len(sent) <= 3 * 20  # at most the batch under way comes again


def test_sigterm_finishes_the_call_under_way_and_notes_it(aws: EmbeddedAws, tmp_path: Path) -> None:
    with deployed(aws, tmp_path, "stopped") as it:
        runner = it.start_runner()
        numbers = it.put(*(("k", str(number)) for number in range(10)))
        eventually(lambda: len(it.payloads()) == 10, it)
        runner.terminate()
        assert runner.wait(30) == 0
        assert it.checkpoint() == {"shardId-000000000000": {"sequence_number": numbers[-1]}}
        it.start_runner()
        it.put(("k", "after"))
        eventually(lambda: it.payloads()[-1:] == ["after"], it)
        assert len(it.payloads()) == 11


def test_a_disabled_mapping_pauses_and_goes_on_where_it_was(aws: EmbeddedAws, tmp_path: Path) -> None:
    with deployed(aws, tmp_path, "paused") as it:
        it.start_runner()
        it.put(("k", "before"))
        eventually(lambda: it.payloads() == ["before"], it)
        functions = aws.client("lambda")
        functions.update_event_source_mapping(UUID=it.uuid, Enabled=False)

        def runs() -> bool:
            status = json.loads((it.folder / "state" / "status.json").read_text())
            return it.uuid in status["mappings"]

        eventually(lambda: not runs(), it)
        it.put(("k", "meanwhile"))
        functions.update_event_source_mapping(UUID=it.uuid, Enabled=True)
        eventually(lambda: it.payloads() == ["before", "meanwhile"], it)


def test_the_status_tells_how_far_each_shard_is(aws: EmbeddedAws, tmp_path: Path) -> None:
    with deployed(aws, tmp_path, "watched") as it:
        it.put(("k", "a"), ("k", "fails once "))
        runner = it.start_runner()

        def shard() -> dict[str, Any]:
            path = it.folder / "state" / "status.json"
            status = json.loads(path.read_text()) if path.exists() else {"mappings": {}}
            found: dict[str, Any] = status["mappings"].get(it.uuid, {"shards": {}})["shards"]
            return found.get("shardId-000000000000", {})

        eventually(lambda: shard().get("delivered") == 2, it)
        status = shard()
        assert (status["read"], status["open"], status["millis_behind_latest"]) == (2, 0, 0)
        assert (status["calls"], status["failed_calls"], status["discarded"]) == (2, 1, 0)
        assert json.loads((it.folder / "state" / "status.json").read_text())["pid"] == runner.pid


def test_functions_do_not_see_the_emulators_packages(aws: EmbeddedAws, tmp_path: Path) -> None:
    """A requirement missing from a package must fail here as it would on AWS."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr(
            "probe.py",
            "import importlib.util\n"
            "def handler(event, context):\n"
            "    return [n for n in ('ministack', 'botocore', 'duckdb', 'numpy') if importlib.util.find_spec(n)]\n",
        )
    functions = aws.client("lambda")
    functions.create_function(
        FunctionName="probe",
        Runtime="python3.11",
        Role="arn:aws:iam::000000000000:role/probe",
        Handler="probe.handler",
        Code={"ZipFile": package.getvalue()},
    )
    answer = functions.invoke(FunctionName="probe")
    assert json.loads(answer["Payload"].read()) == []
    functions.delete_function(FunctionName="probe")
