"""A model's thresholds into the policy in force, whose rules, lists and examples stay as they are."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError

from stream_features.errors import PipelineError
from stream_features.names import POLICIES_PREFIX


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the document that a model decides; alone it is a whole policy, without rules."""

    policy_version: str
    review_from: float
    decline_from: float


class PolicyUnreadable(PipelineError):
    """What the parameter points to is not there or no document, so nothing can be carried over from it."""


_MODEL_SIGN: Final = "+"  # what follows it in a version is the model that brought the thresholds


def parameter_with(s3: Any, ssm: Any, *, bucket: str, parameter: str, thresholds: Policy) -> str:
    """The value for the parameter: the thresholds alone, or a pointer to the document in force with them in it.

    Args:
        s3: boto3 client, as is the next one.
        ssm: see s3.
        bucket: where policies are kept.
        parameter: name of the parameter.
        thresholds: of the model, under its version.

    Raises:
        PolicyUnreadable: the parameter points to what cannot be read.
    """
    pointer = _pointer(ssm, parameter)
    if pointer is None:
        return msgspec.json.encode(thresholds).decode()
    try:
        former = s3.get_object(Bucket=pointer["bucket"], Key=pointer["key"])["Body"].read()
        document = msgspec.json.decode(former, type=dict[str, Any])
        version = str(document["policy_version"]).partition(_MODEL_SIGN)[0]
    except (ClientError, msgspec.MsgspecError, KeyError) as error:
        raise PolicyUnreadable(f"the policy in force, {pointer.get('key')!r}, cannot be read: {error}") from error
    document |= msgspec.to_builtins(thresholds)
    document["policy_version"] = f"{version}{_MODEL_SIGN}{thresholds.policy_version}"
    content = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    key = f"{POLICIES_PREFIX}{document['policy_version']}.json"
    s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType="application/json")
    value = {"bucket": bucket, "key": key, "sha256": hashlib.sha256(content).hexdigest()}
    value |= {"previous_key": pointer["key"], "previous_sha256": pointer["sha256"]}
    return msgspec.json.encode(value).decode()


def _pointer(ssm: Any, parameter: str) -> dict[str, Any] | None:
    """The parameter's value where it is a pointer."""
    try:
        found = msgspec.json.decode(ssm.get_parameter(Name=parameter)["Parameter"]["Value"])
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            return None
        raise
    except msgspec.MsgspecError:
        return None  # no policy at all: the thresholds mend it
    return found if isinstance(found, dict) and {"bucket", "key", "sha256"} <= found.keys() else None
