"""The published protocol of the fraud-detection handbook: its split, its parameters and its tables, beside ours.

A split is seven days of training, seven days in which labels come in, seven days that are assessed. Cards known as
defrauded by then are not assessed. Days are UTC days.

* chapter 3: one split, training from 2018-07-25.
* chapter 5, prequential: four splits, each a week before the other; mean and population standard deviation. A file that
  ends earlier covers fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.boosting import booster_scores, fit
from model.evaluate import auc, average_precision, card_precision, rows_of_unknown_cards
from model.parameters import Value, complete
from model.scored_rows import DAY_MS
from model.training_set import TrainingSet
from stream_features.errors import UsageError

TRAINING_DAYS: Final = 7
DELAY_DAYS: Final = 7
ASSESSED_DAYS: Final = 7
MEASURES: Final = ("auc", "average_precision", "card_precision_at_100")

CHAPTER_3_FROM: Final = date(2018, 7, 25)
TEST_FROM: Final = tuple(date(2018, 8, 15) - timedelta(weeks=fold) for fold in range(4))
VALIDATION_FROM: Final = tuple(date(2018, 7, 11) - timedelta(weeks=fold) for fold in range(4))

_EPOCH: Final = date(1970, 1, 1)
# what `hist` over 4,096 bins replaces: the defaults of the library the handbook was computed with
_AS_PUBLISHED: Final[Mapping[str, Value]] = {"tree_method": "exact", "base_score": 0.5}

Measured = tuple[float, float, float]  # in the order of MEASURES


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the tables.

    Attributes:
        name: as it is printed.
        parameters: overrides of `model.parameters.DEFAULTS`.
        chapter_3: the published (AUC, average precision, card precision@100) of this model; None where none is.
        test: the published prequential means.
    """

    name: str
    parameters: Mapping[str, Value]
    chapter_3: Measured | None = None
    test: Measured | None = None


def _trees(count: int, learning_rate: float, depth: int) -> dict[str, Value]:
    return {"n_estimators": count, "learning_rate": learning_rate, "max_depth": depth}


SETTINGS: Final = (
    Setting(
        "published 100/0.3/6, exact",
        {**_trees(100, 0.3, 6), **_AS_PUBLISHED},
        chapter_3=(0.862, 0.639, 0.273),
        test=(0.859, 0.659, 0.285),
    ),
    Setting("ours 100/0.3/6, hist 4096", _trees(100, 0.3, 6)),
    Setting("published 100/0.1/3, exact", {**_trees(100, 0.1, 3), **_AS_PUBLISHED}, test=(0.871, 0.694, 0.304)),
    Setting("ours 100/0.1/3, hist 4096", _trees(100, 0.1, 3)),
)


def handbook_protocol(
    rows: TrainingSet, *, progress: Callable[[str], None], settings: Sequence[Setting] = SETTINGS
) -> dict[str, Any]:
    """Train and assess every setting on every split that `rows` cover.

    Args:
        rows: all labelled purchases of the history.
        progress: told what is being done.
        settings: what to train.

    Returns:
        `chapter_3` (None where not covered) and the prequential parts `test` and `validation`, each with `splits`
        (training starts covered), `missing` and one entry per setting: name, published values, and measured ones.

    Raises:
        UsageError: the rows cover no split at all.
    """
    days = rows.event_times_ms // DAY_MS
    measured: dict[tuple[date, str], Measured] = {}

    def measure(start: date, setting: Setting) -> Measured:
        if (start, setting.name) not in measured:
            progress(f"training from {start}: {setting.name}")
            measured[start, setting.name] = assess(rows, days, start, setting.parameters)
        return measured[start, setting.name]

    def table(starts: Sequence[date], published: Callable[[Setting], Measured | None]) -> dict[str, Any]:
        covered = [start for start in starts if _covers(days, start)]
        return {
            "splits": [start.isoformat() for start in covered],
            "missing": [start.isoformat() for start in starts if start not in covered],
            "models": [
                _described(setting, published(setting), [measure(start, setting) for start in covered])
                for setting in settings
                if covered
            ],
        }

    report = {
        "chapter_3": table([CHAPTER_3_FROM], lambda setting: setting.chapter_3),
        "test": table(TEST_FROM, lambda setting: setting.test),
        "validation": table(VALIDATION_FROM, lambda _: None),
    }
    if not measured:
        raise UsageError(
            f"the file covers no split of the protocol: the earliest is training from {min(VALIDATION_FROM)}, "
            f"and each takes {TRAINING_DAYS + DELAY_DAYS + ASSESSED_DAYS} days"
        )
    return report


def assess(rows: TrainingSet, days: NDArray[np.int64], start: date, parameters: Mapping[str, Value]) -> Measured:
    """AUC, average precision and card precision@100 of one split.

    Args:
        rows: all labelled purchases of the history.
        days: shape (rows,), UTC days since the epoch.
        start: first day of training.
        parameters: overrides of `model.parameters.DEFAULTS`.
    """
    training_from_day = _day(start)
    assessed_from_day = training_from_day + TRAINING_DAYS + DELAY_DAYS
    training = (days >= training_from_day) & (days < training_from_day + TRAINING_DAYS)
    assessed = np.flatnonzero((days >= assessed_from_day) & (days < assessed_from_day + ASSESSED_DAYS))
    frauds = rows.labels == 1
    unknown = rows_of_unknown_cards(
        rows.card_ids[assessed],
        days[assessed],
        rows.card_ids[frauds],
        days[frauds],
        training_from_day=training_from_day,
        label_delay_days=DELAY_DAYS,
    )
    assessed = assessed[unknown]
    booster = fit(rows.features[training], rows.labels[training], rows.feature_set.names, complete(parameters))
    scores = booster_scores(booster, rows.features[assessed])
    labels = rows.labels[assessed]
    return (
        auc(labels, scores),
        average_precision(labels, scores),
        card_precision(labels, scores, rows.card_ids[assessed], days[assessed]),
    )


def protocol_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as text, one table per part."""
    lines = []
    for part, title in (
        ("chapter_3", "Chapter 3 split"),
        ("test", "Prequential, test"),
        ("validation", "Prequential, validation"),
    ):
        table = report[part]
        missing = f"; not in the file: {', '.join(table['missing'])}" if table["missing"] else ""
        lines.append(f"{title}: training from {', '.join(table['splits']) or 'none'}{missing}")
        if table["models"]:
            lines.append(f"  {'model':28} {'AUC':>15} {'AP':>15} {'CP@100':>15}   published")
        for model in table["models"]:
            values = [
                f"{mean:.3f}" + (f" +- {deviation:.3f}" if len(table["splits"]) > 1 else "")
                for mean, deviation in ((model[name]["mean"], model[name]["deviation"]) for name in MEASURES)
            ]
            published = (
                " / ".join(f"{value:.3f}" for value in model["published"].values()) if model["published"] else "-"
            )
            lines.append(f"  {model['name']:28} {values[0]:>15} {values[1]:>15} {values[2]:>15}   {published}")
    return lines


def _described(
    setting: Setting,
    published: Measured | None,
    measured: Sequence[Measured],
) -> dict[str, Any]:
    values = np.array(measured, dtype=np.float64)
    return {
        "name": setting.name,
        "parameters": complete(setting.parameters),
        "published": None if published is None else dict(zip(MEASURES, published, strict=True)),
        **{
            name: {"mean": float(column.mean()), "deviation": float(column.std())}
            for name, column in zip(MEASURES, values.T, strict=True)
        },
    }


def _day(start: date) -> int:
    return (start - _EPOCH).days


def _covers(days: NDArray[np.int64], start: date) -> bool:
    """Whether there are rows on every day that the split trains on or assesses."""
    first = _day(start)
    wanted = [
        *range(first, first + TRAINING_DAYS),
        *range(first + TRAINING_DAYS + DELAY_DAYS, first + TRAINING_DAYS + DELAY_DAYS + ASSESSED_DAYS),
    ]
    return bool(np.isin(wanted, days).all())
