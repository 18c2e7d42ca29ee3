"""Memory of batches: what kernels read of a batch's graphs, used again when nobody holds it."""

from __future__ import annotations

import weakref

from .buffers import HostMemory
from .loaded import Batch


class BatchMemory:
    """Gives batches memory; `beneath` is the network's."""

    def __init__(self, beneath: HostMemory) -> None:
        self._beneath = beneath
        self._owners: dict[HostMemory, weakref.ref[Batch]] = {}

    def take(self) -> HostMemory:
        """Memory of a batch that nobody holds any more, or new."""
        for memory, owner in self._owners.items():
            if owner() is None:
                return memory
        return HostMemory(self._beneath)

    def give(self, batch: Batch) -> None:
        """From now on the batch's memory is its own."""
        self._owners[batch.memory] = weakref.ref(batch)
