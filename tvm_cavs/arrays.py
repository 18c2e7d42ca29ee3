"""Memory that kernels can use as it is."""

from __future__ import annotations

import numpy as np


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Zeros whose first byte lies on a 64-byte boundary, so that kernels can use the memory as it
    is.

    Its last byte is the last one that kernels may touch: there is no padding.
    """
    n_bytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    return zero_bytes(n_bytes).view(dtype).reshape(shape)


def zero_bytes(n_bytes: int) -> np.ndarray:
    """uint8[n_bytes]: all memory that compiled code writes to comes from here."""
    raw = np.zeros(n_bytes + 64, "uint8")
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes]
