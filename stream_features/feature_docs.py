"""docs/features.md from the feature tables: `python -m stream_features.feature_docs docs/features.md`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from stream_features.feature_sets import CORE, DAY_MS, FEATURE_SETS, HOUR_MS, MINUTE_MS, FeatureSet

_INTRODUCTION: Final = """\
# Features

Generated from `stream_features/feature_sets.py` by `python -m stream_features.feature_docs docs/features.md`.

* A window of length w holds the purchases with event time in (t - w, t], t being the event time of the transaction
  asked about. Of purchases with the same event time those that arrived earlier count. Windows of merchants end
  earlier, see below.
* Only transactions of type `purchase` enter windows, whatever their `auth_result`. Refunds and reversals are asked
  as of their time and change nothing.
* Counts, sums and distinct counts include the purchase asked about. Comparisons with the card's past exclude it and
  are null without a past.
* Amounts are US cents (`stream_features/currency_rates.py`).
* A transaction is *late* when its card has a newer purchase. It is asked as of its own time. When it is older than
  what the card still holds entry by entry (the newest {exact:,} purchases) or older than {retention} of retention,
  every feature that reads the card or the merchant is null.
* Older purchases are merged into tiles of a minute (up to 2 h behind the newest purchase) or an hour. A tile counts
  whole when its end lies after the window's start, so a window may be rounded out at its old end by up to the
  resolution given, for transactions up to an hour late. It never is while the card has at most {exact:,} purchases
  in {retention}.
* Means in US dollars are sum / (100 x count), one division of whole numbers, and 0 without purchases.
* Merchants and countries are remembered by when they were last seen; the latest {merchants} and {countries} of a
  card are kept. For a late transaction a value seen again since counts only if an entry up to the transaction shows
  it.
* The last place is that of the newest earlier purchase that has one; of two at the same time, the one with the
  greater id hash. Distances are whole metres in a plane approximation (`stream_features/distance.py`); speeds
  divide by at least one second.
* Every value is float64, the same bits on every machine: integers and single IEEE operations only.

Merchants:

* A merchant's purchases are counted in tiles of L, closed on the right: a purchase belongs to the tile that ends at
  its event time rounded up to whole L. A window of length w and delay d holds the tiles that end in (e - w, e], where
  e is t rounded down to whole L, less d. The transaction asked about is never among them. Because d is at least
  2 minutes, a value does not depend on how fast purchases reach their merchant's state, as long as that takes less.
* `core`: L is 1 min up to 48 h behind the merchant's newest purchase or the transaction asked about, whichever is
  later, and 1 h beyond. A minute that lies further back counts by the end of its hour. So windows with a delay of
  2 min see minutes and those with a delay of 7 d see hours. `handbook`: L is 1 s throughout.
* A label takes effect 2 minutes after it was reported, rounded up to the set's fraud tile (`core` 1 h, `handbook`
  1 s). A fraud counts when that is not after t and the fraud tile of its event time ends in the window. Reports of a
  transaction are sorted by when they were made; only a change between legitimate and fraud counts. Risk is known
  frauds over purchases of the same window.
* A merchant's purchases and frauds are forgotten {merchant_retention} behind its newest purchase, by whole hours.
* A merchant never seen has counts of 0.
"""


def features_page() -> str:
    """The whole page, Markdown."""
    layout = CORE.card_layout
    retentions = sorted({f.merchant_layout.retention_ms for f in FEATURE_SETS.values() if f.merchant_layout})
    page = _INTRODUCTION.format(
        exact=layout.exact_entries,
        retention=_length(layout.retention_ms),
        merchants=layout.merchants,
        countries=layout.countries,
        merchant_retention=" or ".join(_length(retention_ms) for retention_ms in retentions),
    )
    return page + "".join(_section(features) for features in FEATURE_SETS.values())


def _section(features: FeatureSet) -> str:
    lines = [
        f"\n## `{features.name}`\n",
        f"`{features.feature_set_id}`, card state `{features.card_layout_id}`, merchant state "
        f"`{features.merchant_layout_id}`, {len(features.names)} features.\n",
        "| # | feature | unit | window | delay | resolution | meaning |",
        "| ---: | --- | --- | --- | --- | --- | --- |",
    ]
    for number, feature in enumerate(features.features, start=1):
        window = _length(feature.window_ms) if feature.window_ms else ""
        delay = _length(feature.delay_ms) if feature.delay_ms else ""
        resolution = _length(feature.resolution_ms) if feature.resolution_ms else ""
        lines.append(
            f"| {number} | `{feature.name}` | {feature.unit} | {window} | {delay} | {resolution} | {feature.meaning} |"
        )
    return "\n".join(lines) + "\n"


def _length(milliseconds: int) -> str:
    for unit_ms, unit in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min"), (1_000, "s")):
        if milliseconds % unit_ms == 0:
            return f"{milliseconds // unit_ms} {unit}"
    return f"{milliseconds} ms"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(features_page(), encoding="utf-8")
