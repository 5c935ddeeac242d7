"""Exported decisions beside the truth, as scored rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from model.scored_rows import ScoredRows, Segmentation, by_amount, by_card_age, by_text, first_times
from stream_features.currency import base_amount
from stream_features.errors import MalformedRecord, UsageError

DECISION_COLUMNS: Final = ("transaction_id", "card_id", "event_time_ms", "score", "decision")
AMOUNT_COLUMNS: Final = ("amount_minor", "currency")
SEGMENT_COLUMNS: Final = ("channel", "country", "merchant_category")
MODEL_COLUMNS: Final = ("model_version", "policy_version", "feature_set_id")


@dataclass(frozen=True, slots=True)
class JudgedDecisions:
    """Decisions whose truth is known.

    Attributes:
        rows: in the file's order. Without the `AMOUNT_COLUMNS` all amounts are 0.
        counts: `decisions` (all in the file), `without_truth`, `without_decision`.
        made_by: for each of `MODEL_COLUMNS` in the file, its values among the judged rows with their row counts.
        has_amounts: whether the file says what was paid.
    """

    rows: ScoredRows
    counts: dict[str, int]
    made_by: dict[str, dict[str, int]]
    has_amounts: bool


def judged_decisions(
    exported: Path, truth: Mapping[str, bool], *, first_seen_ms: Mapping[str, int] | None = None
) -> JudgedDecisions:
    """Read an export and keep the decisions that have a truth.

    Args:
        exported: Parquet, one row per transaction, with `DECISION_COLUMNS` and, where it has them, the columns of
            amounts, segments and models.
        truth: transaction_id to "is fraud".
        first_seen_ms: card_id to its earliest known event time; a card's age counts from there or from its first row
            in the file, whichever is earlier.

    Raises:
        UsageError: the file lacks a column, a decision has no score, an amount cannot be converted, or no decision has
            a truth.
    """
    table = _read(exported)
    transaction_ids = table["transaction_id"].to_pylist()
    judged = np.array([transaction_id in truth for transaction_id in transaction_ids], dtype=bool)
    if not judged.any():
        raise UsageError(f"{exported}: none of its {len(transaction_ids)} decisions has a truth")
    first_ms = _first_seen(table, first_seen_ms or {})[judged]
    kept = table.filter(pa.array(judged))
    if unscored := pc.sum(pc.or_kleene(pc.is_null(kept["score"]), pc.is_nan(kept["score"]))).as_py():
        raise UsageError(
            f"{exported}: {unscored} of its decisions have no score; degraded ones get theirs by "
            "fraudstream rescore, then export again"
        )
    decisions = np.array(kept["decision"].to_pylist(), dtype=np.str_)
    times_ms = kept["event_time_ms"].to_numpy().astype(np.int64)
    has_amounts = set(AMOUNT_COLUMNS) <= set(kept.column_names)
    amounts = _amounts(kept, exported) if has_amounts else np.zeros(len(times_ms), dtype=np.int64)
    groups = [_by_column(kept, name) for name in SEGMENT_COLUMNS if name in kept.column_names]
    if has_amounts:
        groups.append(by_amount(amounts))
    groups.append(by_card_age(times_ms - first_ms))
    rows = ScoredRows(
        labels=np.array([truth[transaction_id] for transaction_id in kept["transaction_id"].to_pylist()], np.uint8),
        scores=kept["score"].to_numpy().astype(np.float64),
        card_ids=np.array(kept["card_id"].to_pylist(), dtype=np.str_),
        event_times_ms=times_ms,
        amounts=amounts,
        reviewed=decisions != "approve",
        declined=decisions == "decline",
        segmentations=tuple(groups),
    )
    counts = {
        "decisions": len(transaction_ids),
        "without_truth": int((~judged).sum()),
        "without_decision": len(truth.keys() - set(transaction_ids)),
    }
    made_by = {name: _counted(kept, name) for name in MODEL_COLUMNS if name in kept.column_names}
    return JudgedDecisions(rows, counts, made_by, has_amounts)


def _read(exported: Path) -> Any:
    try:
        present = pyarrow.parquet.read_schema(exported).names
    except pa.ArrowInvalid as error:
        raise UsageError(f"{exported} is no Parquet file: {error}") from error
    if missing := [name for name in DECISION_COLUMNS if name not in present]:
        raise UsageError(f"{exported}: no column {', '.join(missing)}")
    wanted = (*DECISION_COLUMNS, *AMOUNT_COLUMNS, *SEGMENT_COLUMNS, *MODEL_COLUMNS)
    return pyarrow.parquet.read_table(exported, columns=[name for name in wanted if name in present])


def _first_seen(table: Any, known: Mapping[str, int]) -> NDArray[np.int64]:
    codes, cards = _coded(table, "card_id")
    times_ms: NDArray[np.int64] = table["event_time_ms"].to_numpy().astype(np.int64)
    never = np.iinfo(np.int64).max
    earlier = np.array([known.get(card, never) for card in cards], dtype=np.int64)
    first: NDArray[np.int64] = np.minimum(first_times(codes, times_ms), earlier[codes])
    return first


def _amounts(table: Any, exported: Path) -> NDArray[np.int64]:
    columns = (table[name].to_pylist() for name in (*AMOUNT_COLUMNS, "event_time_ms"))
    try:
        return np.array([base_amount(*row) for row in zip(*columns, strict=True)], dtype=np.int64)
    except MalformedRecord as error:
        raise UsageError(f"{exported}: {error}") from error


def _by_column(table: Any, name: str) -> Segmentation:
    codes, values = _coded(table, name)
    return by_text(name.replace("_", " "), codes, values)


def _coded(table: Any, name: str) -> tuple[NDArray[np.int64], list[Any]]:
    encoded = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _counted(table: Any, name: str) -> dict[str, int]:
    codes, values = _coded(table, name)
    return {str(value): int(rows) for value, rows in zip(values, np.bincount(codes), strict=True)}
