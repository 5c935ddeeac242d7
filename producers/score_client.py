"""Asking for a decision: the score API from an application, signed, with the retries that its contract allows.

A request may be repeated at any time, since a transaction has one decision. What cannot succeed is raised at once.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, urlencode

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError as NotConnected
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session

from producers.validation import validated
from stream_features.contract import identifier
from stream_features.decision import Decision, decode_decision
from stream_features.errors import MalformedRecord, PipelineError, PortFailure
from stream_features.transaction import Transaction

TRIES: Final = 4
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 29.0  # API Gateway's own
_RETRIED: Final = frozenset({429, 500, 502, 503, 504})
_BROKEN_CONTRACT: Final = frozenset({"invalid_transaction", "too_large", "conflicting_duplicate"})


class RequestRefused(PipelineError):
    """The API refused the request for another reason than its transaction: a signature, a permission, a parameter."""


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes


class Send(Protocol):
    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Make one HTTP request. Raises PortFailure when there is no answer."""
        ...


class ScoreClient:
    """Asks one score API. May be shared by threads.

    Args:
        url: the stack's output `ScoreApiUrl`.
        credentials: botocore credentials (`boto3.Session().get_credentials()`), allowed `execute-api:Invoke`.
        region: of the API.
        timeout_s: how long one try may take. A caller that cannot wait takes its own decision after that and asks
            `decision` later.
        tries: how often at most a request is made.
        send: makes the HTTP requests; for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Any,
        region: str,
        timeout_s: float = ANSWER_TIMEOUT_S,
        tries: int = TRIES,
        send: Send | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._region = region
        self._tries = tries
        self._send = send or http_sender(timeout_s)
        self._pause = pause

    def score(
        self,
        transaction: Transaction | Mapping[str, Any],
        *,
        publish: bool | None = None,
        budget_ms: int | None = None,
    ) -> Decision:
        """The decision on a transaction, made now if there is none yet.

        Args:
            transaction: an instance, or a mapping with the contract's field names.
            publish: whether the API publishes it as well; None: only as the engine needs it.
            budget_ms: within which the API answers (1,500 to 25,000).

        Raises:
            MalformedRecord: the transaction breaks its contract, or another one was decided under its id.
            RequestRefused: see there.
            PortFailure: no answer after all tries; the transaction may be decided all the same.
            ContractMismatch: the answer is no decision.
        """
        payload = validated(transaction, arrival_ms=time.time_ns() // 1_000_000).payload
        return decode_decision(self.score_payload(payload, publish=publish, budget_ms=budget_ms))

    def score_payload(self, payload: bytes, *, publish: bool | None = None, budget_ms: int | None = None) -> bytes:
        """As `score`, from JSON to JSON; it is the API that holds the payload to the contract."""
        query = {} if publish is None else {"publish": str(publish).lower()}
        if budget_ms is not None:
            query["budget_ms"] = str(budget_ms)
        path = f"/score?{urlencode(query)}" if query else "/score"
        return self._ask("POST", path, payload)

    def decision(self, transaction_id: str) -> Decision | None:
        """The stored decision on a transaction; None if there is none (yet). Raises as `score`."""
        path = f"/decisions/{quote(identifier('transaction_id', transaction_id), safe='')}"
        try:
            return decode_decision(self._ask("GET", path, b""))
        except _NotFound:
            return None

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """One signed request as it is, and its answer as it is. Raises PortFailure when there is none."""
        request = AWSRequest(method, self._url + path, headers=dict(headers or {}), data=body)
        # Taken for every request: credentials of a role are replaced while the program runs.
        credentials = self._credentials.get_frozen_credentials()
        SigV4Auth(credentials, "execute-api", self._region).add_auth(request)
        return self._send(method, self._url + path, dict(request.headers.items()), body)

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        for tried in range(1, self._tries + 1):
            try:
                reply = self.request(method, path, body, {"Content-Type": "application/json"} if body else None)
                if reply.status not in _RETRIED:
                    return _answered(reply)
                failure = PortFailure(f"the score API answered {reply.status}: {_error(reply).get('message', '')}")
            except PortFailure as error:
                failure = error
            if tried < self._tries:
                longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tried - 1))
                self._pause(longest_s * (0.5 + secrets.randbelow(1_000) / 2_000))
        raise failure


class _NotFound(PipelineError):
    pass


def http_sender(timeout_s: float) -> Send:
    """Sends over connections that are kept open."""
    session = URLLib3Session(timeout=(CONNECT_TIMEOUT_S, timeout_s), max_pool_connections=32)

    def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        try:
            answer = session.send(AWSRequest(method, url, headers=dict(headers), data=body).prepare())
        except (HTTPClientError, NotConnected) as error:
            raise PortFailure(f"the score API did not answer: {type(error).__name__}") from error
        return Reply(answer.status_code, answer.content)

    return send


def _answered(reply: Reply) -> bytes:
    """The body of a decision; an error that a further try would not mend is raised."""
    if reply.status == 200:
        return reply.body
    error = _error(reply)
    code = str(error.get("code", ""))
    message = str(error.get("message", ""))
    if code == "unknown_transaction":
        raise _NotFound(message)
    if code in _BROKEN_CONTRACT:
        raise MalformedRecord(str(error.get("field", "$")), str(error.get("rule", code)), message)
    about = f"{error['field']}: " if "field" in error else ""
    raise RequestRefused(f"the score API answered {reply.status}: {about}{message or code}")


def _error(reply: Reply) -> dict[str, Any]:
    """What an error says: our body, or API Gateway's."""
    try:
        document = json.loads(reply.body)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    return error if isinstance(error, dict) else {}
