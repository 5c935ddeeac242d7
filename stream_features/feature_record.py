"""The FeatureRecord contract: what the Flink job says about one record of its inputs, one record of `features`.

* `features`: a transaction with its features, to be scored and decided.
* `duplicate`: the card has seen this transaction id before; nothing was computed and nothing changed.
* `rejected`: a record broke its contract; the job has stored it, whoever reads this counts it.

Job and scorer both deliver at least once, so every record names the position of the one it speaks of.
"""

from __future__ import annotations

from math import nan
from typing import Final

import msgspec

from stream_features.decision import StreamPosition
from stream_features.errors import ContractMismatch
from stream_features.feature_sets import FeatureSet


class FeaturesRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="features"):
    """A transaction and its features.

    Attributes:
        payload: the publisher's record as it came, JSON text.
        position: of that record in `transactions`.
        arrival_ms: when it arrived there, epoch ms.
        feature_set_id: what the features are.
        features: float64 by name in feature-set order; None where there is no value.
        late: the transaction is older than its card's newest purchase.
        state: base64 of the card's packed state afterwards, where the job was told to add it; otherwise empty.
    """

    payload: str
    position: StreamPosition
    arrival_ms: int
    feature_set_id: str
    features: dict[str, float | None]
    late: bool
    state: str = ""


class DuplicateRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="duplicate"):
    """A transaction whose id its card has seen before; the fields are those of `FeaturesRecord`."""

    payload: str
    position: StreamPosition
    arrival_ms: int


class RejectedMark(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rejected"):
    """A record that broke its contract and lies in quarantine.

    Attributes:
        stream: where it came from.
        position: of the record there.
        arrival_ms: when it arrived there, epoch ms.
        field: what broke the contract.
        rule: which rule it broke.
        key: of the Rejected object in the lake.
    """

    stream: str
    position: StreamPosition
    arrival_ms: int
    field: str
    rule: str
    key: str


FeatureStreamRecord = FeaturesRecord | DuplicateRecord | RejectedMark

encode_feature_record: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(FeatureStreamRecord).decode


def decode_feature_record(raw: bytes | str) -> FeatureStreamRecord:
    """The record that `encode_feature_record` wrote; fields this code does not know are ignored.

    Raises:
        ContractMismatch: it is none. Only our own job writes this stream, so that is never a publisher's fault.
    """
    try:
        return _decode(raw)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractMismatch(f"not a record of the features stream: {error}") from None


def values_of(record: FeaturesRecord, features: FeatureSet) -> tuple[float, ...]:
    """The record's values in feature-set order, NaN for None.

    Raises:
        ContractMismatch: the record was computed with another feature set.
    """
    if record.feature_set_id != features.feature_set_id:
        raise ContractMismatch(f"features of {record.feature_set_id!r}, not of {features.feature_set_id!r}")
    if record.features.keys() != set(features.names):
        raise ContractMismatch(f"the record's features are not those of {features.feature_set_id!r}")
    return tuple(nan if value is None else value for value in map(record.features.__getitem__, features.names))
