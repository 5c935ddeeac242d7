"""Rejected records, read back from the lake bucket, and how far each is on its way back in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from console.corrections import Kind
from console.running import Pipeline
from lambdas.ports import EffectStore
from stream_features.decision import StreamPosition
from stream_features.errors import ContractMismatch, PortFailure, UsageError
from stream_features.names import (
    LABELS_STREAM,
    QUARANTINE_FIXES_PREFIX,
    QUARANTINE_PREFIX,
    TRANSACTIONS_STREAM,
    way_back_effect_key,
)
from stream_features.rejected import Rejected, decode_rejected

State = Literal["open", "fixed", "replaying", "replayed"]
STATES: Final[tuple[State, ...]] = ("open", "fixed", "replaying", "replayed")
_READERS: Final = 16
_SUFFIX: Final = ".json"
_KINDS: Final[tuple[tuple[str, Kind], ...]] = ((TRANSACTIONS_STREAM, "transaction"), (LABELS_STREAM, "label"))


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a rejected record is on its way back; absent while nobody has touched it.

    Attributes:
        state: `fixed`, then `replaying` (it may be in the stream), then `replayed` (it is, or need not be).
        fix: S3 key of the correction that counts; empty: the original goes back as it is.
        transaction_id: of what was sent.
        author: who did the last step.
        at_ms: when.
        position: where the replayed record stands in its stream; None where it had been decided already.
    """

    state: State
    fix: str = ""
    transaction_id: str = ""
    author: str
    at_ms: int
    position: StreamPosition | None = None


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """A correction of a rejected record, kept beside it: the bytes that go back, who gave them and why."""

    of: str
    payload_base64: str
    changes: list[str]
    author: str
    reason: str
    fixed_at_ms: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A rejected record with the revision and content of its mark."""

    key: str
    rejected: Rejected
    revision: int | None = None
    mark: Mark | None = None

    @property
    def position(self) -> str:
        """How commands name it: `transactions/shardId-000000000000/4963-0`."""
        return position_of(self.key)

    @property
    def state(self) -> State:
        return "open" if self.mark is None else self.mark.state

    @property
    def kind(self) -> Kind | None:
        """None: a record that only the pipeline itself writes."""
        return next((kind for stream, kind in _KINDS if self.rejected.stream.endswith(stream)), None)


def position_of(key: str) -> str:
    return key.removeprefix(QUARANTINE_PREFIX).removesuffix(_SUFFIX)


def key_of(position: str) -> str:
    """The S3 key of a record as commands name it; a key stays what it is."""
    return position if position.startswith(QUARANTINE_PREFIX) else f"{QUARANTINE_PREFIX}{position}{_SUFFIX}"


def fix_key(position: str, revision: int, document: bytes) -> str:
    """Where a correction is kept. Two people who correct one record at once do not write the same object."""
    digest = hashlib.sha256(document).hexdigest()[:12]
    return f"{QUARANTINE_FIXES_PREFIX}{position}/{revision}-{digest}{_SUFFIX}"


def rejected_records(pipeline: Pipeline) -> Iterator[tuple[str, Rejected]]:
    """Every quarantined record with its S3 key, in key order (stream, shard, position)."""
    s3, bucket = pipeline.client("s3"), pipeline.output("LakeBucketName")
    with ThreadPoolExecutor(_READERS) as pool:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=QUARANTINE_PREFIX):
            keys = [entry["Key"] for entry in page.get("Contents", [])]
            yield from zip(keys, pool.map(lambda key: rejected_record(pipeline, key), keys), strict=True)


def rejected_record(pipeline: Pipeline, key: str) -> Rejected:
    """The rejected record at `key`.

    Raises:
        UsageError: there is none.
        PortFailure: S3 did not answer.
    """
    s3, bucket = pipeline.client("s3"), pipeline.output("LakeBucketName")
    try:
        return decode_rejected(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
            raise PortFailure(f"s3://{bucket}/{key}: {error}") from error
        raise UsageError(f"no rejected record at {key!r}; list them with: fraudstream quarantine list") from error
    except BotoCoreError as error:
        raise PortFailure(f"s3://{bucket}/{key}: {error}") from error


def entries_of(records: Sequence[tuple[str, Rejected]], effects: EffectStore) -> list[Entry]:
    """The records with their marks. Raises PortFailure."""
    effect_of = {way_back_effect_key(position_of(key)): key for key, _ in records}
    found = effects.get(list(effect_of)) if effect_of else {}
    marks = {effect_of[effect]: stored for effect, stored in found.items()}
    return [
        Entry(
            key=key,
            rejected=rejected,
            revision=marks[key].revision if key in marks else None,
            mark=_mark(marks[key].document) if key in marks else None,
        )
        for key, rejected in records
    ]


def _mark(document: bytes) -> Mark:
    try:
        return msgspec.json.decode(document, type=Mark)
    except msgspec.MsgspecError as error:
        raise ContractMismatch(f"not the mark of a rejected record: {error}") from error


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are meant; what is None says nothing. Times are arrivals in the stream, `[from_ms, until_ms)`."""

    field: str | None = None
    rule: str | None = None
    stream: str | None = None
    state: State | None = None
    from_ms: int | None = None
    until_ms: int | None = None

    def takes(self, entry: Entry) -> bool:
        rejected = entry.rejected
        return (
            self.field in (None, rejected.field)
            and self.rule in (None, rejected.rule)
            and self.stream in (None, rejected.stream)
            and self.state in (None, entry.state)
            and (self.from_ms is None or rejected.arrival_ms >= self.from_ms)
            and (self.until_ms is None or rejected.arrival_ms < self.until_ms)
        )
