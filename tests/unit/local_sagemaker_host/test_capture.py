"""Data capture: what is written, where, and that nothing of it is lost."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from local.sagemaker_host.capture import DataCapture, Exchange, capture_spec, described, record
from local.sagemaker_host.state import CaptureSpec

NOON = datetime(2026, 3, 4, 12, 59, 58, 765_432, tzinfo=UTC)
CONFIG: dict[str, Any] = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": "s3://lake/captured/",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
}


def spec(**changed: Any) -> CaptureSpec:
    found = capture_spec(CONFIG | changed)
    assert found is not None
    return found


def an_exchange(**changed: Any) -> Exchange:
    facts: dict[str, Any] = {
        "endpoint_name": "fraud",
        "variant_name": "main",
        "input_type": "text/csv",
        "input_body": b"1,2\n",
        "output_type": "text/csv; charset=utf-8",
        "output_body": b"0.5\n",
    }
    return Exchange(**(facts | changed))


class S3InMemory:
    """Keeps what is put; fails as told, once per entry of `failures`."""

    def __init__(self, *failures: Exception) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[dict[str, Any]] = []
        self.failures = list(failures)

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **options: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.requests.append(options)
        self.objects[f"s3://{Bucket}/{Key}"] = Body

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for body in self.objects.values() for line in body.splitlines()]


NOBODY = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
NO_BUCKET = ClientError({"Error": {"Code": "NoSuchBucket", "Message": "gone"}}, "PutObject")


def capture(tmp_path: Path, s3: S3InMemory, **options: Any) -> DataCapture:
    return DataCapture(tmp_path / "spool", s3, **({"now": lambda: NOON, "draw": lambda: 0.0} | options))


# -- one record --------------------------------------------------------------------------------------------------------


def test_a_record_is_what_sagemaker_writes():
    exchange = an_exchange(inference_id="tx-1", custom_attributes="feature_set_id=a")
    line = record(spec(), exchange, NOON)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    said = json.loads(line)
    event_id = said["eventMetadata"].pop("eventId")
    assert len(event_id) == 36
    assert said == {
        "captureData": {
            "endpointInput": {
                "observedContentType": "text/csv",
                "mode": "INPUT",
                "data": "1,2\n",
                "encoding": "CSV",
            },
            "endpointOutput": {
                "observedContentType": "text/csv; charset=utf-8",
                "mode": "OUTPUT",
                "data": "0.5\n",
                "encoding": "CSV",
            },
        },
        "eventMetadata": {
            "inferenceTime": "2026-03-04T12:59:58Z",
            "inferenceId": "tx-1",
            "customAttributes": ["feature_set_id=a"],
        },
        "eventVersion": "0",
    }


@pytest.mark.parametrize(
    ("content_type", "body", "encoding"),
    [
        ("text/csv", b"1", "CSV"),
        ("Text/CSV; charset=utf-8", b"1", "CSV"),
        ("application/json", b"{}", "JSON"),
        ("application/jsonlines", b"{}", "BASE64"),
        ("application/x-npy", b"\x93NUMPY", "BASE64"),
        ("text/csv", b"\xff", "BASE64"),
        ("", b"1", "BASE64"),
    ],
)
def test_only_the_media_types_that_are_named_are_kept_as_text(content_type, body, encoding):
    said = json.loads(record(spec(), an_exchange(input_type=content_type, input_body=body), NOON))
    kept = said["captureData"]["endpointInput"]
    assert kept["encoding"] == encoding
    assert (base64.b64decode(kept["data"]) if encoding == "BASE64" else kept["data"].encode()) == body


def test_without_named_media_types_everything_is_base64():
    said = json.loads(record(spec(CaptureContentTypeHeader={}), an_exchange(), NOON))
    assert {side["encoding"] for side in said["captureData"].values()} == {"BASE64"}


@given(st.binary(), st.sampled_from(["text/csv", "application/json", "application/x-npy"]))
def test_every_body_can_be_had_back(body, content_type):
    line = record(spec(), an_exchange(input_type=content_type, input_body=body), NOON)
    assert line.count(b"\n") == 1
    kept = json.loads(line)["captureData"]["endpointInput"]
    assert (base64.b64decode(kept["data"]) if kept["encoding"] == "BASE64" else kept["data"].encode()) == body


@pytest.mark.parametrize(
    ("modes", "sides"),
    [
        (["Input"], {"endpointInput"}),
        (["Output"], {"endpointOutput"}),
        (["InputAndOutput"], {"endpointInput", "endpointOutput"}),
    ],
)
def test_the_sides_that_were_asked_for_are_kept(modes, sides):
    options = [{"CaptureMode": mode} for mode in modes]
    assert json.loads(record(spec(CaptureOptions=options), an_exchange(), NOON))["captureData"].keys() == sides


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"InitialSamplingPercentage": 101}, "InitialSamplingPercentage"),
        ({"InitialSamplingPercentage": -1}, "InitialSamplingPercentage"),
        ({"InitialSamplingPercentage": None}, "InitialSamplingPercentage"),
        ({"InitialSamplingPercentage": True}, "InitialSamplingPercentage"),
        ({"DestinationS3Uri": "https://lake/x"}, "DestinationS3Uri"),
        ({"DestinationS3Uri": "s3://../x"}, "DestinationS3Uri"),
        ({"DestinationS3Uri": "s3://lake/../../x"}, "DestinationS3Uri"),
        ({"DestinationS3Uri": ""}, "DestinationS3Uri"),
        ({"CaptureOptions": []}, "CaptureOptions"),
        ({"CaptureOptions": [{"CaptureMode": "Both"}]}, "CaptureOptions"),
        ({"CaptureOptions": ["Input"]}, "CaptureOptions"),
    ],
)
def test_a_configuration_that_sagemaker_refuses_is_refused_by_name(changed, named):
    with pytest.raises(ValueError, match=named):
        capture_spec(CONFIG | changed)


def test_no_configuration_is_no_capture():
    assert capture_spec({}) is None


def test_the_description_says_what_is_captured():
    assert described(spec(KmsKeyId="key")) == {
        "EnableCapture": True,
        "CaptureStatus": "Started",
        "CurrentSamplingPercentage": 100,
        "DestinationS3Uri": "s3://lake/captured",
        "KmsKeyId": "key",
    }
    assert described(spec(EnableCapture=False))["CaptureStatus"] == "Stopped"


# -- the files ---------------------------------------------------------------------------------------------------------


def test_files_lie_under_endpoint_variant_and_hour(tmp_path):
    s3 = S3InMemory()

    async def scenario() -> None:
        kept = capture(tmp_path, s3)
        kept.observe(spec(), an_exchange())
        kept.observe(spec(), an_exchange(variant_name="other"))
        await kept.close()

    asyncio.run(scenario())
    folders = {key.rpartition("/")[0]: key.rpartition("/")[2] for key in s3.objects}
    assert set(folders) == {f"s3://lake/captured/fraud/{variant}/2026/03/04/12" for variant in ("main", "other")}
    for name in folders.values():
        assert name.startswith("59-58-765-")
        assert name.endswith(".jsonl")
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_an_hour_begins_a_new_file(tmp_path):
    s3 = S3InMemory()
    times = iter([NOON, NOON + timedelta(seconds=1), NOON + timedelta(seconds=2)])

    async def scenario() -> None:
        kept = capture(tmp_path, s3, now=lambda: next(times))
        for _ in range(3):
            kept.observe(spec(), an_exchange())
        await kept.close()

    asyncio.run(scenario())
    assert sorted(key.split("/")[-2] + f" {body.count(bytes([10]))}" for key, body in s3.objects.items()) == [
        "12 2",
        "13 1",
    ]


@pytest.mark.parametrize(("percentage", "kept"), [(0, 0), (1, 1), (25, 25), (99, 99), (100, 100)])
def test_the_percentage_of_invocations_is_kept(tmp_path, percentage, kept):
    s3 = S3InMemory()
    draws: Iterator[float] = iter(number / 100 for number in range(100))  # evenly over 0..1

    async def scenario() -> None:
        capturing = capture(tmp_path, s3, draw=lambda: next(draws))
        for _ in range(100):
            capturing.observe(spec(InitialSamplingPercentage=percentage), an_exchange())
        await capturing.close()

    asyncio.run(scenario())
    assert len(s3.lines()) == kept


@pytest.mark.parametrize("asked", [None, spec(EnableCapture=False)])
def test_nothing_is_kept_that_was_not_asked_for(tmp_path, asked):
    s3 = S3InMemory()

    async def scenario() -> None:
        kept = capture(tmp_path, s3)
        kept.observe(asked, an_exchange())
        await kept.close()

    asyncio.run(scenario())
    assert s3.objects == {}


def test_the_key_of_the_configuration_encrypts_the_objects(tmp_path):
    s3 = S3InMemory()

    async def scenario() -> None:
        kept = capture(tmp_path, s3)
        kept.observe(spec(KmsKeyId="key"), an_exchange())
        await kept.close()

    asyncio.run(scenario())
    assert s3.requests[0]["ServerSideEncryption"] == "aws:kms"
    assert s3.requests[0]["SSEKMSKeyId"] == "key"


def test_files_are_uploaded_while_it_runs_and_a_large_one_at_once(tmp_path):
    s3 = S3InMemory()

    async def scenario() -> None:
        kept = capture(tmp_path, s3, upload_every_s=3600, file_bytes=2000)
        kept.start()
        for _ in range(20):
            kept.observe(spec(), an_exchange(input_body=b"1" * 200))
        while not s3.objects:
            await asyncio.sleep(0.01)
        kept.observe(spec(), an_exchange())
        await kept.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert len(s3.lines()) == 21


def test_files_are_uploaded_when_their_time_has_come(tmp_path):
    s3 = S3InMemory()

    async def scenario() -> None:
        kept = capture(tmp_path, s3, upload_every_s=0.01)
        kept.start()
        await asyncio.sleep(0.05)
        kept.observe(spec(), an_exchange())
        while not s3.objects:
            await asyncio.sleep(0.01)
        await kept.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert len(s3.lines()) == 1


@pytest.mark.parametrize("failure", [NOBODY, NO_BUCKET])
def test_what_s3_does_not_take_is_offered_again_and_arrives_once(tmp_path, failure):
    s3 = S3InMemory(failure)

    async def scenario() -> None:
        kept = capture(tmp_path, s3)
        kept.observe(spec(), an_exchange())
        await kept.flush()
        assert s3.objects == {}
        kept.observe(spec(), an_exchange())
        await kept.close()

    asyncio.run(scenario())
    assert len(s3.lines()) == 2
    assert len({line["eventMetadata"]["eventId"] for line in s3.lines()}) == 2


def test_one_bucket_that_is_gone_does_not_hold_up_the_others(tmp_path):
    s3 = S3InMemory(NO_BUCKET)

    async def scenario() -> None:
        kept = capture(tmp_path, s3)
        kept.observe(spec(DestinationS3Uri="s3://a-bucket"), an_exchange())
        kept.observe(spec(DestinationS3Uri="s3://b-bucket"), an_exchange())
        await kept.flush()

    asyncio.run(scenario())
    assert [key.split("/")[2] for key in s3.objects] == ["b-bucket"]


def test_what_a_killed_host_left_is_uploaded_by_the_next(tmp_path):
    s3 = S3InMemory()

    async def killed() -> None:
        capture(tmp_path, S3InMemory()).observe(spec(), an_exchange())

    async def next_one() -> None:
        kept = capture(tmp_path, s3, upload_every_s=3600)
        kept.start()
        while not s3.objects:
            await asyncio.sleep(0.01)
        await kept.close()

    asyncio.run(killed())
    asyncio.run(asyncio.wait_for(next_one(), 60))
    assert len(s3.lines()) == 1


def test_a_full_disk_costs_the_record_and_not_the_invocation(tmp_path, capsys):
    (tmp_path / "spool").write_text("a file where the folder should be")

    async def scenario() -> None:
        capture(tmp_path, S3InMemory()).observe(spec(), an_exchange())

    asyncio.run(scenario())
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["event"] == "capture_lost"
