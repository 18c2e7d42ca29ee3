"""Parameters: what a network learns, and the gradients of what was used of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import arguments
from . import init as initialisers
from .errors import ShapeError, TraceError


@dataclass(frozen=True)
class RowSparse:
    """Gradient of an embedding table: only the rows that the batch used.

    rows: int32[m], distinct. values: float32[m, width].
    """

    rows: np.ndarray
    values: np.ndarray


class Writing:
    """Inside `with`, a parameter's data may be changed; afterwards it has another version."""

    __slots__ = ("_data", "_parameter")

    def __init__(self, parameter: Parameter, data: np.ndarray) -> None:
        self._parameter, self._data = parameter, data

    def __enter__(self) -> np.ndarray:
        return self._data

    def __exit__(self, *_: object) -> None:
        self._parameter.version += 1


class Parameter:
    """A trained array, shared by all vertices.

    Shapes: `data` float32[shape], filled by `Network.initialize`; `grad` the same, or `RowSparse`
    for a table that is only read by `embedding`, or None before the first backward pass. `lr_mult`
    and `decay_mult` multiply the trainer's learning rate and weight decay. `version` grows with
    every change of the data, so that what was made from it is known to be old.
    """

    def __init__(
        self,
        shape: Sequence[int],
        init: initialisers.Initializer | None = None,
        lr_mult: float = 1.0,
        decay_mult: float = 1.0,
    ) -> None:
        self.shape = arguments.extents("Parameter(shape)", shape, ShapeError)
        if init is not None and not callable(init):
            raise ShapeError(
                "Parameter(init=...): expected an initialiser, a function of a generator and a "
                f"shape such as cavs.init.Xavier(), given {arguments.shown(init)}"
            )
        self.init = init or (initialisers.Xavier() if len(self.shape) > 1 else initialisers.Zeros())
        self.lr_mult = arguments.number("Parameter(lr_mult=...)", lr_mult, 0)
        self.decay_mult = arguments.number("Parameter(decay_mult=...)", decay_mult, 0)
        self.name = ""
        self.grad: np.ndarray | RowSparse | None = None
        self.version = 0
        self._data: np.ndarray | None = None
        self._view: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        """float32[shape], to be read: it follows every change. `set_data` and `writing` change it.

        Raises:
            TraceError: before `Network.initialize`.
        """
        if self._view is None:
            raise TraceError(
                f"parameter {self.name or '?'} {self.shape} has no data yet; "
                "call net.initialize(seed=0)"
            )
        return self._view

    def writing(self) -> Writing:
        """`with p.writing() as data`: the memory, float32[shape], to be changed in place inside.

        Raises:
            TraceError: before `Network.initialize`.
        """
        _ = self.data
        assert self._data is not None
        return Writing(self, self._data)

    def set_data(self, values: np.ndarray) -> None:
        """Copy `values` in, keeping the memory that an executor may already know.

        Raises:
            ShapeError: the shapes differ.
        """
        if tuple(values.shape) != self.shape:
            raise ShapeError(
                f"parameter {self.name}: expected shape {self.shape}, given {tuple(values.shape)}"
            )
        if self._data is None:
            self._data = aligned(self.shape)
            self._view = self._data.view()
            self._view.flags.writeable = False
        self._data[...] = values
        self.version += 1

    def __repr__(self) -> str:
        return f"Parameter({self.name or '?'}, {self.shape})"


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Zeros whose first byte lies on a 64-byte boundary, so that kernels can use the memory as it
    is.
    """
    n_bytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 64, "uint8")
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
