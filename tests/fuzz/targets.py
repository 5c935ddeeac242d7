"""What is fuzzed. A target reads an input as the product does and says whether it was accepted.

It may refuse with the error that its contract declares, and with no other. What it accepts must come back when it is
written and read again.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar
from unittest.mock import patch

import msgspec
from click.testing import CliRunner

from console.cli import main
from lambdas.policy import InvalidPolicy, parse_parameter, parse_policy
from lambdas.rules import Kind, RuleError, Value, compile_condition
from lambdas.score_requests import ScoreApi
from stream_features import transaction as transactions
from stream_features.aggregation import user_payloads
from stream_features.codec import pack, unpack
from stream_features.decision import decode_decision, encode_decision
from stream_features.entity_event import decode_entity_event, encode_entity_event
from stream_features.errors import ContractMismatch, MalformedRecord, StateCorrupt
from stream_features.feature_record import decode_feature_record, encode_feature_record
from stream_features.label import FIELDS as LABEL_FIELDS
from stream_features.label import encode_label, parse_label
from stream_features.merchant_codec import pack_merchant, unpack_merchant
from stream_features.rejected import decode_rejected, encode_rejected
from tests.fuzz.athena import EchoingAthena
from tests.fuzz.inputs import as_it_is, with_checksum, with_digest
from tests.unit.endpoint.bodies import CSV, JSON, JSON_LINES, NPY, Application
from tests.unit.endpoint.models import an_artifact
from tests.unit.lambdas.fakes import World
from tests.unit.lambdas.requests import an_event, api_on, ask

T = TypeVar("T")

ARRIVAL_MS: Final = 1_800_000_000_000
MEDIA_TYPES: Final = (JSON, JSON_LINES, CSV, NPY)
NAMES: Final[dict[str, Kind]] = {"n": "int", "x": "double", "s": "string", "a": "bool", "block.card": "bool"}
VALUES: Final[tuple[dict[str, Value], ...]] = (
    dict.fromkeys(NAMES),
    {"n": 3, "x": 0.5, "s": "grocery", "a": True, "block.card": False},
    {"n": -(10**12), "x": -1.7976931348623157e308, "s": "", "a": False, "block.card": True},
    {"n": 253_402_300_799_999, "x": 0.0, "s": "\U0001f600" * 128, "a": True, "block.card": True},
)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        check: whether the input was accepted; raises what nobody declared.
        repair: see `inputs`.
    """

    name: str
    check: Callable[[bytes], bool]
    repair: Callable[[bytes], bytes] = as_it_is


def _transaction(raw: bytes) -> bool:
    """The compiled and the exact side must agree, in their verdict and in its words."""
    found = _verdict(lambda: transactions.parse_transaction(raw, arrival_ms=ARRIVAL_MS))
    assert found == _verdict(lambda: transactions._parse_exactly(raw, ARRIVAL_MS))
    if isinstance(found, tuple):
        assert found[0] in {"$", *transactions.FIELDS}
        return False
    written = transactions.encode_transaction(found)
    assert transactions.parse_transaction(written, arrival_ms=ARRIVAL_MS) == found
    return True


def _label(raw: bytes) -> bool:
    found = _verdict(lambda: parse_label(raw))
    if isinstance(found, tuple):
        assert found[0] in {"$", *LABEL_FIELDS}
        return False
    assert parse_label(encode_label(found)) == found
    return True


def _verdict(parse: Callable[[], T]) -> T | tuple[str, str]:
    """What was read, or the field and the rule of the refusal."""
    try:
        return parse()
    except MalformedRecord as error:
        return error.field, error.rule


def _document(
    read: Callable[[bytes], Any], write: Callable[[Any], bytes], refusal: type[Exception]
) -> Callable[[bytes], bool]:
    def check(raw: bytes) -> bool:
        try:
            found = read(raw)
        except refusal:
            return False
        assert read(write(found)) == found
        return True

    return check


def _state(read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Callable[[bytes], bool]:
    def check(packed: bytes) -> bool:
        try:
            state = read(packed)
        except StateCorrupt:
            return False
        once = write(state)
        assert write(read(once)) == once
        return True

    return check


def _aggregate(payload: bytes) -> bool:
    found = user_payloads(payload)
    assert found, "the record is gone"
    return found != [payload]


def _rule(raw: bytes) -> bool:
    try:
        fires = compile_condition(raw.decode("utf-8", "replace"), NAMES)
    except RuleError:
        return False
    for values in VALUES:
        assert fires(values) in (True, False, None)
    return True


def _policy(raw: bytes) -> bool:
    try:
        parse_parameter(raw.decode("utf-8", "replace"))
    except InvalidPolicy:
        return False
    try:
        policy = parse_policy(raw)
    except InvalidPolicy:
        return False
    assert parse_policy(msgspec.json.encode(policy)) == policy
    return True


@cache
def _application() -> Application:
    return Application(an_artifact())


def _endpoint_body(raw: bytes) -> bool:
    """The first byte says the media type."""
    media_type = MEDIA_TYPES[raw[0] % 4] if raw else JSON
    answered = _application().post({"content-type": media_type}, raw[1:])
    assert answered.status_code in (200, 400), answered.text
    if answered.status_code == 200:
        assert all(0 <= one["score"] <= 1 for one in answered.json()["predictions"])
        return True
    assert answered.json()["error"]["code"] not in ("", "internal")
    return False


def _query(raw: bytes) -> bool:
    """The argument of `fraudstream query`, against an Athena that takes everything and shows the statement."""
    # An argument cannot hold NUL, and what is no UTF-8 in it arrives in this form.
    asked = os.fsdecode(raw.replace(b"\0", b""))
    with patch("console.running.running_pipeline", EchoingAthena):
        shown = CliRunner().invoke(main, ["query", "--", asked])
        as_json = CliRunner().invoke(main, ["query", "--json", "--", asked])
    for result in (shown, as_json):
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert "Traceback" not in result.output
    assert shown.exit_code == as_json.exit_code
    if shown.exit_code:
        assert shown.exit_code in (1, 2)
        assert shown.stderr
        return False
    json.loads(as_json.stdout)
    return True


def _score_request(raw: bytes) -> bool:
    """The body of `POST /score` as text and as base64, and the same bytes as a parameter and as a path."""
    api, text = api_on(World()), raw.decode("utf-8", "replace")
    encoded = an_event(base64.b64encode(raw).decode(), isBase64Encoded=True)
    status = _answered(api, encoded)
    assert _answered(api, an_event(text)) in (200, 400, 409, 413)
    assert _answered(api, an_event("{}", query={"budget_ms": text})) == 400
    assert _answered(api, an_event("{}", content_type=text)) in (400, 415)
    assert _answered(api, an_event(method="GET", path=f"/decisions/{text}")) in (200, 400, 404)
    assert status in (200, 400, 413)
    return status == 200


def _answered(api: ScoreApi, event: dict[str, Any]) -> int:
    """The status of an answer that is as the API's description says."""
    answer = ask(api, event).answer
    document = json.loads(answer["body"])
    if answer["statusCode"] != 200:
        assert document["error"]["code"] not in ("", "internal")
        assert document["error"]["message"]
    return answer["statusCode"]


TARGETS: Final = (
    Target("transaction", _transaction),
    Target("label", _label),
    Target("entity_event", _document(decode_entity_event, encode_entity_event, MalformedRecord)),
    Target("feature_record", _document(decode_feature_record, encode_feature_record, ContractMismatch)),
    Target("decision", _document(decode_decision, encode_decision, ContractMismatch)),
    Target("rejected", _document(decode_rejected, encode_rejected, ContractMismatch)),
    Target("card_state", _state(unpack, pack), with_checksum),
    Target("merchant_state", _state(unpack_merchant, pack_merchant), with_checksum),
    Target("aggregate", _aggregate, with_digest),
    Target("rule", _rule),
    Target("policy", _policy),
    Target("endpoint_body", _endpoint_body),
    Target("query", _query),
    Target("score_request", _score_request),
)
