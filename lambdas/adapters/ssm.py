"""The policy in force: from Parameter Store, or from S3 where the parameter points."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from botocore.exceptions import ClientError

from lambdas.adapters.calls import Caller, error_code
from lambdas.policy import InvalidPolicy, Policy, PolicyPointer, parse_parameter, parse_policy
from lambdas.ports import Clock
from stream_features.aws_answers import whole
from stream_features.errors import PortFailure

KEPT_FOR_S: Final = 5.0  # a new policy is in force everywhere after this long
_ABSENT: Final = frozenset({"NoSuchKey", "NoSuchBucket", "AccessDenied", "404"})


class SsmPolicySource:
    """Reads the policy parameter, at most once in five seconds, and the document it points to when it has changed.

    Args:
        ssm: boto3 client.
        s3: boto3 client.
        parameter: name of the parameter.
        check: raises InvalidPolicy for a policy that this function cannot decide by.
        clock: says when to look again.
        caller: makes the calls.
    """

    def __init__(
        self, ssm: Any, s3: Any, parameter: str, check: Callable[[Policy], object], clock: Clock, caller: Caller
    ) -> None:
        self._ssm = ssm
        self._s3 = s3
        self._parameter = parameter
        self._check = check
        self._clock = clock
        self._caller = caller
        self._policy: Policy | None = None
        self._value = ""  # of the parameter, when `_policy` was read
        self._problem: str | None = None
        self._read_at_s = 0.0

    def current(self) -> Policy:
        now_s = self._clock.elapsed_s()
        if self._policy is None or now_s - self._read_at_s >= KEPT_FOR_S:
            answer = self._caller.call(
                lambda: whole(self._ssm.get_parameter(Name=self._parameter), "Parameter"), what="GetParameter"
            )
            value = str(answer["Parameter"]["Value"])
            if self._policy is None:
                self._policy = self._published(value)
                self._value = value
            elif value != self._value:
                self._replace(value)
            else:
                self._problem = None
            self._read_at_s = now_s
        return self._policy

    def problem(self) -> str | None:
        return self._problem

    def _replace(self, value: str) -> None:
        try:
            self._policy = self._published(value)
        except (InvalidPolicy, PortFailure) as error:
            self._problem = str(error)  # the last good policy stays
        else:
            self._value, self._problem = value, None

    def _published(self, value: str) -> Policy:
        found = parse_parameter(value)
        policy = parse_policy(self._document(found)) if isinstance(found, PolicyPointer) else found
        self._check(policy)
        return policy

    def _document(self, pointer: PolicyPointer) -> bytes:
        where = f"s3://{pointer.bucket}/{pointer.key}"

        def absent(error: ClientError) -> None:
            if error_code(error) in _ABSENT:
                raise InvalidPolicy([f"{where}: {error_code(error)}"]) from error

        document: bytes = self._caller.call(
            lambda: self._s3.get_object(Bucket=pointer.bucket, Key=pointer.key)["Body"].read(),
            what="GetObject",
            translate=absent,
        )
        if hashlib.sha256(document).hexdigest() != pointer.sha256:
            raise InvalidPolicy([f"{where}: its bytes are not those that the parameter names"])
        return document
