"""Weights: what kernels read of parameters, made again when a parameter has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import RLock

from ..language import Parameter
from ..runtime import BufferId, Executable, HostMemory, WeightMemory


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
        self, compiled: Executable, parameters: Mapping[str, Parameter], beneath: HostMemory
    ) -> None:
        self._all = list(parameters.values())
        self._made = WeightMemory(compiled, beneath)
        self.memory = self._made.memory
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
                self._made.evaluate()
                self._evaluated = version
            for name in packs:
                if self._packed.get(name) != version:
                    self._made.pack((name,))
                    self._packed[name] = version
