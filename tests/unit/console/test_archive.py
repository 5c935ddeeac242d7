"""The raw archive read back, from a bucket in memory."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from console.archive import archived_records
from console.running import Pipeline
from stream_features.errors import PipelineError


class Bucket:
    """As much of S3 as the archive is read with."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    def get_paginator(self, _name: str) -> Bucket:
        return self

    def paginate(self, **_where: str) -> list[dict[str, Any]]:
        return [{"Contents": [{"Key": key} for key in self._objects]}]

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": io.BytesIO(self._objects[Key])}


class Archive(Pipeline):
    def __init__(self, objects: dict[str, bytes]) -> None:
        self._bucket = Bucket(objects)

    def client(self, service: str) -> Any:
        assert service == "s3"
        return self._bucket

    def output(self, name: str) -> str:
        return name

    @property
    def state_dir(self) -> Path:
        raise AssertionError("nothing has to be delivered first")


def test_every_line_of_every_object_comes_back() -> None:
    objects = {"raw/a.gz": gzip.compress(b"one\ntwo"), "raw/b.gz": gzip.compress(b"three")}
    assert list(archived_records(Archive(objects), flush=False)) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("content", [b'{"transaction_id": "t"}', gzip.compress(b"one", mtime=0)[:-4]])
def test_an_object_in_another_format_is_named(content: bytes) -> None:
    with pytest.raises(PipelineError, match=r"raw/odd.*--no-archive"):
        list(archived_records(Archive({"raw/odd": content}), flush=False))
