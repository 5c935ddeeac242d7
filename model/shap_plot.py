"""The SHAP summary plot: one dot per explained row and feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.explanations import Explained

_LOW_TO_HIGH: Final = LinearSegmentedColormap.from_list("low_to_high", ["#0072b2", "#b8bcc2", "#d55e00"])
_MISSING: Final = (0.78, 0.62, 0.86, 1.0)
_BINS: Final = 120
_HALF_ROW: Final = 0.38
_RESOLUTION: Final = 160  # dots per inch: thousands of dots stand in the page as a picture, not as elements


def shap_swarm(explained: Explained, columns: Sequence[str], shown: Sequence[str]) -> Callable[[Figure], None]:
    """Contributions of the `shown` features, the first on top; colour is the rank of the row's value."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, name in enumerate(shown):
            column = list(columns).index(name)
            contributions = explained.contributions[:, column].astype(np.float64)
            heights = place + swarm(contributions) * _HALF_ROW
            colours = value_colours(explained.features[:, column])
            axes.scatter(contributions, heights, s=5, c=colours, linewidths=0, rasterized=True)
        axes.axvline(0, color="#767b82", linewidth=1)
        axes.set_yticks(range(len(shown)), shown)
        axes.set(
            xlabel="contribution to the margin (log-odds): right raises the score",
            title="SHAP by row and feature",
            ylim=(len(shown) - 0.4, -0.6),
        )
        axes.grid(visible=False, axis="y")
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), _LOW_TO_HIGH), ax=axes, shrink=0.5, aspect=30, pad=0.01)
        bar.set_ticks([0, 1], labels=["low", "high"])
        bar.set_label("value of the feature")
        figure.set_dpi(_RESOLUTION)

    return draw


def value_colours(values: NDArray[Any]) -> NDArray[np.float64]:
    """A colour (red, green, blue, alpha) per value by its rank among the known ones; missing ones have their own."""
    known = ~np.isnan(values)
    different, place = np.unique(values[known], return_inverse=True)
    share = np.full(len(values), 0.5)
    if len(different) > 1:
        share[known] = place / (len(different) - 1)
    colours = np.array(_LOW_TO_HIGH(share), dtype=np.float64)
    colours[~known] = _MISSING
    return colours


def swarm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights (-1..1) that spread near-equal values apart: the fuller a bin, the wider; rows in their given order."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if high == low:
        return np.linspace(-1, 1, len(values)) if len(values) > 1 else np.zeros(len(values))
    place = np.minimum(((values - low) / (high - low) * _BINS).astype(np.int64), _BINS - 1)
    rows = np.bincount(place, minlength=_BINS)
    order = np.argsort(place, kind="stable")
    number = np.empty(len(values), dtype=np.int64)
    number[order] = np.arange(len(values)) - np.repeat(np.cumsum(rows) - rows, rows)
    # alternately above and below the line: 0, +1, -1, +2, -2 ...
    step = (number + 1) // 2 * np.where(number % 2 == 1, 1, -1)
    widest = max(int(rows.max()) / 2, 1.0)
    return step / widest
