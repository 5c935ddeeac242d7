"""What the host keeps on disk."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.sagemaker_host.artifacts import ArtifactStore
from local.sagemaker_host.errors import StartFailed
from local.sagemaker_host.state import Deployment, Described, Endpoint, HostState, VariantSpec


class S3InMemory:
    def __init__(self, **objects: bytes) -> None:
        self.objects = objects

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "gone"}}, "GetObject")
        return {"Body": io.BytesIO(self.objects[Key])}


def archive_of(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def test_an_artifact_is_unpacked_once_under_the_name_of_its_content(tmp_path):
    s3 = S3InMemory(one=archive_of(a=b"1"), same=archive_of(a=b"1"), other=archive_of(a=b"2"))
    s3.objects["same"] = s3.objects["one"]
    store = ArtifactStore(tmp_path / "artifacts", s3)
    one, same, other = (store.fetch(f"s3://bucket/{key}") for key in ("one", "same", "other"))
    assert one == same != other
    assert [(folder / "a").read_bytes() for folder in (one, other)] == [b"1", b"2"]


def test_artifacts_that_no_endpoint_needs_are_deleted(tmp_path):
    store = ArtifactStore(tmp_path, S3InMemory(one=archive_of(a=b"1"), other=archive_of(a=b"2")))
    one, other = store.fetch("s3://bucket/one"), store.fetch("s3://bucket/other")
    store.keep_only({one})
    assert (one.is_dir(), other.exists()) == (True, False)


@pytest.mark.parametrize("content", [b"no archive", archive_of(**{"../outside": b"x"}), None])
def test_what_cannot_be_unpacked_fails_the_start_and_leaves_nothing(tmp_path, content):
    s3 = S3InMemory() if content is None else S3InMemory(key=content)
    with pytest.raises(StartFailed, match="s3://bucket/key"):
        ArtifactStore(tmp_path / "artifacts", s3).fetch("s3://bucket/key")
    assert not [path for path in tmp_path.rglob("*") if path.name != "artifacts"]


def test_everything_saved_is_there_after_a_restart(tmp_path: Path):
    state = HostState.load(tmp_path)
    spec = VariantSpec("main", 1.0, 1, "image", "s3://b/k", {"A": "1"}, 60.0, artifact="/somewhere")
    deployment = Deployment("config", [spec])
    state.models["m"] = Described("m", "arn:m", 1.5, {"ModelName": "m"})
    state.configs["c"] = Described("c", "arn:c", 2.5, {"ProductionVariants": [{"VariantName": "main"}]})
    state.endpoints["e"] = Endpoint("e", "arn:e", 1.0, 2.0, "InService", live=deployment, failure_reason="once")
    state.save()
    again = HostState.load(tmp_path)
    assert (again.models, again.configs, again.endpoints) == (state.models, state.configs, state.endpoints)
