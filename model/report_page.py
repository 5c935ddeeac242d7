"""`report.html`: one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

from model import report_plots as plots
from model.report_tables import (
    calibration_table,
    capacity_table,
    cards_table,
    confusion_tables,
    count,
    day,
    decisions_table,
    money,
    number,
    percent,
    precision_table,
    rules_table,
    segment_table,
    span,
    table,
)
from model.scored_rows import NOT_GIVEN
from model.shap_plot import shap_swarm

if TYPE_CHECKING:
    from model.explanations import Explained
    from model.report import Report

_SHOWN_FEATURES: Final = 15
_CSS: Final = """
:root { color-scheme: light; }
body { margin: 0; background: #f3f4f6; color: #1f2328; font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0 0 10px; } h3 { font-size: 15px; margin: 22px 0 6px; }
section, .notes { background: #fff; border: 1px solid #e1e4e8; border-radius: 8px; padding: 18px 22px; margin: 16px 0; }
.notes { background: #fff8e6; border-color: #ecd9a0; } .notes ul { margin: 0; padding-left: 18px; }
.muted, caption, figcaption { color: #59636e; } p.muted { margin: 0 0 10px; font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.tile { background: #fff; border: 1px solid #e1e4e8; border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; } .tile span { font-size: 13px; color: #59636e; display: block; }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 4px 0; font-weight: 600; white-space: nowrap; }
th, td { padding: 4px 9px; border-bottom: 1px solid #eceef0; text-align: right; white-space: nowrap; }
.few td, .few th { color: #8c959f; }
th:first-child { text-align: left; font-weight: 500; padding-left: 0; } thead th { color: #59636e; font-weight: 600; }
.confusion tr:nth-child(1) td:nth-child(2), .confusion tr:nth-child(2) td:nth-child(3) { background: #e5f1f8; }
.confusion tr:nth-child(1) td:nth-child(3), .confusion tr:nth-child(2) td:nth-child(2) { background: #fbeae0; }
.pair { display: flex; flex-wrap: wrap; gap: 8px 24px; } figure { margin: 12px 0; } svg { max-width: 100%; height: auto; display: block; }
svg text { font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif !important; }
details summary { cursor: pointer; font-weight: 600; margin: 8px 0; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""  # noqa: E501  one rule a line reads better than a broken one


def page(report: Report) -> str:
    """The page as one HTML text without scripts and without any outside address."""
    document = report.document
    measured = document["measured"]
    model = document.get("model")
    thresholds = None if model is None else model["thresholds"]
    title = f"Model report: {model['model_version']}" if model is not None else "Decisions report"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{escape(_subtitle(document))}</p>',
        _notes(document["notes"]),
        _tiles(measured),
        _ranking(measured, thresholds),
        _decisions(measured, thresholds),
        _capacity(measured, document["review_capacity"]),
        _cards(measured),
        _calibration(measured["calibration"], document.get("uncalibrated")),
        _learning(document["learning"]) if model is not None else "",
        _features(document, report.explained) if report.explained is not None else "",
        _segments(measured["segments"]),
        _provenance(document),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _subtitle(document: Mapping[str, Any]) -> str:
    measured = document["measured"]
    rows = {
        "validation": "validation rows, which the model has not been trained on",
        "training": "the training rows themselves",
        "decisions": "decisions that were made",
    }[document["assessed"]]
    return (
        f"Measured on {rows}: {count(measured['rows'])} transactions of {count(measured['cards']['cards'])} cards, "
        f"{day(measured['first_event_time_ms'])} to {day(measured['last_event_time_ms'])}; "
        f"{count(measured['frauds'])} frauds ({percent(measured['fraud_share'], 2)}) worth "
        f"{money(measured['fraud_amount'])}."
    )


def _notes(notes: list[str]) -> str:
    return f'<div class="notes"><ul>{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul></div>' if notes else ""


def _tiles(measured: Mapping[str, Any]) -> str:
    intervals, rule = measured["intervals_95"], measured["review_or_decline"]
    cards = measured["card_precision"]
    tiles = [
        ("AUC ROC", number(measured["auc"]), span(intervals["auc"], as_percent=False)),
        (
            "average precision",
            number(measured["average_precision"]),
            span(intervals["average_precision"], as_percent=False),
        ),
        (f"card precision@{cards['top']}", number(cards["mean"]), f"of {number(cards['attainable'])} possible"),
        ("recall of alerts", percent(rule["recall"]), span(intervals["recall"], as_percent=True)),
        ("precision of alerts", percent(rule["precision"]), span(intervals["precision"], as_percent=True)),
        ("value-weighted recall", percent(rule["value_recall"]), span(intervals["value_recall"], as_percent=True)),
    ]
    shown = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(note)}</span></div>'
        for name, value, note in tiles
    )
    said = "Small figures are 95 % intervals: the cards drawn again and again with replacement, each with all its rows."
    return f'<div class="tiles">{shown}</div><p class="muted">{said}</p>'


def _section(title: str, explained: str, *parts: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="muted">{escape(explained)}</p>{"".join(parts)}</section>'


def _figure(name: str, describe: str, height: float, draw: Callable[[Figure], None], width: float = 10.6) -> str:
    return f"<figure>{plots.drawn(name, describe, width, height, draw)}</figure>"


def _ranking(measured: Mapping[str, Any], thresholds: Mapping[str, float] | None) -> str:
    return _section(
        "Ranking",
        "How well scores put frauds before legitimate transactions, whatever the thresholds. With rare fraud the "
        "precision-recall curve says more than ROC. Dotted lines: a model that guesses.",
        _figure("ranking", "ROC and precision-recall curves", 3.9, plots.ranking_curves(measured)),
        _figure("scores", "Histogram of scores by truth", 2.6, plots.score_histogram(measured, thresholds)),
        precision_table(measured),
    )


def _decisions(measured: Mapping[str, Any], thresholds: Mapping[str, float] | None) -> str:
    said = "the model's thresholds" if thresholds is not None else "the policy in force"
    return _section(
        "Decisions",
        f"What {said} made of these scores. An alert is a review or a decline. Amounts are US dollars.",
        confusion_tables(measured, thresholds),
        rules_table(measured),
        decisions_table(measured),
    )


def _capacity(measured: Mapping[str, Any], capacity: int) -> str:
    return _section(
        "Review capacity",
        "What is found if the highest scores of every UTC day are reviewed, as many as the team can. Equal scores "
        "share the places that are left for them.",
        _figure("capacity", "Recall and precision by review capacity", 3.2, plots.capacity_curves(measured, capacity)),
        capacity_table(measured),
    )


def _cards(measured: Mapping[str, Any]) -> str:
    figures = measured["card_precision"]
    return _section(
        "Cards",
        f"Card precision@{figures['top']}: each day the {figures['top']} cards of the highest scores are looked at; a "
        "card found once is not looked at again. It cannot exceed the number of defrauded cards of the day, over "
        f"{figures['top']}: here {number(figures['attainable'])} on average.",
        _figure("cards", "Defrauded cards found by day", 2.6, plots.card_precision_by_day(measured)),
        cards_table(measured["cards"]),
    )


def _calibration(calibration: Mapping[str, Any], uncalibrated: Mapping[str, Any] | None) -> str:
    return _section(
        "Calibration",
        "Whether a score is a probability: on the dotted line it is. Bars are 95 % intervals of the observed share; "
        "in log-odds a share of 0 or 1 shows its interval only.",
        _figure(
            "calibration", "Observed fraud share by score", 4.0, plots.calibration_curves(calibration, uncalibrated)
        ),
        calibration_table(calibration, uncalibrated),
    )


def _learning(learning: Mapping[str, Any]) -> str:
    return _section(
        "Learning",
        "Curves that still fall apart at the right say that the model learns its training rows by heart; a validation "
        "curve that still rises says that more trees, or more cards, would help. Scores before any calibration.",
        _figure("learning", "Learning curves", 3.1, plots.learning_curves(learning)),
    )


def _features(document: Mapping[str, Any], explained: Explained) -> str:
    gains, shap = document["importance"], document["shap"]
    top = shap["features"][:_SHOWN_FEATURES]
    names = [feature["feature"] for feature in top]
    gain_of = {entry["feature"]: entry for entry in gains}
    total = sum(entry["total_gain"] for entry in gains) or 1.0
    frauds = [feature["mean_abs_fraud"] for feature in top]
    legitimate = [feature["mean_abs_legitimate"] for feature in top]
    bars = plots.horizontal_bars(
        "Mean |SHAP|",
        "log-odds",
        names,
        [("frauds", plots.ORANGE, frauds), ("legitimate", plots.BLUE, legitimate)],
    )
    by_gain = sorted(gains, key=lambda entry: -entry["total_gain"])[:_SHOWN_FEATURES]
    gain_bars = plots.horizontal_bars(
        "Gain",
        "share of the total gain of all splits",
        [entry["feature"] for entry in by_gain],
        [("gain", plots.GREEN, [entry["total_gain"] / total for entry in by_gain])],
    )
    height = 0.29 * len(names) + 1.0
    rows = [
        [
            feature["feature"],
            number(feature["mean_abs"]),
            number(feature["mean_abs_fraud"]),
            number(feature["mean_abs_legitimate"]),
            number(feature["rising"], 2),
            percent(gain_of[feature["feature"]]["total_gain"] / total),
            count(gain_of[feature["feature"]]["splits"]),
        ]
        for feature in shap["features"]
    ]
    headings = ["feature", "mean |SHAP|", "of frauds", "of legitimate", "rising", "gain", "splits"]
    return _section(
        "Features",
        f"Exact TreeSHAP of {count(shap['rows'])} of these rows ({count(shap['frauds'])} frauds): how far each feature "
        f"moves the margin from its base of {number(shap['base'])}. Contributions add up to the margin to within "
        f"{shap['margin_error']:.1e}. Frauds are over-represented among the dots, so that one sees them; violet dots "
        "have no value. Gain counts what splits were worth while training.",
        _figure(
            "swarm",
            "SHAP values by row and feature",
            0.36 * len(names) + 1.0,
            shap_swarm(explained, document["model"]["columns"], names),
        ),
        f'<div class="pair">{_figure("shap", "Mean absolute SHAP values", height, bars, 4.95)}'
        f"{_figure('gain', 'Gain by feature', height, gain_bars, 4.95)}</div>",
        f"<details><summary>All {len(rows)} features</summary>{table(headings, rows)}"
        '<p class="muted">rising: rank correlation of value and contribution, from -1 (higher values lower the score) '
        "to 1.</p></details>",
    )


def _segments(segments: Mapping[str, Any]) -> str:
    absent = [name for name, groups in segments.items() if {group["group"] for group in groups} == {NOT_GIVEN}]
    parts = [segment_table(name, groups) for name, groups in segments.items() if name not in absent]
    if absent:
        parts.append(f'<p class="muted">Not in the data: {escape(", ".join(absent))}.</p>')
    return _section(
        "Segments",
        "The same model on parts of the rows, one threshold for all. AUC and AP need both classes; AP depends on the "
        "fraud share, so compare it within a column with care. Mean score beside fraud share shows who is over- or "
        "underrated. Precision and recall are of review or decline. Grey: fewer than 10 frauds, too few for a verdict.",
        *parts,
    )


def _provenance(document: Mapping[str, Any]) -> str:
    model = document.get("model")
    if model is None:
        rows = [[name.replace("_", " "), value] for name, value in document["source"].items()]
        rows += [[name.replace("_", " "), count(value)] for name, value in document["counts"].items()]
        rows += [
            [name.replace("_", " "), ", ".join(f"{value} ({count(made)})" for value, made in values.items())]
            for name, values in document["made_by"].items()
        ]
        return _section("Origin", "What was judged.", table(["", ""], rows))
    training = model["training"]
    rows = [
        ["trained on", f"{count(training['rows'])} rows, {count(training['frauds'])} frauds"],
        ["", f"{day(training['first_event_time_ms'])} to {day(training['last_event_time_ms'])}"],
        [
            "on training rows",
            f"AUC {number(document['training_rows']['auc'])}, "
            f"average precision {number(document['training_rows']['average_precision'])}",
        ],
        ["feature set", model["feature_set_id"]],
        [
            "calibration",
            "none" if model["calibration"] is None else f"isotonic, {len(model['calibration']['scores'])} points",
        ],
        *([f"source: {name}", str(value)] for name, value in model["source"].items() if value is not None),
        *([f"parameter: {name}", str(value)] for name, value in model["parameters"].items()),
        *([f"version: {name}", str(value)] for name, value in model["versions"].items()),
    ]
    return _section("Origin", "What the model was made of; the same input gives the same bytes.", table(["", ""], rows))
