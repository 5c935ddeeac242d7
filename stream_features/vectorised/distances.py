"""`stream_features.distance`, step by step on arrays of int64."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_features.distance import COSINE_E9, COSINE_SCALE, DEGREE, METRES_E8

_COSINES: Final = np.array((*COSINE_E9, 0), dtype=np.int64)  # one more, read with weight 0 at the pole

Integers = NDArray[np.int64]


def metres_between_all(
    latitude_a: Integers, longitude_a: Integers, latitude_b: Integers, longitude_b: Integers
) -> Integers:
    """Metres between places, element by element what `metres_between` gives.

    Args:
        latitude_a: shape (n,), int64 micro-degrees, as are the others.
        longitude_a: likewise.
        latitude_b: likewise.
        longitude_b: likewise.
    """
    east = np.abs(longitude_a - longitude_b)
    east = np.where(east > 180 * DEGREE, 360 * DEGREE - east, east)
    degree, rest = np.divmod(np.abs(latitude_a + latitude_b) // 2, DEGREE)
    cosine = (_COSINES[degree] * (DEGREE - rest) + _COSINES[degree + 1] * rest) // DEGREE
    metres_east = (east * cosine // COSINE_SCALE) * METRES_E8 // 10**8
    metres_north = np.abs(latitude_a - latitude_b) * METRES_E8 // 10**8
    square = metres_east * metres_east + metres_north * metres_north
    root: Integers = np.sqrt(square.astype(np.float64)).astype(np.int64)
    root -= root * root > square  # the float root may be one off
    root += (root + 1) * (root + 1) <= square
    return root
