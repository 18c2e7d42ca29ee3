"""Buffers: memory of a compiled network, allocated for the largest batch seen and then reused.

The only place that knows how an array becomes something a kernel can be given. On a CPU a buffer is
one piece of memory that NumPy and TVM both see; another device gets a class with the same methods
and real copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm_ffi

from ..arrays import aligned
from .roles import BufferId

GROWTH = 1.25
READ_ONLY = np.lib.NumpyVersion(np.__version__) >= "2.1.0"  # can be given away without a copy


def tensor_of(array: np.ndarray, dtype: str | None = None) -> Any:
    """An array as kernels take one that they only read: of `dtype`, contiguous, not empty.

    Without a copy if it is that already.
    """
    if not array.size:
        array = np.zeros(1, array.dtype)
    if not array.flags.c_contiguous or (dtype is not None and array.dtype != dtype):
        array = np.array(array, dtype, order="C")
    if array.flags.writeable:
        return tvm_ffi.from_dlpack(array)
    if not READ_ONLY:
        return tvm_ffi.from_dlpack(array.copy())
    return tvm_ffi.from_dlpack(array.__dlpack__(max_version=(1, 0)))


class HostMemory:
    """Buffers in host memory, by their identity.

    One thread at a time may let it grow. An error while it grows may leave it half done: who sees
    one takes other memory.

    Args:
        beneath: memory whose buffers are seen here too, as far as they are not here. They are all
            there already and do not move.
    """

    def __init__(self, beneath: HostMemory | None = None) -> None:
        self._beneath = beneath
        self._arrays: dict[BufferId, np.ndarray] = {}
        self._tensors: dict[BufferId, Any] = {}
        self.version = 0  # grows whenever a buffer moves

    def rows(self, buffer: BufferId, n_rows: int, ld: int, dtype: str) -> Any:
        """The buffer with room for `n_rows`: a tensor [capacity, ld], or [capacity] for ld 0."""
        have = self._arrays.get(buffer)
        if have is None or len(have) < n_rows:
            capacity = max(1, n_rows if have is None else int(n_rows * GROWTH))
            self.bind(buffer, aligned((capacity, ld) if ld else (capacity,), dtype))
        return self._tensors[buffer]

    def fixed(self, buffer: BufferId, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        """The tensor of a buffer of one shape."""
        if buffer not in self._arrays:
            self.bind(buffer, aligned(shape, dtype))
        return self._tensors[buffer]

    def bind(self, buffer: BufferId, array: np.ndarray) -> None:
        """Use `array` (aligned, C order) as the buffer: what changes it changes the buffer."""
        self._tensors[buffer] = tvm_ffi.from_dlpack(array)
        self._arrays[buffer] = array
        self.version += 1

    def __contains__(self, buffer: BufferId) -> bool:
        """Whether the buffer is here, and not beneath."""
        return buffer in self._tensors

    def write(self, buffer: BufferId, values: np.ndarray, start: int = 0) -> None:
        """Copy `values` into rows from `start` on; the buffer has been given room before."""
        self._arrays[buffer][start : start + len(values)] = values

    def fill(self, buffer: BufferId, value: float) -> None:
        """Set all of a buffer."""
        self._arrays[buffer].fill(value)

    def read(self, buffer: BufferId) -> np.ndarray:
        """The buffer as a NumPy array; on a CPU the memory itself."""
        if buffer not in self._arrays and self._beneath:
            return self._beneath.read(buffer)
        return self._arrays[buffer]

    def tensor(self, buffer: BufferId) -> Any:
        """The buffer as kernels take it."""
        if buffer not in self._tensors and self._beneath:
            return self._beneath.tensor(buffer)
        return self._tensors[buffer]

    def sizes(self) -> dict[BufferId, int]:
        """Bytes of every buffer seen here; one memory of two buffers counts for its first."""
        first = {a.ctypes.data: buffer for buffer, a in reversed(self._arrays.items())}
        beneath = self._beneath.sizes() if self._beneath else {}
        return beneath | {
            buffer: a.nbytes for buffer, a in self._arrays.items() if first[a.ctypes.data] == buffer
        }


class Both:
    """What a call sees: the memory of its batch, and that of the workspace where it runs."""

    __slots__ = ("_batch", "_workspace")

    def __init__(self, batch: HostMemory, workspace: HostMemory) -> None:
        self._batch, self._workspace = batch, workspace

    @property
    def version(self) -> int:
        """Grows whenever a buffer moves."""
        return self._batch.version + self._workspace.version

    def tensor(self, buffer: BufferId) -> Any:
        """The buffer as kernels take it."""
        return (self._batch if buffer in self._batch else self._workspace).tensor(buffer)
