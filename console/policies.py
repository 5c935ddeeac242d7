"""Policies from files into force and back: the documents in the artefact bucket, the pointer in the parameter store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from console.running import Pipeline
from lambdas.judging import Judge, failed_examples
from lambdas.policy import InvalidPolicy, Policy, PolicyPointer, encode_policy, parse_parameter, parse_policy
from stream_features.errors import PipelineError, PortFailure, UsageError
from stream_features.feature_sets import FeatureSet
from stream_features.names import POLICIES_PREFIX

_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})


class PolicyRefused(PipelineError):
    """A policy does not go live: it is invalid, or does not decide its own examples as they say."""


@dataclass(frozen=True, slots=True)
class Published:
    """The policy that the parameter names, and how."""

    policy: Policy
    document: bytes
    pointer: PolicyPointer | None  # None: the parameter holds the document itself


def read_policy(file: Path, features: FeatureSet) -> Judge:
    """A policy from a file, checked.

    Raises:
        PolicyRefused: one line per problem.
    """
    try:
        return Judge(parse_policy(file.read_bytes()), features)
    except InvalidPolicy as error:
        raise PolicyRefused("\n".join(f"{file}: {problem}" for problem in error.problems)) from error


def policy_key(policy_version: str) -> str:
    return f"{POLICIES_PREFIX}{policy_version}.json"


class PolicyStore:
    """The running pipeline's policies. Every method raises PortFailure when AWS does not answer."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._s3 = pipeline.client("s3")
        self._ssm = pipeline.client("ssm")
        self._bucket = pipeline.output("ArtifactsBucketName")
        self._parameter = pipeline.output("PolicyParameterName")

    def published(self) -> Published:
        """What the parameter names.

        Raises:
            InvalidPolicy: no valid policy; functions that run keep the last good one.
        """
        try:
            value: str = self._ssm.get_parameter(Name=self._parameter)["Parameter"]["Value"]
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"parameter {self._parameter}: {error}") from error
        found = parse_parameter(value)
        if isinstance(found, Policy):
            return Published(found, encode_policy(found), None)
        document = self._get(found.bucket, found.key)
        if document is None:
            raise InvalidPolicy([f"s3://{found.bucket}/{found.key} is not there"])
        if _sha256(document) != found.sha256:
            raise InvalidPolicy([f"s3://{found.bucket}/{found.key}: its bytes are not those that the parameter names"])
        return Published(parse_policy(document), document, found)

    def of_version(self, policy_version: str) -> Policy | None:
        """The policy of that version, if it is in force or was activated from a document; else None.

        Raises:
            InvalidPolicy: its document is no valid policy.
        """
        document = self._get(self._bucket, policy_key(policy_version))
        if document is not None:
            return parse_policy(document)
        published = self.published().policy
        return published if published.policy_version == policy_version else None

    def activate(self, judge: Judge) -> PolicyPointer:
        """Put a policy into force; the functions decide by it within five seconds, without a deployment.

        Raises:
            PolicyRefused: it does not decide its own examples as they say.
            UsageError: another policy of this version has been activated before.
        """
        if failed := failed_examples(judge):
            raise PolicyRefused("\n".join(failed))
        document = encode_policy(judge.policy)
        key = policy_key(judge.policy.policy_version)
        known = self._get(self._bucket, key)
        if known is not None and known != document:
            raise UsageError(
                f"policy_version {judge.policy.policy_version!r} is taken by another document: choose a new one"
            )
        previous_key, previous_sha256 = self._previous()
        if known is None:
            self._put(key, document)
        if previous_key == key:  # activated again: what it replaced the first time stays what rollback returns to
            previous_key, previous_sha256 = self._before()
        pointer = PolicyPointer(self._bucket, key, _sha256(document), previous_key, previous_sha256)
        self._point(pointer)
        return pointer

    def rollback(self) -> tuple[PolicyPointer, Policy]:
        """Put the policy that was replaced into force again; rolling back twice returns to where one was.

        Raises:
            UsageError: there is nothing to return to, or it is not there any more.
            PolicyRefused: what was replaced is no valid policy.
        """
        previous_key, previous_sha256 = self._before()
        if not previous_key:
            raise UsageError("nothing to roll back to: no policy has been activated here before the one in force")
        document = self._get(self._bucket, previous_key)
        if document is None or _sha256(document) != previous_sha256:
            raise UsageError(f"s3://{self._bucket}/{previous_key} is not there any more as it was")
        try:
            policy = parse_policy(document)
        except InvalidPolicy as error:
            raise PolicyRefused(str(error)) from error
        current = self._pointer()
        assert current is not None  # noqa: S101  it names what came before
        pointer = PolicyPointer(self._bucket, previous_key, previous_sha256, current.key, current.sha256)
        self._point(pointer)
        return pointer, policy

    def _pointer(self) -> PolicyPointer | None:
        try:
            found = parse_parameter(self._ssm.get_parameter(Name=self._parameter)["Parameter"]["Value"])
        except InvalidPolicy:
            return None
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"parameter {self._parameter}: {error}") from error
        return found if isinstance(found, PolicyPointer) else None

    def _before(self) -> tuple[str, str]:
        pointer = self._pointer()
        return (pointer.previous_key, pointer.previous_sha256) if pointer else ("", "")

    def _previous(self) -> tuple[str, str]:
        """What is in force, as something that a later rollback can point to; nothing if it is invalid."""
        try:
            published = self.published()
        except InvalidPolicy:
            return "", ""
        if published.pointer is not None:
            return published.pointer.key, published.pointer.sha256
        key = policy_key(published.policy.policy_version)
        known = self._get(self._bucket, key)
        if known is not None and known != published.document:
            key = policy_key(f"{published.policy.policy_version}-{_sha256(published.document)[:8]}")
        self._put(key, published.document)
        return key, _sha256(published.document)

    def _get(self, bucket: str, key: str) -> bytes | None:
        try:
            body: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in _ABSENT:
                return None
            raise PortFailure(f"s3://{bucket}/{key}: {error}") from error
        except BotoCoreError as error:
            raise PortFailure(f"s3://{bucket}/{key}: {error}") from error
        return body

    def _put(self, key: str, document: bytes) -> None:
        try:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=document, ContentType="application/json")
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"s3://{self._bucket}/{key}: {error}") from error

    def _point(self, pointer: PolicyPointer) -> None:
        value = msgspec.json.encode(pointer).decode()
        try:
            self._ssm.put_parameter(Name=self._parameter, Value=value, Type="String", Overwrite=True)
        except (ClientError, BotoCoreError) as error:
            raise PortFailure(f"parameter {self._parameter}: {error}") from error


def _sha256(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()


def policy_lines(policy: Policy) -> list[str]:
    """A policy for people."""
    lines = [
        f"policy {policy.policy_version}",
        f"  review from {policy.review_from}, decline from {policy.decline_from}, kill switch {policy.kill_switch}",
    ]
    if policy.degrade_after_ms is not None:
        patience = f"after {policy.degrade_after_ms} ms without the endpoint"
        lines.append(f"  {patience} lists and rules decide alone, where none applies: {policy.degraded_decision}")
    if policy.description:
        lines.insert(1, f"  {policy.description}")
    for name, kinds in (("block", policy.lists.block), ("allow", policy.lists.allow)):
        if kinds:
            lines.append(f"  {name} lists: {', '.join(kinds)}")
    for rule in sorted(policy.rules, key=lambda rule: -rule.priority):
        lines.append(f"  {rule.action:<8} {rule.id}: {rule.expression}" + (f"  ({rule.reason})" if rule.reason else ""))
    return lines


def policy_document(policy: Policy) -> dict[str, Any]:
    """A policy as JSON values."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(policy))
    return document
