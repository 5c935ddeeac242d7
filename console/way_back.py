"""The way back in for rejected records: correct them, then put them into their stream again, once.

A record's mark (an item of the table `effects`, changed on condition only) says how far it is. Before a record is put
it is marked `replaying`, after it `replayed`. Who dies in between leaves `replaying`: the record may be in the stream,
so it can no longer be corrected, and the next replay sends the very same bytes. If the first put had arrived, that
second one is a duplicate by its transaction id: counted, and without another effect.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from console.corrections import Kind, corrected, parsed
from console.quarantine import Entry, Fix, Mark, fix_key
from lambdas.adapters.calls import Caller
from lambdas.commit import Chain, Committer, Conflict, Link
from lambdas.ports import Clock, DecisionStore
from lambdas.writes import PutRevisedEffect
from stream_features.decision import StreamPosition, decode_decision
from stream_features.errors import ContractMismatch, MalformedRecord, PipelineError, UsageError
from stream_features.label import Label
from stream_features.names import way_back_effect_key
from stream_features.transaction import Transaction, payload_sha256

# Marks outlive the rejected records, which the bucket keeps for a year: a record must not look untouched again.
MARKS_KEPT_S: Final = 3 * 365 * 86_400

Result = Literal["replayed", "there already", "replayed already", "refused"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one record: `why` says it for people."""

    entry: Entry
    result: Result
    why: str


@dataclass(frozen=True, slots=True)
class _Sendable:
    entry: Entry
    fix: str
    payload: bytes
    record: Transaction | Label


class WayBack:
    """Corrects and replays the rejected records of a pipeline.

    Args:
        s3: boto3 client.
        kinesis: boto3 client.
        bucket: of the lake.
        decisions: says what has been decided.
        committer: changes marks.
        caller: makes the calls.
        clock: says when.
    """

    def __init__(
        self,
        s3: Any,
        kinesis: Any,
        *,
        bucket: str,
        decisions: DecisionStore,
        committer: Committer,
        caller: Caller,
        clock: Clock,
    ) -> None:
        self._s3 = s3
        self._kinesis = kinesis
        self._bucket = bucket
        self._decisions = decisions
        self._committer = committer
        self._caller = caller
        self._clock = clock

    def fix(
        self,
        entry: Entry,
        *,
        sets: Mapping[str, str],
        unset: Sequence[str],
        whole: bytes | None,
        author: str,
        reason: str,
    ) -> tuple[Fix, Transaction | Label]:
        """Keep a correction; it replaces an earlier one. The original stays as it is.

        Args:
            entry: the rejected record.
            sets: field to its new value as text.
            unset: fields to leave out.
            whole: the whole corrected record instead.
            author: who.
            reason: why.

        Raises:
            UsageError: it cannot be corrected (any more), or the correction still breaks the contract.
            PortFailure: a service did not answer.
        """
        kind = _kind(entry)
        if entry.state == "replayed":
            raise UsageError(f"{entry.position} has been replayed: {_told(entry)}")
        if entry.state == "replaying":
            raise UsageError(
                f"{entry.position}: a replay that was interrupted may have put it into the stream; "
                f"finish it first: fraudstream quarantine replay {entry.position}"
            )
        now_ms = self._clock.now_ms()
        try:
            if whole is None:
                payload = corrected(kind, entry.rejected.payload, sets, unset, arrival_ms=now_ms)
            else:
                payload = whole
            record = parsed(kind, payload, arrival_ms=now_ms)
        except MalformedRecord as error:
            raise UsageError(f"{entry.position}: the corrected record is refused: {error}") from error
        changes = [*(f"{field}={value}" for field, value in sets.items()), *(f"without {field}" for field in unset)]
        fix = Fix(
            of=entry.key,
            payload_base64=base64.b64encode(payload).decode(),
            changes=changes if whole is None else ["the whole record"],
            author=author,
            reason=reason,
            fixed_at_ms=now_ms,
        )
        document = msgspec.json.encode(fix)
        key = fix_key(entry.position, (entry.revision or 0) + 1, document)
        self._caller.call(
            lambda: self._s3.put_object(Bucket=self._bucket, Key=key, Body=document, ContentType="application/json"),
            what="PutObject",
        )
        mark = Mark(state="fixed", fix=key, transaction_id=record.transaction_id, author=author, at_ms=now_ms)
        self._change(entry, mark)
        return fix, record

    def fix_at(self, key: str) -> Fix:
        """The correction at `key`. Raises PortFailure."""
        body: bytes = self._caller.call(
            lambda: self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read(), what="GetObject"
        )
        try:
            return msgspec.json.decode(body, type=Fix)
        except msgspec.MsgspecError as error:
            raise ContractMismatch(f"s3://{self._bucket}/{key} is no correction: {error}") from error

    def replay(self, entries: Iterable[Entry], *, author: str, told: Callable[[Replayed], None]) -> list[Replayed]:
        """Put records into their streams again, in this order, each once; `told` hears of each when it is done.

        Raises:
            PortFailure: a service did not answer; what was done stays done, and the next replay goes on.
        """
        outcomes: list[Replayed] = []
        sent: dict[str, str] = {}  # transaction id to payload, of this very run
        for entry in entries:
            outcome = self._replay(entry, author, sent)
            outcomes.append(outcome)
            told(outcome)
        return outcomes

    def _replay(self, entry: Entry, author: str, sent: dict[str, str]) -> Replayed:
        if entry.state == "replayed":
            return Replayed(entry, "replayed already", _told(entry))
        try:
            sendable = self._sendable(entry)
        except MalformedRecord as error:
            cure = "correct it with: fraudstream quarantine fix" if not entry.mark else "correct it again"
            return Replayed(entry, "refused", f"still breaks the contract: {error}; {cure}")
        except UsageError as error:
            return Replayed(entry, "refused", str(error))
        record = sendable.record
        sha256 = payload_sha256(record) if isinstance(record, Transaction) else ""
        if isinstance(record, Transaction):
            known = self._decided_sha256(record.transaction_id)
            if sha256 in (known, sent.get(record.transaction_id)):
                return self._settle(sendable, author, None)
            if known or record.transaction_id in sent:
                return Replayed(
                    entry,
                    "refused",
                    f"another payload {'has been decided' if known else 'has just been replayed'} under transaction_id "
                    f"{record.transaction_id}: it would be a conflicting duplicate; if it is another transaction, "
                    "give it an id of its own: fraudstream quarantine fix --set transaction_id=…",
                )
        entry = self._change(entry, self._mark("replaying", sendable, author, None))
        answer = self._caller.call(
            lambda: self._kinesis.put_record(
                StreamName=entry.rejected.stream, PartitionKey=_partition_key(record), Data=sendable.payload
            ),
            what="PutRecord",
        )
        sent[record.transaction_id] = sha256
        sendable = _Sendable(entry, sendable.fix, sendable.payload, record)
        return self._settle(sendable, author, StreamPosition(answer["ShardId"], answer["SequenceNumber"]))

    def _sendable(self, entry: Entry) -> _Sendable:
        """What goes back: the correction, or the original where no rule refuses it any more. Raises MalformedRecord."""
        kind = _kind(entry)
        fix = entry.mark.fix if entry.mark else ""
        payload = base64.b64decode(self.fix_at(fix).payload_base64) if fix else entry.rejected.payload
        return _Sendable(entry, fix, payload, parsed(kind, payload, arrival_ms=self._clock.now_ms()))

    def _decided_sha256(self, transaction_id: str) -> str:
        document = self._decisions.get([transaction_id]).get(transaction_id)
        return decode_decision(document).payload_sha256 if document else ""

    def _settle(self, sendable: _Sendable, author: str, position: StreamPosition | None) -> Replayed:
        entry = self._change(sendable.entry, self._mark("replayed", sendable, author, position))
        return Replayed(entry, "replayed" if position else "there already", _told(entry))

    def _mark(
        self,
        state: Literal["replaying", "replayed"],
        sendable: _Sendable,
        author: str,
        position: StreamPosition | None,
    ) -> Mark:
        return Mark(
            state=state,
            fix=sendable.fix,
            transaction_id=sendable.record.transaction_id,
            author=author,
            at_ms=self._clock.now_ms(),
            position=position,
        )

    def _change(self, entry: Entry, mark: Mark) -> Entry:
        """Change a mark, if it is still the one that was read.

        Raises:
            PipelineError: it is not.
        """
        revision = (entry.revision or 0) + 1
        effect, expires_at_s = way_back_effect_key(entry.position), self._clock.now_ms() // 1000 + MARKS_KEPT_S
        write = PutRevisedEffect(effect, entry.revision, revision, msgspec.json.encode(mark), expires_at_s)
        chain = Chain([Link((write,), {})])
        self._committer.commit([chain])
        if isinstance(chain.error, Conflict):
            raise PipelineError(f"{entry.position}: somebody else is at it; look again: fraudstream quarantine show")
        if chain.error is not None:
            raise chain.error
        return msgspec.structs.replace(entry, revision=revision, mark=mark)


def _kind(entry: Entry) -> Kind:
    if entry.kind is None:
        raise UsageError(
            f"{entry.position}: records of {entry.rejected.stream} are written by the pipeline alone; a rejected one "
            "is a fault of its code, and sending it again would not cure it"
        )
    return entry.kind


def _partition_key(record: Transaction | Label) -> str:
    return record.card_id if isinstance(record, Transaction) else record.transaction_id


def _told(entry: Entry) -> str:
    mark = entry.mark
    if mark is None:
        return "nobody has touched it"
    if mark.position is None:
        return f"nothing was sent: {mark.transaction_id} is in the stream already, with the same payload"
    return f"as {mark.transaction_id} at {mark.position.shard_id} {mark.position.sequence_number}"
