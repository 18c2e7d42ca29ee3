"""Weights: what kernels read that parameters alone make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from .executable import Executable, NetValue
from .memory import HostMemory
from .roles import BufferId, Role
from .room import OF_WEIGHTS


def parameter_memory(arrays: Mapping[str, np.ndarray]) -> HostMemory:
    """Memory where parameters are these arrays, by name: aligned, in C order."""
    memory = HostMemory()
    for name, array in arrays.items():
        memory.bind(BufferId(Role.PARAMETER, name), array)
        memory.bind(BufferId(Role.FLAT_PARAMETER, name), array.reshape(-1))
    return memory


class WeightMemory:
    """Packed weights, and values computed from parameters alone.

    Args:
        beneath: memory of the parameters. What else is there already is not made again.

    Attributes:
        memory: where all of them lie.
    """

    def __init__(self, compiled: Executable, beneath: HostMemory) -> None:
        self.memory = HostMemory(beneath)
        fixed = [b for b in compiled.fixed if b.role in OF_WEIGHTS and not beneath.sees(b)]
        for buffer in fixed:
            self.memory.fixed(buffer, *compiled.fixed[buffer])
        self._values = [v for v in compiled.net_values if v.buffer in self.memory]
        self._packs = {b: p for b, p in compiled.packs.items() if b in self.memory}

    def evaluate(self) -> None:
        """Compute what depends on parameters alone, as they are now."""
        for v in self._values:
            self.memory.read(v.buffer)[...] = value_of(v, self.memory)

    def pack(self, buffers: Iterable[BufferId] | None = None) -> None:
        """Bring these weights, or all, into the form in which products read them."""
        tensor = self.memory.tensor
        for buffer in self._packs if buffers is None else buffers:
            p = self._packs[buffer]
            p.function(*map(tensor, p.sources), tensor(buffer))


def value_of(v: NetValue, memory: HostMemory) -> np.ndarray:
    """What a value that parameters alone make is now: float32[v.shape]."""
    value = np.broadcast_to(v.value.value(memory.read), v.value.shape)
    return np.array(value.reshape(v.shape), "float32", order="C")
