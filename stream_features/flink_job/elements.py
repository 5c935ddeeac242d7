"""What flows between the operators, and the keys it flows by.

Between the operators elements are pickled. Records for the `features` stream are plain tuples: they are the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from stream_features import names
from stream_features.feature_record import DuplicateRecord, FeaturesRecord, RejectedMark, encode_feature_record
from stream_features.flink_job.aws_calls import call
from stream_features.flink_job.card_stage import DuplicateOut, MerchantInput
from stream_features.flink_job.intake import Arrived, CardInput, LabelInput, Refused
from stream_features.rejected import encode_rejected

# Partition key and record of the features stream, and whether it must not overtake earlier ones of its key.
Outgoing = tuple[str, bytes, bool]

LABEL_DONE: Final[Outgoing] = (
    "",
    b"",
    False,
)  # goes to the writer, which counts it; no record has an empty partition key
NO_KEY: Final = ""  # of rejected marks, which concern no card and no merchant
THE_ONE: Final = "one"  # key of what one operator does for a whole stream

_PUTS_AT_ONCE: Final = 8


def card_key(item: CardInput | RejectedMark) -> str:
    return NO_KEY if isinstance(item, RejectedMark) else item.card_id


def merchant_key(item: MerchantInput | DuplicateOut | LabelInput | RejectedMark) -> str:
    return NO_KEY if isinstance(item, RejectedMark) else item.merchant_id


def entities(items: Iterable[CardInput | LabelInput | RejectedMark], *, merchants: bool) -> Iterator[str]:
    """The keys of `entity_state` that may be asked for on behalf of `items`; those of merchants only if asked for."""
    for item in items:
        if isinstance(item, CardInput):
            yield names.card_key(item.card_id)
        if merchants and not isinstance(item, RejectedMark):
            yield names.merchant_key(item.merchant_id)


def the_one(item: object) -> str:
    return THE_ONE


def outgoing(record: FeaturesRecord | DuplicateRecord, card_id: str) -> Outgoing:
    """A record of the features stream under its card's partition key; a duplicate comes after what it repeats."""
    return card_id, encode_feature_record(record), isinstance(record, DuplicateRecord)


def outgoing_mark(mark: RejectedMark) -> Outgoing:
    """A rejected mark under its position as partition key: nobody knows its card."""
    position = mark.position
    key = f"{position.shard_id}:{position.sequence_number}:{position.sub_sequence_number}"
    return key, encode_feature_record(mark), False


class Lake:
    """Keeps rejected records as objects of the lake bucket."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def keep(self, refused: Sequence[Refused]) -> None:
        """Store every object before any mark goes on.

        Raises:
            PortFailure: one could not be stored.
        """
        if len(refused) == 1:
            self._put(refused[0])
        elif refused:
            with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:  # a burst of bad records must not hold a checkpoint up
                list(pool.map(self._put, refused))

    def _put(self, refused: Refused) -> None:
        body: bytes = encode_rejected(refused.rejected)
        call(
            lambda: self._s3.put_object(
                Bucket=self._bucket, Key=refused.mark.key, Body=body, ContentType="application/json"
            ),
            what="PutObject",
        )


class Intake:
    """Takes records in; what breaks its contract is stored and goes on as a mark.

    Args:
        take_in: of `intake.py`, given the record and the time (epoch ms).
        lake: where rejected records go.
        now_ms: wall clock, epoch ms.
    """

    def __init__(
        self,
        take_in: Callable[[Arrived, int], CardInput | LabelInput | Refused],
        lake: Lake,
        now_ms: Callable[[], int],
    ) -> None:
        self.rejected = 0
        self._take_in = take_in
        self._lake = lake
        self._now_ms = now_ms

    def __call__(self, records: Sequence[Arrived]) -> list[CardInput | LabelInput | RejectedMark]:
        """One element a record, in their order.

        Raises:
            PortFailure: a rejected record could not be stored.
        """
        now_ms = self._now_ms()
        taken = [self._take_in(arrived, now_ms) for arrived in records]
        refused = [item for item in taken if isinstance(item, Refused)]
        if not refused:
            return taken  # type: ignore[return-value]
        self._lake.keep(refused)
        self.rejected += len(refused)
        return [item.mark if isinstance(item, Refused) else item for item in taken]
