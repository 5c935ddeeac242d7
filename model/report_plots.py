"""The report's figures as SVG texts that may stand together in one HTML page.

matplotlib draws them without a display and without its global state. Text stays text (the page's own font, searchable),
and neither dates nor random ids are written, so that the same figures give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

# Okabe and Ito's palette: told apart by colour-blind readers, too.
BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#8e5aa8"
GREY: Final = "#767b82"
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 9,
    "text.parse_math": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa0a6",
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}
_LOGIT_TICKS: Final = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)


def drawn(name: str, describe: str, width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """One figure as an `<svg>` element.

    Args:
        name: prefix of every id in it; each figure of a page needs its own.
        describe: what a reader who cannot see it is told.
        width: in inches, as is `height`.
        height: see `width`.
        draw: puts axes and artists into the figure.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    # Inside a page an SVG needs neither its own metadata nor name spaces, and so the page holds no address at all.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{describe}"', 1)


def ranking_curves(measured: Mapping[str, Any]) -> Callable[[Figure], None]:
    """ROC and precision-recall."""

    def draw(figure: Figure) -> None:
        roc, precision_recall = figure.subplots(1, 2)
        for axes, points, title in (
            (roc, measured["roc"], "ROC"),
            (precision_recall, measured["precision_recall"], "Precision and recall"),
        ):
            axes.set(title=title, xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
            _percent(axes)
            if not points:
                _nothing(axes, "needs both fraud and legitimate rows")
        if measured["roc"]:
            roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
            roc.plot(*zip(*measured["roc"], strict=True), color=BLUE)
        roc.set(xlabel="legitimate transactions flagged", ylabel="frauds caught (recall)")
        if measured["precision_recall"]:
            recall, precision = zip(*measured["precision_recall"], strict=True)
            precision_recall.step((0, *recall), (precision[0], *precision), where="pre", color=BLUE)
            share = measured["fraud_share"]
            precision_recall.axhline(share, color=GREY, linestyle=":", linewidth=1)
            for name, colour in (("review_or_decline", ORANGE), ("decline", PURPLE)):
                point = measured[name]
                if point["alerts"]:
                    precision_recall.plot(
                        point["recall"], point["precision"], "o", color=colour, label=name.replace("_", " ")
                    )
            precision_recall.legend(loc="lower left")
        precision_recall.set(xlabel="recall", ylabel="precision")

    return draw


def score_histogram(measured: Mapping[str, Any], thresholds: Mapping[str, float] | None) -> Callable[[Figure], None]:
    """Scores of both classes, counts on a logarithmic scale."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        histogram = measured["score_histogram"]
        edges = np.array(histogram["edges"])
        for name, colour in (("legitimate", BLUE), ("frauds", ORANGE)):
            counts = np.array(histogram[name], dtype=float)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.30)
            axes.stairs(counts, edges, color=colour, linewidth=1.4, label=name)
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel="score", ylabel="transactions", xlim=(0, 1), ylim=(0, None), title="Scores by truth")
        for name, colour in (("review_from", ORANGE), ("decline_from", PURPLE)):
            if thresholds is not None:
                axes.axvline(
                    thresholds[name], color=colour, linestyle="--", linewidth=1.2, label=name.replace("_", " ")
                )
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4)

    return draw


def capacity_curves(measured: Mapping[str, Any], capacity: int) -> Callable[[Figure], None]:
    """What reviewing the N highest scores of every day finds."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        points = measured["by_review_capacity"]
        numbers = [point["per_day"] for point in points]
        for name, colour, label in (
            ("recall", BLUE, "frauds found (recall)"),
            ("value_recall", GREEN, "fraud amount found"),
            ("precision", ORANGE, "fraud among reviewed (precision)"),
        ):
            if all(point[name] is not None for point in points):
                axes.plot(numbers, [point[name] for point in points], ".-", color=colour, label=label)
        axes.axvline(capacity, color=GREY, linestyle="--", linewidth=1.2, label=f"capacity: {capacity:,} a day")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="transactions reviewed a day", ylim=(-0.01, 1.03), title="Review capacity")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="center right")

    return draw


def card_precision_by_day(measured: Mapping[str, Any]) -> Callable[[Figure], None]:
    """Cards found day by day, beside the cards that could have been."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figures = measured["card_precision"]
        first = figures["days"][0]["day"]
        days = [day["day"] - first for day in figures["days"]]
        attainable = [min(day["fraud_cards"], figures["top"]) for day in figures["days"]]
        axes.bar(days, attainable, color="#cfd4da", width=0.8, label="defrauded cards not found before")
        axes.bar(days, [day["found"] for day in figures["days"]], color=BLUE, width=0.5, label="found in the top 100")
        axes.set(
            xlabel="days after the first",
            ylabel="cards",
            title="Defrauded cards found by day",
            ylim=(0, max(attainable) * 1.3 + 1),
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.legend(loc="upper right", ncols=2)

    return draw


def calibration_curves(
    calibration: Mapping[str, Any], uncalibrated: Mapping[str, Any] | None
) -> Callable[[Figure], None]:
    """Observed fraud share against score, on a linear scale and on the log-odds scale where rare fraud lives."""

    def draw(figure: Figure) -> None:
        for axes, logit in zip(figure.subplots(1, 2), (False, True), strict=True):
            axes.plot(_diagonal(), _diagonal(), color=GREY, linestyle=":", linewidth=1)
            if uncalibrated is not None:
                _reliability(axes, uncalibrated["bins"], GREY, "before calibration", logit)
            _reliability(axes, calibration["bins"], BLUE, "this model" if uncalibrated is None else "calibrated", logit)
            axes.set(xlabel="mean score of the bin", ylabel="observed fraud share")
            if logit:
                axes.set_xscale("logit")
                axes.set_yscale("logit")
                axes.set(title="The same in log-odds", xlim=(0.0003, 0.999), ylim=(0.0003, 0.999))
                for axis in (axes.xaxis, axes.yaxis):
                    axis.set_major_locator(FixedLocator(_LOGIT_TICKS))
                    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
                    axis.set_minor_formatter(NullFormatter())
            else:
                axes.set(title="Calibration", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
                axes.legend(loc="upper left")

    return draw


def learning_curves(learning: Mapping[str, Any]) -> Callable[[Figure], None]:
    """By rounds of boosting and, where it was measured, by number of cards."""

    def draw(figure: Figure) -> None:
        by_cards = learning["by_cards"]
        panels = [
            ("log_loss", "log loss", learning["by_rounds"], "rounds", "Log loss by trees"),
            ("average_precision", "average precision", learning["by_rounds"], "rounds", "Average precision by trees"),
        ]
        if by_cards is not None:
            panels.append(("average_precision", "average precision", by_cards, "cards", "Average precision by cards"))
        for axes, (measure, label, points, by, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            for side, colour in (("training", GREY), ("validation", BLUE)):
                known = [
                    (point[by], point[side][measure])
                    for point in points
                    if point[side] is not None and point[side][measure] is not None
                ]
                if known:
                    axes.plot(*zip(*known, strict=True), ".-", color=colour, label=f"{side} rows")
            axes.set(xlabel="trees" if by == "rounds" else "cards trained on", ylabel=label, title=title)
            axes.set_ylim(0, None if measure == "log_loss" else 1.03)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axes.legend(loc="upper right" if measure == "log_loss" else "lower right")

    return draw


def horizontal_bars(
    title: str, label: str, names: Sequence[str], series: Sequence[tuple[str, str, Sequence[float | None]]]
) -> Callable[[Figure], None]:
    """One group of bars per name, the first name on top; `series` are (label, colour, values)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = np.arange(len(names))
        thickness = 0.8 / len(series)
        for number, (name, colour, values) in enumerate(series):
            offset = (number - (len(series) - 1) / 2) * thickness
            widths = [0.0 if value is None else value for value in values]
            axes.barh(places + offset, widths, thickness * 0.92, color=colour, label=name)
        axes.set_yticks(places, names)
        axes.set(xlabel=label, title=title, ylim=(len(names) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        if len(series) > 1:
            axes.legend(loc="lower right")

    return draw


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _nothing(axes: Axes, reason: str) -> None:
    axes.text(0.5, 0.5, reason, ha="center", va="center", color=GREY, transform=axes.transAxes)


def _diagonal() -> list[float]:
    return [0.0001, *np.linspace(0.001, 0.999, 99).tolist(), 0.9999]


def _reliability(axes: Axes, bins: Sequence[Mapping[str, float]], colour: str, label: str, logit: bool) -> None:
    """Points with Wilson intervals; in log-odds a share of 0 or 1 has no place, so there only its interval is drawn."""
    for group in bins:
        axes.plot([group["mean_score"]] * 2, [group["low"], group["high"]], color=colour, alpha=0.45, linewidth=1.4)
    shown = [group for group in bins if not logit or 0 < group["observed"] < 1]
    axes.plot(
        [group["mean_score"] for group in shown],
        [group["observed"] for group in shown],
        "o",
        color=colour,
        label=label,
        markersize=4.5,
    )
