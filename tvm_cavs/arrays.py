"""Memory that kernels can use as it is."""

from __future__ import annotations

import numpy as np


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Zeros whose first byte lies on a 64-byte boundary, so that kernels can use the memory as it
    is.
    """
    n_bytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 64, "uint8")
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
