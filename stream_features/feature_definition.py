"""What a feature and a feature set are. The table of a set is its documentation (docs/features.md).

A row says what a feature is; `kernel.py` knows how to compute it. The hash of the rows names the set, so a model, a
decision and an export can be held against the very definitions they were made with. A hash cannot see code: whoever
changes a formula raises the feature's `revision`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from stream_features.card_state import CardLayout
from stream_features.merchant_state import LABEL_EFFECT_MS, MerchantLayout

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
ALLOWED_LATENESS_MS: Final = DAY_MS
LEAST_MERCHANT_DELAY_MS: Final = LABEL_EFFECT_MS  # what a merchant's purchases may take to reach its state

Entity = Literal["transaction", "card", "merchant"]
Structure = Literal[
    "transaction",
    "card_entries",
    "card_merchants",
    "card_countries",
    "card_places",
    "merchant_tiles",
    "merchant_frauds",
]
RISKS: Final = ("risk", "risk_or_zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One column.

    Attributes:
        name: the column's name, unique in its set.
        unit: what the number counts or measures.
        meaning: one sentence for people; not part of the definition.
        entity: whose history it reads, or `transaction` for none.
        structure: the part of the entity's state it reads.
        aggregation: the kernel's formula.
        window_ms: window length; None where the feature has no window.
        delay_ms: how far the window's new end lies behind the transaction.
        resolution_ms: of cards: by how much the window's old end may be rounded out once entries are merged into
            tiles, for transactions up to an hour behind their card's newest; 0 means never. Of merchants: length of
            the tiles, by which both ends of the window move back.
        includes_current: whether the transaction itself counts.
        revision: raised when the formula changes.
    """

    name: str
    unit: str
    meaning: str
    entity: Entity
    structure: Structure
    aggregation: str
    window_ms: int | None = None
    delay_ms: int = 0
    resolution_ms: int = 0
    includes_current: bool = False
    revision: int = 1

    @property
    def definition(self) -> str:
        """16 hex digits over everything but `meaning`."""
        return _sha256(self.row())[:16]

    def row(self) -> dict[str, object]:
        """What the definition hashes."""
        return {key: value for key, value in asdict(self).items() if key != "meaning"}


@dataclass(frozen=True, slots=True)
class MerchantGrid:
    """The tiles in which a feature set sees merchants; see MerchantLayout."""

    tile_ms: int
    fine_behind_ms: int | None
    coarse_tile_ms: int | None
    fraud_tile_ms: int


SECONDS: Final = MerchantGrid(1_000, None, None, 1_000)
MINUTES_THEN_HOURS: Final = MerchantGrid(MINUTE_MS, 48 * HOUR_MS, HOUR_MS, HOUR_MS)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """An ordered table of features. Instances are compared by identity; `feature_set_id` compares definitions.

    Attributes:
        name: what users call it.
        version: raised with any change.
        features: the table; its order is column order.
        merchant_grid: the tiles of merchants.
        names: of the columns.
        definitions: the features' hashes, 16 hex digits each.
        card_layout: bounds of the cards' state.
        card_layout_id: names them.
        merchant_layout: grid and bounds of the merchants' state; None without features of merchants.
        merchant_layout_id: names them; None likewise.
        smallest_merchant_delay_ms: how old an effect on a merchant is before any window sees it; None likewise.
        feature_set_id: hashes all of it.

    Raises:
        ValueError: a name twice, or a merchant window that ends closer than `LEAST_MERCHANT_DELAY_MS`.
    """

    name: str
    version: int
    features: tuple[Feature, ...]
    merchant_grid: MerchantGrid = MINUTES_THEN_HOURS
    names: tuple[str, ...] = field(init=False)
    definitions: tuple[str, ...] = field(init=False)
    card_layout: CardLayout = field(init=False)
    card_layout_id: str = field(init=False)
    merchant_layout: MerchantLayout | None = field(init=False)
    merchant_layout_id: str | None = field(init=False)
    smallest_merchant_delay_ms: int | None = field(init=False)
    feature_set_id: str = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(feature.name for feature in self.features)
        if len(set(names)) < len(names):
            raise ValueError(f"feature set {self.name} names a feature twice")
        card_layout = CardLayout(retention_ms=self._retention_ms("transaction", "card"))
        of_merchants = [feature for feature in self.features if feature.entity == "merchant"]
        smallest_delay_ms = min((feature.delay_ms for feature in of_merchants), default=None)
        if smallest_delay_ms is not None and smallest_delay_ms < LEAST_MERCHANT_DELAY_MS:
            raise ValueError(f"feature set {self.name} looks at merchants before their purchases can have arrived")
        merchant_layout = None
        if of_merchants:
            grid = self.merchant_grid
            merchant_layout = MerchantLayout(
                retention_ms=self._retention_ms("merchant"),
                tile_ms=grid.tile_ms,
                fine_behind_ms=grid.fine_behind_ms,
                coarse_tile_ms=grid.coarse_tile_ms,
                fraud_tile_ms=grid.fraud_tile_ms,
                settled_ms=min((f.delay_ms for f in of_merchants if f.aggregation in RISKS), default=0),
            )
        digest = _sha256(
            {
                "name": self.name,
                "version": self.version,
                "layout": card_layout.layout_id,
                "merchant_layout": merchant_layout and merchant_layout.layout_id,
                "features": [feature.row() for feature in self.features],
            }
        )
        for attribute, value in (
            ("names", names),
            ("definitions", tuple(feature.definition for feature in self.features)),
            ("card_layout", card_layout),
            ("card_layout_id", card_layout.layout_id),
            ("merchant_layout", merchant_layout),
            ("merchant_layout_id", merchant_layout and merchant_layout.layout_id),
            ("smallest_merchant_delay_ms", smallest_delay_ms),
            ("feature_set_id", f"{self.name}-{self.version}-{digest[:12]}"),
        ):
            object.__setattr__(self, attribute, value)

    def _retention_ms(self, *entities: Entity) -> int:
        reaches = (f.delay_ms + (f.window_ms or 0) for f in self.features if f.entity in entities)
        return max(reaches, default=0) + ALLOWED_LATENESS_MS


def _sha256(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
