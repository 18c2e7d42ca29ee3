"""Prepared: an executable with everything that all of its batches have in common.

The one idea: training's executor and an exported model run batches in the same way, so their
answers have the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .batch_inputs import Filling
from .batch_memory import Batch
from .executable import Executable
from .memory import HostMemory
from .passes import Passes
from .plan import Plan
from .planner import Planner
from .roles import BufferId
from .room import Layout
from .slices import Spaces
from .workspace import Workspace

Output = tuple[str, BufferId, tuple[int, ...]]  # its name, where it lies, its shape at one vertex


class Prepared:
    """Compiled kernels, ready to run; nothing of it changes.

    Attributes:
        passes: all kernel calls, with packed weights.
    """

    def __init__(self, compiled: Executable, planner: Planner) -> None:
        self.compiled, self.planner = compiled, planner
        self.spaces = Spaces(compiled, planner)
        self.layout = Layout(compiled, self.spaces)
        self.filling = Filling(compiled, self.spaces, planner)
        routine = planner.kernels["routine"]
        self.passes = Passes(self.spaces.groups, self.spaces, routine)

    def batch(self, plan: Plan, passes: Passes, memory: HostMemory) -> Batch:
        """Put what kernels read of a batch's graphs into its memory."""
        spaces = self.spaces
        cut = spaces.cut(plan, memory)
        counts = spaces.counts(cut, memory)
        distinct = self.filling.fill(plan, counts, memory)
        return Batch(spaces, plan, passes, cut, spaces.replaced(cut), counts, memory, distinct)

    def workspace(self, found: Workspace | None, weights: HostMemory) -> Workspace:
        """The one that was found, if it is for these kernels, or a new one; it reads `weights`."""
        if found is not None and found.layout is self.layout:
            found.memory.stand_on(weights)
            return found
        return Workspace(self.layout, weights)


def read_outputs(
    outputs: Iterable[Output], batch: Batch, workspace: Workspace
) -> dict[str, np.ndarray]:
    """Outputs by name after a forward pass, in the graph's vertex order: float32[n_vertices, ...].

    They are copies.
    """
    found = {}
    for name, buffer, shape in outputs:
        rows = workspace.memory.read(buffer).take(batch.plan.row, axis=0)
        found[name] = rows.reshape(len(rows), *shape)
    return found
