"""The worker over all delivery streams, and flushes on request."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local.firehose.control import open_requests, read_worker_status, request_flush
from local.firehose.worker import Worker
from stream_features.errors import PortFailure
from tests.unit.local_firehose.fakes import FakeKinesis, FakeS3, client_error, description, fake_clients


class FakeFirehose:
    """Delivery streams by name, one a page; `down` makes every call fail."""

    def __init__(self, *descriptions: dict[str, Any]) -> None:
        self.descriptions = {d["DeliveryStreamName"]: d for d in descriptions}
        self.down = False

    def list_delivery_streams(
        self, DeliveryStreamType: str, ExclusiveStartDeliveryStreamName: str = ""
    ) -> dict[str, Any]:
        if self.down:
            raise client_error("ServiceUnavailable", "ListDeliveryStreams")
        assert DeliveryStreamType == "KinesisStreamAsSource"
        names = [name for name in sorted(self.descriptions) if name > ExclusiveStartDeliveryStreamName]
        return {"DeliveryStreamNames": names[:1], "HasMoreDeliveryStreams": len(names) > 1}

    def describe_delivery_stream(self, DeliveryStreamName: str) -> dict[str, Any]:
        return {"DeliveryStreamDescription": self.descriptions[DeliveryStreamName]}


class Running:
    """A worker in a thread; ended with the context."""

    def __init__(self, firehose: FakeFirehose, kinesis: FakeKinesis, s3: FakeS3, state_dir: Path) -> None:
        clients = replace(fake_clients(kinesis, s3), firehose=firehose)
        self.worker = Worker(clients, state_dir, poll_seconds=0.01)
        self.thread = threading.Thread(target=self.worker.run)

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self.thread.join()


def status(state_dir: Path) -> Any:
    return read_worker_status(state_dir)


def test_a_flush_covers_every_delivery_stream(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    firehose = FakeFirehose(description("one"), description("two", Prefix="second/!{timestamp:yyyy}/"))
    with Running(firehose, kinesis, s3, tmp_path):
        kinesis.put(b'{"n":1}')
        request_flush(tmp_path, 20)
        assert sorted(key.split("/")[0] for key in s3.objects) == ["raw", "second"]
        assert open_requests(tmp_path) == []
        assert {name: d["delivered_records"] for name, d in status(tmp_path)["deliveries"].items()} == {
            "one": 1,
            "two": 1,
        }


def test_a_stream_deployed_later_is_taken_up_and_a_removed_one_is_left(tmp_path: Path) -> None:
    kinesis, s3, firehose = FakeKinesis(), FakeS3(), FakeFirehose()
    with Running(firehose, kinesis, s3, tmp_path):
        request_flush(tmp_path, 20)
        assert status(tmp_path)["deliveries"] == {}
        firehose.descriptions["late"] = description("late")
        kinesis.put(b'{"n":1}')
        request_flush(tmp_path, 20)
        assert len(s3.objects) == 1
        firehose.descriptions.clear()
        kinesis.put(b'{"n":2}')
        request_flush(tmp_path, 20)
        assert status(tmp_path)["deliveries"] == {}
    assert len(s3.objects) == 1


def test_a_delivery_stream_it_cannot_run_is_reported_and_does_not_stop_the_others(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    firehose = FakeFirehose(description("good"), description("odd", CompressionFormat="Snappy"))
    with Running(firehose, kinesis, s3, tmp_path):
        kinesis.put(b'{"n":1}')
        with pytest.raises(PortFailure, match="compression Snappy is not supported"):
            request_flush(tmp_path, 1)
        assert len(s3.objects) == 1
        firehose.descriptions["odd"] = description("odd")
        request_flush(tmp_path, 20)
        assert status(tmp_path)["errors"] == {}


def test_a_request_made_while_aws_is_down_is_answered_once_it_is_back(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    firehose = FakeFirehose(description())
    firehose.down = True
    kinesis.put(b'{"n":1}')
    with Running(firehose, kinesis, s3, tmp_path):
        with pytest.raises(PortFailure, match="ServiceUnavailable"):
            request_flush(tmp_path, 0.5)
        firehose.down = False
        request_flush(tmp_path, 20)
    assert len(s3.objects) == 1


def test_a_request_is_not_answered_while_s3_fails(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    with Running(FakeFirehose(description()), kinesis, s3, tmp_path):
        request_flush(tmp_path, 20)
        s3.failures = 1
        kinesis.put(b'{"n":1}')
        request_flush(tmp_path, 20)  # returns after the second attempt
        assert len(s3.objects) == 1


def test_stopping_delivers_what_was_read(tmp_path: Path) -> None:
    kinesis, s3 = FakeKinesis(), FakeS3()
    kinesis.put(b'{"n":1}')
    with Running(FakeFirehose(description()), kinesis, s3, tmp_path) as running:
        for _ in range(1000):
            deliveries = running.worker.status()["deliveries"]
            if deliveries and deliveries["raw"]["buffered_records"]:
                break
            time.sleep(0.01)
        assert s3.objects == {}
    assert len(s3.objects) == 1
    assert status(tmp_path)["deliveries"]["raw"]["buffered_records"] == 0
