"""The score API's requests: what it takes, what it answers, and what it says when it cannot.

    POST /score                        a Transaction; answers its Decision
    GET  /decisions/{transaction_id}   answers the stored Decision

`schemas/score_api.openapi.json` describes both. Events and answers are those of API Gateway's REST APIs (Lambda proxy).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from lambdas.answering import Answering, Request, UnderWay
from lambdas.budget import Budget, OutOfTime
from lambdas.port_sets import RequestPorts
from lambdas.ports import NotPublished
from lambdas.writes import StoredDecision
from stream_features.contract import WHOLE_RECORD, identifier
from stream_features.errors import MalformedRecord, PipelineError, PortFailure
from stream_features.transaction import parse_transaction, payload_sha256

Answer = dict[str, Any]  # of a Lambda proxy integration

LEAST_BUDGET_MS: Final = 1_500  # the longest call, time to answer, and twice what an answer usually takes
MOST_BUDGET_MS: Final = 25_000  # API Gateway gives up after 29 s
USUAL_BUDGET_MS: Final = 10_000
ANSWERED_WITHIN_MS: Final = 1_000  # kept back of the function's own time
RETRY_AFTER_S: Final = 1

SCORE_PATH: Final = "/score"
DECISIONS_PATH: Final = "/decisions/"
DECISION_RESOURCE: Final = f"{DECISIONS_PATH}{{transaction_id}}"
_BOOLEANS: Final = {"true": True, "false": False}


class Refused(PipelineError):
    """A request that gets an error: the answer's status and body.

    Attributes:
        status: HTTP status.
        code: for programs; stays the same.
        message: for people; says what to do.
        headers: beside the usual ones.
        details: more members of the body's `error`.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **details: object
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.details = details

    @classmethod
    def malformed(cls, error: MalformedRecord) -> Refused:
        """What breaks the contract of transactions."""
        too_large = error.field == WHOLE_RECORD and error.rule == "too_large"
        status, code = (413, "too_large") if too_large else (400, "invalid_transaction")
        return cls(status, code, error.message, field=error.field, rule=error.rule)

    def answer(self) -> Answer:
        error = {"code": self.code, "message": self.message, **self.details}
        return _answer(self.status, msgspec.json.encode({"error": error}), self.headers)


class Handled(NamedTuple):
    """An answer, and what the log is told of it.

    Attributes:
        answer: for API Gateway.
        code: of the error; empty for a decision.
        reason: why a good request has no decision; empty otherwise.
        alarm: whether it takes a person.
    """

    answer: Answer
    code: str = ""
    reason: str = ""
    alarm: bool = False


class ScoreApi:
    """Answers the requests of one function; `handle` raises nothing that a request could cause."""

    def __init__(self, ports: RequestPorts, answering: Answering, budget: Budget) -> None:
        self._ports = ports
        self._answering = answering
        self._budget = budget

    def handle(self, event: Mapping[str, Any], *, remaining_ms: int) -> Handled:
        """Answer one event of API Gateway.

        Args:
            event: of a Lambda proxy integration, payload version 1.0.
            remaining_ms: until the invocation is cut off.
        """
        try:
            stored = self._answer(event, remaining_ms - ANSWERED_WITHIN_MS)
        except MalformedRecord as error:
            refused = Refused.malformed(error)
            return Handled(refused.answer(), refused.code)
        except Refused as refused:
            return Handled(refused.answer(), refused.code)
        except PipelineError as error:
            failed = _failure(error)
            return Handled(failed.answer(), failed.code, f"{type(error).__name__}: {error}", failed.status == 500)
        return Handled(_answer(200, stored.document, {}))

    def _answer(self, event: Mapping[str, Any], time_left_ms: int) -> StoredDecision:
        # The resource, since a path may begin with what a domain of one's own maps to the API.
        method, resource = str(event["httpMethod"]), str(event["resource"])
        if resource == SCORE_PATH:
            _allowed(method, "POST")
            return self._score(event, time_left_ms)
        if resource == DECISION_RESOURCE:
            _allowed(method, "GET")
            return self._stored(str(event["pathParameters"]["transaction_id"]), time_left_ms)
        raise Refused(404, "no_such_path", f"there are POST {SCORE_PATH} and GET {DECISION_RESOURCE}")

    def _score(self, event: Mapping[str, Any], time_left_ms: int) -> StoredDecision:
        content_type = _header(event, "content-type").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise Refused(415, "unsupported_media_type", "send one transaction as application/json, in UTF-8")
        publish, budget_ms = _parameters(event)
        payload = _body(event)
        arrival_ms = self._ports.clock.now_ms()
        transaction = parse_transaction(payload, arrival_ms=arrival_ms)
        try:
            payload = msgspec.json.format(payload, indent=-1)  # the archive holds a record a line
        except msgspec.MsgspecError as error:
            raise MalformedRecord(WHOLE_RECORD, "not_json", "not JSON in a field of your own") from error
        stored = self._answering.answer(
            Request(transaction, payload, arrival_ms, publish, min(budget_ms, time_left_ms))
        )
        if stored.decision.payload_sha256 != payload_sha256(transaction):
            raise Refused(
                409,
                "conflicting_duplicate",
                "another transaction has been decided under this id; the first decision stays",
                field="transaction_id",
                rule="conflicting_duplicate",
            )
        return stored

    def _stored(self, name: str, time_left_ms: int) -> StoredDecision:
        transaction_id = identifier("transaction_id", unquote(name))
        self._budget.renew(min(USUAL_BUDGET_MS, time_left_ms))
        document = self._ports.decisions.get([transaction_id]).get(transaction_id)
        if document is None:
            message = "no transaction of this id has been decided; if it is under way, ask again"
            raise Refused(404, "unknown_transaction", message)
        return StoredDecision.from_document(document)


def internal_error() -> Handled:
    """The answer when our own code failed."""
    refused = Refused(500, "internal", "an error in the API itself; the operators have been told")
    return Handled(refused.answer(), refused.code, alarm=True)


def _allowed(method: str, only: str) -> None:
    if method != only:
        raise Refused(405, "method_not_allowed", f"use {only}", {"Allow": only})


def _parameters(event: Mapping[str, Any]) -> tuple[bool | None, int]:
    """`publish` and `budget_ms` of the query; nothing else may stand there."""
    parameters: Mapping[str, str] = event.get("queryStringParameters") or {}
    publish: bool | None = None
    budget_ms = USUAL_BUDGET_MS
    for name, text in parameters.items():
        if name == "publish":
            if text not in _BOOLEANS:
                raise Refused(400, "invalid_parameter", "must be true or false", field=name, rule="not_boolean")
            publish = _BOOLEANS[text]
        elif name == "budget_ms":
            budget_ms = int(text) if re.fullmatch("[0-9]{1,6}", text) else 0
            if not LEAST_BUDGET_MS <= budget_ms <= MOST_BUDGET_MS:
                raise Refused(
                    400,
                    "invalid_parameter",
                    f"must be a whole number from {LEAST_BUDGET_MS} to {MOST_BUDGET_MS}",
                    field=name,
                    rule="out_of_range",
                )
        else:
            raise Refused(400, "invalid_parameter", "there are publish and budget_ms", field=name, rule="unknown")
    return publish, budget_ms


def _header(event: Mapping[str, Any], name: str) -> str:
    """A header by its lower-case name; empty if there is none."""
    for header, value in (event.get("headers") or {}).items():
        if header.lower() == name:
            return str(value)
    return ""


def _body(event: Mapping[str, Any]) -> bytes:
    text = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(text).encode("utf-8", errors="surrogatepass")  # the contract refuses what is not UTF-8
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise MalformedRecord(WHOLE_RECORD, "not_base64", "the body is not base64") from error


def _failure(error: PipelineError) -> Refused:
    """What somebody is told whose request was good and has no decision; the log has the reason."""
    again = {"Retry-After": str(RETRY_AFTER_S)}
    if isinstance(error, NotPublished):
        message = "decided, but the transaction could not be published: send the same request again"
        return Refused(503, "not_published", message, again)
    if isinstance(error, UnderWay):
        message = f"published, not decided yet: ask GET {DECISION_RESOURCE} or send the request again"
        return Refused(504, "not_decided_yet", message, again)
    if isinstance(error, OutOfTime):
        return Refused(504, "not_decided_yet", "not decided within the budget: send the same request again", again)
    if isinstance(error, PortFailure):
        message = "a service behind the API did not answer: send the same request again"
        return Refused(503, "unavailable", message, again)
    return Refused(500, "cannot_decide", "state, code or model do not fit together; the operators have been told")


def _answer(status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store", **headers},
        "body": body.decode(),
        "isBase64Encoded": False,
    }
