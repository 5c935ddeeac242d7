"""A file of transactions as the columns that the vectorised path reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.file_columns import Coded, read_columns
from stream_features.card_event import LATITUDE_SHIFT, LONGITUDE_SHIFT
from stream_features.vectorised.columns import UNLABELLED, HistoryColumns, country_number, micro_degrees


def read_history(file: Path, mapping: str | None) -> HistoryColumns:
    """The transactions of `file` in event-time order.

    Raises:
        UsageError: the file or the mapping cannot be used.
        MalformedRecord: a row breaks the contract; names row, field and rule.
    """
    columns = read_columns(file, mapping)
    coded = columns.coded
    countries = np.array([country_number(country) for country in coded["country"].values], dtype=np.int64)
    purchases = np.array([kind == "purchase" for kind in coded["type"].values], dtype=np.bool_)
    labels = [UNLABELLED if fraud is None else int(fraud) for fraud in coded["is_fraud"].values]
    return HistoryColumns(
        transaction_ids=columns.transaction_ids.to_numpy(zero_copy_only=False),
        event_times_ms=columns.event_times_ms.to_numpy(),
        cards=_codes(coded["card_id"]),
        card_ids=coded["card_id"].values,
        merchants=_codes(coded["merchant_id"]),
        merchant_ids=coded["merchant_id"].values,
        amounts_minor=columns.amounts_minor.to_numpy(),
        currencies=_codes(coded["currency"]),
        currency_codes=coded["currency"].values,
        countries=countries[_codes(coded["country"])],
        latitudes_e6=micro_degrees(_degrees(columns.latitudes), LATITUDE_SHIFT),
        longitudes_e6=micro_degrees(_degrees(columns.longitudes), LONGITUDE_SHIFT),
        is_purchase=purchases[_codes(coded["type"])],
        frauds=np.array(labels, dtype=np.int8)[_codes(coded["is_fraud"])],
    )


def _codes(column: Coded) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = column.codes.to_numpy()
    return codes


def _degrees(values: Any) -> NDArray[np.float64]:
    degrees: NDArray[np.float64] = values.to_numpy(zero_copy_only=False)
    return degrees
