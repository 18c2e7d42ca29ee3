"""Buffers: memory of a compiled network, allocated for the largest batch seen and then reused.

The only place that knows how an array becomes something a kernel can be given. On a CPU a buffer is
one piece of memory that NumPy and TVM both see; another device gets a class with the same methods
and real copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi

from ..arrays import aligned
from ..errors import OutOfMemoryError
from .area import Area
from .memory_limit import SMALL, check_room, shown
from .roles import BufferId

GROWTH = 1.25
REMEDY = "Make batches smaller, or the model narrower."
INT32, BOOL = np.dtype("int32"), np.dtype("bool")  # found faster than by their names
READ_ONLY = np.lib.NumpyVersion(np.__version__) >= "2.1.0"  # can be given away without a copy


def tensor_of(array: np.ndarray, dtype: np.dtype[Any] | None = None) -> Any:
    """An array as kernels take one that they only read: of `dtype`, contiguous, not empty.

    Without a copy if it is that already.
    """
    array = ready(array, dtype)
    if READ_ONLY:
        return tvm_ffi.from_dlpack(array.__dlpack__(max_version=(1, 0)))
    return tvm_ffi.from_dlpack(array if array.flags.writeable else array.copy())


def ready(array: np.ndarray, dtype: np.dtype[Any] | None) -> np.ndarray:
    """`array`, or a copy if it is empty, not contiguous or of another dtype."""
    if array.size and array.flags.c_contiguous and (dtype is None or array.dtype == dtype):
        return array
    return np.array(array if array.size else [0], dtype or array.dtype, order="C")


def table(values: Sequence[int] | np.ndarray, dtype: str) -> Any:
    """A copy of a vector in memory of its own, as kernels take it; not empty."""
    made = aligned((max(1, len(values)),), dtype)
    made[: len(values)] = values
    return tvm_ffi.from_dlpack(made)


class HostMemory:
    """Buffers in host memory, by their identity.

    One thread at a time may let it grow. An error while it grows may leave it half done: who sees
    one takes other memory.

    Args:
        beneath: memory whose buffers are seen here too, as far as they are not here. They are all
            there already and do not move.

    Attributes:
        beside: what others keep for as long as there is this memory, by who keeps it.
    """

    def __init__(self, beneath: HostMemory | None = None) -> None:
        self.beside: dict[Any, Any] = {}
        self._beneath = beneath
        self._arrays: dict[BufferId, np.ndarray] = {}
        self._tensors: dict[BufferId, Any] = {}
        self.version = 0  # grows whenever a buffer moves

    def rows(self, buffer: BufferId, n_rows: int, ld: int, dtype: str, spare: bool = True) -> Any:
        """The buffer with room for `n_rows`: a tensor [capacity, ld], or [capacity] for ld 0.

        One that grows gets room for some more rows, if there is `spare` memory.

        Raises:
            OutOfMemoryError: there is no such room; the buffer stays what it was.
        """
        have = self._arrays.get(buffer)
        if have is None or len(have) < n_rows:
            grows = have is not None and spare
            capacity = max(1, int(n_rows * GROWTH) if grows else n_rows)
            held = 0 if have is None else have.nbytes
            self.bind(buffer, _room(buffer, (capacity, ld) if ld else (capacity,), dtype, held))
        return self._tensors[buffer]

    def fixed(self, buffer: BufferId, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        """The tensor of a buffer of one shape.

        Raises:
            OutOfMemoryError: there is no room for it.
        """
        if buffer not in self._arrays:
            self.bind(buffer, _room(buffer, shape, dtype, 0))
        return self._tensors[buffer]

    def bind(self, buffer: BufferId, array: np.ndarray) -> None:
        """Use `array` (aligned, C order) as the buffer: what changes it changes the buffer."""
        self._tensors[buffer] = tvm_ffi.from_dlpack(array)
        self._arrays[buffer] = array
        self.version += 1

    def stand_on(self, beneath: HostMemory) -> None:
        """See the buffers of another memory beneath from now on."""
        if beneath is not self._beneath:
            self._beneath = beneath
            self.version += 1

    def sees(self, buffer: BufferId) -> bool:
        """Whether the buffer is here or beneath."""
        return buffer in self or (self._beneath is not None and self._beneath.sees(buffer))

    def __contains__(self, buffer: BufferId) -> bool:
        """Whether the buffer is here, and not beneath."""
        return buffer in self._tensors

    def write(self, buffer: BufferId, values: np.ndarray, start: int = 0) -> None:
        """Copy `values` into rows from `start` on; the buffer has been given room before."""
        self._arrays[buffer][start : start + len(values)] = values

    def fill(self, buffer: BufferId, value: float) -> None:
        """Set all of a buffer."""
        self._arrays[buffer].fill(value)

    def clear_around(self, buffer: BufferId, area: Area) -> None:
        """Zeros in all of a buffer that is not in the area."""
        area.clear_around(self._arrays[buffer])

    def read(self, buffer: BufferId) -> np.ndarray:
        """The buffer as a NumPy array; on a CPU the memory itself."""
        found = self._arrays.get(buffer)
        return self._below(buffer).read(buffer) if found is None else found

    def tensor(self, buffer: BufferId) -> Any:
        """The buffer as kernels take it."""
        found = self._tensors.get(buffer)
        return self._below(buffer).tensor(buffer) if found is None else found

    def _below(self, buffer: BufferId) -> HostMemory:
        """The memory beneath.

        Raises:
            KeyError: there is none, so nobody has the buffer.
        """
        if self._beneath is None:
            raise KeyError(buffer)
        return self._beneath

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


def _room(buffer: BufferId, shape: tuple[int, ...], dtype: str, held: int) -> np.ndarray:
    """Zeros for a buffer which now takes `held` bytes."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes >= SMALL:
        check_room(f"{buffer} {list(shape)}", {str(buffer): n_bytes}, held, lambda _: REMEDY)
    try:
        return aligned(shape, dtype)
    except MemoryError:
        raise OutOfMemoryError(
            f"{buffer} {list(shape)} needs {shown(n_bytes)}, which the system does not give. "
            + REMEDY
        ) from None
