"""Buckets of a deployment: the one that code goes through, and those that are emptied when data may go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

from botocore.exceptions import ClientError

from console.deployment.failures import DeploymentFailed

_UNFINISHED_AFTER_DAYS: Final = 3
_FORMER_VERSIONS_DAYS: Final = 90
_ABSENT: Final = frozenset({"404", "NoSuchBucket", "NotFound"})


def bucket_is_ours(s3: Any, bucket: str, account: str) -> bool:
    """Whether the bucket exists; in this account.

    Raises:
        DeploymentFailed: it exists, but somewhere else: names of buckets are global.
    """
    try:
        s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        if code in _ABSENT:
            return False
        if code in ("403", "AccessDenied", "Forbidden"):
            raise DeploymentFailed(
                f"bucket {bucket} belongs to another account, or you may not look at it; "
                "give the stack another name in samconfig.toml, or ask for s3:ListBucket"
            ) from error
        raise
    return True


def ensure_code_bucket(s3: Any, bucket: str, account: str, region: str, progress: Callable[[str], None]) -> None:
    """Make the bucket for code, unless it is there; private, encrypted, TLS only, versioned in either case.

    Raises:
        DeploymentFailed: the name is taken by another account.
    """
    if not bucket_is_ours(s3, bucket, account):
        progress(f"making the deployment bucket {bucket}")
        # us-east-1 is the one region that may not be named.
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3.create_bucket(Bucket=bucket, **place)
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
    )
    s3.put_bucket_ownership_controls(
        Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    )
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "leftovers",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _UNFINISHED_AFTER_DAYS},
                    "NoncurrentVersionExpiration": {"NoncurrentDays": _FORMER_VERSIONS_DAYS},
                }
            ]
        },
    )
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    arn = f"arn:{partition}:s3:::{bucket}"
    statement = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


def upload_template(s3: Any, bucket: str, template: str) -> str:
    """Put a template into `bucket`; return the URL that CloudFormation reads it from."""
    key = f"templates/{hashlib.sha256(template.encode()).hexdigest()}.yaml"
    s3.put_object(Bucket=bucket, Key=key, Body=template.encode(), ContentType="application/x-yaml")
    return f"{s3.meta.endpoint_url}/{bucket}/{key}"


def delete_bucket(s3: Any, bucket: str) -> int:
    """Empty a bucket, former versions and delete marks included, and delete it; return how many objects went.

    Raises:
        DeploymentFailed: an object could not be deleted.
    """
    gone = 0
    while True:
        page = s3.list_object_versions(Bucket=bucket, MaxKeys=1000)
        found = [
            {"Key": entry["Key"], "VersionId": entry["VersionId"]}
            for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        ]
        if not found:
            break
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
        if answer.get("Errors"):
            first = answer["Errors"][0]
            raise DeploymentFailed(f"bucket {bucket}: {first['Key']} cannot be deleted: {first.get('Message')}")
        gone += len(found)
    s3.delete_bucket(Bucket=bucket)
    return gone
