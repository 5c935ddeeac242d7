"""What must hold after a run, whatever happened in it; each check can fail, and self-tests prove it."""

from __future__ import annotations

import math
import struct
import tarfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from console.running import Pipeline
from stream_features.decision import Decision
from stream_features.feature_sets import feature_set
from stream_features.label import Label
from stream_features.transaction import Transaction, payload_sha256
from tests.e2e.driver import quarantined as quarantined_records
from tests.oracle import oracle_features

# Bit-equality of decisions covers these; versions, times and variants may differ between runs.
COMPARED = ("score", "decision", "reasons", "rules", "features", "late", "payload_sha256", "card_id", "amount_minor")


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack(">d", value)


def feature_mismatches(
    history: Sequence[Transaction],
    decisions: Mapping[str, Decision],
    feature_set: str,
    labels: Sequence[Label] = (),
    *,
    only: Collection[str] | None = None,
) -> list[str]:
    """Ids whose served features differ in any bit from the slow oracle over `history` (arrival order).

    Args:
        history: everything that came, in order of arrival.
        decisions: those to compare.
        feature_set: the name of the set.
        labels: in the order in which they were reported.
        only: names of the features to compare; None for all.
    """
    wrong = []
    for transaction, expected in zip(history, oracle_features(list(history), feature_set, labels), strict=True):
        decision = decisions.get(transaction.transaction_id)
        if decision is None:
            continue
        names = expected.keys() if only is None else only
        if decision.features.keys() != expected.keys() or any(
            bits(decision.features[name]) != bits(expected[name]) for name in names
        ):
            wrong.append(transaction.transaction_id)
    return wrong


def features_of_the_card(feature_set_name: str) -> list[str]:
    """Names of the features that read no merchant: they do not depend on how fast merchants are updated."""
    return [one.name for one in feature_set(feature_set_name).features if one.entity != "merchant"]


def row_mismatches(
    ids: Sequence[str], rows: Sequence[Sequence[float]], decisions: Mapping[str, Decision], names: Sequence[str]
) -> list[str]:
    """Ids whose served features differ in any bit from a row of values (NaN = none), or that have no decision."""
    wrong = []
    for transaction_id, row in zip(ids, rows, strict=True):
        decision = decisions.get(transaction_id)
        if decision is None or [bits(decision.features[name]) for name in names] != [
            None if math.isnan(value) else bits(value) for value in row
        ]:
            wrong.append(transaction_id)
    return wrong


def score_mismatches(decisions: Sequence[Decision], artifact: Path, work_dir: Path) -> list[str]:
    """Ids whose score differs from `Booster.predict` on the released artefact, to float32."""
    with tarfile.open(artifact) as archive:
        archive.extractall(work_dir, filter="data")
    booster = xgboost.Booster(model_file=str(work_dir / "model.ubj"))
    columns = booster.feature_names
    assert columns
    rows = np.array(
        [[math.nan if d.features[name] is None else d.features[name] for name in columns] for d in decisions],
        dtype=np.float32,
    )
    scores = booster.predict(xgboost.DMatrix(rows, feature_names=columns))
    return [d.transaction_id for d, score in zip(decisions, scores, strict=True) if np.float32(d.score) != score]


def assert_sets_hold(
    pipeline: Pipeline,
    status: Mapping[str, Any],
    decisions: Mapping[str, Decision],
    valid: Sequence[Transaction],
    *,
    quarantined: int = 0,
    duplicates: int = 0,
) -> None:
    """No id missing, none twice; quarantine is exactly what was injected; counters say the same."""
    ids = [transaction.transaction_id for transaction in valid]
    assert len(set(ids)) == len(ids)
    assert set(decisions) == set(ids)
    hashes = {transaction.transaction_id: payload_sha256(transaction) for transaction in valid}
    assert {i: d.payload_sha256 for i, d in decisions.items()} == hashes
    rejected = quarantined_records(pipeline)
    assert len(rejected) == quarantined, Counter((r.field, r.rule) for _, r in rejected)
    counted = {name: status[name] for name in ("published", "decided", "quarantined", "duplicates", "in_flight")}
    assert counted == {
        "published": len(ids) + quarantined + duplicates,
        "decided": len(ids),
        "quarantined": quarantined,
        "duplicates": duplicates,
        "in_flight": 0,
    }
    assert status["late"] == sum(d.late for d in decisions.values())
    assert status["alerts"] == sum(d.decision != "approve" for d in decisions.values())


def decision_differences(one: Mapping[str, Decision], other: Mapping[str, Decision]) -> list[str]:
    """Ids that are missing in one, or whose compared fields differ in any bit."""
    different = sorted(set(one) ^ set(other))
    for transaction_id in set(one) & set(other):
        a, b = one[transaction_id], other[transaction_id]
        if any(_comparable(getattr(a, name)) != _comparable(getattr(b, name)) for name in COMPARED):
            different.append(transaction_id)
    return different


def state_differences(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    """Keys whose packed state differs in any byte."""
    return sorted(key for key in set(one) | set(other) if one.get(key) != other.get(key))


def _comparable(value: Any) -> Any:
    if isinstance(value, float):
        return bits(value)
    if isinstance(value, dict):
        return {name: _comparable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [(r.feature, bits(r.contribution)) if hasattr(r, "feature") else r for r in value]
    return value
