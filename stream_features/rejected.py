"""The Rejected contract: a record that can never be decided, kept whole with the reason."""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from stream_features.decision import StreamPosition
from stream_features.errors import ContractMismatch, MalformedRecord


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """One quarantined record: its bytes, the field and rule it breaks, where and when it came (epoch ms)."""

    payload_base64: str
    field: str
    rule: str
    message: str
    stream: str
    stream_position: StreamPosition
    arrival_ms: int
    rejected_at_ms: int

    @property
    def payload(self) -> bytes:
        """The record's original bytes."""
        return base64.b64decode(self.payload_base64)


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Rejected)


def rejected(
    payload: bytes,
    error: MalformedRecord,
    *,
    stream: str,
    stream_position: StreamPosition,
    arrival_ms: int,
    rejected_at_ms: int,
) -> Rejected:
    """`payload` as a Rejected record that carries the error's field, rule and message."""
    return Rejected(
        payload_base64=base64.b64encode(payload).decode("ascii"),
        field=error.field,
        rule=error.rule,
        message=error.message,
        stream=stream,
        stream_position=stream_position,
        arrival_ms=arrival_ms,
        rejected_at_ms=rejected_at_ms,
    )


def encode_rejected(record: Rejected) -> bytes:
    return _encoder.encode(record)


def decode_rejected(document: bytes | str) -> Rejected:
    """The record `encode_rejected` wrote; raises ContractMismatch when it is none."""
    try:
        return _decoder.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractMismatch(f"not a rejected record: {error}") from error
