"""Weights: what kernels read of parameters, made again when a parameter has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import RLock

import numpy as np

from ..compiler import Compiled, NetValue
from ..language import Parameter
from ..runtime import OF_WEIGHTS, BufferId, HostMemory
from ..transform import net_value


class Weights:
    """Packed weights, and values computed from parameters alone; made once for what was compiled.

    All calls share them. A call asks for `version` before it reads them and again afterwards: if
    that differs, a parameter has changed in between.

    Args:
        beneath: memory of the parameters.

    Attributes:
        memory: where all of them lie.
    """

    def __init__(
        self, compiled: Compiled, parameters: Mapping[str, Parameter], beneath: HostMemory
    ) -> None:
        self._compiled, self._parameters = compiled, parameters
        self._all = list(parameters.values())
        self.memory = HostMemory(beneath)
        for buffer, (shape, dtype) in compiled.fixed.items():
            if buffer.role in OF_WEIGHTS:
                self.memory.fixed(buffer, shape, dtype)
        self._making = RLock()
        self._evaluated = -1  # version of all parameters together
        self._packed: dict[BufferId, int] = {}  # the same for every packed weight

    def version(self) -> int:
        """The version of all parameters together, none of which another thread is changing."""
        seen = None
        for p in self._all:
            if p.changed_by is not seen:  # mostly one trainer changes all of them
                seen = p.changed_by
                with seen.lock:
                    pass
        return sum([p.version for p in self._all])

    def load(self, packs: Iterable[BufferId], version: int) -> None:
        """Compute what depends on parameters alone, and pack these, as far as they changed."""
        with self._making:
            if version != self._evaluated:
                for v in self._compiled.net_values:
                    self._evaluate(v)
                self._evaluated = version
            tensor = self.memory.tensor
            for name in packs:
                if self._packed.get(name) != version:
                    p = self._compiled.packs[name]
                    p.function(*map(tensor, p.sources), tensor(name))
                    self._packed[name] = version

    def _evaluate(self, v: NetValue) -> None:
        self.memory.read(v.buffer)[...] = value_of(v, self._parameters)


def value_of(v: NetValue, parameters: Mapping[str, Parameter]) -> np.ndarray:
    """What a net-level value is now: float32[v.shape]."""

    def data(i: int) -> np.ndarray:
        return parameters[v.program.calls[i]["name"]].data

    value = net_value(v.program, v.index, data)
    shape = v.program.calls[v.index].type.shape
    return np.array(np.broadcast_to(value, shape).reshape(v.shape), "float32")
