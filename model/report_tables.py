"""Numbers as a person reads them, and tables of them as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

NOTHING = "–"  # noqa: RUF001  an en dash, as in printed tables
FEW_FRAUDS = 10
_FEW = ' class="few"'
_UNBROKEN = "\u00a0"  # no line break between a number and its sign


def percent(value: float | None, digits: int = 1) -> str:
    """A share as `12.3 %`, not to be broken."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}{_UNBROKEN}%"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number; a large one with separators."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def count(value: float | None) -> str:
    """A whole number with separators."""
    return NOTHING if value is None else f"{value:,.0f}"


def money(cents: float | None) -> str:
    """US cents as whole dollars."""
    return NOTHING if cents is None else f"${cents / 100:,.0f}"


def day(epoch_ms: int) -> str:
    """UTC date of an instant."""
    return datetime.fromtimestamp(epoch_ms / 1000, tz=UTC).date().isoformat()


def span(interval: Sequence[float] | None, *, as_percent: bool) -> str:
    """The two ends of an interval."""
    if interval is None:
        return NOTHING
    low, high = (percent(end) if as_percent else number(end) for end in interval)
    return f"{low.removesuffix('%').rstrip()} to {high}"


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", few: Sequence[bool] | None = None
) -> str:
    """A table whose first column names the row; every cell is escaped here. Rows that are `few` are greyed."""
    listed = list(rows)
    greyed = [False] * len(listed) if few is None else few
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr{_FEW if grey else ""}><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for (first, *rest), grey in zip(listed, greyed, strict=True)
    )
    titled = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{titled}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def decisions_table(measured: Mapping[str, Any]) -> str:
    """Decision by truth: rows and amounts."""
    decisions = measured["decisions"]
    rows = [
        [
            name,
            count(made["frauds"]),
            count(made["legitimate"]),
            money(made["fraud_amount"]),
            money(made["legitimate_amount"]),
        ]
        for name, made in decisions.items()
    ]
    headings = ["decision", "frauds", "legitimate", "fraud amount", "legitimate amount"]
    return table(headings, rows, caption="Decisions by truth")


def confusion_tables(measured: Mapping[str, Any], thresholds: Mapping[str, float] | None) -> str:
    """One confusion matrix per rule, side by side."""
    parts = []
    for rule, threshold in (("review_or_decline", "review_from"), ("decline", "decline_from")):
        quality = measured[rule]
        limit = "" if thresholds is None else f" (score ≥ {thresholds[threshold]:.4f})"
        cells = [
            ["fraud", count(quality["true_positives"]), count(quality["false_negatives"])],
            ["legitimate", count(quality["false_positives"]), count(quality["true_negatives"])],
        ]
        matrix = table(["truth", "flagged", "not flagged"], cells, caption=f"{rule.replace('_', ' ')}{limit}")
        parts.append(matrix.replace("<table>", '<table class="confusion">'))
    return f'<div class="pair">{"".join(parts)}</div>'


def rules_table(measured: Mapping[str, Any]) -> str:
    """What each rule achieves."""
    intervals = measured["intervals_95"]
    rules = [measured["review_or_decline"], measured["decline"]]
    lines: list[tuple[str, str, Any]] = [
        ("precision", "precision", percent),
        ("recall", "recall", percent),
        ("F1", "f1", number),
        ("value-weighted recall", "value_recall", percent),
        ("false positive rate", "false_positive_rate", lambda value: percent(value, 3)),
        ("alerts a day", "alerts_per_day", lambda value: number(value, 1)),
        ("false alarms per fraud caught", "false_alarms_per_fraud", lambda value: number(value, 2)),
        ("fraud amount caught", "caught_amount", money),
        ("fraud amount missed", "missed_amount", money),
    ]
    rows = [
        [
            name,
            *(shown(rule[key]) for rule in rules),
            span(intervals[key], as_percent=True) if key in intervals else "",
        ]
        for name, key, shown in lines
    ]
    return table(["", "review or decline", "decline", "95 % interval of review or decline"], rows)


def precision_table(measured: Mapping[str, Any]) -> str:
    """Recall at fixed precision."""
    rows = [
        [
            f"at least {percent(point['precision'], 0)}",
            percent(point["recall"]),
            count(point["alerts"]),
            number(point["threshold"], 4),
        ]
        for point in measured["recall_at_precision"]
    ]
    return table(["precision", "recall", "alerts", "score from"], rows, caption="Recall at fixed precision")


def capacity_table(measured: Mapping[str, Any]) -> str:
    """What is found at each review capacity."""
    own = measured["at_review_capacity"]
    points = [*measured["by_review_capacity"], own]
    by_number = {point["per_day"]: point for point in points}
    rows = [
        [
            f"{count(per_day)}{' (capacity)' if per_day == own['per_day'] else ''}",
            count(point["alerts"]),
            percent(point["recall"]),
            percent(point["value_recall"]),
            percent(point["precision"]),
        ]
        for per_day, point in sorted(by_number.items())
    ]
    headings = ["reviewed a day", "reviewed in all", "recall", "value-weighted recall", "precision"]
    return table(headings, rows, caption="Recall at review capacity")


def cards_table(cards: Mapping[str, Any]) -> str:
    """Card-level figures."""
    detection = cards["detection"]
    found = count(detection["found_at_first_fraud"])
    rows = [
        ["cards / defrauded", f"{count(cards['cards'])} / {count(cards['fraud_cards'])}"],
        ["AUC ROC, average precision", f"{number(cards['auc'])}, {number(cards['average_precision'])}"],
        *(
            [
                f"{name.replace('_', ' ')}: cards alerted, precision, recall",
                f"{count(cards[name]['alerted'])}, {percent(cards[name]['precision'])}, "
                f"{percent(cards[name]['recall'])}",
            ]
            for name in ("review_or_decline", "decline")
        ),
        ["defrauded cards noticed / at their first fraud", f"{count(detection['found_cards'])} / {found}"],
        ["defrauded cards never noticed", count(detection["never_found"])],
        ["frauds before the noticed one (median)", number(detection["median_frauds_before"], 1)],
        [
            "fraud amount before a card was noticed",
            f"{money(detection['amount_before'])} ({percent(detection['amount_before_share'])} of all)",
        ],
    ]
    return table(["whole cards", ""], rows)


def calibration_table(calibration: Mapping[str, Any], uncalibrated: Mapping[str, Any] | None) -> str:
    """Proper scores, and what calibration changed."""
    sides = [calibration] if uncalibrated is None else [calibration, uncalibrated]
    lines = [
        ("Brier score", "brier_score", 5),
        ("Brier skill (1 perfect, 0 no better than the fraud share)", "brier_skill", 3),
        ("log loss", "log_loss", 5),
        ("expected calibration error", "error", 5),
        ("mean score", "mean_score", 5),
    ]
    rows = [[name, *(number(side[key], digits) for side in sides)] for name, key, digits in lines]
    headings = ["", "this model"] if uncalibrated is None else ["", "calibrated", "before calibration"]
    return table(headings, rows)


def segment_table(name: str, groups: Sequence[Mapping[str, Any]]) -> str:
    """One row per group."""
    rows = [
        [
            str(group["group"]),
            count(group["rows"]),
            count(group["frauds"]),
            percent(group["fraud_share"], 2),
            percent(group["mean_score"], 2),
            number(group["auc"]),
            number(group["average_precision"]),
            percent(group["precision"]),
            percent(group["recall"]),
            percent(group["value_recall"]),
            percent(group["false_positive_rate"], 2),
        ]
        for group in groups
    ]
    headings = [
        name,
        "rows",
        "frauds",
        "fraud share",
        "mean score",
        "AUC",
        "AP",
        "precision",
        "recall",
        "value recall",
        "false positives",
    ]
    return table(headings, rows, few=[group["frauds"] < FEW_FRAUDS for group in groups])
