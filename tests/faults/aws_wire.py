"""What AWS calls look like on the wire: who is asked for what, and how the service says no."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote

Protocol = Literal["json", "rest-json", "rest-xml", "query"]

# By the name a service has in a signature's scope.
PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "kinesis": "json",
    "dynamodb": "json",
    "sqs": "json",
    "ssm": "json",
    "logs": "json",
    "lambda": "rest-json",
    "sagemaker": "rest-json",
    "sns": "query",
    "s3": "rest-xml",
}
_SCOPE: Final = re.compile(r"Credential=[^/]+/[^/]+/[^/]+/([^/]+)/aws4_request")
_INVOKE: Final = re.compile(r"^/2015-03-31/functions/(?P<name>[^/]+)/invocations$")
_INVOKE_ENDPOINT: Final = re.compile(r"^/endpoints/(?P<name>[^/]+)/invocations$")


@dataclass(frozen=True)
class Call:
    """One request to AWS. Header names are lower case; `path` is raw, with its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def service(self) -> str:
        """Whom its signature addresses; empty for an unsigned request."""
        found = _SCOPE.search(self.headers.get("authorization", ""))
        return found[1] if found else ""

    @cached_property
    def operation(self) -> str:
        """Its name in the API, empty where it cannot be told."""
        target = self.headers.get("x-amz-target", "")
        if target:
            return target.rsplit(".", 1)[-1]
        path = self.path.partition("?")[0]
        if self.service == "lambda" and self.method == "POST" and _INVOKE.match(path):
            return "Invoke"
        if self.service == "sagemaker" and _INVOKE_ENDPOINT.match(path):
            return "InvokeEndpoint"
        if self.service == "s3" and self.method == "PUT" and path.count("/") > 1 and "?" not in self.path:
            return "PutObject"
        if self.service == "sns":
            return parse_qs(self.body.decode(errors="replace")).get("Action", [""])[0]
        return ""

    @cached_property
    def resource(self) -> str:
        """The stream, function, endpoint or queue it is about; empty for several, and where only a token says it."""
        path = self.path.partition("?")[0]
        if named := _INVOKE.match(path) or _INVOKE_ENDPOINT.match(path):
            return unquote(named["name"]).rsplit(":", 1)[-1]
        if self.service == "kinesis" and self.operation != "GetRecords":
            asked = self.document
            return str(asked.get("StreamName") or str(asked.get("StreamARN", "")).rpartition("/")[2])
        if self.service == "sqs":
            return str(self.document.get("QueueUrl", "")).rpartition("/")[2]
        return ""

    @cached_property
    def document(self) -> dict[str, Any]:
        """The body of a JSON protocol as an object; empty when it is none."""
        try:
            parsed = json.loads(self.body)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}


@dataclass(frozen=True)
class Answer:
    """What the caller gets. Header names are lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_success(self) -> bool:
        """Whether the service did what it was asked; a function's own error is an answer too."""
        return 200 <= self.status < 300

    @property
    def error_code(self) -> str:
        """Of a JSON protocol's refusal; empty where it says none."""
        said = Call("", "", {}, self.body).document
        return (
            str(self.headers.get("x-amzn-errortype") or said.get("__type") or "").rpartition("#")[2].partition(":")[0]
        )

    def with_document(self, document: Mapping[str, Any]) -> Answer:
        """The same answer with another JSON body."""
        return self.with_body(json.dumps(document).encode())

    def with_body(self, body: bytes) -> Answer:
        """The same answer with another body, and without what described the old one."""
        described = ("content-length", "content-encoding", "x-amz-crc32")
        kept = {name: value for name, value in self.headers.items() if name not in described}
        return Answer(self.status, body, kept)


def refusal(call: Call, status: int, code: str, message: str) -> Answer:
    """The service's error `code`, spelled as the call's protocol spells errors."""
    request_id = {"x-amzn-requestid": "00000000-0000-4000-8000-000000000000"}
    protocol = PROTOCOLS.get(call.service, "json")
    if protocol == "json":
        body = json.dumps({"__type": code, "message": message})
        content_type = call.headers.get("content-type", "application/x-amz-json-1.1")
        return Answer(status, body.encode(), {"content-type": content_type, **request_id})
    if protocol == "rest-json":
        body = json.dumps({"Type": "Service", "message": message, "Message": message})
        headers = {"content-type": "application/json", "x-amzn-errortype": code, **request_id}
        return Answer(status, body.encode(), headers)
    fault = f"<Code>{code}</Code><Message>{message}</Message>"
    if protocol == "query":
        side = "Receiver" if status >= 500 else "Sender"
        body = f"<ErrorResponse><Error><Type>{side}</Type>{fault}</Error><RequestId>-</RequestId></ErrorResponse>"
    else:
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error>{fault}<RequestId>-</RequestId></Error>'
    return Answer(status, body.encode(), {"content-type": "text/xml", **request_id})
