"""The bucket that code goes through, and buckets that are emptied."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from console.deployment.buckets import bucket_is_ours, delete_bucket, ensure_code_bucket, upload_template
from console.deployment.failures import DeploymentFailed
from tests.unit.deployment.fake_aws import FakeAccount


class S3:
    """Keeps every setting, and versions of objects that are listed two a page."""

    def __init__(self, *, answer: str = "404", versions: int = 0, stubborn: bool = False) -> None:
        self._answer = answer
        self._stubborn = stubborn
        self.versions = [(f"k{number // 2}", str(number)) for number in range(versions)]
        self.settings: dict[str, dict[str, Any]] = {}

    def head_bucket(self, **request: Any) -> None:
        self.settings["head_bucket"] = request
        if self._answer:
            raise ClientError({"Error": {"Code": self._answer, "Message": "m"}}, "HeadBucket")

    def __getattr__(self, operation: str) -> Any:
        if not operation.startswith(("put_bucket", "put_public", "create_bucket")):
            raise AttributeError(operation)
        return lambda **request: self.settings.__setitem__(operation, request)

    def list_object_versions(self, *, Bucket: str, MaxKeys: int) -> dict[str, Any]:
        page = [{"Key": key, "VersionId": version} for key, version in self.versions[:2]]
        return {"Versions": page[:1], "DeleteMarkers": page[1:]}

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        if self._stubborn:
            return {"Errors": [{"Key": "k0", "Message": "locked"}]}
        gone = {(each["Key"], each["VersionId"]) for each in Delete["Objects"]}
        self.versions = [each for each in self.versions if each not in gone]
        return {}

    def delete_bucket(self, *, Bucket: str) -> None:
        assert not self.versions
        self.settings["delete_bucket"] = {}


def test_the_bucket_for_code_is_private_encrypted_versioned_and_tls_only() -> None:
    s3 = S3()
    told: list[str] = []
    ensure_code_bucket(s3, "b", "1", "eu-west-1", told.append)
    assert told == ["making the deployment bucket b"]
    assert s3.settings["head_bucket"]["ExpectedBucketOwner"] == "1"
    assert all(s3.settings["put_public_access_block"]["PublicAccessBlockConfiguration"].values())
    assert s3.settings["put_bucket_versioning"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert "AES256" in str(s3.settings["put_bucket_encryption"])
    assert "BucketOwnerEnforced" in str(s3.settings["put_bucket_ownership_controls"])
    (statement,) = json.loads(s3.settings["put_bucket_policy"]["Policy"])["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize(
    ("region", "place", "partition"),
    [
        ("us-east-1", {}, "aws"),
        ("cn-north-1", {"LocationConstraint": "cn-north-1"}, "aws-cn"),
        ("us-gov-west-1", {"LocationConstraint": "us-gov-west-1"}, "aws-us-gov"),
    ],
)
def test_every_region_has_its_ways(region: str, place: dict[str, str], partition: str) -> None:
    s3 = S3()
    ensure_code_bucket(s3, "b", "1", region, print)
    assert s3.settings["create_bucket"].get("CreateBucketConfiguration", {}) == place
    assert f"arn:{partition}:s3:::b/*" in s3.settings["put_bucket_policy"]["Policy"]


def test_one_that_is_there_is_put_right_and_not_made_again() -> None:
    s3 = S3(answer="")
    ensure_code_bucket(s3, "b", "1", "eu-west-1", print)
    assert "create_bucket" not in s3.settings
    assert "put_bucket_policy" in s3.settings


def test_a_bucket_of_somebody_else_is_never_used() -> None:
    with pytest.raises(DeploymentFailed, match="bucket b belongs to another account"):
        bucket_is_ours(S3(answer="403"), "b", "1")
    with pytest.raises(ClientError):
        bucket_is_ours(S3(answer="500"), "b", "1")


def test_a_bucket_is_emptied_of_every_version_and_mark() -> None:
    s3 = S3(versions=7)
    assert delete_bucket(s3, "b") == 7
    assert "delete_bucket" in s3.settings


def test_an_object_that_stays_is_named() -> None:
    with pytest.raises(DeploymentFailed, match="k0 cannot be deleted: locked"):
        delete_bucket(S3(versions=1, stubborn=True), "b")


def test_a_template_lies_under_its_content() -> None:
    account = FakeAccount()
    first, second = (upload_template(account, "b", text) for text in ("a", "b"))
    assert first.startswith("https://s3.eu-west-1.amazonaws.com/b/templates/")
    assert first != second
    assert upload_template(account, "b", "a") == first
