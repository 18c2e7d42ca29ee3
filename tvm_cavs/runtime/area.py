"""Areas: which part of a matrix a kernel call writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Area(NamedTuple):
    """Rows and columns, half open. An array's axes but the last count as rows."""

    top: int
    bottom: int
    left: int
    right: int

    @staticmethod
    def of(shape: Sequence[int]) -> Area:
        """All of an array of this shape."""
        return Area(0, math.prod(shape[:-1]), 0, shape[-1])

    def clear_around(self, array: np.ndarray) -> None:
        """Zeros in all of the array (C order) that is not in here."""
        rows = array.reshape(-1, array.shape[-1])
        rows[: self.top] = 0
        rows[self.bottom :] = 0
        rows[self.top : self.bottom, : self.left] = 0
        rows[self.top : self.bottom, self.right :] = 0
