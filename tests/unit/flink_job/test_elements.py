"""What flows between the operators, and what happens to rejected records before it does."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stream_features.decision import StreamPosition
from stream_features.errors import PortFailure
from stream_features.feature_record import RejectedMark, decode_feature_record
from stream_features.flink_job import aws_calls
from stream_features.flink_job.elements import (
    LABEL_DONE,
    NO_KEY,
    Intake,
    Lake,
    card_key,
    merchant_key,
    outgoing_mark,
)
from stream_features.flink_job.intake import Arrived, CardInput, LabelInput, Refused, take_in_transaction
from stream_features.rejected import decode_rejected
from stream_features.transaction import encode_transaction
from tests.unit.flink_job.fake_kinesis import ARRIVAL_MS, FORBIDDEN, THROTTLED
from tests.unit.stream_features.cards import a_transaction

NOW_MS = ARRIVAL_MS + 5


class FakeS3:
    def __init__(self, *errors: ClientError) -> None:
        self.errors = list(errors)
        self.objects: dict[tuple[str, str], bytes] = {}

    def put_object(self, **request: Any) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.objects[request["Bucket"], request["Key"]] = request["Body"]


def an_intake(s3: FakeS3) -> Intake:
    def take_in(arrived: Arrived, now_ms: int) -> CardInput | LabelInput | Refused:
        return take_in_transaction(arrived, now_ms=now_ms)

    return Intake(take_in, Lake(s3, "lake"), lambda: NOW_MS)


def arrived(payload: bytes, number: int = 1) -> Arrived:
    return Arrived("transactions", StreamPosition("s-0", str(number), 0), ARRIVAL_MS, payload)


GOOD = encode_transaction(a_transaction())


def test_good_records_go_on_and_bad_ones_are_stored_first_all_in_their_order() -> None:
    s3 = FakeS3()
    intake = an_intake(s3)
    elements = intake([arrived(GOOD, 1), arrived(b"\xff", 2), arrived(GOOD, 3), arrived(b"[]", 4)])
    assert [type(element) for element in elements] == [CardInput, RejectedMark, CardInput, RejectedMark]
    marks = [element for element in elements if isinstance(element, RejectedMark)]
    assert [mark.key for mark in marks] == [f"quarantine/transactions/s-0/{number}-0.json" for number in (2, 4)]
    kept = [decode_rejected(s3.objects["lake", mark.key]) for mark in marks]
    assert [(record.payload, record.rejected_at_ms) for record in kept] == [(b"\xff", NOW_MS), (b"[]", NOW_MS)]
    assert intake.rejected == 2


def test_a_rejected_record_that_cannot_be_stored_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_calls, "pause_ms", lambda failures: 0)
    s3 = FakeS3(THROTTLED, THROTTLED)
    assert len(an_intake(s3)([arrived(b"")])) == 1
    for errors in ([FORBIDDEN], [THROTTLED] * aws_calls.TRIES):
        intake = an_intake(FakeS3(*errors))
        with pytest.raises(PortFailure, match="PutObject"):
            intake([arrived(b"")])
        assert intake.rejected == 0


def test_keys() -> None:
    (item, mark) = an_intake(FakeS3())([arrived(GOOD), arrived(b"")])
    assert isinstance(item, CardInput)
    assert isinstance(mark, RejectedMark)
    assert card_key(item) == "card-1"
    assert card_key(mark) == merchant_key(mark) == NO_KEY


def test_a_rejected_mark_goes_out_under_its_position() -> None:
    (mark,) = an_intake(FakeS3())([arrived(b"", 17)])
    assert isinstance(mark, RejectedMark)
    key, payload, follows = outgoing_mark(mark)
    assert not follows
    assert key == "s-0:17:0"
    assert decode_feature_record(payload) == mark


def test_elements_survive_the_way_between_operators() -> None:
    elements = an_intake(FakeS3())([arrived(GOOD), arrived(b"\x00\xff")])
    assert pickle.loads(pickle.dumps(elements)) == elements  # noqa: S301
    assert pickle.loads(pickle.dumps(LABEL_DONE)) == LABEL_DONE  # noqa: S301
