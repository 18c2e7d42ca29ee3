"""RowSparse: the gradient of a table, of which a batch used some rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arguments import number
from .errors import ShapeError
from .given import as_list, count, numbers


@dataclass(frozen=True, eq=False)
class RowSparse:
    """Gradient of an embedding table: only the rows that the batch used.

    What it is made of is copied. rows: int32[m], distinct, read-only, in any order: each executor
    has its own. values: float32[m, width], a row for each of them.

    Gradients add up with `+`, to dense ones (float32[n_rows, width]) as well, and `*` scales one;
    the result is new.

    Raises:
        ShapeError: they are no such arrays, a row is negative or comes twice, or what is added has
            another width or fewer rows.

    Examples:
        >>> import tvm_cavs as cavs
        >>> E = cavs.Parameter((5, 2))
        >>> E.grad = cavs.RowSparse(rows=[4, 1], values=[[1.0, 2.0], [3.0, 4.0]])
        >>> print(E.grad.rows, E.grad.values.tolist())
        [4 1] [[1.0, 2.0], [3.0, 4.0]]
        >>> both = E.grad + cavs.RowSparse([0, 1], [[5.0, 5.0], [5.0, 5.0]])
        >>> print(both.rows, both.values.tolist())
        [0 1 4] [[5.0, 5.0], [8.0, 9.0], [1.0, 2.0]]
    """

    __array_ufunc__ = None  # an array on the left leaves `+` and `*` to this class

    rows: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        given = as_list("RowSparse: rows", self.rows, "row numbers", ShapeError)
        rows = [count("RowSparse: a row", r, 0, ShapeError) for r in given]
        values = np.asarray(numbers("RowSparse: values", self.values, ShapeError), np.float32)
        if values.ndim != 2 or len(values) != len(rows):
            raise ShapeError(
                f"RowSparse: {len(rows)} rows and values of shape {list(values.shape)}; expected "
                f"values of shape [{len(rows)}, width]."
            )
        if len(set(rows)) < len(rows):
            raise ShapeError("RowSparse: a row comes twice; add up the values of equal rows.")
        self.__dict__.update(vars(made_rows(np.array(rows, np.int32), values)))

    def __add__(self, other: Any) -> Any:
        if isinstance(other, RowSparse):
            return self._plus_rows(other)
        if isinstance(other, np.ndarray):
            return self._plus_dense(other)
        if isinstance(other, int) and other == 0:  # where `sum` begins
            return made_rows(self.rows.copy(), self.values.copy())
        return NotImplemented

    __radd__ = __add__

    def __mul__(self, factor: Any) -> Any:
        if np.ndim(factor):
            return NotImplemented
        scale = np.float32(number("RowSparse: a factor", factor, error=ShapeError))
        return made_rows(self.rows.copy(), self.values * scale)

    __rmul__ = __mul__

    def _plus_rows(self, other: RowSparse) -> RowSparse:
        width = self.values.shape[1]
        if other.values.shape[1] != width:
            raise ShapeError(
                f"RowSparse: rows of {width} numbers plus rows of {other.values.shape[1]}; "
                "expected gradients of one table."
            )
        return merge([self, other], width)

    def _plus_dense(self, dense: np.ndarray) -> np.ndarray:
        n_rows, width = int(self.rows.max(initial=-1)) + 1, self.values.shape[1]
        if dense.ndim != 2 or dense.shape[1] != width or len(dense) < n_rows:
            raise ShapeError(
                f"RowSparse: rows of {width} numbers, up to row {n_rows - 1}, plus an array of "
                f"shape {list(dense.shape)}; expected gradients of one table."
            )
        total = dense.copy()
        total[self.rows] += self.values
        return total

    def __reduce__(self) -> tuple[Callable[..., RowSparse], tuple[np.ndarray, np.ndarray]]:
        """A copy has read-only rows too."""
        return made_rows, (self.rows, self.values)


def made_rows(rows: np.ndarray, values: np.ndarray) -> RowSparse:
    """A RowSparse of arrays that are as its docstring says; `rows` are nobody else's."""
    gradient = object.__new__(RowSparse)
    rows.setflags(write=False)
    gradient.__dict__.update(rows=rows, values=values)
    return gradient


def merge(parts: Sequence[RowSparse], width: int) -> RowSparse:
    """Row-sparse gradients of one table, from several inputs or none, as one."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return made_rows(np.zeros(0, "int32"), np.zeros((0, width), "float32"))
    rows, inverse = np.unique(np.concatenate([p.rows for p in parts]), return_inverse=True)
    values = np.zeros((len(rows), width), "float32")
    np.add.at(values, inverse, np.concatenate([p.values for p in parts]))
    return made_rows(rows, values)
