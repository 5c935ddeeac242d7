"""NPY bodies, read without trusting their header.

`numpy.load` allocates what the header announces before it looks at the data, and takes zip files and pickles for
arrays. Here the announced size has to be the size that came.
"""

from __future__ import annotations

import io
import math
import tokenize
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from endpoint.refusals import BadRequest

_LONGEST_HEADER: Final = 4096  # a plain array's takes 118 bytes
_READERS: Final = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def read_npy(body: bytes) -> NDArray[Any]:
    """The array in `body`: numeric, one dimension (a row) or two, not empty.

    Raises:
        BadRequest: it is anything else, announces another size than it has, or holds objects.
    """
    stream = io.BytesIO(body)
    try:
        version = npy_format.read_magic(stream)
        if version not in _READERS:
            raise BadRequest("bad_npy", f"NPY of version {version[0]}.{version[1]}: send 1.0 or 2.0")
        shape, fortran_order, dtype = _READERS[version](stream, max_header_size=_LONGEST_HEADER)
    # What Python's own parser makes of a hostile header, besides numpy's ValueError.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise BadRequest("bad_npy", f"not an NPY array: {error}") from error
    if dtype.kind not in "fiu" or len(shape) not in (1, 2):
        raise BadRequest("bad_npy", "the array must be numeric, of one or two dimensions")
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != len(body) - stream.tell():
        raise BadRequest("bad_npy", f"the header announces shape {shape} of {dtype}, the body holds something else")
    if math.prod(shape) == 0:
        raise BadRequest("empty_body", "the request has no rows")
    array = np.frombuffer(body, dtype=dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if fortran_order else "C")
