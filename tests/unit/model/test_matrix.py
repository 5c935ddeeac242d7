"""The one cast to float32."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.matrix import UnrepresentableValue, model_matrix


@given(st.lists(st.floats(min_value=-1e30, max_value=1e30), min_size=1, max_size=20))
def test_every_value_is_rounded_to_its_nearest_float32_as_c_does(values):
    cast = model_matrix([values], len(values))
    assert cast.tobytes() == struct.pack(f"={len(values)}f", *values)


def test_missing_is_nan_whether_it_comes_as_none_or_nan():
    matrix = model_matrix([[1.0, None], [float("nan"), 2.0]], 2)
    assert np.isnan(matrix).tolist() == [[False, True], [True, False]]


def test_a_flat_buffer_gives_the_same_matrix_as_rows():
    rows = [[1.1, float("nan")], [3.3, 4.4]]
    flat = array("d", [value for row in rows for value in row])
    assert model_matrix(flat, 2).tobytes() == model_matrix(rows, 2).tobytes()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e39])
def test_a_value_that_float32_cannot_hold_is_refused_with_its_place(value):
    with pytest.raises(UnrepresentableValue) as refused:
        model_matrix([[0.0, 0.0], [0.0, value]], 2)
    assert (refused.value.row, refused.value.column) == (1, 1)
