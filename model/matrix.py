"""The one place where float64 features become the float32 the model reads: training and the container both call it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class UnrepresentableValue(ValueError):
    """A value that float32 cannot hold (infinite, or beyond 3.4e38)."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__(f"row {row}, column {column}: the value is infinite or does not fit in 32 bits")
        self.row = row
        self.column = column


def model_matrix(rows: ArrayLike, columns: int) -> NDArray[np.float32]:
    """Cast rows of feature values to the model's matrix, rounding each to the nearest float32.

    Args:
        rows: shape (n, columns) of float64 (or a flat sequence of n * columns); None and NaN both mean missing.
        columns: the width of a row.

    Returns:
        A new C-ordered float32 array of shape (n, columns), NaN where a value is missing.

    Raises:
        UnrepresentableValue: a value would become infinite; XGBoost refuses those in training but not in serving.
        ValueError: the values do not fill whole rows.
    """
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported below, with its place
        matrix = np.array(rows, dtype=np.float32, order="C").reshape(-1, columns)
    infinite = np.isinf(matrix)
    if infinite.any():
        row, column = np.argwhere(infinite)[0].tolist()
        raise UnrepresentableValue(row, column)
    return matrix
