"""Memory of batches: what kernels read of a batch's graphs, used again when nobody holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .area import Area
from .lending import Lending
from .memory import HostMemory
from .passes import Passes
from .plan import Plan
from .roles import BufferId
from .slices import Cut, Slice, Spaces


class BatchMemory:
    """Gives batches memory. Of a batch that was not finished it is not used again."""

    def __init__(self) -> None:
        self._lent = Lending[HostMemory]()

    def take(self) -> HostMemory:
        """Memory of a batch that nobody holds any more, or new."""
        return self._lent.take() or HostMemory()

    def give(self, batch: Batch) -> None:
        """From now on the batch's memory is its own."""
        self._lent.give(batch.memory, batch)


@dataclass(frozen=True, eq=False)
class Batch:
    """A planned batch.

    spaces, passes: of what was compiled when it was planned. cut: its slices. replaced: gradients
    that one call writes and none adds to, and where. counts: rows of every space. memory: what
    kernels read of its graphs, and the slices. distinct: by input whose rows get gradients, its
    distinct values.
    """

    spaces: Spaces
    plan: Plan
    passes: Passes
    cut: Cut
    replaced: Mapping[BufferId, Area]
    counts: np.ndarray
    memory: HostMemory
    distinct: Mapping[str, np.ndarray]

    def slices(self, direction: str) -> list[Slice]:
        """What "forward" or "backward" runs on, in order."""
        first, n = self.cut.place(direction)
        return self.spaces.slices(self.cut, self.memory)[first : first + n]

    def parts(self, direction: str) -> list[Slice]:
        """The same, in parts of as many rows as steps take at once."""
        return [part for piece in self.slices(direction) for part in piece.parts()]
