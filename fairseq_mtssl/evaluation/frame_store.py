"""Room for many frames: in memory, or in a temporary file where that is too small."""

from __future__ import annotations

import tempfile

import numpy as np

MEMORY_BYTES = 2**31


def allocate(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array whose values are not set; mapped from a temporary file if it has more than MEMORY_BYTES."""
    if np.dtype(dtype).itemsize * int(np.prod(shape)) <= MEMORY_BYTES:
        return np.empty(shape, dtype=dtype)
    # the file is gone when the array is
    return np.memmap(tempfile.TemporaryFile(), dtype=dtype, mode="w+", shape=shape)
