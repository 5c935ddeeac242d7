"""The Decision contract: what was decided about a transaction, from what, and by what."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stream_features.errors import ContractMismatch
from stream_features.transaction import AuthResult, Channel, TransactionType

SCHEMA_VERSION: Final = 1
API_SHARD: Final = "api"  # where a decision stands that was asked for through the score API, not by a record

Verdict = Literal["approve", "review", "decline"]
Engine = Literal["lambda", "flink"]


class Reason(msgspec.Struct, frozen=True):
    """A feature and its signed contribution to the score, in log-odds."""

    feature: str
    contribution: float


class StreamPosition(msgspec.Struct, frozen=True):
    """Where a user record stands in its stream; ordered within a shard.

    Sequence numbers are decimal strings of up to 128 digits, so they are compared as integers. A decision made for a
    request to the score API has shard `api` and, as its sequence number, when the request came (epoch ms).
    """

    shard_id: str
    sequence_number: str
    sub_sequence_number: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """What sorts the records of one shard."""
        return int(self.sequence_number), self.sub_sequence_number

    @property
    def of_request(self) -> bool:
        """Whether it stands for a request to the score API: no record of a stream stands here."""
        return self.shard_id == API_SHARD

    def __lt__(self, other: StreamPosition) -> bool:
        return (self.shard_id, self.order) < (other.shard_id, other.order)

    def __le__(self, other: StreamPosition) -> bool:
        return (self.shard_id, self.order) <= (other.shard_id, other.order)

    def __gt__(self, other: StreamPosition) -> bool:
        return other < self

    def __ge__(self, other: StreamPosition) -> bool:
        return other <= self


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: the transaction's fields, then how it was judged. At most one exists per `transaction_id`.

    `features` holds float64 by name, None where there is no value; `arrival_ms` and `scored_at_ms` are wall clock;
    `late` means older than the card's newest event. `degraded` means that the endpoint was down and rules decided
    alone: `score` is None, `reasons`, `model_version` and `variant` are empty. `rescored_at_ms` (wall clock) says when
    such a decision was replaced by one with a score; `scored_at_ms` stays that of the first decision.
    """

    transaction_id: str
    event_time_ms: int
    card_id: str
    merchant_id: str
    amount_minor: int
    currency: str
    type: TransactionType = "purchase"
    auth_result: AuthResult = "unknown"
    merchant_category: str | None = None
    channel: Channel | None = None
    country: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    device_id: str | None = None
    ip: str | None = None

    score: float | None
    decision: Verdict
    reasons: list[Reason]
    rules: list[str]
    features: dict[str, float | None]
    feature_set_id: str
    model_version: str
    variant: str
    policy_version: str
    engine: Engine
    stream_position: StreamPosition
    arrival_ms: int
    scored_at_ms: int
    late: bool
    degraded: bool
    rescored_at_ms: int | None = None
    payload_sha256: str
    schema_version: int = SCHEMA_VERSION

    @property
    def is_purchase(self) -> bool:
        """Refunds and reversals are scored and stored, and change no state."""
        return self.type == "purchase"


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Decision)


def encode_decision(decision: Decision) -> bytes:
    """Compact JSON; floats in the shortest form that reads back to the same bits."""
    return _encoder.encode(decision)


def decode_decision(document: bytes | str) -> Decision:
    """The decision `encode_decision` wrote.

    Raises:
        ContractMismatch: the document is not a Decision of this schema version.
    """
    try:
        decision = _decoder.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractMismatch(f"not a decision: {error}") from error
    if decision.schema_version != SCHEMA_VERSION:
        raise ContractMismatch(
            f"decision of schema version {decision.schema_version}, this code reads {SCHEMA_VERSION}"
        )
    return decision
