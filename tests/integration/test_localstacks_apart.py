"""Two LocalStacks of ours on one machine keep out of each other's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.localstack.host import missing
from tests.integration.hosted_localstack import hosted_localstack

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def test_who_deletes_a_bucket_takes_none_of_that_name_from_the_other(tmp_path: Path) -> None:
    with hosted_localstack(tmp_path / "stays") as stays:
        s3 = stays.client("s3")
        s3.create_bucket(Bucket="lake")
        s3.put_object(Bucket="lake", Key="before", Body=b"1")
        with hosted_localstack(tmp_path / "deletes") as deletes:
            elsewhere = deletes.client("s3")
            elsewhere.create_bucket(Bucket="lake")
            elsewhere.put_object(Bucket="lake", Key="elsewhere", Body=b"2")
            elsewhere.delete_object(Bucket="lake", Key="elsewhere")
            elsewhere.delete_bucket(Bucket="lake")
        large = bytes(1 << 20)  # LocalStack keeps small objects in memory
        s3.put_object(Bucket="lake", Key="after", Body=large)
        assert s3.get_object(Bucket="lake", Key="after")["Body"].read() == large
        assert [each["Key"] for each in s3.list_objects_v2(Bucket="lake")["Contents"]] == ["after", "before"]
